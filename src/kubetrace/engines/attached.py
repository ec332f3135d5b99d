"""What a loaded tracer gives, whichever engine loaded it: layouts, readers of its maps, counts of what was missed."""

from __future__ import annotations

import ctypes
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from ctypes import c_uint32, c_uint64
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from kubetrace.engines.counters import CounterMap
from kubetrace.engines.ring import Ring, open_ring
from kubetrace.errors import LoadRefused

if TYPE_CHECKING:
    from kubetrace.engines.btf import Btf
    from kubetrace.engines.library import Libbpf
    from kubetrace.engines.tracefs import TracefsReturns
    from kubetrace.stream.layout import Layout

# include/uapi/linux/bpf.h
MAP_TYPE_ARRAY = 2
MAP_TYPE_LRU_HASH = 9
# kernel/bpf/bpf_lru_list.c: so many free entries each CPU takes for itself at once (LOCAL_FREE_TARGET).
_LRU_TAKEN_AT_ONCE = 128
# Shares beside those of the CPUs: what there is to evict from.
_LRU_SPARE = 32
_STATS_RUN_TIME = 0
# A group whose programs back up those of the group named so without it (hooks.bpf.h).
_BACKUP = "_backup"
FOR_BACKUPS = "_backed_up"
"""How the name of a map ends that needs one entry only where no backups are attached."""


class _ProgInfo(ctypes.Structure):
    """struct bpf_prog_info (include/uapi/linux/bpf.h) up to recursion_misses (5.12; 0 on older kernels)."""

    _fields_ = [
        ("head", ctypes.c_ubyte * 192),
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
        ("recursion_misses", c_uint64),
    ]


class Program:
    """One program: its name is GROUP__VARIANT, its section KIND/FUNCTION.

    Programs of one group do the same at the same place by different means (fentry, kprobe) or under the names that a
    function had in different kernels; just one of a group is attached.
    """

    def __init__(self, name: str, section: str) -> None:
        """By its two names."""
        self.name = name
        self.kind, _, self.function = section.partition("/")
        self.returns = self.kind == "kretprobe"
        self.at_entry = self.kind in ("fentry", "kprobe")
        self.group, _, variant = name.partition("__")
        self.backs_up = self.group.removesuffix(_BACKUP) if self.group.endswith(_BACKUP) else None
        if variant == "raw_tp" or self.kind.startswith("raw_"):
            self.hook = "raw_tp"
        else:
            entry = {"kretprobe": "kprobe", "fexit": "fentry", "tracepoint": "tp"}
            self.hook = variant.partition("_")[0] or entry.get(self.kind, self.kind)


_P = TypeVar("_P", bound=Program)


def attach_order(programs: Iterable[_P]) -> list[_P]:
    """The programs, one of each group and perhaps its backup, in the order in which every engine attaches them.

    Returns before entries: nothing begins that would not be seen to end. A backup right behind its program: the order
    in which the kernel runs them follows from it (hooks.bpf.h, call_backups.bpf.h). Otherwise as they are given.
    """
    given = list(programs)
    places = {program.group: number for number, program in enumerate(given)}
    return sorted(
        given,
        key=lambda program: (
            program.at_entry,
            not program.group.startswith("return"),
            places[program.backs_up or program.group],
            program.backs_up is not None,
        ),
    )


def missed_by_both(misses: int, backup_misses: int, done: int, backup_done: int) -> int:
    """Calls for which neither a program nor its backup ran, at most: exact where every call has work for it.

    Whichever of the two the kernel runs first does the work, and the other only where the first was missed. So
    misses(first) - done(other) is the number, and the same taken the other way round never more.
    """
    return min(misses, backup_misses, max(0, misses - backup_done, backup_misses - done))


