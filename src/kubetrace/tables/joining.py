"""Records that differ only in what is added up, as one record with a count: before anything is decoded.

At 100,000 events a second most are of few files and processes. Their bytes are told apart by one dict look-up each;
a run of one kind, as of a process that tries again and again, is found by comparing it with itself one record further,
or where only metrics are asked for column by column. Decoding, naming and counting, some 10 µs, are then paid once for
each kind. A ring's records are joined where they lie (engines.ring.Ring.feed).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubetrace.kit.tracer import MAX, SUM
from kubetrace.stream.layout import RING_HEADER_BYTES
from kubetrace.tables.aggregate import STATEMENTS

if TYPE_CHECKING:
    from kubetrace.stream.layout import Layout

# Bytes of a piece that costs more to hash than to compare.
_LONG = 64
# Runs of one kind are looked for in so many records at a time; and in so many bytes, which the CPU's cache holds.
_GROUP = 32
_BLOCK_BYTES = 256 << 10
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
        keys = [at for at, part in enumerate(parts) if part.how is None]
        longest = max(keys, key=lambda at: parts[at].size)
        self._long = parts[longest].size > _LONG
        self._join: Callable[..., None] = _compiled(parts, by_runs=not self._long)
        self._keys, self._longest = keys, longest
        self._first_keys = [at for at in keys if at != longest or not self._long] or keys
        self._columns = _Columns.of(layout, parts)
        self._begin()

    def _begin(self) -> None:
        # by the pieces (where one is long: by the others); by all of them, where that does not tell two kinds apart
        self._first: dict[tuple[Any, ...], list[Any]] = {}
        self._others: dict[tuple[Any, ...], list[Any]] = {}
        self._rows: list[list[Any]] = []

    def add(self, data: bytes | memoryview) -> None:
        """Take these records in; nothing of `data` is kept. Raises ValueError unless they are whole."""
        size = self._struct.size
        if len(data) % size:
            raise ValueError(f"{len(data)} bytes are not a whole number of {size}-byte records")
        if self._columns is None or len(data) < _GROUP * size:
            self._add(data)
            return
        view, block = memoryview(data), max(_BLOCK_BYTES // size, 1) * size
        for at in range(0, len(data), block):
            self._add_block(self._columns, view[at : at + block])

    def _add(self, data: bytes | memoryview) -> None:
        self._join(self._struct.iter_unpack(data), self._first, self._others, self._rows)

    def _add_block(self, columns: _Columns, view: memoryview) -> None:
        if not self._long:
            if columns.are_one_kind(view):
                self._add_run(columns, view)
            else:
                self._add(view)
            return
        size, end = self._struct.size, len(view)
        plain = columns.without(view)
        same, further = plain.startswith, memoryview(plain)
        at = begun = 0
        while at < end:
            stop = min(at + _GROUP * size, end)
            if same(further[at : stop - size], at + size):
                while stop < end and same(further[stop - size : (more := min(stop + _GROUP * size, end)) - size], stop):
                    stop = more
                if begun < at:
                    self._add(view[begun:at])
                self._add_run(columns, view[at:stop])
                begun = stop
            at = stop
        if begun < end:
            self._add(view[begun:])

    def _add_run(self, columns: _Columns, view: memoryview) -> None:
        values = self._struct.unpack_from(view)
        row = self._row(values)
        if row is None:
            row = [0, *columns.zeros(values)]
            self._rows.append(row)
            short = tuple([values[at] for at in self._first_keys])
            if self._first.setdefault(short, row) is not row:
                self._others[tuple([values[at] for at in self._keys])] = row
        row[0] += len(view) // self._struct.size
        columns.add(view, row)

    def _row(self, values: Sequence[Any]) -> list[Any] | None:
        row = self._first.get(tuple([values[at] for at in self._first_keys]))
        if row is not None and self._long and row[self._longest + 1] != values[self._longest]:
            row = self._others.get(tuple([values[at] for at in self._keys]))
        return row

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


# A column of all records: code and size of its numbers, where the first is, and how many further the next.
_Column = tuple[str, int, int, int]


class _Columns:
    # The numbers of many records, column by column: of a run of one kind none is looked at on its own.

    @classmethod
    def of(cls, layout: Layout, parts: Sequence[_Part]) -> _Columns | None:
        """None where they do not lie at multiples of their sizes, as in a C struct they do."""
        if layout.stride % 8 or any(part.offset % part.size for part in parts if part.how is not None):
            return None
        return cls(layout, parts)

    def __init__(self, layout: Layout, parts: Sequence[_Part]) -> None:
        stride = layout.stride
        self._sums = [at for at, part in enumerate(parts) if part.how == SUM]
        self._alike: list[_Column] = []
        self._unlike: list[_Column] = []
        at = -RING_HEADER_BYTES
        for part in parts:
            if part.how is None:
                self._unlike += _columns(at, part.offset, stride)
                at = part.offset + part.size
                self._alike += _columns(part.offset, at, stride)
        self._unlike += _columns(at, layout.size, stride)
        self._joined = [
            (at, part.how, part.code, (RING_HEADER_BYTES + part.offset) // part.size, stride // part.size)
            for at, part in enumerate(parts, 1)
            if part.how is not None
        ]

    def without(self, view: memoryview) -> bytearray:
        """A copy, with zeros for all in which records of one kind may differ."""
        copy = bytearray(view)
        with memoryview(copy) as whole:
            for code, size, first, step in self._unlike:
                column = whole.cast(code)[first::step]  # type: ignore[call-overload]  # a code of _UNSIGNED
                column[:] = memoryview(bytes(size * len(column))).cast(code)  # type: ignore[call-overload]
        return copy

    def are_one_kind(self, view: memoryview) -> bool:
        """Whether these records, one at least, differ in nothing but what joins."""
        for code, _, first, step in self._alike:
            column = view.cast(code)[first::step]  # type: ignore[call-overload]
            if column.tobytes() != column[:1].tobytes() * len(column):
                return False
        return True

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


def _columns(begin: int, end: int, stride: int) -> Iterator[_Column]:
    # of a part of the record, in numbers as large as they can be
    while begin < end:
        size = next(size for size in (8, 4, 2, 1) if not begin % size and begin + size <= end)
        yield _UNSIGNED[size], size, (RING_HEADER_BYTES + begin) // size, stride // size
        begin += size


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
