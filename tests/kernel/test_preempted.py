"""What a preempted program keeps from running, its backup does: every cgroup, exec and exit of a crowd is told once."""

from __future__ import annotations

import subprocess
import time
from collections import Counter

from kubetrace.engines.source import KernelSource
from kubetrace.tracers import find

CROWD, EACH = 4, 150
SCRIPT = f"""
import os, sys
for number in range({EACH}):
    path = f"/sys/fs/cgroup/crowd-{{sys.argv[1]}}-{{number}}"
    os.mkdir(path)
    pid = os.fork()
    if not pid:
        open(path + "/cgroup.procs", "w").write("0")
        os.execv("/bin/true", ["true"])
    os.waitpid(pid, 0)
    os.rmdir(path)
"""


def test_a_crowd_is_told_once_each() -> None:
    tracer = find("cgroups")
    source = KernelSource("cgroups", tracer.streams, constants={}, optional=tracer.optional)
    steps: list[tuple[int, int]] = []
    crowd_ids: set[int] = set()
    activity: list[tuple[int, str]] = []

    def drain() -> None:
        for batch in source.read("activity", "cgroups"):
            for event in source.layouts[batch.stream].decode(batch.data):
                if batch.stream == "activity":
                    activity.append((event.cgroup_id, event.NAMES["event"][event.event]))
                elif b"/crowd-" in event.path:
                    steps.append((event.cgroup_id, event.step))
                    crowd_ids.add(event.cgroup_id)

    try:
        crowd = [subprocess.Popen(["python3", "-S", "-c", SCRIPT, str(one)]) for one in range(CROWD)]
        while any(one.poll() is None for one in crowd):
            drain()
            time.sleep(0.02)
        drain()
        losses = source.losses()
    finally:
        source.close()
    assert [one.returncode for one in crowd] == [0] * CROWD
    assert sum(losses.values()) == 0, losses
    everyone = CROWD * EACH
    assert len(crowd_ids) == everyone
    assert sorted(steps) == sorted((one, step) for one in crowd_ids for step in (0, 1))
    told = Counter(what for cgroup_id, what in activity if cgroup_id in crowd_ids)
    assert told == dict.fromkeys(("created", "attached", "exec", "exit", "removed"), everyone)
