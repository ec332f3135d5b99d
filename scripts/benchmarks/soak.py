"""Whether anything grows with time: live tables for half an hour, while a pod a second comes and goes.

The pods are made as a kubelet and containerd make them (cgroups of a pod, its sandbox and its container, a config.json
for each), and a process of each does something to be shown: it is traced by `cgroups` (the kernel's own tracepoints and
the files) and by `copyup` (a tracepoint stands in for overlayfs, tests/native). One pod stays for five seconds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import deque
from pathlib import Path

from benchmarks.measure import Row
from benchmarks.standin import KUBETRACE, environment_of, stand_in
from benchmarks.terminal import OnTerminal, cpu_seconds, open_files, resident
from tests.vm.cgroup_pods import Pod

TRACERS = ("cgroups", "copyup")
STAYS_S = 5
# What it takes until all code has run once and the first pods were forgotten.
WARM_S = 120
# x86-64's getsid(), so that another benchmark may run meanwhile
_CALL = 124
_PROCESS = "import os\nfor _ in range(23): os.getsid(0)"


def _born(number: int) -> Pod:
    pod = Pod("soak", f"web-{number}", only=("unified", "memory"))
    pod.container("POD", "example.org/pause:3")
    app = pod.container("app", f"example.org/app:{number % 7}")
    app.start(sys.executable, "-S", "-c", _PROCESS).wait()
    return pod


def run(minutes: float, progress: bool = True) -> list[Row]:
    """Rows for each tracer."""
    samples: dict[str, list[tuple[float, int, int]]] = {name: [] for name in TRACERS}
    with tempfile.TemporaryDirectory() as name:
        environment = environment_of(stand_in(Path(name), _CALL))
        tables = {tracer: OnTerminal([*KUBETRACE, tracer, "-n", "soak"], environment) for tracer in TRACERS}
        pods: deque[Pod] = deque()
        made = 0
        begun = time.monotonic()
        cpu_begun = dict.fromkeys(TRACERS, 0.0)
        try:
            while (passed := time.monotonic() - begun) < minutes * 60:
                if made <= passed:
                    pods.append(_born(made))
                    made += 1
                    if len(pods) > STAYS_S:
                        pods.popleft().remove()
                if passed >= 10 * len(samples[TRACERS[0]]):
                    for tracer, table in tables.items():
                        pid = table.process.pid
                        if table.process.poll() is not None:
                            raise RuntimeError(f"{tracer} ended: {table.screen[-2000:]}")
                        samples[tracer].append((passed, resident(pid), open_files(pid)))
                        cpu_begun[tracer] = cpu_begun[tracer] or cpu_seconds(pid)
                        if progress and len(samples[tracer]) % 6 == 1:
                            print(
                                f"soak: {passed / 60:.0f} min, {made} pods, {tracer}: "
                                f"{samples[tracer][-1][1] / 2**20:.1f} MiB, {samples[tracer][-1][2]} descriptors",
                                file=sys.stderr,
                                flush=True,
                            )
                time.sleep(max(0.0, min(1.0, made - (time.monotonic() - begun))))
            passed = time.monotonic() - begun
            cpu = {tracer: (cpu_seconds(t.process.pid) - cpu_begun[tracer]) / passed for tracer, t in tables.items()}
        finally:
            for table in tables.values():
                table.end()
            while pods:
                pods.popleft().remove()
    rows = []
    for tracer in TRACERS:
        warm = [sample for sample in samples[tracer] if sample[0] >= min(WARM_S, minutes * 30)]
        sizes, files = [size for _, size, _ in warm], [count for _, _, count in warm]
        rows.append(
            Row(
                f"{tracer}: resident, after {warm[0][0] / 60:.0f} and {warm[-1][0] / 60:.0f} minutes",
                value=sizes[-1] / sizes[0],
                text=f"{sizes[0] / 2**20:.1f} -> {sizes[-1] / 2**20:.1f} MiB",
                note=f"{100 * (sizes[-1] / sizes[0] - 1):+.1f} %, at most {max(sizes) / 2**20:.1f} MiB; {made} pods",
            )
        )
        rows.append(
            Row(
                f"{tracer}: file descriptors",
                value=max(files) - min(files),
                text=f"{min(files)} to {max(files)}",
                note=f"{100 * cpu[tracer]:.1f} % CPU",
            )
        )
    return rows
