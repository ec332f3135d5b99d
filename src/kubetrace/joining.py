"""Records that differ only in what is added up, as one record with a count: before anything is decoded.

At 100,000 events a second most are of few files and processes. Their bytes are told apart by one dict look-up each, or
where only metrics are asked for by a comparison with the record before; decoding, naming and counting, some 10 µs, are
then paid once for each kind.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kubetrace.aggregate import STATEMENTS, SUM
from kubetrace.layout import RING_HEADER_BYTES

if TYPE_CHECKING:
    from kubetrace.layout import Layout

# Bytes of a piece that costs more to hash than to compare.
_LONG = 64


class Joiner:
    """Joins the records of one layout. `alike`: the fields in which records of one kind differ -> how they join.

    `unseen` are fields that nobody looks at: in them, too, records of one kind differ, and what comes out has zeros.
    """

    @staticmethod
    def fits(layout: Layout, alike: Mapping[str, str], unseen: Collection[str] = ()) -> bool:
        """Whether those that join are there and are numbers; none may overlap, nor may these be all of a record.

        A recording's layout is whatever it says.
        """
        names = {*alike, *unseen}
        found = sorted((field for field in layout.fields if field.name in names), key=lambda field: field.offset)
        ends = [0, *(field.offset + field.size for field in found)]
        return (
            sorted(field.name for field in found if field.name in alike) == sorted(alike)
            and all(field.kind in ("unsigned", "signed") for field in found if field.name in alike)
            and all(end <= field.offset for end, field in zip(ends, found, strict=False))
            and ends[-1] <= layout.size
            and sum(field.size for field in found) < layout.size
        )

    def __init__(self, layout: Layout, alike: Mapping[str, str], unseen: Collection[str] = ()) -> None:
        """The loop over records is compiled once, as a struct's format is: it has a variable for each piece."""
        # Pieces in their order: a field that joins is a number, one that is not seen is skipped, all that lies between
        # is bytes, or the number that it is.
        codes, at = [f"<{RING_HEADER_BYTES}x"], 0
        names: list[str] = []
        sizes: dict[str, int] = {}
        numbers = {(f.offset, f.size): f.code for f in layout.fields if f.kind in ("unsigned", "signed")}

        def piece(size: int) -> None:
            name = f"key{len(sizes)}"
            codes.append(numbers.get((at, size), f"{size}s"))
            names.append(name)
            sizes[name] = size

        for field in sorted(layout.fields, key=lambda field: field.offset):
            if field.name not in alike and field.name not in unseen:
                continue
            if field.offset > at:
                piece(field.offset - at)
            if field.name in alike:
                codes.append(field.code)
                names.append(field.name)
            else:
                codes.append(f"{field.size}x")
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
    pieces = [name for name in names if name not in alike]
    longest = max(pieces, key=lambda name: sizes[name])
    lines = _by_runs(names, pieces, alike) if sizes[longest] <= _LONG else _by_short(names, pieces, longest, alike)
    source = "\n".join(["def join(records):", "    first, others, rows = {}, {}, []", *lines, "    return rows"])
    scope: dict[str, Any] = {}
    exec(compile(source, "<joining>", "exec"), scope)  # every name in it is one of `alike` or ours
    return scope["join"]


def _by_short(names: list[str], pieces: list[str], longest: str, alike: Mapping[str, str]) -> list[str]:
    # A record is looked up by its shorter pieces and compared with a long one (a path, mostly zeros), which would cost
    # more to hash than all the rest; where those are equal and that is not, by all of them.
    short = ", ".join([name for name in pieces if name != longest] or pieces)
    return [
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
        *[
            "        " + STATEMENTS[alike[name]].format(into=f"row[{at}]", new=name)
            for at, name in enumerate(names, 1)
            if name in alike
        ],
    ]


def _by_runs(names: list[str], pieces: list[str], alike: Mapping[str, str]) -> list[str]:
    # Without a path records of one row come in runs, as who makes one makes many. A run is added up in variables.
    key = ", ".join(pieces)
    joined = [(at, name) for at, name in enumerate(names, 1) if name in alike]
    zero = ", ".join("0" if alike.get(name) == SUM else name for name in names)
    begun = [f"run_{name} = {0 if alike[name] == SUM else name}" for _, name in joined]
    added = [STATEMENTS[alike[name]].format(into=f"run_{name}", new=name) for _, name in joined]
    ended = [STATEMENTS[alike[name]].format(into=f"row[{at}]", new=f"run_{name}") for at, name in joined]
    return [
        f"    {' = '.join(f'last_{name}' for name in pieces)} = row = None",
        "    count = 0",
        f"    for {', '.join(names)}, in records:",
        f"        if {' or '.join(f'{name} != last_{name}' for name in pieces)}:",
        "            if count:",
        *[f"                {line}" for line in ["row[0] += count", *ended]],
        f"            {', '.join(f'last_{name}' for name in pieces)} = {key}",
        f"            row = first.get(({key},))",
        "            if row is None:",
        f"                row = first[{key},] = [0, {zero}]",
        "                rows.append(row)",
        *[f"            {line}" for line in ["count = 0", *begun]],
        "        count += 1",
        *[f"        {line}" for line in added],
        "    if count:",
        *[f"        {line}" for line in ["row[0] += count", *ended]],
    ]
