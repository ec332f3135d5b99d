"""Drain a BPF ring buffer without a call per record: mmap and one copy on x86-64, libbpf's own consumer elsewhere.

The protocol is that of kernel/bpf/ringbuf.c: page 0 holds the consumer's position, page 1 the producer's, then data.
The kernel would map the data twice in a row, so that no record ever wraps; ours fill a power of two and never do, and
every page that is mapped counts as this process's memory. A record's header is a u32 length with BUSY (bit 31) and
DISCARD (bit 30), and a u32 page offset. The consumer owns [consumer, producer).

Order matters: load the producer's position, look at the headers *in place* up to the first BUSY one, copy the data, and
only then store the consumer's position. x86-64 never reorders two loads, nor a load with a later store, and an aligned
8-byte access through a memoryview is one instruction there; other machines need fences that Python does not have.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from kubetrace.stream.layout import RING_HEADER_BYTES

if TYPE_CHECKING:
    from kubetrace.engines.library import Libbpf

_BUSY = 1 << 31
_DISCARD = 1 << 30
# Of a piece that is handed on in place: the headers, looked at first, are still in the CPU's cache.
_PIECE_BYTES = 256 << 10


class Ring(Protocol):
    """One ring buffer of equal-size records."""

    def read(self) -> bytes:
        """All finished records, each behind its 8-byte ring header; empty when there are none."""

    def feed(self, take: Callable[[bytes | memoryview], None]) -> None:
        """Hand the same to `take`, piece by piece and where they lie: nothing of a piece may be kept."""

    def close(self) -> None:
        """Unmap; reading after this is an error."""


class MappedRing:
    """A ring read through shared memory; x86-64 only. `size` and `record_size` are in bytes."""

    def __init__(self, fd: int, size: int, record_size: int) -> None:
        """Raises OSError when the ring cannot be mapped."""
        self._size = size
        self._stride = RING_HEADER_BYTES + record_size
        self._finished = record_size.to_bytes(4, "little") * (size // self._stride)
        page = mmap.PAGESIZE
        self._positions = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._mapping = mmap.mmap(fd, page + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = memoryview(self._positions).cast("Q")
        whole = memoryview(self._mapping)
        self._producer = whole[:page].cast("Q")
        self._data = whole[page:]
        self._headers = self._data.cast("I")

    def read(self) -> bytes:
        """All finished records up to the first that is still being written."""
        filled = self._producer[0] - self._consumer[0]
        start = self._consumer[0] % self._size
        first = min(filled, self._size - start)
        data = self._read(start, first)
        if len(data) < first or first == filled:
            return data
        return data + self._read(0, filled - first)

    def feed(self, take: Callable[[bytes | memoryview], None]) -> None:
        """All that is there now, up to the first that is still being written."""
        end = self._producer[0]
        most = max(_PIECE_BYTES // self._stride, 1) * self._stride
        while (at := self._consumer[0]) < end:
            start = at % self._size
            length = min(end - at, self._size - start, most)
            if self._are_finished(start, length):
                take(self._data[start : start + length])
                self._consumer[0] = at + length
                continue
            if data := self._read(start, length):
                take(data)
            if self._consumer[0] < at + length:
                break

    def _are_finished(self, start: int, filled: int) -> bool:
        # a length without a flag, all of them
        whole = self._headers[start // 4 : (start + filled) // 4 : self._stride // 4]
        return whole.tobytes() == self._finished[: 4 * len(whole)]

    def _read(self, start: int, filled: int) -> bytes:
        # A piece that does not wrap. What was discarded makes it shorter, too: then the rest waits for the next read.
        if not filled:
            return b""
        if self._are_finished(start, filled):
            data = bytes(self._data[start : start + filled])
            self._consumer[0] += filled
            return data
        headers = self._headers[start // 4 : (start + filled) // 4 : self._stride // 4].tolist()
        finished = next((i for i, header in enumerate(headers) if header & _BUSY), len(headers))
        stop = start + finished * self._stride
        data = bytes(self._data[start:stop])
        self._consumer[0] += stop - start
        if finished and max(headers[:finished]) & _DISCARD:
            kept = [i for i, header in enumerate(headers[:finished]) if not header & _DISCARD]
            data = b"".join(data[i * self._stride : (i + 1) * self._stride] for i in kept)
        return data

    def close(self) -> None:
        """Unmap both areas."""
        for view in (self._consumer, self._producer, self._headers, self._data):
            view.release()
        self._positions.close()
        with contextlib.suppress(BufferError):  # of a reader that was interrupted a traceback still holds its piece
            self._mapping.close()


class CallbackRing:
    """A ring read by libbpf's ring_buffer__consume: a call per record, and right on every machine."""

    def __init__(self, library: Libbpf, fd: int, record_size: int) -> None:
        """Raises OSError when libbpf cannot map the ring."""
        self._library = library
        self._records: list[bytes] = []
        header = bytes(RING_HEADER_BYTES)

        def keep(_context: int, data: int, size: int) -> int:
            if size == record_size:
                self._records.append(header + ctypes.string_at(data, size))
            return 0

        self._callback = library.RING_CALLBACK(keep)  # must outlive the ring
        self._ring = library.ring_buffer__new(fd, self._callback, None, None)
        if not self._ring:
            raise OSError(ctypes.get_errno(), "ring_buffer__new")

    def read(self) -> bytes:
        """All finished records."""
        self._library.ring_buffer__consume(self._ring)
        data = b"".join(self._records)
        self._records.clear()
        return data

    def feed(self, take: Callable[[bytes | memoryview], None]) -> None:
        """The same, in one piece and a copy."""
        if data := self.read():
            take(data)

    def close(self) -> None:
        """Free libbpf's side."""
        self._library.ring_buffer__free(self._ring)


def open_ring(library: Libbpf, fd: int, size: int, record_size: int) -> Ring:
    """The reader that is right for this machine's memory ordering."""
    if platform.machine() in ("x86_64", "AMD64"):
        return MappedRing(fd, size, record_size)
    return CallbackRing(library, fd, record_size)
