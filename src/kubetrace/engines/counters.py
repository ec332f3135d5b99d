"""Read a hash of monotone counters: all of it in a few system calls, and only what has changed goes on.

The records are as a ring's, each behind an 8-byte header, so that a batch of counters is decoded, recorded and replayed
like one of events: the time of reading, the key, the value (KT_COUNTERS in bpf/kubetrace.bpf.h).
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import struct
import time
from typing import TYPE_CHECKING, Final, Literal

from kubetrace.layout import RING_HEADER_BYTES

if TYPE_CHECKING:
    from kubetrace.engines.libbpf import Libbpf

_HEADER = bytes(RING_HEADER_BYTES)
# Values that are compared as one piece first.
_AT_ONCE = 32
_WORDS: Final[dict[int, Literal["B", "H", "I", "Q"]]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


class CounterMap:
    """A hash map whose entries are never deleted. Sizes are in bytes, `capacity` in entries."""

    def __init__(self, library: Libbpf, fd: int, key_size: int, value_size: int, capacity: int) -> None:
        """Reads nothing yet."""
        self._library = library
        self._fd = fd
        self._key_size, self._value_size, self._capacity = key_size, value_size, capacity
        self._keys = ctypes.create_string_buffer(key_size * capacity)
        self._values = ctypes.create_string_buffer(value_size * capacity)
        self._split_keys = struct.Struct(f"{key_size}s").iter_unpack
        self._split_values = struct.Struct(f"{value_size}s").iter_unpack
        self._batched = True
        self._raw = (b"", b"")
        self._next = 0.0
        self._names: list[bytes] = []

    @property
    def due(self) -> bool:
        """Whether reading it now would keep the time spent on that below a twentieth."""
        return time.monotonic() >= self._next

    def hurry(self) -> None:
        """It is due."""
        self._next = 0.0

    def read(self) -> bytes:
        """The entries that are new or have changed since the last call. Raises OSError."""
        begun = time.monotonic()
        found = self._read()
        now = time.monotonic()
        self._next = now + 20 * (now - begun)
        return found

    def _read(self) -> bytes:
        stamp = _HEADER + time.clock_gettime_ns(time.CLOCK_BOOTTIME).to_bytes(8, "little")
        keys, values = self._snapshot()
        if (keys, values) == self._raw:
            return b""
        (old_keys, old_values), self._raw = self._raw, (keys, values)
        if not old_keys:
            return interleaved(stamp, (keys, self._key_size), (values, self._value_size))
        self._names = self._names or [key for (key,) in self._split_keys(old_keys)]
        if keys != old_keys:
            # new ones shift the others: the order is that of the hash's buckets
            known = dict(zip(self._names, self._split(old_values), strict=True))
            self._names = [key for (key,) in self._split_keys(keys)]
            pairs = zip(self._names, self._split(values), strict=True)
            return b"".join([part for key, value in pairs if known.get(key) != value for part in (stamp, key, value)])
        found: list[bytes] = []
        size, names = self._value_size, self._names
        some = _AT_ONCE * size
        for at in range(0, len(values), some):
            new, old = values[at : at + some], old_values[at : at + some]
            if new != old:
                first = at // size
                split = zip(names[first : first + _AT_ONCE], self._split(new), self._split(old), strict=True)
                found += [part for key, now, before in split if now != before for part in (stamp, key, now)]
        return b"".join(found)

    def _split(self, values: bytes) -> list[bytes]:
        return [value for (value,) in self._split_values(values)]

    def _snapshot(self) -> tuple[bytes, bytes]:
        if self._batched:
            try:
                count = self._lookup_batch()
            except OSError as error:
                # Hash maps have it since 5.6 (057996380a42).
                if error.errno not in (errno.EINVAL, errno.ENOTSUP, 524):
                    raise
                self._batched = False
                count = self._lookup_each()
        else:
            count = self._lookup_each()
        return (
            ctypes.string_at(self._keys, count * self._key_size),
            ctypes.string_at(self._values, count * self._value_size),
        )

    def _lookup_batch(self) -> int:
        # The position between two calls is the hash's own bucket number.
        position = ctypes.c_uint64()
        done = 0
        while done < self._capacity:
            count = ctypes.c_uint32(self._capacity - done)
            result = self._library.bpf_map_lookup_batch(
                self._fd,
                ctypes.byref(position) if done else None,
                ctypes.byref(position),
                ctypes.byref(self._keys, done * self._key_size),
                ctypes.byref(self._values, done * self._value_size),
                ctypes.byref(count),
                None,
            )
            done += count.value if result in (0, -errno.ENOENT) else 0
            if result == -errno.ENOENT or (not result and not count.value):
                break
            if result:
                raise OSError(-result, os.strerror(-result))
        return done

    def _lookup_each(self) -> int:
        done = 0
        before = None
        key, value = ctypes.create_string_buffer(self._key_size), ctypes.create_string_buffer(self._value_size)
        while done < self._capacity and not self._library.bpf_map_get_next_key(self._fd, before, key):
            before = key
            if not self._library.bpf_map_lookup_elem(self._fd, key, value):
                ctypes.memmove(ctypes.byref(self._keys, done * self._key_size), key, self._key_size)
                ctypes.memmove(ctypes.byref(self._values, done * self._value_size), value, self._value_size)
                done += 1
        return done

    def close(self) -> None:
        """Nothing is held: the map is its object's."""


def interleaved(stamp: bytes, *columns: tuple[bytes, int]) -> bytes:
    """Records of a stamp and an entry of each column; a column is bytes and the size of one entry."""
    # A word of all records at once, by strides: a quarter of the time that joining each one's parts takes.
    word = math.gcd(8, len(stamp), *[size for _, size in columns])
    code = _WORDS[word]
    size = len(stamp) + sum(size for _, size in columns)
    (first, first_size), *_ = columns
    records = bytearray((stamp + bytes(size - len(stamp))) * (len(first) // first_size))
    words, at = memoryview(records).cast(code), len(stamp) // word
    for data, width in columns:
        column = memoryview(data).cast(code)
        for part in range(width // word):
            words[at :: size // word] = column[part :: width // word]
            at += 1
    return bytes(records)
