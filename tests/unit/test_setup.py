"""scripts/setup started twice at once installs once; pip is a stand-in that takes its time, nothing is downloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIP = """#!/bin/sh
echo "begin $*" >>"$LOG"
sleep 0.3
echo "end" >>"$LOG"
"""


def test_two_at_once_do_the_work_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup", tmp_path / "scripts/setup")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP)
    python.chmod(0o755)
    environment = {**os.environ, "KUBETRACE_CACHE": str(tmp_path / "cache"), "LOG": str(log)}
    command = [str(tmp_path / "scripts/setup"), "image"]
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.wait(600) for process in both] == [0, 0]
    lines = log.read_text().splitlines()
    # the editable install, and the image's tool: each once, one after the other
    assert [line.split()[0] for line in lines] == ["begin", "end", "begin", "end"]
    assert lines[0].endswith("[dev]") and lines[2].endswith("hatchling")
