"""A snapshot of counters taken apart: keys and values of many records, without an object for each."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kubetrace.stream.layout import RING_HEADER_BYTES

if TYPE_CHECKING:
    from kubetrace.stream.layout import Layout


class Reader:
    """Takes records of one stream apart: their keys, and of their values what is asked for."""

    def __init__(self, layout: Layout, key_end: str, names: Sequence[str], prefix: bytes) -> None:
        """`key_end` is the last field of the key; the prefix tells the keys of one map from those of another."""
        fields = {field.name: field for field in layout.fields}
        begin = layout.fields[1].offset
        end = fields[key_end].offset + fields[key_end].size
        self._keys = struct.Struct(f"<{RING_HEADER_BYTES + begin}x{end - begin}s{layout.size - end}x").iter_unpack
        self._prefix = prefix
        self._place, self._device = (
            slice(len(prefix) + field.offset - begin, len(prefix) + field.offset + field.size - begin)
            for field in (fields["place"], fields["device"])
        )
        # of a key, before and behind the place
        self.head, self.tail = slice(self._place.start), slice(self._place.stop, None)
        # Without a named tuple for each.
        parts, at = [f"<{RING_HEADER_BYTES}x"], 0
        for name in names:
            field = fields[name]
            parts.append(f"{field.offset - at}x{field.code}")
            at = field.offset + field.size
        parts.append(f"{layout.size - at}x")
        self.values = struct.Struct("".join(parts)).iter_unpack
        self._layout = layout

    def keys(self, data: bytes) -> list[bytes]:
        """Of each record."""
        if self._prefix:
            return [self._prefix + key for (key,) in self._keys(data)]
        return [key for (key,) in self._keys(data)]

    def raw(self, key: bytes) -> bytes:
        """A key as the kernel has it."""
        return key.removeprefix(self._prefix)

    def place_of(self, key: bytes) -> tuple[int, int]:
        """(device, place)."""
        return int.from_bytes(key[self._device], "little"), int.from_bytes(key[self._place], "little")

    def sample(self, data: bytes, at: int) -> Any:
        """The record at this place, whole."""
        return self._layout.decode_one(data, at)
