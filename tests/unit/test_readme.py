"""The README promises what the tests run."""

import re
import subprocess
import sys
from pathlib import Path

from kubetrace import tracers
from tests.vm.kernels import SUITES

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


def test_the_supported_kernels_are_those_that_scripts_test_boots() -> None:
    section = README.split("## Supported kernels")[1].split("## ")[0]
    assert re.findall(r"^\| (\d[\d.]+) \|", section, re.MULTILINE) == list(SUITES)


def test_every_tracer_has_its_row() -> None:
    for name in tracers.names():
        assert f"| `kubetrace {name}` |" in README


def test_the_picture_is_what_a_terminal_shows(tmp_path: Path) -> None:
    drawn = tmp_path / "screenshot.svg"
    subprocess.run([sys.executable, ROOT / "scripts" / "draw_screenshot.py", "--out", drawn], check=True)
    # where a change of the table is meant: scripts/screenshot
    assert drawn.read_bytes() == (ROOT / "docs" / "screenshot.svg").read_bytes()
    assert "(docs/screenshot.svg)" in README


def test_it_is_read_in_one_go() -> None:
    assert len(README.splitlines()) <= 170
