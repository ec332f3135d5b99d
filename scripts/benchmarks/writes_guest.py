"""The guest's half of writes.py: writes_guest.py HOOK ROUNDS prints {how it is traced: instructions per write}."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time

from kubetrace import tracers
from kubetrace.attribution.node import Node
from kubetrace.engines.libbpf import LoadedObject
from kubetrace.engines.source import object_path
from kubetrace.host import Host

BASE = "/run/writes"
WRITES = 500


class Stored:
    """What tracers fill their maps through."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._loaded = loaded

    def store(self, name: str, key: bytes, value: bytes) -> None:
        self._loaded.update(name, key, value)


def main() -> None:
    hook, rounds = sys.argv[1], int(sys.argv[2])
    os.makedirs(BASE, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", BASE], check=True)
    descriptor = os.open(f"{BASE}/file", os.O_RDWR | os.O_CREAT)
    tracer = tracers.find("writes")
    assert isinstance(tracer, tracers.Counts)
    host = Host.find("/")
    ways = {
        "untraced": None,
        "counted": {"latency": False, "all_files": False},
        "with latency": {"latency": True, "all_files": False},
        "as in a container": {"latency": False, "all_files": False},
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, options in ways.items():
            with contextlib.ExitStack() as stack:
                if options is not None:
                    wiring = tracer.wiring(options, "destination", False, host)
                    constants = {**wiring.pop("constants"), **tracer.constants(options)}
                    if name == "as in a container":
                        # its mounts are in another namespace than the node's
                        constants["node_mount_namespace"] = 1
                    loaded = stack.enter_context(
                        LoadedObject(
                            object_path("writes"), hook=hook, optional=tracer.optional, constants=constants, **wiring
                        )
                    )
                    source = Stored(loaded)
                    tracer.prepare(source.store, Node(host))
                for round_number in range(2):
                    begun = time.perf_counter_ns()
                    for _ in range(WRITES):
                        os.pwrite(descriptor, b"x", 0)
                    if round_number:
                        found[name].append((time.perf_counter_ns() - begun) / WRITES)
    print(json.dumps({name: statistics.median(values) for name, values in found.items()}))


main()
