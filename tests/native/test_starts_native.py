"""kubetrace starts on this machine's kernel: a process does by hand what a runtime's init does, in real cgroups."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.cgroup_pods import Container, Pod

from .conftest import DEADLINE_S, until

KUBETRACE = [sys.executable, "-m", "kubetrace", "starts"]
NAMESPACES = ("pid", "mnt", "net", "uts", "ipc", "user")
# Enters the cgroups, makes namespaces, mounts, changes its root and only then executes a program: argv[1:-1] are the
# cgroups, argv[-1] an empty directory.
INIT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    if libc.syscall(*arguments):
        sys.exit(os.strerror(ctypes.get_errno()))
MOUNT, PIVOT_ROOT, UNSHARE = (165, 155, 272) if os.uname().machine == "x86_64" else (40, 41, 97)
for directory in sys.argv[1:-1]:
    with open(directory + "/cgroup.procs", "w") as file:
        file.write("0")
root = sys.argv[-1].encode()
call(UNSHARE, 0x00020000 | 0x04000000)  # mnt, uts
call(MOUNT, b"none", b"/", None, 1 << 18 | 1 << 14, None)  # private, all below
call(MOUNT, b"/", root, None, 1 << 12 | 1 << 14, None)  # bind, all below
call(MOUNT, b"tmpfs", root + b"/mnt", b"tmpfs", 0, None)
call(MOUNT, b"/usr", root + b"/srv", None, 1 << 12, None)
call(MOUNT, b"none", root + b"/srv", None, 1 << 5 | 1 << 12 | 1, None)  # remount read-only: no mount of its own
os.mkdir(root + b"/mnt/old")
call(PIVOT_ROOT, root, root + b"/mnt/old")
os.chdir("/")
os.execv("/bin/sh", ["sh", "-c", "echo hello; exec sleep 60"])
"""


def start(container: Container, root: Path) -> subprocess.Popen[bytes]:
    root.mkdir()
    return subprocess.Popen(
        [sys.executable, "-S", "-c", INIT, *container.directories, str(root)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", "NODE_NAME": "node1"}


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    made: list[subprocess.Popen[str]] = []

    def launch(*options: str) -> subprocess.Popen[str]:
        ready = tmp_path / f"ready-{len(made)}"
        process = subprocess.Popen(
            [*KUBETRACE, "--ready-file", str(ready), *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        made.append(process)
        until(ready.exists, "ready", process)
        return process

    yield launch
    for process in made:
        process.kill()
        process.wait()


def end(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return out


def in_sleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"


def test_every_step_by_hand_is_told_in_order_and_adds_up(run: Any, tmp_path: Path) -> None:
    as_json, as_lines, as_table = run("-o", "json"), run("--events"), run()
    pod = Pod(name=f"start-{os.getpid()}")
    container = pod.container("app")
    process = start(container, tmp_path / "root")
    try:
        # its first write is told by then: that system call is over
        until(lambda: in_sleep(process.pid), "the entrypoint", process)
        expected = {name: os.stat(f"/proc/{process.pid}/ns/{name}").st_ino for name in NAMESPACES}
        own = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in NAMESPACES}
        objects = [json.loads(line) for line in end(as_json).splitlines()]
        lines = end(as_lines)
        table = end(as_table)
    finally:
        process.kill()
        process.wait()
        pod.remove()
    told = [o for o in objects if o.get("container_id") == container.id]
    # a config.json may be there before the pod's cgroup, or after it; here it is the container's alone
    assert [o["phase"] for o in told] == [
        "pod_cgroup",
        "prepared",
        "cgroup",
        "runc_init",
        "namespaces",
        "volumes",
        "pivot_root",
        "exec",
        "first_write",
    ]
    executed = told[-2]
    assert sum(o["duration_ns"] for o in told[:-1]) == executed["since_ns"]
    assert (executed["pid"], executed["path"]) == (process.pid, "/bin/sh")
    assert {name: found["inode"] for name, found in executed["namespaces"].items()} == expected
    new = {name for name, found in executed["namespaces"].items() if not found["node"]}
    # what else is not the node's depends on where the test runs; it shares that with its processes
    assert {"mnt", "uts"} <= new and {name for name in NAMESPACES if expected[name] != own[name]} == {"mnt", "uts"}
    volumes = told[5]
    assert (volumes["bind_mounts"], volumes["tmpfs_mounts"]) == (2, 1)
    assert {(o["pod"], o["container"], o["pod_uid"]) for o in told} == {(pod.name, "app", pod.uid)}

    drawn = [line for line in lines.splitlines() if pod.name in line]
    assert [line.split()[4] for line in drawn] == [o["phase"] for o in told]
    assert "2 bind, 1 tmpfs" in lines and "/bin/sh" in lines
    (row,) = [line for line in table[table.rindex("SLOWEST") :].splitlines() if pod.name in line]
    # each tracer looks at the clock itself: of two steps that took about as long, either may be the slowest
    slowest = max(o["duration_ns"] for o in told[:-1])
    assert any(f"app {o['phase']} " in row for o in told[:-1] if o["duration_ns"] > 0.8 * slowest)


def test_a_pod_that_was_there_before_is_no_start(run: Any, tmp_path: Path) -> None:
    pod = Pod()
    as_json = run("-o", "json")
    container = pod.container("app")
    assert container.run("/bin/true")[1] == 0
    pod.remove()
    objects = [json.loads(line) for line in end(as_json).splitlines()]
    assert [o["type"] for o in objects if o.get("pod_uid") in (pod.uid, None)] == ["summary"]


def test_a_selection_by_container_still_knows_the_pod(run: Any, tmp_path: Path) -> None:
    as_json = run("-o", "json", "-c", "app")
    pod = Pod()
    for name in ("app", "other"):
        assert pod.container(name).run("/bin/true")[1] == 0
    # before their bundles go: a busy machine does not promise that their names have been read by any time
    objects = [json.loads(line) for line in end(as_json).splitlines()]
    pod.remove()
    mine = [o for o in objects if o.get("pod_uid") == pod.uid]
    assert {o["container"] for o in mine} == {"app"}
    assert [o["phase"] for o in mine] == ["pod_cgroup", "prepared", "cgroup", "runc_init", "exec"]
