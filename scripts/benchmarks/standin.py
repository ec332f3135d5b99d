"""The stand-in for copyup (tests/native): the real thing, fired by getpgrp() through a tracepoint.

Tests use getppid(); what else runs on this machine makes neither of the two calls.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import compile_objects

ROOT = Path(__file__).resolve().parent.parent.parent
KUBETRACE = [str(Path(sys.executable).parent / "kubetrace")]
_SOURCE = ROOT / "tests" / "native" / "standin.bpf.c"
# x86-64's (arch/x86/entry/syscalls/syscall_64.tbl); arm64 has none, and the benchmarks were never run there
_NR_GETPGRP = 111
# `count at once` for each line of stdin, or `rate a second for so long`.
_WORKLOAD = """
import os, sys, time
rate, seconds = int(sys.argv[1]), float(sys.argv[2])
os.chdir(sys.argv[3])
if not rate:
    for line in sys.stdin:
        for _ in range(int(line)): os.getpgrp()
        print(flush=True)
begun = time.monotonic(); made = 0
while (passed := time.monotonic() - begun) < seconds:
    due = int(passed * rate) - made
    for _ in range(due): os.getpgrp()
    made += due
    time.sleep(0.002)
"""


def stand_in(directory: Path, call: int = _NR_GETPGRP) -> Path:
    """A directory with the stand-in as copyup.bpf.o, and the tracers that need none, for KUBETRACE_OBJECTS.

    `call` is the number of the system call that fires it.
    """
    objects = directory / "objects"
    flags = ("-I", str(ROOT / "bpf"), f"-DNR_GETPPID={call}")
    compile_objects.compile_object(_SOURCE, objects / "copyup.bpf.o", platform.machine(), *flags)
    built = ROOT / "src" / "kubetrace" / "objects" / platform.machine()
    for name in ("cgroups.bpf.o", "starts.bpf.o"):
        (objects / name).symlink_to(built / name)
    return objects


def stand_in_source(directory: Path) -> Path:
    """The same for bcc: a directory with the source as copyup.bpf.c, for KUBETRACE_SOURCES."""
    sources = directory / "sources"
    sources.mkdir()
    (sources / "copyup.bpf.c").write_text(f'#define NR_GETPPID {_NR_GETPGRP}\n#include "{_SOURCE}"\n')
    return sources


def environment_of(objects: Path) -> dict[str, str]:
    """For a kubetrace process that traces the stand-in, as installed: with bytecode, without others' paths."""
    environment = {**os.environ, "KUBETRACE_OBJECTS": str(objects), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    return environment


@contextmanager
def firing(directory: Path) -> Iterator[Firing]:
    """A process that makes stand-in events when it is told."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", _WORKLOAD, "0", "0", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Firing(process)
    finally:
        process.kill()
        process.communicate()


class Firing:
    """`fire(n)` makes n events and returns when they are made."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def fire(self, count: int) -> None:
        """So many events, at once."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()


def paced(rate: int, seconds: float, directory: Path) -> subprocess.Popen[bytes]:
    """A process that makes `rate` events a second for so long."""
    return subprocess.Popen([sys.executable, "-S", "-c", _WORKLOAD, str(rate), str(seconds), str(directory)])
