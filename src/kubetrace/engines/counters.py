"""Read an array of monotone counters where it is: no system call, and only what has changed goes on.

The records are as a ring's, each behind an 8-byte header, so that a batch of counters is decoded, recorded and replayed
like one of events: the time of reading, the key, the value (KT_COUNTERS in bpf/counters.bpf.h). In the kernel's memory
a record's time says whether the rest is there, and the first one's how many there are. Programs go on counting while
it is copied: each number is whole (an aligned word), and what is missed comes with the next read.
"""

from __future__ import annotations

import mmap
import struct
import time
from array import array

from kubetrace.stream.layout import RING_HEADER_BYTES

# Slots that are compared as one piece first.
_AT_ONCE = 32
# One may be made before those in front of it are counted; and a number is left out where the kernel was too busy.
_FURTHER = 64
_TIME = RING_HEADER_BYTES // 8


class CounterMap:
    """A mapped array whose slots are never taken back. `slot_size` is in bytes, `capacity` in slots."""

    def __init__(self, fd: int, slot_size: int, capacity: int) -> None:
        """Reads nothing yet. Raises OSError when the array cannot be mapped."""
        self._size, self._capacity = slot_size, capacity
        self._mapping = mmap.mmap(fd, slot_size * capacity, mmap.MAP_SHARED, mmap.PROT_READ)
        self._split = struct.Struct(f"{slot_size}s").iter_unpack
        self._before = b""
        self._next = 0.0

    @property
    def due(self) -> bool:
        """Whether reading it now would keep the time spent on that below a twentieth."""
        return time.monotonic() >= self._next

    def hurry(self) -> None:
        """It is due."""
        self._next = 0.0

    def read(self) -> bytes:
        """The slots that are new or have changed since the last call."""
        begun = time.monotonic()
        found = self._read()
        now = time.monotonic()
        self._next = now + 20 * (now - begun)
        return found

    def _read(self) -> bytes:
        size, before = self._size, self._before
        given = min(int.from_bytes(self._mapping[:8], "little") + _FURTHER, self._capacity - 1)
        # from the word in front of the second, which is the first one's last
        slots = self._mapping[size - RING_HEADER_BYTES : (given + 1) * size - RING_HEADER_BYTES]
        if slots == before:
            return b""
        self._before = slots
        changed: list[bytes] = []
        some = _AT_ONCE * size
        for at in range(0, len(before), some):
            new, old = slots[at : at + some], before[at : at + some]
            if new[: len(old)] != old:
                pairs = zip(self._split(new), self._split(old), strict=False)
                changed += [now for (now,), (then,) in pairs if now != then]
        changed.append(slots[len(before) :])
        return self._told(bytearray().join(changed))

    def _told(self, records: bytearray) -> bytes:
        words, step = memoryview(records).cast("Q"), self._size // 8
        times = words[_TIME::step]
        if not all(times):  # one that is being made: it will have changed at the next read
            ready = [record for (record,), shown in zip(self._split(records), times.tolist(), strict=True) if shown]
            return self._told(bytearray().join(ready)) if ready else b""
        times[:] = memoryview(array("Q", [time.clock_gettime_ns(time.CLOCK_BOOTTIME)]) * len(times))
        return bytes(records)

    def close(self) -> None:
        """Unmap it."""
        self._mapping.close()
