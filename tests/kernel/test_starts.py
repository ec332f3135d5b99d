"""What kubetrace starts says of a real pod's start against the CRI client's clock, /proc/PID/ns and mountinfo."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.vm import cri, images

from .conftest import Event, Tracer

STEPS = ["prepared", "rootfs", "cgroup", "runc_init", "namespaces", "volumes", "pivot_root", "exec"]
NAMESPACES = ("pid", "mnt", "net", "uts", "ipc", "user")


def wall_ns(text: str) -> int:
    whole, _, fraction = text.removesuffix("Z").partition(".")
    import calendar

    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) * 10**9 + int(fraction)


def inodes(pid: int) -> dict[str, int]:
    return {name: os.stat(f"/proc/{pid}/ns/{name}").st_ino for name in NAMESPACES}


def layers(rootfs: str) -> int:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if f" {rootfs} " in line and (found := re.search(r"lowerdir=([^, ]+)", line)):
            return len(found[1].split(":"))
    raise AssertionError(f"{rootfs} is not mounted")


@pytest.mark.each_kernel
@pytest.mark.each_cgroup_mode
def test_the_steps_of_a_start_add_up_to_what_the_client_waited(node: cri.Node, tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, command="starts")
    lines = subprocess.Popen(
        ["kubetrace", "starts", "--events", "--ready-file", str(tmp_path / "lines")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while not (tmp_path / "lines").exists():
        assert lines.poll() is None
        time.sleep(0.05)
    asked_ns = time.time_ns()
    pod = node.run_pod(
        "shop",
        "start-0",
        volumes=[cri.Volume("empty-dir", "cache", "/cache"), cri.Volume("memory", "scratch", "/scratch")],
    )
    container = pod.start_container("app", images.WEB, ["sh", "-c", "echo hello; exec sleep 1000"])
    answered_ns = time.time_ns()
    pid = container.pid
    tracer.wait_for(lambda o: o.get("phase") == "first_write" and o["container_id"] == container.container_id)
    expected, first = inodes(pid), inodes(1)
    paused = inodes(int(Path(f"{cri.TASKS}/{pod.sandbox_id}/init.pid").read_text()))
    expected_layers = layers(container.rootfs)
    pod.remove()
    told = [o for o in tracer.end() if o["type"] == "start" and o["pod"] == "start-0"]
    sandbox = [o for o in told if o["container_id"] == pod.sandbox_id]
    app = [o for o in told if o["container_id"] == container.container_id]

    assert sorted(o["phase"] for o in sandbox if o["phase"] != "volumes") == sorted(
        ["pod_cgroup", *(step for step in STEPS if step != "volumes")]
    )
    assert [o["phase"] for o in app] == [*STEPS, "first_write"]
    for chain in (sandbox, app):
        times = [wall_ns(o["time"]) for o in chain]
        assert times == sorted(times) and all(o["duration_ns"] >= 0 for o in chain)

    end: Event = app[-2]
    assert sum(o["duration_ns"] for o in [*sandbox, *app[:-1]]) == end["since_ns"]
    began_ns = wall_ns(end["time"]) - end["since_ns"]
    # inside of what the client saw, and (all but its own and containerd's part of it) as long
    assert asked_ns <= began_ns and wall_ns(end["time"]) <= answered_ns
    assert (end["pid"], end["path"], end["comm"]) == (pid, "/bin/sh", "sh")
    assert {name: found["inode"] for name, found in end["namespaces"].items()} == expected
    assert {name: found["node"] for name, found in end["namespaces"].items()} == {
        name: expected[name] == first[name] for name in NAMESPACES
    }
    # what is neither the node's nor the pod's is new
    assert {name: found["pod"] for name, found in end["namespaces"].items()} == {
        name: expected[name] == paused[name] != first[name] for name in NAMESPACES
    }
    assert end["namespaces"]["ipc"]["pod"] and not end["namespaces"]["mnt"]["pod"]
    by_phase = {o["phase"]: o for o in app}
    assert by_phase["rootfs"]["layers"] == expected_layers
    # /cache, /scratch, /etc/hosts and the like are bind mounts; /dev and /dev/shm or /run are tmpfs
    assert by_phase["volumes"]["bind_mounts"] >= 4 and by_phase["volumes"]["tmpfs_mounts"] >= 1
    assert wall_ns(by_phase["first_write"]["time"]) >= wall_ns(end["time"])

    lines.send_signal(signal.SIGINT)
    out, _ = lines.communicate(timeout=60)
    drawn = [line for line in out.splitlines() if " start-0 " in line and " app " in line]
    assert [line.split()[4] for line in drawn] == [*STEPS, "first_write"]
    # ends under the right edge of the picture; each bar begins where the one before it ended, or in that cell
    bars = [found[1] for line in drawn if (found := re.search(r"  (\.*#+)(?:  |$)", line))]
    assert len(bars) == len(STEPS) and len(bars[-1]) == 20
