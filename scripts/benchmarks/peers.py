"""The peers that read the same rings: bcc's Python consumer, and libbpf's own in C.

bcc's is what its table.RingBuf does (libbcc's poll, a ctypes callback, event() as a ctypes structure) given the map of
a loaded object; so both read the same records of the same programs, and no kernel headers are needed.
"""

from __future__ import annotations

import ctypes
import importlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubetrace.stream.layout import Layout

GET_BCC = "apt-get install libbpfcc"
_KINDS: dict[str, Any] = {
    "Q": ctypes.c_uint64,
    "q": ctypes.c_int64,
    "I": ctypes.c_uint32,
    "i": ctypes.c_int32,
    "H": ctypes.c_uint16,
    "?": ctypes.c_bool,
    "B": ctypes.c_uint8,
}


def encoder(name: str) -> Callable[[Any], bytes] | None:
    """orjson's or msgspec's encoder; None where it is not installed."""
    try:
        module: Any = importlib.import_module(name)
    except ImportError:
        return None
    encode: Callable[[Any], bytes] = module.dumps if name == "orjson" else module.json.Encoder().encode
    return encode


def bcc_consumer(fd: int, layout: Layout, handle: Callable[[Any], None]) -> Callable[[], None] | None:
    """A call that drains the ring, each event to `handle` as bcc would give it; None without libbcc."""
    try:
        library = ctypes.CDLL("libbcc.so.0")
    except OSError:
        return None

    class Event(ctypes.Structure):
        _fields_ = [(f.name, ctypes.c_char * f.size if f.kind == "bytes" else _KINDS[f.code]) for f in layout.fields]

    pointer = ctypes.POINTER(Event)

    def callback(_context: int, data: int, _size: int) -> int:
        handle(ctypes.cast(data, pointer).contents)
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    called = kind(callback)
    library.bpf_new_ringbuf.restype = ctypes.c_void_p
    library.bpf_new_ringbuf.argtypes = [ctypes.c_int, kind, ctypes.c_void_p]
    library.bpf_consume_ringbuf.argtypes = [ctypes.c_void_p]
    ring = library.bpf_new_ringbuf(fd, called, None)

    def consume(_keep: Any = called) -> None:
        library.bpf_consume_ringbuf(ring)

    return consume


def by_cgroup() -> tuple[dict[int, list[int]], Callable[[Any], None]]:
    """(totals, a handler that counts, sums and takes the maximum by cgroup, as a bcc tool would write it)."""
    totals: dict[int, list[int]] = {}

    def handle(event: Any) -> None:
        row = totals.get(event.cgroup_id)
        if row is None:
            totals[event.cgroup_id] = [1, event.copied, event.duration]
            return
        row[0] += 1
        row[1] += event.copied
        if event.duration > row[2]:
            row[2] = event.duration

    return totals, handle


def by_series() -> tuple[dict[int, list[int]], Callable[[Any], None]]:
    """The metrics of a copy-up exporter by cgroup: copies, bytes copied and cloned, errors."""
    totals: dict[int, list[int]] = {}

    def handle(event: Any) -> None:
        row = totals.get(event.cgroup_id)
        if row is None:
            row = totals[event.cgroup_id] = [0, 0, 0, 0]
        row[0] += 1
        row[1] += event.copied
        row[2] += event.cloned
        if event.error:
            row[3] += 1

    return totals, handle


def by_file() -> tuple[dict[Any, list[int]], Callable[[Any], None]]:
    """The same by cgroup, process and file."""
    totals: dict[Any, list[int]] = {}

    def handle(event: Any) -> None:
        key = (event.cgroup_id, event.pid, event.comm, event.path, event.device, event.error, event.trigger)
        row = totals.get(key)
        if row is None:
            totals[key] = [1, event.copied, event.duration]
            return
        row[0] += 1
        row[1] += event.copied
        if event.duration > row[2]:
            row[2] = event.duration

    return totals, handle


def c_consumer(fd: int, directory: Path) -> Callable[[], None]:
    """A call that drains the ring by libbpf in C, copying each record."""
    shared = directory / "consumer.so"
    if not shared.exists():
        source = Path(__file__).with_name("consumer.c")
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", shared, source, "-lbpf"], check=True)
    library = ctypes.CDLL(str(shared))
    library.consumer_new.restype = ctypes.c_void_p
    library.consumer_new.argtypes = [ctypes.c_int, ctypes.c_size_t]
    library.consumer_drain.argtypes = [ctypes.c_void_p]
    ring = library.consumer_new(fd, 8 << 20)
    return lambda: library.consumer_drain(ring)
