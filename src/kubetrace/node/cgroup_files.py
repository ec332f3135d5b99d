"""What a cgroup uses and what it may, from its files, on cgroup v1 and v2 alike.

The meaning of each file: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/{memory,pids,freezer-subsystem}.rst and
scheduler/sched-bwc.rst of the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kubetrace.attribution import mountinfo

if TYPE_CHECKING:
    from kubetrace.node.host import Host

UNKNOWN: Final = -1
"""A number that no file has: the controller is off, or there is no limit."""
CONTROLLERS: Final = ("cpu", "cpuacct", "memory", "pids", "freezer")
# memory.limit_in_bytes without a limit: PAGE_COUNTER_MAX pages, a little less than 2^63
_NO_LIMIT: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where they are mounted, as paths for this process: those of v1's controllers, and the unified one (v2)."""

    controllers: Mapping[str, str] = field(default_factory=dict)
    unified: str | None = None

    @classmethod
    def of(cls, host: Host) -> Hierarchies:
        """The node's, as they are mounted now; none where that cannot be read."""
        controllers: dict[str, str] = {}
        unified = None
        try:
            with open(host.mountinfo_path(), "rb") as file:
                mounts = list(mountinfo.parse(file.read()))
        except OSError:
            return cls()
        for mount in mounts:
            if mount.root.replace("/..", "").strip("/"):
                continue
            if mount.fstype == "cgroup2" and unified is None:
                unified = host.path(mount.mount_point)
            elif mount.fstype == "cgroup":
                for controller in mount.super_options.split(","):
                    if controller in CONTROLLERS:
                        controllers.setdefault(controller, host.path(mount.mount_point))
        return cls(controllers, unified)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.controllers) or self.unified is not None

    def directories(self, path: str) -> list[str]:
        """A cgroup's directory in each of them; whether it is there is another question."""
        return [root + path for root in dict.fromkeys((*self.controllers.values(), self.unified)) if root]

    def read(self, path: str, numbers: dict[str, int]) -> None:
        """What the files of the cgroup with this path say, by the names that the readers below have for it."""
        unified = self.unified + path if self.unified is not None else None
        for controller, read_v1, read_v2 in _READERS:
            if controller in self.controllers:
                read_v1(self.controllers[controller] + path, numbers)
            elif unified is not None and read_v2 is not None:
                read_v2(unified, numbers)
        if unified is not None:
            for resource in ("cpu", "memory", "io"):
                numbers[f"{resource}_pressure"] = pressure(f"{unified}/{resource}.pressure")


def read(path: str) -> bytes:
    """A file of a cgroup; b"" where there is none (any more)."""
    # small but for the lists of processes
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


def number(path: str) -> int:
    """A file of one number; `max` and everything else is UNKNOWN."""
    text = read(path).strip()
    return int(text) if text.isdigit() else UNKNOWN


def _table(path: str) -> dict[bytes, int]:
    """A file of `name number` lines."""
    found = {}
    for line in read(path).splitlines():
        name, _, number = line.partition(b" ")
        if number.isdigit():
            found[name] = int(number)
    return found


def processes(directory: str) -> int:
    """Processes in a cgroup and all below it; UNKNOWN if it is not there."""
    try:
        # a directory has a link from each directory in it (kernfs counts them too)
        nested = os.stat(directory).st_nlink > 2
    except OSError:
        return UNKNOWN
    count = read(f"{directory}/cgroup.procs").count(b"\n")
    if nested:
        try:
            with os.scandir(directory) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            below = []
        count += sum(max(0, processes(path)) for path in below)
    return count


def pressure(path: str) -> int:
    """ "some" of a pressure file over the last 10 s, in hundredths of a percent."""
    # some avg10=1.23 avg60=0.80 avg300=0.20 total=123456
    for word in read(path).split(b"\n", 1)[0].split():
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
    quota, _, period = read(f"{directory}/cpu.max").strip().partition(b" ")
    _limit_cpu(quota, period, numbers)


def _cpu_v1(directory: str, numbers: dict[str, int]) -> None:
    stat = _table(f"{directory}/cpu.stat")
    if b"nr_periods" in stat:
        numbers["periods"], numbers["throttled_periods"] = stat[b"nr_periods"], stat.get(b"nr_throttled", 0)
        numbers["throttled"] = stat.get(b"throttled_time", 0)
    quota = read(f"{directory}/cpu.cfs_quota_us").strip()
    _limit_cpu(quota, read(f"{directory}/cpu.cfs_period_us").strip(), numbers)


def _limit_cpu(quota: bytes, period: bytes, numbers: dict[str, int]) -> None:
    if quota.isdigit() and period.isdigit() and int(period):
        numbers["cpu_limit"] = (int(quota) * 1000 + int(period) // 2) // int(period)


def _cpuacct_v1(directory: str, numbers: dict[str, int]) -> None:
    numbers["cpu"] = number(f"{directory}/cpuacct.usage")


def _memory_v2(directory: str, numbers: dict[str, int]) -> None:
    numbers["memory"] = number(f"{directory}/memory.current")
    numbers["memory_limit"] = number(f"{directory}/memory.max")
    numbers["swap"] = number(f"{directory}/memory.swap.current")
    numbers["swap_limit"] = number(f"{directory}/memory.swap.max")
    numbers["oom_kills"] = _table(f"{directory}/memory.events").get(b"oom_kill", UNKNOWN)


def _memory_v1(directory: str, numbers: dict[str, int]) -> None:
    numbers["memory"] = number(f"{directory}/memory.usage_in_bytes")
    limit = number(f"{directory}/memory.limit_in_bytes")
    numbers["memory_limit"] = limit if limit < _NO_LIMIT else UNKNOWN
    numbers["oom_kills"] = _table(f"{directory}/memory.oom_control").get(b"oom_kill", UNKNOWN)


def _pids(directory: str, numbers: dict[str, int]) -> None:
    # pids.events became the sum of a subtree in 6.11 (73e75e6fc352), and .local what it was before
    events = _table(f"{directory}/pids.events.local") or _table(f"{directory}/pids.events")
    numbers["forks_refused"] = events.get(b"max", UNKNOWN)


def _freezer_v1(directory: str, numbers: dict[str, int]) -> None:
    state = read(f"{directory}/freezer.state").strip()
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
