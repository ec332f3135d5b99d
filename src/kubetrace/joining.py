"""Records that differ only in what is added up, as one record with a count: before anything is decoded.

At 100,000 events a second most are of few files and processes. Their bytes are told apart by one dict look-up each;
decoding, naming and counting, some 10 µs, are then paid once for each kind.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kubetrace.aggregate import LAST, MAX, SUM
from kubetrace.layout import RING_HEADER_BYTES

if TYPE_CHECKING:
    from kubetrace.layout import Layout

_JOIN = {
    SUM: "row[{at}] += {name}",
    MAX: "if {name} > row[{at}]: row[{at}] = {name}",
    LAST: "row[{at}] = {name}",
}


class Joiner:
    """Joins the records of one layout. `alike`: the fields in which records of one kind differ -> how they join."""

    @staticmethod
    def fits(layout: Layout, alike: Mapping[str, str]) -> bool:
        """Whether these fields are there, are numbers and do not overlap: a recording's layout is whatever it says."""
        found = sorted((field for field in layout.fields if field.name in alike), key=lambda field: field.offset)
        ends = [0, *(field.offset + field.size for field in found)]
        return (
            sorted(field.name for field in found) == sorted(alike)
            and all(field.kind in ("unsigned", "signed") for field in found)
            and all(end <= field.offset for end, field in zip(ends, found, strict=False))
            and ends[-1] <= layout.size
            and sum(field.size for field in found) < layout.size
        )

    def __init__(self, layout: Layout, alike: Mapping[str, str]) -> None:
        """The loop over records is compiled once, as a struct's format is: it has a variable for each piece."""
        # Pieces in their order: a field that joins is a number, all that lies between two of them is bytes.
        codes, at = [f"<{RING_HEADER_BYTES}x"], 0
        names: list[str] = []
        sizes: dict[str, int] = {}

        def piece(size: int) -> None:
            name = f"key{len(sizes)}"
            codes.append(f"{size}s")
            names.append(name)
            sizes[name] = size

        for field in sorted(layout.fields, key=lambda field: field.offset):
            if field.name not in alike:
                continue
            if field.offset > at:
                piece(field.offset - at)
            codes.append(field.code)
            names.append(field.name)
            at = field.offset + field.size
        if layout.size > at:
            piece(layout.size - at)
        self._struct = struct.Struct("".join(codes))
        self._join: Callable[[Iterable[tuple[Any, ...]]], list[list[Any]]] = _compiled(names, sizes, alike)

    def join(self, data: bytes) -> tuple[bytes, list[int]]:
        """(fewer records, how many each stands for), in the order of their first."""
        pack, size = self._struct.pack, self._struct.size
        if len(data) % size:
            raise ValueError(f"{len(data)} bytes are not a whole number of {size}-byte records")
        rows = self._join(self._struct.iter_unpack(data))
        try:
            return b"".join([pack(*row[1:]) for row in rows]), [row[0] for row in rows]
        except struct.error:  # a sum that no counter of bytes comes to, but a recording may say anything
            return data, [1] * (len(data) // size)


def _compiled(names: list[str], sizes: Mapping[str, int], alike: Mapping[str, str]) -> Any:
    # A record is looked up by its shorter pieces and compared with the longest (a path, mostly zeros), which would cost
    # more to hash than all the rest; where those are equal and that is not, by all of them.
    pieces = [name for name in names if name not in alike]
    longest = max(pieces, key=lambda name: sizes[name])
    short = ", ".join(name for name in pieces if name != longest)
    joins = [_JOIN[alike[name]].format(at=at, name=name) for at, name in enumerate(names, 1) if name in alike]
    source = "\n".join(
        [
            "def join(records):",
            "    first, others, rows = {}, {}, []",
            f"    for {', '.join(names)}, in records:",
            "        try:",
            f"            row = first[{short},]",
            "        except KeyError:",
            f"            row = first[{short},] = [1, {', '.join(names)}]",
            "            rows.append(row)",
            "            continue",
            f"        if row[{names.index(longest) + 1}] != {longest}:",
            f"            row = others.get(({', '.join(pieces)},))",
            "            if row is None:",
            f"                row = others[{', '.join(pieces)},] = [1, {', '.join(names)}]",
            "                rows.append(row)",
            "                continue",
            "        row[0] += 1",
            *(f"        {line}" for line in joins),
            "    return rows",
        ]
    )
    scope: dict[str, Any] = {}
    exec(compile(source, "<joining>", "exec"), scope)  # every name in it is one of `alike` or ours
    return scope["join"]
