"""How long until kubetrace helps: --help, launch to the first row on a terminal, memory; beside bare Python and bcc.

The kernel of a development machine refuses kprobes, so a tracepoint fires the same programs (tests/native); the rest is
the product: libbpf, BTF, the scan of the node, the table on a real terminal. Wall time, for that is what a person waits
for, and the CPU time behind it, which other work on the machine does not move.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Row, interleaved, median, missing, spread
from benchmarks.standin import KUBETRACE, environment_of, stand_in, stand_in_source
from benchmarks.terminal import OnTerminal, cpu_seconds, resident

ROW = b"bench-row"
WORKLOAD = f"""
import os, time
os.makedirs("/tmp/{ROW.decode()}", exist_ok=True)
os.chdir("/tmp/{ROW.decode()}")
while True:
    os.getpgrp()
    time.sleep(0.002)
"""
# One program, the smallest that bcc compiles; its start has no table, no names, no rows.
BCC = """
from bcc import BPF
b = BPF(text="int kprobe_stand_in(void *ctx) { return 0; }")
b.load_func("kprobe_stand_in", BPF.RAW_TRACEPOINT)
"""
# What --engine bcc does before it loads: translate, compile in a process of its own, read the result.
COMPILE = """
import resource, time
from kubetrace.engines.bcc.engine import build
from kubetrace.engines.source import source_path, sources
begun = time.perf_counter()
build(source_path("copyup"), sources(), {"filter_by_cgroup": 0})
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
_BARE, _HELP, _ROW, _ROW_BCC, _ROW_KEPT, _BY_BTF, _BY_HEADERS, _BCC = (
    "python3 -c pass",
    "kubetrace --help",
    "kubetrace copyup, launch to the first row",
    "the same, --engine bcc",
    "the same, --engine bcc, compiled before",
    "bcc compiles copyup, types from BTF",
    "bcc compiles copyup, types from headers",
    "bcc, BPF(text=...) of one empty program",
)


def _seconds(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """(wall, CPU) seconds of a command."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    took, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _bcc_python() -> list[str] | None:
    """The system's Python with Debian's bcc; None where it is not installed."""
    python = ["/usr/bin/python3"]
    if subprocess.run([*python, "-c", "import bcc"], capture_output=True, check=False).returncode:
        return None
    return python


def _headers(directory: Path) -> str | None:
    """Debian's headers of any kernel as one tree: bcc's tiny program reads nothing that differs."""
    for config in sorted(Path("/usr/src").glob("linux-headers-*-amd64")):
        common = Path(str(config).replace("-amd64", "-common"))
        if common.is_dir():
            for source in (common, config):
                subprocess.run(["cp", "-asf", f"{source}/.", str(directory)], check=True)
            return str(directory)
    return None


def run(rounds: int) -> list[Row]:
    """ms, ratios, MiB."""
    with tempfile.TemporaryDirectory() as directory:
        objects = stand_in(Path(directory))
        environment = environment_of(objects)
        (Path(directory) / "headers").mkdir()
        headers = _headers(Path(directory) / "headers")
        bcc = _bcc_python() if headers else None
        sizes: dict[str, list[float]] = {}
        used: dict[str, list[float]] = {}

        def anew(given: dict[str, str]) -> dict[str, str]:
            # nothing is kept of what was compiled before
            return {**given, "XDG_CACHE_HOME": tempfile.mkdtemp(dir=directory)}

        def first_row(what: str, given: dict[str, str], *options: str, kept: bool = True) -> Callable[[], float]:
            def measured() -> float:
                variables = given if kept else anew(given)
                table = OnTerminal([*KUBETRACE, "copyup", *options], variables, wanted=ROW)
                took = table.wait_for_row()
                used.setdefault(what, []).append(cpu_seconds(table.process.pid))
                time.sleep(0.3)
                sizes.setdefault(what, []).append(resident(table.process.pid))
                table.end()
                return took

            return measured

        def compiled(what: str, given: dict[str, str]) -> Callable[[], float]:
            def measured() -> float:
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                command = [sys.executable, "-c", COMPILE]
                done = subprocess.run(command, env=anew(given), stdout=subprocess.PIPE, text=True, check=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used.setdefault(what, []).append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
                took, kib = done.stdout.split()
                sizes.setdefault(what, []).append(float(kib) * 1024)
                return float(took)

            return measured

        def timed(what: str, command: list[str], given: dict[str, str]) -> Callable[[], float]:
            def measured() -> float:
                took, cpu = _seconds(command, given)
                used.setdefault(what, []).append(cpu)
                return took

            return measured

        tried: dict[str, Callable[[], float]] = {
            _BARE: timed(_BARE, [sys.executable, "-c", "pass"], environment),
            _HELP: timed(_HELP, [*KUBETRACE, "--help"], environment),
            _ROW: first_row(_ROW, environment),
        }
        if bcc and headers:
            with_headers = {**environment, "BCC_KERNEL_SOURCE": headers}
            by_bcc = anew({**environment, "KUBETRACE_SOURCES": str(stand_in_source(Path(directory)))})
            tried[_ROW_BCC] = first_row(_ROW_BCC, by_bcc, "--engine", "bcc", kept=False)
            tried[_ROW_KEPT] = first_row(_ROW_KEPT, by_bcc, "--engine", "bcc")
            tried[_BY_BTF] = compiled(_BY_BTF, environment)
            tried[_BY_HEADERS] = compiled(_BY_HEADERS, with_headers)
            tried[_BCC] = timed(_BCC, [*bcc, "-c", BCC], with_headers)
        workload = subprocess.Popen([sys.executable, "-S", "-c", WORKLOAD])
        try:
            subprocess.run([*KUBETRACE, "--help"], env=environment, stdout=subprocess.DEVNULL, check=True)
            found = interleaved(tried, rounds)
        finally:
            workload.kill()
            workload.wait()
            os.rmdir(f"/tmp/{ROW.decode()}")
    bare = median(found[_BARE])
    budgets = {_HELP: "; budget: 4 x", _ROW: "; budget: under 120 ms"}
    rows = [
        Row(
            what,
            median(times),
            f"{median(times) * 1000:.0f} ms",
            f"{spread(times, 1000)} ms; CPU {median(used[what]) * 1000:.0f} ms; "
            f"{median(times) / bare:.1f} x python3 -c pass{budgets.get(what, '')}",
            times,
        )
        for what, times in found.items()
    ]
    if _BCC in found:
        ratio = median(found[_BCC]) / median(found[_ROW])
        rows.append(Row("first row, against bcc's bare start", ratio, f"{ratio:.1f} x", "faster"))
    else:
        rows.append(missing(_BCC, "apt-get install python3-bpfcc linux-headers-amd64"))
    for what, title, note in (
        (_ROW, "resident, live table on", "budget: under 40"),
        (_ROW_BCC, "the same, --engine bcc", "the compiler has ended"),
        (_BY_BTF, "its compiler, types from BTF", "at its largest"),
        (_BY_HEADERS, "its compiler, types from headers", "at its largest"),
    ):
        if what in sizes:
            size = median(sizes[what]) / 2**20
            rows.append(Row(title, size, f"{size:.0f} MiB", note, tuple(sizes[what])))
    return rows
