"""The guest's half of cost.py: cost_guest.py ROUNDS [--peers] prints {way: {operation: [untraced, traced]}}.

With --reference it prints what tests/cost/instructions.json holds.

In instructions per operation, the median of the rounds. Every round measures the operations of each tracer (or peer)
untraced and then with it attached; nobody drains the rings, they are large enough.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import click

from kubetrace import tracers
from kubetrace.engines.libbpf import LoadedObject
from kubetrace.engines.prototypes import placed
from kubetrace.engines.source import object_path
from kubetrace.node.host import Host
from kubetrace.node.survey import Node

BASE = os.environ.get("TMPDIR", "/run") + "/cost"
# Each operation is measured by itself and the cheapest counts, so that the clock's ticks (one in 4 million
# instructions), new slabs and what the kernel puts off fall out of it: so many times, with time for what was put off.
_COPY_UPS = 120
_TIMES = {"copy_up": _COPY_UPS, "exec": 30, "cgroup": 30}
_OFTEN = 300
_PAUSE_S = {"exec": 0.02, "cgroup": 0.05}
_ATTACH_S = 90

# Tracer and hook -> the operations that it has to do with.
OURS = {
    ("copyup", "fentry"): ("copy_up", "setattr", "rename", "open_write", "write"),
    ("copyup", "kprobe"): ("copy_up", "setattr", "rename", "open_write", "write"),
    ("writes", "fentry"): ("write", "open_write"),
    ("writes", "kprobe"): ("write", "open_write"),
    ("files", "fentry"): ("file_open", "file_stat", "file_create", "file_unlink"),
    ("reads", "fentry"): ("open_read", "read", "file_open", "read_memory"),
    ("cgroups", "auto"): ("exec", "cgroup"),
    ("starts", "auto"): ("exec", "cgroup"),
    ("kubelet", "auto"): ("exec", "cgroup", "connect"),
}
# What does the same job, or the nearest to it -> (command, programs, operations).
PEERS: dict[str, tuple[list[str], int, tuple[str, ...]]] = {
    "bpftrace kprobes, copy-ups by cgroup": (
        [
            *("bpftrace", "-e"),
            "kprobe:ovl_copy_up_one { @s[tid] = nsecs; } kretprobe:ovl_copy_up_one /@s[tid]/ { @n[cgroup] = count(); "
            "@l[cgroup] = max(nsecs - @s[tid]); delete(@s[tid]); }",
        ],
        2,
        ("copy_up",),
    ),
    "bpftrace kretfunc, writes by cgroup": (
        ["bpftrace", "-e", "kretfunc:vfs_write { @n[cgroup] = count(); @b[cgroup] = sum(retval); }"],
        1,
        ("write",),
    ),
    "libbpf-tools filetop": (["/usr/sbin/filetop", "-C", "3600"], 2, ("write",)),
    "libbpf-tools execsnoop": (["/usr/sbin/execsnoop"], 2, ("exec",)),
    "bpftrace, executions by cgroup": (
        ["bpftrace", "-e", "tracepoint:sched:sched_process_exec { @[cgroup] = count(); }"],
        1,
        ("exec",),
    ),
}


def _overlay(files: int) -> str:
    for name in ("lower", "rw", "merged"):
        os.makedirs(f"{BASE}/{name}")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", f"{BASE}/rw"], check=True)
    os.makedirs(f"{BASE}/rw/upper")
    os.makedirs(f"{BASE}/rw/work")
    for number in range(files):
        with open(f"{BASE}/lower/{number}", "w") as file:
            file.write("x")
    options = f"lowerdir={BASE}/lower,upperdir={BASE}/rw/upper,workdir={BASE}/rw/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", f"{BASE}/merged"], check=True)
    return f"{BASE}/merged"


class Operations:
    """The operations by name; `measure` gives the instructions of one."""

    def __init__(self, files: int) -> None:
        """`files` is how many copy-ups there can be."""
        merged = self._merged = _overlay(files)
        self._fresh = iter(range(files))
        with open(f"{merged}/new", "w") as file:
            file.write("x")
        written = os.open(f"{merged}/new", os.O_WRONLY)
        # neither tmpfs nor overlay: what readers of other file systems pay
        os.makedirs(f"{BASE}/other")
        subprocess.run(["mount", "-t", "ramfs", "ramfs", f"{BASE}/other"], check=True)
        for place in ("other", "rw"):
            with open(f"{BASE}/{place}/read", "w") as file:
                file.write("x")
        other, memory = (os.open(f"{BASE}/{place}/read", os.O_RDONLY) for place in ("other", "rw"))
        busybox = shutil.which("busybox") or "/bin/busybox"
        shutil.copy(busybox, f"{BASE}/rw/true")
        unified = "/sys/fs/cgroup/unified" if os.path.isdir("/sys/fs/cgroup/unified") else "/sys/fs/cgroup"
        self._cgroup = f"{unified}/cost"
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "files_guest.c")
        self._loop = f"{BASE}/rw/files_guest"
        subprocess.run(["gcc", "-static", "-O1", "-o", self._loop, source], check=True)
        os.makedirs(f"{BASE}/rw/plain")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._times: dict[str, float] = {}
        self._acts: dict[str, Callable[[], object]] = {
            "copy_up": lambda: os.chmod(f"{merged}/{next(self._fresh)}", 0o600),
            "setattr": lambda: os.chmod(f"{merged}/new", 0o600),
            "rename": self._rename,
            "open_write": lambda: os.close(os.open(f"{merged}/new", os.O_WRONLY)),
            "write": lambda: os.pwrite(written, b"x", 0),
            "connect": self._connect,
            "open_read": lambda: os.close(os.open(f"{BASE}/other/read", os.O_RDONLY)),
            "read": lambda: os.pread(other, 1, 0),
            "read_memory": lambda: os.pread(memory, 1, 0),
            "exec": self._exec,
            "cgroup": self._make_cgroup,
        }

    def _rename(self) -> None:
        os.rename(f"{self._merged}/new", f"{self._merged}/new2")
        os.rename(f"{self._merged}/new2", f"{self._merged}/new")

    def _exec(self) -> None:
        os.waitpid(os.posix_spawn(f"{BASE}/rw/true", ["true"], {}), 0)

    def _connect(self) -> None:
        with socket.create_connection(self._server.getsockname()) as client, self._server.accept()[0]:
            client.close()

    def _make_cgroup(self) -> None:
        os.mkdir(self._cgroup)
        os.rmdir(self._cgroup)

    def measure(self, name: str) -> float:
        """Instructions of one; a pair of renames is two."""
        if name.startswith("file_"):
            return self._looped(name.removeprefix("file_"))
        act, pause = self._acts[name], _PAUSE_S.get(name, 0)
        found = []
        for _ in range(_TIMES.get(name, _OFTEN)):
            time.sleep(pause)
            begun = time.perf_counter_ns()
            act()
            found.append(time.perf_counter_ns() - begun)
        return min(found) / (2 if name == "rename" else 1)

    def _looped(self, name: str) -> float:
        """One of files_guest.c's, which does all at once: on a tmpfs, in a mount namespace of its own as containers are
        in one."""
        if name not in self._times:
            command = ["unshare", "-m", self._loop, f"{BASE}/rw/plain"]
            self._times = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        return float(self._times.pop(name))


class _Stored:
    # What tracers fill their maps through.
    def __init__(self, loaded: LoadedObject) -> None:
        self._loaded = loaded

    def store(self, name: str, key: bytes, value: bytes) -> None:
        self._loaded.update(name, key, value)


@contextlib.contextmanager
def attached(name: str, hook: str) -> Iterator[None]:
    """One of our tracers with its default options."""
    tracer = tracers.find(name)
    host = Host.find("/")
    options = click.Command(name, params=list(tracer.options())).make_context(name, []).params
    wiring = tracer.wiring(options, next(iter(tracer.groupings)), False, host)
    with LoadedObject(
        object_path(name),
        hook=hook,
        optional=tracer.optional,
        constants={**tracer.constants(options), **wiring.constants, **placed(wiring.places)},
        sizes=wiring.sizes,
        unneeded=wiring.unneeded,
    ) as loaded:
        tracer.prepare(_Stored(loaded).store, Node(host))
        yield


def _programs() -> int:
    """How many BPF programs the kernel holds."""
    library = ctypes.CDLL("libbpf.so.1")
    found, last = 0, ctypes.c_uint32()
    while not library.bpf_prog_get_next_id(last, ctypes.byref(last)):
        found += 1
    return found


@contextlib.contextmanager
def peer(command: list[str], programs: int) -> Iterator[None]:
    """A peer's program, once all that it attaches is there; raises TimeoutError."""
    before = _programs()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _ATTACH_S
        while _programs() < before + programs:
            if process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"{command[0]} did not attach")
            time.sleep(0.2)
        time.sleep(1)
        yield
    finally:
        process.terminate()
        process.wait()