def lru_entries(entries: int, possible_cpus: int) -> int:
    """How many entries an LRU map is made with that is to keep `entries`, whichever CPUs ask.

    A CPU that has no free entry takes 128 for itself. Where the map has not so many for each CPU, the last ones take
    what others have just put in (bpf_common_lru_pop_free), so that the newest may go while most of the map is free.
    """
    return max(entries, _LRU_TAKEN_AT_ONCE * (possible_cpus + _LRU_SPARE))


@dataclass(frozen=True, slots=True)
class Map:
    """A map in the kernel: descriptor, BPF_MAP_TYPE_*, sizes in bytes, capacity in entries (a ring: bytes)."""

    fd: int
    type: int
    key_size: int
    value_size: int
    entries: int


class Attached(ABC):
    """A tracer inside the kernel. Engines say which maps and programs there are; all else follows from that."""

    _library: Libbpf
    btf: Btf
    hooks: dict[str, str]
    """Group of programs -> how it is attached."""
    missing: dict[str, str]
    """Optional groups that could not be attached -> what is therefore not seen."""

    def __init__(self, library: Libbpf) -> None:
        """Nothing is loaded yet."""
        self._library = library
        self._returns: TracefsReturns | None = None
        self._rings: list[Ring | CounterMap] = []
        self._stats_fd = -1
        self._alone: dict[str, tuple[int, int, int, int]] = {}
        self._optional: dict[str, str | None] = {}
        self._iterators: dict[str, int] = {}
        self.hooks = {}
        self.missing = {}

    def _may_have_none(self, program: Program) -> bool:
        """Whether a kernel without this program's function has nothing for its group to see."""
        return self._optional.get(program.backs_up or program.group, "") is None

    def _miss(self, group: str) -> None:
        """An optional group could not be attached, though the kernel has its function."""
        what = self._optional[group]
        self.missing[group] = f"{group} is not seen" if what is None else what

    @abstractmethod
    def map(self, name: str) -> Map:
        """Raises LoadRefused when there is none of that name."""

    @abstractmethod
    def _loaded(self) -> Iterable[tuple[Program, int]]:
        """The programs that are in the kernel, with their descriptors."""

    @abstractmethod
    def close(self) -> None:
        """Detach and unload; harmless when called twice."""

    def _release_all(self) -> None:
        """What every engine holds; to be called when the programs are detached."""
        for ring in self._rings:
            ring.close()
        self._rings.clear()
        if self._stats_fd >= 0:
            os.close(self._stats_fd)
        self._stats_fd = -1
        if self._returns is not None:
            self._returns.close()
        self.hooks.clear()

    def layout(self, struct_name: str) -> Layout:
        """The layout of an event struct, from the object's BTF."""
        return self.btf.layout(struct_name)

    def ring(self, name: str, record_size: int) -> Ring:
        """A reader of the ring buffer `name` with records of `record_size` bytes."""
        found = self.map(name)
        ring = open_ring(self._library, found.fd, found.entries, record_size)
        self._rings.append(ring)
        return ring

    def stream(self, name: str, record_size: int) -> Ring | CounterMap:
        """A reader of what the map `name` is: a ring buffer, or an array of counters."""
        found = self.map(name)
        if found.type != MAP_TYPE_ARRAY:
            return self.ring(name, record_size)
        counters = CounterMap(found.fd, found.value_size, found.entries)
        self._rings.append(counters)
        return counters

    def iterate(self, group: str) -> bytes | None:
        """What a group's iterator says now, the records one behind the other; None where it is not attached.

        The kernel runs the program for each of its objects (an open file, ...) while this is read (Documentation/bpf/
        bpf_iterators.rst). OSError where it refuses that.
        """
        link = self._iterators.get(group)
        if link is None:
            return None
        ctypes.set_errno(0)
        fd = int(self._library.bpf_iter_create(link))
        if fd < 0:
            raise OSError(-fd, os.strerror(-fd))
        try:
            parts = []
            while part := os.read(fd, 1 << 20):
                parts.append(part)
            return b"".join(parts)
        finally:
            os.close(fd)

    def map_fd(self, name: str) -> int:
        """The map's file descriptor: a ring buffer's can be polled."""
        return self.map(name).fd

    def update(self, name: str, key: bytes, value: bytes) -> bool:
        """Store a value; False when the map is full or gone."""
        return not self._library.bpf_map_update_elem(self.map_fd(name), key, value, 0)

    def delete(self, name: str, key: bytes) -> None:
        """Take a key out, if it is there."""
        self._library.bpf_map_delete_elem(self.map_fd(name), key)

    def per_cpu_sums(self, name: str, keys: Sequence[int]) -> list[int]:
        """Sums over all CPUs of u64 counters in a per-CPU array."""
        fd, cpus = self.map_fd(name), self._library.libbpf_num_possible_cpus()
        values = (c_uint64 * cpus)()
        sums = []
        for key in keys:
            self._library.bpf_map_lookup_elem(fd, key.to_bytes(4, "little"), values)
            sums.append(sum(values))
        return sums

    def missed_runs(self) -> int:
        """Runs of attached programs that the kernel skipped: one still ran on that CPU, or too many slept.

        With a backup, those that neither copy ran for; and what the first missed before it had one.
        """
        missed = self._returns.missed() if self._returns is not None else 0
        misses, backups = self._misses()
        missed += sum(count for group, count in misses.items() if group not in backups)
        for group in backups:
            alone = self._alone[group]
            missed += alone[0]
            if misses[group] > alone[0] and backups[group] > alone[1]:
                now = (misses[group], backups[group], *self._done(group))
                missed += missed_by_both(*(int(one - before) for one, before in zip(now, alone, strict=True)))
        return missed

    def _begin_pairs(self) -> None:
        # What one copy did while the other was not there yet does not say what both miss.
        misses, backups = self._misses()
        self._alone = {group: (misses[group], backups[group], *self._done(group)) for group in backups}

    def _misses(self) -> tuple[dict[str, int], dict[str, int]]:
        """Group -> runs that the kernel skipped: of its program, and of that one's backup."""
        misses: dict[str, int] = {}
        backups: dict[str, int] = {}
        for program, info in self._infos():
            into, group = (misses, program.group) if program.backs_up is None else (backups, program.backs_up)
            into[group] = into.get(group, 0) + info.recursion_misses
        return misses, backups

    def _done(self, group: str) -> tuple[int, int]:
        """How many calls its program has done the work of, and how many the backup (hooks.bpf.h, kt_did)."""
        name, births = f"kt_backed_up_{group}", self.btf.enum("kt_backed_up_births")
        index = (births if name in births else self.btf.enum("kt_backed_up"))[name]
        index *= self.btf.enum("kt_copy")["kt_copies"]
        first, backup = self.per_cpu_sums("done", [index, index + 1])
        return first, backup

    def time_runs(self) -> None:
        """Let the kernel measure every BPF program's runs from now on, until this is closed (5.8, d46edd671a14).

        That costs each run two looks at the clock, some 50 ns. Raises LoadRefused.
        """
        fd = self._library.bpf_enable_stats(_STATS_RUN_TIME)
        if fd < 0:
            raise LoadRefused(
                f"the kernel does not measure BPF programs: {os.strerror(-fd)}.",
                why="BPF_ENABLE_STATS needs CAP_SYS_ADMIN.",
                do="leave out --overhead",
            )
        self._stats_fd = fd

    def runs(self) -> dict[str, tuple[int, int]]:
        """Program -> (nanoseconds, runs) since `time_runs`; without the entry and the exit that lead to it."""
        return {program.name: (info.run_time_ns, info.run_cnt) for program, info in self._infos()}

    def _infos(self) -> Iterator[tuple[Program, _ProgInfo]]:
        for program, fd in self._loaded():
            info, size = _ProgInfo(), c_uint32(ctypes.sizeof(_ProgInfo))
            if not self._library.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)):
                yield program, info
