"""Records that differ only in what is added up, as one record with a count: before anything is decoded.

At 100,000 events a second most are of few files and processes. Their bytes are told apart by one dict look-up each, or
where only metrics are asked for by comparing columns, all of a run at once; decoding, naming and counting, some 10 µs,
are then paid once for each kind. A ring's records are joined where they lie (engines.ring.Ring.feed).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubetrace.aggregate import MAX, STATEMENTS, SUM
from kubetrace.layout import RING_HEADER_BYTES

if TYPE_CHECKING:
    from kubetrace.layout import Layout

# Bytes of a piece that costs more to hash than to compare.
_LONG = 64
_UNSIGNED = {1: "B", 2: "H", 4: "I", 8: "Q"}


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
        parts = list(_parts(layout, alike, unseen))
        codes, at = [f"<{RING_HEADER_BYTES}x"], 0
        for part in parts:
            codes += [f"{part.offset - at}x", part.code]
            at = part.offset + part.size
        codes.append(f"{layout.size - at}x")
        self._struct = struct.Struct("".join(codes))
        by_runs = max(part.size for part in parts if part.how is None) <= _LONG
        self._join: Callable[..., None] = _compiled(parts, by_runs=by_runs)
        self._columns = _Columns.of(parts, self._struct.size) if by_runs else None
        self._begin()

    def _begin(self) -> None:
        # by the pieces (of several: by the shorter ones); by all of them, where that does not tell two kinds apart
        self._first: dict[tuple[Any, ...], list[Any]] = {}
        self._others: dict[tuple[Any, ...], list[Any]] = {}
        self._rows: list[list[Any]] = []

    def add(self, data: bytes | memoryview) -> None:
        """Take these records in; nothing of `data` is kept. Raises ValueError unless they are whole."""
        if len(data) % self._struct.size:
            raise ValueError(f"{len(data)} bytes are not a whole number of {self._struct.size}-byte records")
        if self._columns is not None and data:
            view = memoryview(data)
            if self._columns.are_one_kind(view):
                self._add_run(self._columns, view)
                return
        self._join(self._struct.iter_unpack(data), self._first, self._others, self._rows)

    def _add_run(self, columns: _Columns, view: memoryview) -> None:
        values = self._struct.unpack_from(view)
        key = columns.key(values)
        row = self._first.get(key)
        if row is None:
            row = self._first[key] = [0, *columns.zeros(values)]
            self._rows.append(row)
        row[0] += len(view) // self._struct.size
        columns.add(view, row)

    def take(self) -> tuple[bytes, list[int]]:
        """(fewer records, how many each stands for), in the order of their first; all since the last call.

        Raises OverflowError where a sum is more than its field holds: no counter of bytes comes to that.
        """
        rows, pack = self._rows, self._struct.pack
        self._begin()
        try:
            return b"".join([pack(*row[1:]) for row in rows]), [row[0] for row in rows]
        except struct.error as error:
            raise OverflowError(f"records add up to more than they hold: {error}") from error

    def join(self, data: bytes) -> tuple[bytes, list[int]]:
        """The same of a recording's records, which may say anything: where a sum overflows they stay as they are."""
        self.add(data)
        try:
            return self.take()
        except OverflowError:
            return data, [1] * (len(data) // self._struct.size)


@dataclass(frozen=True, slots=True)
class _Part:
    # What of a record is looked at: a field that joins (`how`), or all that lies between two such: a number if it is
    # one, else bytes. The offset is that in the record.
    name: str
    offset: int
    size: int
    code: str
    how: str | None


def _parts(layout: Layout, alike: Mapping[str, str], unseen: Collection[str]) -> Iterator[_Part]:
    numbers = {(f.offset, f.size): f.code for f in layout.fields if f.kind in ("unsigned", "signed")}
    at = pieces = 0

    def piece(end: int) -> Iterator[_Part]:
        if end > at:
            yield _Part(f"key{pieces}", at, end - at, numbers.get((at, end - at), f"{end - at}s"), None)

    for field in sorted(layout.fields, key=lambda field: field.offset):
        if field.name in alike or field.name in unseen:
            yield from piece(field.offset)
            pieces += 1
            if field.name in alike:
                yield _Part(field.name, field.offset, field.size, field.code, alike[field.name])
            at = field.offset + field.size
    yield from piece(layout.size)


class _Columns:
    # The numbers of many records, column by column: of a run of one kind none is looked at on its own.

    @classmethod
    def of(cls, parts: Sequence[_Part], stride: int) -> _Columns | None:
        """None where they do not lie at multiples of their sizes, as in a C struct they do."""
        joined = [part for part in parts if part.how is not None]
        if stride % 8 or any(part.offset % part.size for part in joined):
            return None
        return cls(parts, joined, stride)

    def __init__(self, parts: Sequence[_Part], joined: Sequence[_Part], stride: int) -> None:
        self._pieces = [at for at, part in enumerate(parts) if part.how is None]
        self._sums = [at for at, part in enumerate(parts) if part.how == SUM]
        # code, first, step: a column of all records, in numbers of its own size
        self._alike: list[tuple[str, int, int]] = []
        for part in parts:
            if part.how is None:
                at, end = part.offset, part.offset + part.size
                while at < end:
                    size = next(size for size in (8, 4, 2, 1) if not at % size and at + size <= end)
                    self._alike.append((_UNSIGNED[size], (RING_HEADER_BYTES + at) // size, stride // size))
                    at += size
        self._joined = [
            (
                parts.index(part) + 1,
                part.how,
                part.code,
                (RING_HEADER_BYTES + part.offset) // part.size,
                stride // part.size,
            )
            for part in joined
        ]

    def are_one_kind(self, view: memoryview) -> bool:
        """Whether these records, one at least, differ in nothing but what joins."""
        for code, first, step in self._alike:
            column = view.cast(code)[first::step]  # type: ignore[call-overload]  # a code of _UNSIGNED
            if column.tobytes() != column[:1].tobytes() * len(column):
                return False
        return True

    def key(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """What they have in common, of the first's values."""
        return tuple([values[at] for at in self._pieces])

    def zeros(self, values: Sequence[Any]) -> list[Any]:
        """The first's values before any record is added."""
        return [0 if at in self._sums else value for at, value in enumerate(values)]

    def add(self, view: memoryview, row: list[Any]) -> None:
        """Add the records up; a row begins with its count."""
        for at, how, code, first, step in self._joined:
            column = view.cast(code)[first::step]  # type: ignore[call-overload]
            if how == SUM:
                row[at] += sum(column.tolist())
            elif how == MAX:
                row[at] = max(row[at], max(column.tolist()))
            else:
                row[at] = column[-1]


def _compiled(parts: Sequence[_Part], *, by_runs: bool) -> Any:
    lines = _by_runs(parts) if by_runs else _by_short(parts)
    source = "\n".join(["def join(records, first, others, rows):", *lines])
    scope: dict[str, Any] = {}
    exec(compile(source, "<joining>", "exec"), scope)  # every name in it is one of `alike` or ours
    return scope["join"]


def _by_short(parts: Sequence[_Part]) -> list[str]:
    # A record is looked up by its shorter pieces and compared with a long one (a path, mostly zeros), which would cost
    # more to hash than all the rest; where those are equal and that is not, by all of them.
    names, pieces = [part.name for part in parts], [part for part in parts if part.how is None]
    longest = max(pieces, key=lambda part: part.size).name
    short = ", ".join([part.name for part in pieces if part.name != longest] or [longest])
    every = ", ".join([part.name for part in pieces])
    return [
        f"    for {', '.join(names)}, in records:",
        "        try:",
        f"            row = first[{short},]",
        "        except KeyError:",
        f"            row = first[{short},] = [1, {', '.join(names)}]",
        "            rows.append(row)",
        "            continue",
        f"        if row[{names.index(longest) + 1}] != {longest}:",
        f"            row = others.get(({every},))",
        "            if row is None:",
        f"                row = others[{every},] = [1, {', '.join(names)}]",
        "                rows.append(row)",
        "                continue",
        "        row[0] += 1",
        *[
            "        " + STATEMENTS[part.how].format(into=f"row[{at}]", new=part.name)
            for at, part in enumerate(parts, 1)
            if part.how is not None
        ],
    ]


def _by_runs(parts: Sequence[_Part]) -> list[str]:
    # Without a path records of one row come in runs, as who makes one makes many. A run is added up in variables.
    pieces = [part.name for part in parts if part.how is None]
    key = ", ".join(pieces)
    joined = [(at, part.name, part.how) for at, part in enumerate(parts, 1) if part.how is not None]
    zero = ", ".join("0" if part.how == SUM else part.name for part in parts)
    begun = [f"run_{name} = {0 if how == SUM else name}" for _, name, how in joined]
    added = [STATEMENTS[how].format(into=f"run_{name}", new=name) for _, name, how in joined]
    ended = [STATEMENTS[how].format(into=f"row[{at}]", new=f"run_{name}") for at, name, how in joined]
    return [
        f"    {' = '.join(f'last_{name}' for name in pieces)} = row = None",
        "    count = 0",
        f"    for {', '.join(part.name for part in parts)}, in records:",
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
