"""The doctor on a node whose facts are read from the kernel's other mouths: statfs, tracefs, what really attaches."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import DEADLINE_S

PROBES = Path("/sys/kernel/tracing/kprobe_events")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def said() -> Iterator[dict[str, Any]]:
    done = run("kubetrace", "doctor", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    yield json.loads(done.stdout)


def command(text: str) -> None:
    fd = os.open(PROBES, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


def status(said: dict[str, Any], check: str) -> str:
    (found,) = [item["status"] for item in said["checks"] if item["check"] == check]
    return str(found)


@pytest.mark.each_kernel
def test_hooks_are_what_the_kernel_lets_others_do(said: dict[str, Any]) -> None:
    facts = said["facts"]["kernel"]
    assert facts["release"] == os.uname().release
    assert facts["btf_bytes"] == os.stat("/sys/kernel/btf/vmlinux").st_size
    # every kernel of ours has overlayfs as a module, and 5.10 no BTF of modules
    assert facts["overlay_btf"] == ("module" if os.path.exists("/sys/kernel/btf/overlay") else None)
    command("p:doctor/probe vfs_rmdir")
    made = "p:doctor/probe vfs_rmdir" in PROBES.read_text()
    command("-:doctor/probe")
    assert made and facts["kprobe"] == 0 and status(said, "kprobe attach") == "ok"
    assert facts["tracefs"] == "/sys/kernel/tracing" and status(said, "tracefs") == "ok"
    # the doctor has left no probe behind: what there is belongs to a living tracer
    assert "doctor" not in PROBES.read_text()
    owners = re.findall(r":kubetrace_\d+_(\d+)_", PROBES.read_text())
    assert all(os.path.exists(f"/proc/{owner}") for owner in owners)


@pytest.mark.each_kernel
def test_each_tracer_attaches_as_the_doctor_says(said: dict[str, Any]) -> None:
    trials = {(trial["tracer"], trial["hook"]): trial for trial in said["tracers"]}
    assert all(trial["attached"] for trial in trials.values()), trials
    # of overlayfs' functions fentry can only be where the module has BTF
    has_btf = os.path.exists("/sys/kernel/btf/overlay")
    for hook in ("fentry", "kprobe"):
        done = run("kubetrace", "copyup", "--hook", hook, "-d", "0.1", "-o", "json")
        assert (done.returncode == 0) == (hook == "kprobe" or has_btf), done.stderr
        if done.returncode:
            assert done.stderr.splitlines()[-1] == "See:  kubetrace doctor, line 'fexit attach'"
        else:
            assert hook in json.loads(done.stdout.splitlines()[-1])["hook"]
    assert status(said, "fexit attach") == "ok"
    assert status(said, "module BTF") == ("ok" if has_btf else "less")
    assert ("kprobe" in trials["copyup", "auto"]["attached"]) != has_btf


@pytest.mark.one_kernel
def test_returns_are_followed_through_tracefs_where_it_takes_kprobes(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    running = subprocess.Popen(
        ["kubetrace", "copyup", "--hook", "kprobe", "-o", "json", "--ready-file", str(ready)], stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not ready.exists():
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        probes = PROBES.read_text().splitlines()
    finally:
        running.send_signal(2)
        assert running.wait(DEADLINE_S) == 0
    ours = [line for line in probes if f"_{running.pid}_" in line and ":kubetrace_" in line]
    assert any(line.startswith("r") and line.endswith(" ovl_copy_up_one") for line in ours), probes
    assert f"_{running.pid}_" not in PROBES.read_text()


@pytest.mark.each_kernel
def test_the_node_is_what_it_was_made(said: dict[str, Any]) -> None:
    facts = said["facts"]["node"]
    kind = run("stat", "-f", "-c", "%T", "/sys/fs/cgroup").stdout.strip()
    expected = "v2" if kind == "cgroup2fs" else "hybrid" if os.path.isdir("/sys/fs/cgroup/unified") else "v1"
    assert facts["cgroups"] == expected
    with open("/run/kubetrace-node.json") as file:
        pods = json.load(file)["pods"]
    assert facts["driver"] == ("systemd" if ".slice" in pods[0]["containers"][0]["cgroup_path"] else "cgroupfs")
    assert (facts["runtime"], facts["state"], facts["store"]) == (
        "containerd",
        "/run/containerd",
        "/var/lib/containerd",
    )
    assert facts["kubelet_root"] == "/var/lib/kubelet"
    # a sandbox and at least one container for each pod
    assert facts["containers"] >= 2 * len(pods)
    (total,) = run("df", "-B1", "--output=size", "/var/lib/containerd").stdout.split()[1:]
    assert facts["disk_bytes"] == int(total)
    assert facts["first_root"] and facts["first_pids"]
    for check in ("capabilities", "cgroups", "runtime", "kubelet root", "host PIDs", "node root", "libbpf"):
        assert status(said, check) == "ok", check


@pytest.mark.one_kernel
def test_without_rights_nothing_works() -> None:
    done = run("setpriv", "--bounding-set=-all", "--inh-caps=-all", "kubetrace", "doctor", "-o", "json")
    assert (done.returncode, done.stderr) == (1, "")
    said = json.loads(done.stdout)
    assert not said["works"] and status(said, "capabilities") == status(said, "tracers") == "no"
    assert {trial["check"] for trial in said["tracers"]} == {"capabilities"}
