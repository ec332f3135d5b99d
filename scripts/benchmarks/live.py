"""A live table at a pace: what share of a core it takes and what it loses, beside bcc's Python consumer at the same.

kubetrace copyup runs on a terminal (160 columns), a process makes so many stand-in events a second in 50 directories,
and the CPU time of kubetrace is read from outside. The peer drains the same programs' ring by bcc's callback every
100 ms into a dict by cgroup, process and file, and draws nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Row, median
from benchmarks.peers import bcc_consumer, by_file
from benchmarks.standin import KUBETRACE, environment_of, stand_in
from benchmarks.terminal import OnTerminal, cpu_seconds, resident
from kubetrace.engines.libbpf import LoadedObject

_LASTS_S = 5.0
# 50 directories in turn, each for 2 ms, so that a drain holds events of all of them.
_WORKLOAD = """
import os, sys, time
rate, seconds, root = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
for number in range(50): os.makedirs(f"{root}/live-row-{number}", exist_ok=True)
begun = time.monotonic(); made = turn = 0
while (passed := time.monotonic() - begun) < seconds:
    turn += 1
    os.chdir(f"{root}/live-row-{turn % 50}")
    due = int(passed * rate) - made
    for _ in range(due): os.getpgrp()
    made += due
    time.sleep(0.002)
print(made)
"""


def _workload(rate: int, seconds: float, directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-S", "-c", _WORKLOAD, str(rate), str(seconds), str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _ours(rate: int, directory: Path, objects: Path) -> tuple[float, int, int, int]:
    """(share of a core, lost, made, resident bytes)."""
    ready = directory / "ready"
    ready.unlink(missing_ok=True)
    table = OnTerminal([*KUBETRACE, "copyup", "--ready-file", str(ready)], environment_of(objects))
    try:
        while not ready.exists() and table.process.poll() is None:
            time.sleep(0.01)
        _workload(1000, 0.5, directory).wait()
        time.sleep(1.2)
        begun, used = time.monotonic(), cpu_seconds(table.process.pid)
        workload = _workload(rate, _LASTS_S, directory)
        made = int(workload.communicate()[0])
        time.sleep(0.3)
        share = (cpu_seconds(table.process.pid) - used) / (time.monotonic() - begun)
        size = resident(table.process.pid)
    finally:
        table.end()
    lost = re.search(r"; (\d+) lost", table.screen)
    if lost is None:
        raise RuntimeError(f"no summary: {table.screen[-500:]}")
    return share, int(lost[1]), made, size


def _bcc(rate: int, directory: Path, objects: Path) -> tuple[float, int] | None:
    """(share of a core, lost) of bcc's consumer; in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.live", str(rate), str(directory), str(objects)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    if not done.stdout.strip():
        return None
    share, lost = done.stdout.split()
    return float(share), int(lost)


def _peer(rate: int, directory: Path, objects: Path) -> None:
    workload = _workload(rate, _LASTS_S, directory)
    with LoadedObject(objects / "copyup.bpf.o", constants={"standin_pid": workload.pid}) as loaded:
        consume = bcc_consumer(loaded.map_fd("copyup"), loaded.layout("copyup_event"), by_file()[1])
        if consume is None:
            workload.kill()
            return
        begun, used = time.monotonic(), time.process_time()
        while workload.poll() is None:
            time.sleep(0.1)
            consume()
        share = (time.process_time() - used) / (time.monotonic() - begun)
        print(share, *loaded.per_cpu_sums("losses", [0]))


def run(rounds: int, rates: list[int]) -> list[Row]:
    """Two rows for each rate."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        objects = stand_in(directory)
        for rate in rates:
            mine, theirs = [], []
            for _ in range(rounds):
                mine.append(_ours(rate, directory, objects))
                theirs.append(_bcc(rate, directory, objects))
            share = median([one[0] for one in mine])
            note = (
                f"{sum(one[1] for one in mine)} lost of {sum(one[2] for one in mine):,} made, "
                f"{max(one[3] for one in mine) / 2**20:.0f} MiB resident"
            )
            rows.append(Row(f"kubetrace copyup, {rate:,} events/s", share, f"{100 * share:.1f} % CPU", note))
            found = [one for one in theirs if one is not None]
            if found:
                other = median([one[0] for one in found])
                note = f"{sum(one[1] for one in found)} lost; {other / share:.1f} x ours, and no table"
                rows.append(Row(f"bcc's callback, {rate:,} events/s", other, f"{100 * other:.1f} % CPU", note))
    return rows


if __name__ == "__main__":
    _peer(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
