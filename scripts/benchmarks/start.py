"""How long until kubetrace helps: --help, launch to the first row on a terminal, memory; beside bare Python and bcc.

The kernel of a development machine refuses kprobes, so a tracepoint fires the same programs (tests/native); the rest
is the product: libbpf, BTF, the scan of the node, rich on a real pty.
"""

from __future__ import annotations

import os
import platform
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import compile_objects

ROOT = Path(__file__).resolve().parent.parent.parent
KUBETRACE = [str(Path(sys.executable).parent / "kubetrace")]
ROW = b"bench-row"
WORKLOAD = f"""
import os, time
os.makedirs("/tmp/{ROW.decode()}", exist_ok=True)
os.chdir("/tmp/{ROW.decode()}")
while True:
    os.getppid()
    time.sleep(0.002)
"""
# One program, the smallest that bcc compiles; its start has no table, no names, no rows.
BCC = """
from bcc import BPF
b = BPF(text="int kprobe_stand_in(void *ctx) { return 0; }")
b.load_func("kprobe_stand_in", BPF.RAW_TRACEPOINT)
"""


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


# What --engine bcc does before it loads: translate, compile in a process of its own, read the result.
COMPILE = """
import resource, time
from kubetrace.engines import bcc
from kubetrace.engines.source import source_path, sources
begun = time.perf_counter()
bcc.build(source_path("copyup"), sources(), {"filter_by_cgroup": 0})
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _compile(environment: dict[str, str]) -> tuple[float, int]:
    """Seconds that bcc takes for copyup, and the compiler's largest resident set in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    took, kib = done.stdout.split()
    return float(took), int(kib) << 10


def _first_row(environment: dict[str, str], *options: str) -> tuple[float, int]:
    """Seconds from before exec to the row on a pty, and the resident set two seconds later, in bytes."""
    leader, terminal = pty.openpty()
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*KUBETRACE, "copyup", *options],
        env=environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    seen = b""
    while ROW not in seen:
        seen += os.read(leader, 65536)
    took = time.perf_counter() - begun
    time.sleep(0.3)
    resident = 0
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            resident = int(line.split()[1]) * 1024
    process.terminate()
    try:
        while os.read(leader, 65536):
            pass
    except OSError:  # EIO: the other end is closed
        pass
    process.wait()
    os.close(leader)
    return took, resident


def _bcc_python() -> list[str] | None:
    """The system's Python with Debian's bcc and some kernel's headers; None where they are not installed."""
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


def run(rounds: int) -> list[dict[str, str]]:
    """Rows of what, value and note."""
    with tempfile.TemporaryDirectory() as directory:
        objects = Path(directory) / "objects"
        source = ROOT / "tests" / "native" / "standin.bpf.c"
        compile_objects.compile_object(source, objects / "copyup.bpf.o", platform.machine(), "-I", str(ROOT / "bpf"))
        environment = {**os.environ, "KUBETRACE_OBJECTS": str(objects), "TERM": "xterm-256color"}
        for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):  # an installed package has its bytecode
            environment.pop(name, None)
        (Path(directory) / "headers").mkdir()
        headers = _headers(Path(directory) / "headers")
        bcc = _bcc_python() if headers else None
        resident: dict[str, list[int]] = {}

        def measured(what: str, measure: Callable[[], tuple[float, int]]) -> Callable[[], float]:
            def once() -> float:
                took, bytes_now = measure()
                resident.setdefault(what, []).append(bytes_now)
                return took

            return once

        tried: dict[str, Callable[[], float]] = {
            "python3 -c pass": lambda: _seconds([sys.executable, "-c", "pass"], environment),
            "kubetrace --help": lambda: _seconds([*KUBETRACE, "--help"], environment),
            "kubetrace copyup, launch to first row": measured("libbpf", lambda: _first_row(environment)),
        }
        if bcc and headers:
            with_headers = {**environment, "BCC_KERNEL_SOURCE": headers}
            sources = Path(directory) / "sources"
            sources.mkdir()
            (sources / "copyup.bpf.c").write_text(f'#include "{source}"\n')
            by_btf = {**environment, "KUBETRACE_SOURCES": str(sources)}
            tried["the same, --engine bcc"] = measured("bcc", lambda: _first_row(by_btf, "--engine", "bcc"))
            tried["bcc compiles copyup, types from BTF"] = measured("compiler", lambda: _compile(environment))
            tried["bcc compiles copyup, types from headers"] = measured(
                "compiler, headers", lambda: _compile(with_headers)
            )
            tried["bcc, BPF(text=...) of one tiny program"] = lambda: _seconds([*bcc, "-c", BCC], with_headers)
        workload = subprocess.Popen([sys.executable, "-S", "-c", WORKLOAD])
        times: dict[str, list[float]] = {name: [] for name in tried}
        try:
            for _ in range(rounds):
                for name, measure in tried.items():
                    times[name].append(measure())
        finally:
            workload.kill()
            workload.wait()
    median = {name: statistics.median(found) for name, found in times.items()}
    bare = median["python3 -c pass"]
    rows = [
        {
            "what": name,
            "value": f"{median[name] * 1000:.0f} ms",
            "note": f"{median[name] / bare:.1f} x python3 -c pass"
            f" ({min(found) * 1000:.0f} to {max(found) * 1000:.0f} ms)",
        }
        for name, found in times.items()
    ]
    mine = median["kubetrace copyup, launch to first row"]
    if bcc:
        ratio = median["bcc, BPF(text=...) of one tiny program"] / mine
        rows.append({"what": "first row, against bcc's bare start", "value": f"{ratio:.1f} x", "note": "faster"})
    else:
        rows.append(
            {"what": "bcc", "value": "-", "note": "not installed: apt-get install python3-bpfcc linux-headers-amd64"}
        )
    for name, note in (
        ("libbpf", "table on"),
        ("bcc", "table on; the compiler has ended"),
        ("compiler", "at its largest, for as long as it compiles"),
        ("compiler, headers", "at its largest"),
    ):
        if name in resident:
            size = f"{statistics.median(resident[name]) / 2**20:.0f} MiB"
            rows.append({"what": f"resident, {name}", "value": size, "note": note})
    return rows
