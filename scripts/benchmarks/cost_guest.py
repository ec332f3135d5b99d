"""The guest's half of cost.py: cost_guest.py HOOK ROUNDS prints {operation: [untraced, traced]}, in instructions."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from kubetrace import tracers
from kubetrace.engines.libbpf import LoadedObject
from kubetrace.engines.source import object_path

BASE = os.environ.get("TMPDIR", "/run") + "/cost"
FILES = 50


def _overlay(rounds: int) -> str:
    for name in ("lower", "rw", "merged"):
        os.makedirs(f"{BASE}/{name}")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", f"{BASE}/rw"], check=True)
    os.makedirs(f"{BASE}/rw/upper")
    os.makedirs(f"{BASE}/rw/work")
    for number in range((2 * rounds + 2) * FILES):
        with open(f"{BASE}/lower/{number}", "w") as file:
            file.write("x")
    options = f"lowerdir={BASE}/lower,upperdir={BASE}/rw/upper,workdir={BASE}/rw/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", f"{BASE}/merged"], check=True)
    return f"{BASE}/merged"


def main() -> None:
    hook, rounds = sys.argv[1], int(sys.argv[2])
    merged = _overlay(rounds)
    fresh = iter(range((2 * rounds + 2) * FILES))
    with open(f"{merged}/new", "w") as file:
        file.write("x")

    def copy_up() -> None:
        os.chmod(f"{merged}/{next(fresh)}", 0o600)

    def rename() -> None:
        os.rename(f"{merged}/new", f"{merged}/new2")
        os.rename(f"{merged}/new2", f"{merged}/new")

    written = os.open(f"{merged}/new", os.O_WRONLY)
    operations: dict[str, Callable[[], object]] = {
        "copy_up": copy_up,
        "setattr": lambda: os.chmod(f"{merged}/new", 0o600),
        "rename": rename,
        "open_write": lambda: os.close(os.open(f"{merged}/new", os.O_WRONLY)),
        "write": lambda: os.pwrite(written, b"x", 0),
    }

    def measure(times: dict[str, list[float]] | None) -> None:
        for name, operation in operations.items():
            begun = time.perf_counter_ns()
            for _ in range(FILES):
                operation()
            took = (time.perf_counter_ns() - begun) / FILES / (2 if name == "rename" else 1)
            if times is not None:
                times[name].append(took)

    plain: dict[str, list[float]] = {name: [] for name in operations}
    traced: dict[str, list[float]] = {name: [] for name in operations}
    tracer = tracers.find("copyup")
    measure(None)
    for _ in range(rounds):
        measure(plain)
        with LoadedObject(object_path("copyup"), hook=hook, optional=tracer.optional):
            measure(traced)
    print(json.dumps({name: [statistics.median(plain[name]), statistics.median(traced[name])] for name in operations}))


main()
