"""Records of one length as columns, and back; the form is in recording/__init__.py.

Written byte by byte, all first bytes, then all second ones, what hardly changes from record to record stands together,
and a path is there once however many records have it: zstd makes a third less of that. Each loop over records is the
interpreter's own, in C: nothing is decoded.
"""

from __future__ import annotations

import struct
from itertools import chain

from kubetrace.stream.layout import RING_HEADER_BYTES, Layout

_SPLIT = struct.Struct("<I")
# More records than a recorder puts into a frame, and bytes than any has: what they allow is a moment's work, whatever a
# hostile file says.
_MOST_ROWS = 1 << 14
_MOST_BYTES = RING_HEADER_BYTES + 8192
# So many records at once stay in a CPU's own cache while each of their bytes is looked at: a seventh less for all.
_BLOCK_ROWS = 1024


def split_of(layout: Layout) -> int:
    """Where a record's texts begin, its ring header counted: the members of bytes behind its last number."""
    at = layout.size
    for field in reversed(layout.fields):
        if field.kind != "bytes":
            break
        at = field.offset
    return RING_HEADER_BYTES + at


def room(size: int, rows: int) -> int:
    """The most bytes that the columns of `rows` records of `size` bytes in all can take."""
    return _SPLIT.size + size + 2 * rows


def fits(rows: int, size: int) -> bool:
    """Whether `rows` records of `size` bytes in all may be columns."""
    return 0 < rows <= _MOST_ROWS and 0 < size <= rows * _MOST_BYTES and not size % rows


def fold(data: bytes | memoryview, rows: int, split: int) -> bytes:
    """The columns of `rows` records that fit; their texts begin at `split`."""
    view, stride = memoryview(data), len(data) // rows
    texts = struct.Struct(f"{split}x{stride - split}s").iter_unpack
    columns: list[list[bytes]] = []
    # text -> the row that had it first
    firsts: dict[bytes, int] = {}
    same: list[int] = []
    for begin in range(0, rows, _BLOCK_ROWS):
        block = bytes(view[begin * stride : (begin + _BLOCK_ROWS) * stride])
        columns.append([block[at::stride] for at in range(split)])
        if split < stride:
            same += map(firsts.setdefault, chain.from_iterable(texts(block)), range(begin, rows))
    parts = [_SPLIT.pack(split), *chain.from_iterable(zip(*columns, strict=True))]
    if split < stride:
        numbers = struct.pack(f"<{rows}H", *same)
        parts += [numbers[::2], numbers[1::2], *firsts]
    return b"".join(parts)


def unfold(payload: bytes, rows: int, size: int) -> bytes | None:
    """The inverse: `rows` records of `size` bytes in all; None if the payload does not hold exactly these."""
    if not fits(rows, size) or len(payload) < _SPLIT.size:
        return None
    stride = size // rows
    (split,) = _SPLIT.unpack_from(payload)
    if split > stride or len(payload) < (at := _SPLIT.size + split * rows) + (2 * rows if split < stride else 0):
        return None
    if split < stride:
        numbers = bytearray(2 * rows)
        numbers[::2], numbers[1::2] = payload[at : at + rows], payload[at + rows : at + 2 * rows]
        same = struct.unpack(f"<{rows}H", numbers)
        firsts, width = sorted(set(same)), stride - split
        at += 2 * rows
        if len(payload) != at + len(firsts) * width:
            return None
        gap = bytes(split)
        texts = {first: gap + payload[at + n * width : at + (n + 1) * width] for n, first in enumerate(firsts)}
        data = bytearray().join(map(texts.__getitem__, same))
    elif len(payload) != at:
        return None
    else:
        data = bytearray(size)
    for column in range(split):
        begin = _SPLIT.size + column * rows
        data[column::stride] = payload[begin : begin + rows]
    return bytes(data)
