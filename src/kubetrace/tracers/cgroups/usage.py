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

from kubetrace.attribution import mountinfo
from kubetrace.attribution.cgroup_path import is_own
from kubetrace.attribution.facts import CgroupSeen
from kubetrace.stream.layout import RING_HEADER_BYTES, Batch, Field, Layout

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Fact
    from kubetrace.node.host import Host

STREAM = "usage"
UNKNOWN = -1
"""A number that no file has: the controller is off, or there is no limit."""

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

_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "freezer")
# memory.limit_in_bytes without a limit: PAGE_COUNTER_MAX pages, a little less than 2^63
_NO_LIMIT = 1 << 62


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
        self._roots: dict[str, str] = {}
        self._unified: str | None = None
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
        if not self._roots and self._unified is None:
            self._find_roots()
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

    def _find_roots(self) -> None:
        try:
            with open(self._host.mountinfo_path(), "rb") as file:
                mounts = list(mountinfo.parse(file.read()))
        except OSError:
            return
        for mount in mounts:
            if mount.root.replace("/..", "").strip("/"):
                continue
            if mount.fstype == "cgroup2" and self._unified is None:
                self._unified = self._host.path(mount.mount_point)
            elif mount.fstype == "cgroup":
                for controller in mount.super_options.split(","):
                    if controller in _CONTROLLERS:
                        self._roots.setdefault(controller, self._host.path(mount.mount_point))

    def _record(self, path: str, cgroup: _Cgroup) -> bytes | None:
        directories = [root + path for root in dict.fromkeys((*self._roots.values(), self._unified)) if root]
        held = next((directory for directory in directories if os.path.isdir(directory)), None)
        if held is None:
            return None
        if cgroup.begun == UNKNOWN:
            cgroup.begun = self._begun(directories)
        numbers = dict.fromkeys([name for name, _ in _NUMBERS], UNKNOWN)
        numbers["begun"] = cgroup.begun
        numbers["procs"] = max((_processes(directory) for directory in directories), default=UNKNOWN)
        unified = self._unified + path if self._unified is not None else None
        for controller, read_v1, read_v2 in _READERS:
            if controller in self._roots:
                read_v1(self._roots[controller] + path, numbers)
            elif unified is not None and read_v2 is not None:
                read_v2(unified, numbers)
        if unified is not None:
            for resource in ("cpu", "memory", "io"):
                numbers[f"{resource}_pressure"] = _pressure(f"{unified}/{resource}.pressure")
        memory = next((item for item in cgroup.ids.items() if item[0]), (0, 0))
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return _PACK(now, cgroup.ids.get(0, 0), memory[1], memory[0], 0, *numbers.values())

    def _begun(self, directories: Iterable[str]) -> int:
        # The process that was first in: proc(5), field 22 of /proc/PID/stat, in clock ticks since boot.
        for directory in directories:
            first = _read(f"{directory}/cgroup.procs").split(b"\n", 1)[0]
            if not first.isdigit():
                continue
            stat = _read(f"{self._host.proc}/{int(first)}/stat").rpartition(b")")[2].split()
            if len(stat) > 19:
                return int(stat[19]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        return UNKNOWN


def _read(path: str) -> bytes:
    # Files of a cgroup are small but for the lists of processes; b"" where there is none (any more).
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        text = os.read(descriptor, 1 << 16)
        if len(text) < 1 << 12:
            return text
        parts = [text]
        while part := os.read(descriptor, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _number(path: str) -> int:
    """A file of one number; `max` and everything else is UNKNOWN."""
    text = _read(path).strip()
    return int(text) if text.isdigit() else UNKNOWN


def _table(path: str) -> dict[bytes, int]:
    """A file of `name number` lines."""
    found = {}
    for line in _read(path).splitlines():
        name, _, number = line.partition(b" ")
        if number.isdigit():
            found[name] = int(number)
    return found


def _processes(directory: str) -> int:
    """Processes in a cgroup and all below it; UNKNOWN if it is not there."""
    try:
        # a directory has a link from each directory in it (kernfs counts them too)
        nested = os.stat(directory).st_nlink > 2
    except OSError:
        return UNKNOWN
    count = _read(f"{directory}/cgroup.procs").count(b"\n")
    if nested:
        try:
            with os.scandir(directory) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            below = []
        count += sum(max(0, _processes(path)) for path in below)
    return count


def _pressure(path: str) -> int:
    # some avg10=1.23 avg60=0.80 avg300=0.20 total=123456
    for word in _read(path).split(b"\n", 1)[0].split():
        whole, _, part = word.removeprefix(b"avg10=").partition(b".")
        if word.startswith(b"avg10=") and whole.isdigit() and part.isdigit():
            return int(whole) * 100 + int(part[:2].ljust(2, b"0"))
    return UNKNOWN


def _cpu_v2(directory: str, numbers: dict[str, int]) -> None:
    stat = _table(f"{directory}/cpu.stat")
    if b"usage_usec" in stat:
        numbers["cpu"] = stat[b"usage_usec"] * 1000
    if b"nr_periods" in stat:
        numbers["periods"], numbers["throttled_periods"] = stat[b"nr_periods"], stat.get(b"nr_throttled", 0)
        numbers["throttled"] = stat.get(b"throttled_usec", 0) * 1000
    quota, _, period = _read(f"{directory}/cpu.max").strip().partition(b" ")
    _limit_cpu(quota, period, numbers)


def _cpu_v1(directory: str, numbers: dict[str, int]) -> None:
    stat = _table(f"{directory}/cpu.stat")
    if b"nr_periods" in stat:
        numbers["periods"], numbers["throttled_periods"] = stat[b"nr_periods"], stat.get(b"nr_throttled", 0)
        numbers["throttled"] = stat.get(b"throttled_time", 0)
    quota = _read(f"{directory}/cpu.cfs_quota_us").strip()
    _limit_cpu(quota, _read(f"{directory}/cpu.cfs_period_us").strip(), numbers)


def _limit_cpu(quota: bytes, period: bytes, numbers: dict[str, int]) -> None:
    if quota.isdigit() and period.isdigit() and int(period):
        numbers["cpu_limit"] = (int(quota) * 1000 + int(period) // 2) // int(period)


def _cpuacct_v1(directory: str, numbers: dict[str, int]) -> None:
    numbers["cpu"] = _number(f"{directory}/cpuacct.usage")


def _memory_v2(directory: str, numbers: dict[str, int]) -> None:
    numbers["memory"] = _number(f"{directory}/memory.current")
    numbers["memory_limit"] = _number(f"{directory}/memory.max")
    numbers["oom_kills"] = _table(f"{directory}/memory.events").get(b"oom_kill", UNKNOWN)


def _memory_v1(directory: str, numbers: dict[str, int]) -> None:
    numbers["memory"] = _number(f"{directory}/memory.usage_in_bytes")
    limit = _number(f"{directory}/memory.limit_in_bytes")
    numbers["memory_limit"] = limit if limit < _NO_LIMIT else UNKNOWN
    numbers["oom_kills"] = _table(f"{directory}/memory.oom_control").get(b"oom_kill", UNKNOWN)


def _pids(directory: str, numbers: dict[str, int]) -> None:
    # pids.events became the sum of a subtree in 6.11 (73e75e6fc352), and .local what it was before
    events = _table(f"{directory}/pids.events.local") or _table(f"{directory}/pids.events")
    numbers["forks_refused"] = events.get(b"max", UNKNOWN)


def _freezer_v1(directory: str, numbers: dict[str, int]) -> None:
    state = _read(f"{directory}/freezer.state").strip()
    if state:
        numbers["frozen"] = int(state == b"FROZEN")


_Reader = Callable[[str, dict[str, int]], None]
# Controller -> how its files read where it has a hierarchy of its own, and in the unified one.
_READERS: tuple[tuple[str, _Reader, _Reader | None], ...] = (
    ("cpu", _cpu_v1, _cpu_v2),
    ("cpuacct", _cpuacct_v1, None),
    ("memory", _memory_v1, _memory_v2),
    ("pids", _pids, _pids),
    ("freezer", _freezer_v1, None),
)
