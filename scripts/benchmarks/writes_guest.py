"""The guest's half of writes.py: writes_guest.py ROUNDS MINIMAL-OBJECT prints {how: instructions per write}."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from kubetrace import tracers
from kubetrace.engines.libbpf import LoadedObject
from kubetrace.engines.source import object_path
from kubetrace.node.host import Host
from kubetrace.node.survey import Node

BASE = "/run/writes"
WRITES = 500
START_LIMIT_S = 90
_COUNT = "@n[cgroup] = count(); @b[cgroup] = sum(retval);"
PEERS = {
    "bpftrace, kfunc + kretfunc": (
        *("bpftrace", "-e"),
        f"kfunc:vfs_write {{ @s[tid] = nsecs; }} kretfunc:vfs_write /@s[tid]/ {{ {_COUNT} delete(@s[tid]); }}",
    ),
    "bpftrace, kprobe + kretprobe": (
        *("bpftrace", "-e"),
        f"kprobe:vfs_write {{ @s[tid] = nsecs; }} kretprobe:vfs_write /@s[tid]/ {{ {_COUNT} delete(@s[tid]); }}",
    ),
    "libbpf-tools filetop": ("filetop", "1000"),
    "bcc filetop": ("filetop-bpfcc", "1000"),
}


class Stored:
    """What tracers fill their maps through."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._loaded = loaded

    def store(self, name: str, key: bytes, value: bytes) -> None:
        self._loaded.update(name, key, value)


class Writer:
    """Writes a byte at a time to one file: of the node, and as a container, in a mount namespace of its own."""

    def __init__(self) -> None:
        os.makedirs(BASE, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", BASE], check=True)
        self.node = os.open(f"{BASE}/file", os.O_RDWR | os.O_CREAT)
        # CLONE_NEWNS
        if ctypes.CDLL(None).unshare(0x20000):
            raise OSError("unshare")
        self.container = os.open(f"{BASE}/file", os.O_RDWR)

    def cost(self, file: int) -> float:
        """Instructions of one write: nanoseconds of this machine's clock."""
        write = os.pwrite
        begun = time.perf_counter_ns()
        for _ in range(WRITES):
            write(file, b"x", 0)
        return (time.perf_counter_ns() - begun) / WRITES


@contextlib.contextmanager
def own(hook: str, options: dict[str, bool]) -> Iterator[None]:
    """Our tracer's programs, attached; nobody reads the counters."""
    tracer = tracers.find("writes")
    host = Host.find("/")
    wiring = tracer.wiring(options, "destination", False, host)
    with LoadedObject(
        object_path("writes"),
        hook=hook,
        optional=tracer.optional,
        constants={**wiring.constants, **tracer.constants(options)},
        sizes=wiring.sizes,
        unneeded=wiring.unneeded,
    ) as loaded:
        tracer.prepare(Stored(loaded).store, Node(host))
        yield


def ours(writer: Writer, rounds: int, minimal: Path) -> dict[str, float]:
    """Medians by how it was traced, interleaved."""
    plain = {"latency": False, "all_files": False}
    ways: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
        "untraced": contextlib.nullcontext,
        "a minimal fexit counter": partial(LoadedObject, minimal, hook="fentry"),
    }
    for hook in ("fentry", "kprobe"):
        ways[f"kubetrace, {hook}, in a container"] = partial(own, hook, plain)
        ways[f"kubetrace, {hook}, on the node"] = partial(own, hook, plain)
        ways[f"kubetrace, {hook}, with -L"] = partial(own, hook, {**plain, "latency": True})
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            with way():
                # the node's namespace is known by the first write there
                writer.cost(writer.node)
                writer.cost(writer.container)
                found[name].append(writer.cost(writer.node if name.endswith("node") else writer.container))
    return {name: statistics.median(values) for name, values in found.items()}


def peer(writer: Writer, command: tuple[str, ...], untraced: float) -> float | None:
    """The median with another tool attached; None where it does not start."""
    if shutil.which(command[0]) is None:
        return None
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        costs: list[float] = []
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and process.poll() is None:
            # all of its programs are attached when the cost has stopped to change
            time.sleep(0.5)
            costs = [*costs[-4:], statistics.median(writer.cost(writer.container) for _ in range(5))]
            if len(costs) == 5 and min(costs) > untraced + 100 and max(costs) - min(costs) < 30:
                return statistics.median(costs)
        return None
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Ours first: a peer leaves nothing attached, but who knows."""
    rounds, minimal = int(sys.argv[1]), Path(sys.argv[2])
    writer = Writer()
    found: dict[str, float | None] = {**ours(writer, rounds, minimal)}
    untraced = found["untraced"]
    assert untraced is not None
    for name, command in PEERS.items():
        found[name] = peer(writer, command, untraced)
    print(json.dumps(found))


main()
