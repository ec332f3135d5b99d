"""What all benchmarks share: rows, interleaved rounds, medians with their spread, and the machine in words."""

from __future__ import annotations

import gc
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One result: `value` for machines, `text` and `note` for people; `samples` are what `value` is the median of."""

    what: str
    value: float
    text: str
    note: str = ""
    samples: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For --json."""
        return {"what": self.what, "value": self.value, "text": self.text, "note": self.note, "samples": self.samples}


def missing(what: str, remedy: str) -> Row:
    """A peer that is not installed."""
    return Row(what, float("nan"), "-", f"not installed: {remedy}")


def machine() -> str:
    """Kernel, CPU, memory, Python and load; nothing that names the machine."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = ", ".join(f"{part:.1f}" for part in os.getloadavg())
    return (
        f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs ({model}), {memory:.0f} GiB, "
        f"Python {platform.python_version()}, load {load}"
    )


def cpu(act: Callable[[], object]) -> float:
    """CPU seconds of this process for one call, without the garbage collector's."""
    gc.collect()
    gc.disable()
    try:
        begun = time.process_time()
        act()
        return time.process_time() - begun
    finally:
        gc.enable()


def cpu_of(command: Sequence[str]) -> float:
    """CPU seconds of a command and all that it waited for; what it prints is thrown away."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def interleaved(tried: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, tuple[float, ...]]:
    """Each way in turn, `rounds` times; what each call gave."""
    found: dict[str, list[float]] = {name: [] for name in tried}
    for _ in range(rounds):
        for name, measured in tried.items():
            found[name].append(measured())
    return {name: tuple(values) for name, values in found.items()}


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 0) -> str:
    """The middle half of the samples, as "12 to 15"."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return f"{low * scale:,.{digits}f} to {high * scale:,.{digits}f}"
