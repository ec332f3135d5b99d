"""Numbers and times as Go's standard library writes them into a database's values, of which none is trusted."""

from __future__ import annotations

from typing import Final

# Seconds from the year 1 to 1970 (time.Time).
_YEAR_1_S: Final = 62_135_596_800
# No time of a node is behind the year 2242.
_MOST_S: Final = 1 << 33


def uvarint(data: bytes) -> int:
    """An unsigned varint (encoding/binary.Uvarint): seven bits a byte, the lowest first."""
    value = 0
    for shift, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << (7 * shift)
        if not byte & 0x80:
            break
    return value & (1 << 64) - 1


def varint(data: bytes) -> int:
    """A signed one, zig-zag (encoding/binary.Varint)."""
    value = uvarint(data)
    return value >> 1 ^ -(value & 1)


def quantity(data: bytes | None) -> int | None:
    """A signed varint that is a number of bytes or inodes; None for none, and for more than any disk has."""
    value = varint(data) if data else None
    return value if value is not None and 0 <= value < 1 << 60 else None


def time_ns(data: bytes | None) -> int | None:
    """Unix time of Go's time.MarshalBinary: a version, seconds since the year 1, nanoseconds, the zone's minutes.

    None for what is no such time, and for the year 1, which is Go's own "none".
    """
    if data is None or len(data) < 15 or data[0] not in (1, 2):
        return None
    seconds = int.from_bytes(data[1:9], "big", signed=True) - _YEAR_1_S
    nanoseconds = int.from_bytes(data[9:13], "big")
    if not 0 <= seconds < _MOST_S or nanoseconds >= 1_000_000_000:
        return None
    return seconds * 1_000_000_000 + nanoseconds
