"""The doctor on this machine's kernel, with all rights and with none."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import DEADLINE_S

KUBETRACE = [sys.executable, "-c", "from kubetrace.commands.group import main; main()"]
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
HAS_KPROBES = Path("/sys/bus/event_source/devices/kprobe").exists()


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)


def diagnose(*before: str) -> tuple[int, dict[str, Any]]:
    done = run(*before, *KUBETRACE, "doctor", "-o", "json")
    assert done.stderr == "", done.stderr
    return done.returncode, json.loads(done.stdout)


def by_check(said: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {check["check"]: check for check in said["checks"]}


def test_what_it_says_of_this_machine_is_so() -> None:
    status, said = diagnose()
    checks = by_check(said)
    assert (status, said["works"]) == (0, True)
    assert said["facts"]["kernel"]["release"] == platform.release()
    assert said["facts"]["kernel"]["btf_bytes"] == Path("/sys/kernel/btf/vmlinux").stat().st_size
    # test_engine.py makes rings and attaches raw tracepoints here
    assert (checks["tracepoints"]["status"], checks["ring buffer"]["status"]) == ("ok", "ok")
    disk = os.statvfs(said["facts"]["node"]["disk_path"])
    assert said["facts"]["node"]["disk_bytes"] == disk.f_blocks * disk.f_frsize
    attached = {trial["tracer"]: trial["attached"] for trial in said["tracers"] if trial["hook"] == "auto"}
    assert attached["starts"] is not None and "raw_tp" in attached["starts"]


@pytest.mark.skipif(HAS_KPROBES, reason="this kernel has kprobes; tests/kernel/test_doctor.py attaches them in the VM")
def test_a_kernel_without_kprobes_is_told_apart_and_errors_lead_there() -> None:
    _, said = diagnose()
    kprobes = by_check(said)["kprobe attach"]
    assert kprobes["status"] != "ok" and "CONFIG_KPROBES" in kprobes["found"]
    refused = run(*KUBETRACE, "copyup", "-d", "1")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == "See:  kubetrace doctor, line 'kprobe attach'"
    text = run(*KUBETRACE, "doctor")
    assert text.returncode == 0
    assert any(
        line.startswith("kprobe attach  no    this kernel was built without") for line in text.stdout.split("\n")
    )


def test_without_rights_nothing_works_and_it_says_which() -> None:
    status, said = diagnose(*WITHOUT_RIGHTS)
    assert (status, said["works"]) == (1, False)
    checks = by_check(said)
    for check in ("capabilities", "tracers"):
        assert checks[check]["status"] == "no"
    assert "--profile=sysadmin" in checks["capabilities"]["do"]
    assert {trial["attached"] for trial in said["tracers"]} == {None}
    assert {trial["check"] for trial in said["tracers"]} == {"capabilities"}
    refused = run(*WITHOUT_RIGHTS, *KUBETRACE, "cgroups", "-d", "1")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == "See:  kubetrace doctor, line 'capabilities'"


def test_a_root_that_is_none_is_an_error_that_names_its_line() -> None:
    done = run(*KUBETRACE, "doctor", "--host-root", "/etc/hostname")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "See:  kubetrace doctor, line 'node root'"


def test_a_root_without_a_node_is_told_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    done = run(*KUBETRACE, "doctor", "-o", "json", "--host-root", str(tmp_path))
    assert "Traceback" not in done.stderr
    checks = by_check(json.loads(done.stdout))
    assert checks["cgroups"]["status"] == "no"
    assert checks["host PIDs"]["status"] == checks["kubelet root"]["status"] == checks["runtime"]["status"] == "less"
