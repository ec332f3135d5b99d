"""What a loaded tracer gives, whichever engine loaded it: layouts, readers of its maps, counts of what was missed."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from ctypes import c_uint32, c_uint64
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubetrace.engines.counters import CounterMap
from kubetrace.engines.ring import Ring, open_ring

if TYPE_CHECKING:
    from kubetrace.engines.btf import Btf
    from kubetrace.engines.libbpf import Libbpf
    from kubetrace.engines.tracefs import TracefsReturns
    from kubetrace.layout import Layout

# include/uapi/linux/bpf.h
MAP_TYPE_HASH = 1


class _ProgInfo(ctypes.Structure):
    """struct bpf_prog_info (include/uapi/linux/bpf.h) up to recursion_misses (5.12; 0 on older kernels)."""

    _fields_ = [
        ("head", ctypes.c_ubyte * 192),
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
        ("recursion_misses", c_uint64),
    ]


def hook_of(kind: str, variant: str) -> str:
    """fentry, kprobe, raw_tp, ...: what a program GROUP__VARIANT in section KIND/... is attached by."""
    if variant == "raw_tp" or kind.startswith("raw_"):
        return "raw_tp"
    entry = {"kretprobe": "kprobe", "fexit": "fentry", "tracepoint": "tp"}
    return variant.partition("_")[0] or entry.get(kind, kind)


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
        self._rings: list[Ring] = []
        self.hooks = {}
        self.missing = {}

    @abstractmethod
    def map(self, name: str) -> Map:
        """Raises LoadRefused when there is none of that name."""

    @abstractmethod
    def _program_fds(self) -> Iterable[int]:
        """Of the programs that are loaded."""

    @abstractmethod
    def close(self) -> None:
        """Detach and unload; harmless when called twice."""

    def layout(self, struct_name: str) -> Layout:
        """The layout of an event struct, from the object's BTF."""
        return self.btf.layout(struct_name)

    def ring(self, name: str, record_size: int) -> Ring:
        """A reader of the ring buffer `name` with records of `record_size` bytes."""
        found = self.map(name)
        ring = open_ring(self._library, found.fd, found.entries, record_size)
        self._rings.append(ring)
        return ring

    def stream(self, name: str, record_size: int) -> Ring:
        """A reader of what the map `name` is: a ring buffer, or a hash of counters."""
        found = self.map(name)
        if found.type != MAP_TYPE_HASH:
            return self.ring(name, record_size)
        return CounterMap(self._library, found.fd, found.key_size, found.value_size, found.entries)

    def map_fd(self, name: str) -> int:
        """The map's file descriptor: a ring buffer's can be polled."""
        return self.map(name).fd

    def update(self, name: str, key: bytes, value: bytes) -> bool:
        """Store a value; False when the map is full or gone."""
        return not self._library.bpf_map_update_elem(self.map_fd(name), key, value, 0)

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
        """Runs of attached programs that the kernel skipped: one still ran on that CPU, or too many slept."""
        missed = self._returns.missed() if self._returns is not None else 0
        for fd in self._program_fds():
            info, size = _ProgInfo(), c_uint32(ctypes.sizeof(_ProgInfo))
            if not self._library.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)):
                missed += info.recursion_misses
        return missed
