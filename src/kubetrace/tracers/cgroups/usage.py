"""What containers use now and what they may: the files of their cgroups as records, on cgroup v1 and v2 alike.

The meaning of each file: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/{memory,pids,freezer-subsystem}.rst and
scheduler/sched-bwc.rst of the kernel. A look gives one record for each pod and container, as a batch of the stream
`usage`, so that it is decoded, attributed and recorded like everything else. Conclusions are the tracer's.
"""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kubetrace.attribution.cgroup_path import is_own
from kubetrace.attribution.facts import CgroupSeen
from kubetrace.node.cgroup_files import UNKNOWN, Hierarchies, processes, read
from kubetrace.stream.layout import RING_HEADER_BYTES, Batch, Field, Layout

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Fact
    from kubetrace.node.host import Host

STREAM = "usage"

# (name, kind, unit) of what every record is identified by, then of the numbers; all are eight bytes but two.
_HEAD = (("time", 8, "boot_ns"), ("cgroup_id", 8, "cgroup_id"), ("memory_cgroup_id", 8, "cgroup_id"))
_NUMBERS = (
    ("begun", "boot_ns"),  # when the oldest process of the cgroup began
    ("procs", ""),
    ("cpu", "duration_ns"),  # used since the cgroup was made
    ("cpu_limit", ""),  # thousandths of a CPU
    ("periods", ""),  # of CPU bandwidth control: run in, throttled in, for how long
    ("throttled_periods", ""),
    ("throttled", "duration_ns"),
    ("memory", "bytes"),
    ("memory_limit", "bytes"),
    ("oom_kills", ""),
    ("forks_refused", ""),
    ("frozen", ""),  # 1 or 0, on v1 only: v2's freezer has tracepoints
    ("cpu_pressure", ""),  # "some" over the last 10 s, in hundredths of a percent
    ("memory_pressure", ""),
    ("io_pressure", ""),
    ("swap", "bytes"),
    ("swap_limit", "bytes"),
)


def _layout() -> Layout:
    fields, at = [], 0
    for name, size, unit in _HEAD:
        fields.append(Field(name, at, size, "unsigned", unit))
        at += size
    for name, unit in (("memory_hierarchy", "hierarchy"), ("device", "dev")):
        fields.append(Field(name, at, 4, "unsigned", unit))
        at += 4
    for name, unit in _NUMBERS:
        fields.append(Field(name, at, 8, "signed", unit))
        at += 8
    return Layout("usage", at, tuple(fields))


LAYOUT = _layout()
_PACK = struct.Struct(f"<{RING_HEADER_BYTES}x{LAYOUT.format[1:]}").pack

# Cgroups that each reading looks at, however long that takes; further ones only in a tenth of the time since the last.
_AT_ONCE = 256
_SHARE = 0.1
# Cgroups between two looks at what cannot wait.
_BETWEEN = 4


@dataclass(slots=True)
class _Cgroup:
    # One path; `ids` by hierarchy. `begun` is read once: a container's oldest process is its first.
    ids: dict[int, int] = field(default_factory=dict)
    begun: int = UNKNOWN


class Usage:
    """Reads the cgroups of pods and containers that it was told of, until they are gone. For one thread."""

    layouts: Mapping[str, Layout] = {STREAM: LAYOUT}
    fds: Sequence[int] = ()

    def stir(self) -> bool:
        """Nothing happens between two readings that a file would tell."""
        return False

    def __init__(self, host: Host) -> None:
        """Looks where the hierarchies are mounted at the first `read`."""
        self._host = host
        self._hierarchies = Hierarchies()
        self._cgroups: dict[str, _Cgroup] = {}
        self._turn: deque[str] = deque()
        self._read_at = time.monotonic()

    complete = True
    """Each reading is of all cgroups, or of those whose turn it is."""

    def close(self) -> None:
        """Nothing is held."""

    def learn(self, fact: Fact) -> None:
        """Look at this cgroup from now on, if it is a pod's or a container's own."""
        # what a container makes below its own cgroup is in the sums of that
        if isinstance(fact, CgroupSeen) and is_own(fact.path):
            self._cgroups.setdefault(fact.path, _Cgroup()).ids[fact.hierarchy] = fact.cgroup_id

    def read(self, between: Callable[[], None] = lambda: None, *, whole: bool = False) -> list[Batch]:
        """A record for each cgroup that is still there, in one batch; [] for none.

        On a node with thousands they take turns, unless it is to be the `whole` of them: reading takes a tenth of a
        core at most. A cgroup takes 0.2 ms, more on v1 than on v2: `between` is called every few of them.
        """
        if not self._hierarchies:
            self._hierarchies = Hierarchies.of(self._host)
        begun = time.monotonic()
        end, self._read_at = begun + _SHARE * (begun - self._read_at), begun
        if whole or not self._turn:
            self._turn = deque(self._cgroups)
        records: list[bytes] = []
        looked = 0
        while self._turn and (whole or looked < _AT_ONCE or time.monotonic() < end):
            path = self._turn.popleft()
            cgroup = self._cgroups.get(path)
            if cgroup is None:
                continue
            looked += 1
            if not looked % _BETWEEN:
                between()
            record = self._record(path, cgroup)
            if record is None:
                del self._cgroups[path]
            else:
                records.append(record)
        return [Batch(STREAM, b"".join(records))] if records else []

    def _record(self, path: str, cgroup: _Cgroup) -> bytes | None:
        directories = self._hierarchies.directories(path)
        held = next((directory for directory in directories if os.path.isdir(directory)), None)
        if held is None:
            return None
        if cgroup.begun == UNKNOWN:
            cgroup.begun = self._begun(directories)
        numbers = dict.fromkeys([name for name, _ in _NUMBERS], UNKNOWN)
        numbers["begun"] = cgroup.begun
        numbers["procs"] = max((processes(directory) for directory in directories), default=UNKNOWN)
        self._hierarchies.read(path, numbers)
        memory = next((item for item in cgroup.ids.items() if item[0]), (0, 0))
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return _PACK(now, cgroup.ids.get(0, 0), memory[1], memory[0], 0, *numbers.values())

    def _begun(self, directories: Iterable[str]) -> int:
        # The process that was first in: proc(5), field 22 of /proc/PID/stat, in clock ticks since boot.
        for directory in directories:
            first = read(f"{directory}/cgroup.procs").split(b"\n", 1)[0]
            if not first.isdigit():
                continue
            stat = read(f"{self._host.proc}/{int(first)}/stat").rpartition(b")")[2].split()
            if len(stat) > 19:
                return int(stat[19]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        return UNKNOWN