def measure(rounds: int, *, peers: bool) -> dict[str, dict[str, list[float]]]:
    """{way: {operation: [untraced, traced]}}, medians of the rounds."""
    ways: dict[str, tuple[Callable[[], AbstractContextManager[None]], tuple[str, ...]]] = {
        f"{name}, {hook}": (lambda name=name, hook=hook: attached(name, hook), operations)  # type: ignore[misc]
        for (name, hook), operations in OURS.items()
    }
    if peers:
        for what, (command, programs, operations) in PEERS.items():
            if shutil.which(command[0]):
                ways[what] = (lambda c=command, p=programs: peer(c, p), operations)  # type: ignore[misc]
    copies = sum("copy_up" in operations for _, operations in ways.values())
    acts = Operations(2 * rounds * copies * _COPY_UPS)
    found: dict[str, dict[str, tuple[list[float], list[float]]]] = {
        way: {name: ([], []) for name in operations} for way, (_, operations) in ways.items()
    }
    for _ in range(rounds):
        for way, (attach, operations) in list(ways.items()):
            for name in operations:
                found[way][name][0].append(acts.measure(name))
            try:
                with attach():
                    for name in operations:
                        found[way][name][1].append(acts.measure(name))
            except TimeoutError as error:
                print(error, file=sys.stderr)
                del ways[way], found[way]
    return {
        way: {name: [statistics.median(plain), statistics.median(traced)] for name, (plain, traced) in of.items()}
        for way, of in found.items()
    }


def added(found: dict[str, dict[str, list[float]]]) -> dict[str, int]:
    """Tracer, hook and operation -> the instructions that tracing adds to it."""
    return {
        f"{way}, {operation}": round(traced - plain)
        for way, operations in found.items()
        for operation, (plain, traced) in operations.items()
    }


if __name__ == "__main__":
    result: object = measure(int(sys.argv[1]), peers="--peers" in sys.argv)
    if "--reference" in sys.argv:
        result = added(result)  # type: ignore[arg-type]
    print(json.dumps(result, indent=1))
