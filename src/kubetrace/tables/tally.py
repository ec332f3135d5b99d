"""Rows added up from events, under one grouping; and those of coarser groupings, derived from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from kubetrace.kit.identity import HOST, ended
from kubetrace.kit.tracer import LAST
from kubetrace.tables.aggregate import Groups, Key
from kubetrace.tables.pages import Pages
from kubetrace.tables.sorting import Wanted, page_of, sort_rows

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Owners
    from kubetrace.kit.tracer import Tracer
    from kubetrace.views.columns import Column, Value

_OTHERS = "(others)"
_MOST_NOTES = 50_000
# Rows of ended pods that keep their own names, by each measure.
_ENDED_ROWS = 100


class Tally:
    """The rows of a tracer's table under one grouping."""

    def __init__(self, tracer: Tracer, by: str, also: Sequence[str] = ()) -> None:
        """`by`: one of the tracer's groupings. `also`: more notes, kept for groupings whose rows are sums of these."""
        self._tracer = tracer
        self._by = by
        grouping = tracer.groupings[by]
        self._key_columns = [column.key for column in grouping.key]
        own = [column.key for column in grouping.notes]
        self._own_notes = len(own)
        self._note_columns = [*own, *also]
        self._notes_of = _chosen(self._note_columns)
        self.columns: Sequence[Column] = [*grouping.columns, *tracer.measures]
        weight = [column.key for column in tracer.measures].index(next(iter(tracer.sorts.values())))
        self._groups = Groups(tracer.operations(), fold=_coarser(grouping.key), weight=lambda row: row[weight])
        self._count = self._groups.by_cells(self._key_columns)
        self._notes: dict[Key, tuple[Value, ...]] = {}
        self._front = len(grouping.columns)
        # Once somebody looks at it, a screen at a time: the rows that have changed since.
        self._pages: Pages | None = None
        self._changed: dict[Key, None] = {}

    def begin_with(self, rows: Sequence[tuple[Key, tuple[Value, ...], list[Any]]]) -> None:
        """Take over what was counted before: each row's key, notes and numbers."""
        for key, notes, values in rows:
            self._groups.add(key, values)
            if self._note_columns:
                self._notes[key] = notes

    def add(self, cells: Mapping[str, Value], values: Sequence[Any]) -> None:
        """Count one event."""
        key = self._count(cells, values)
        if self._pages is not None:
            self._changed[key] = None
        if self._note_columns:
            self._notes[key] = self._notes_of(cells)
            if len(self._notes) > _MOST_NOTES:
                self._notes = {key: notes for key, notes in self._notes.items() if key in self._groups}

    def depends_on(self, names: Collection[str]) -> bool:
        """Whether one of these cells is in its rows."""
        return any(name in names for name in (*self._key_columns, *self._note_columns))

    def fold_ended(self, owners: Owners) -> None:
        """Fold the small rows of pods, and cgroups of the node, that are not among the owners any more.

        Their sums go to one row for each namespace. A table that stands for weeks would else have every pod there was.
        """
        columns = self._tracer.groupings[self._by].key
        at = {column.key: place for place, column in enumerate(columns)}
        if "pod" not in at:
            return
        places = [at.get(name) for name in ("namespace", "pod", "container")]

        def matter(key: Key) -> Hashable | None:
            return key if ended(owners, *(None if place is None else key[place] for place in places)) else None

        def fold(key: Key) -> Key:
            host = key[at["pod"]] == HOST
            kept = ("namespace", "pod") if host else ("namespace",)
            return tuple(
                [value if column.key in kept else _folded(column) for column, value in zip(columns, key, strict=True)]
            )

        weights = [lambda row, place=place: row[place] for place in range(len(self._tracer.measures))]
        if self._groups.fold_ended(matter, fold, weights, _ENDED_ROWS):
            self._notes = {key: notes for key, notes in self._notes.items() if key in self._groups}

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._groups)

    def rows(self, sort_key: str, top: int | None) -> list[tuple[Value, ...]]:
        """Sorted rows, at most `top`: numbers descending, names ascending; equal ones in the order of arrival."""
        blank, own = (None,) * len(self._note_columns), self._own_notes
        rows: list[tuple[Any, ...]] = [
            (*key, *self._notes.get(key, blank)[:own], *row) for key, row in self._groups.rows()
        ]
        return sort_rows(rows, self.columns, sort_key, top)

    def page(
        self, order: str, begin: int, end: int, wanted: Wanted | None = None
    ) -> tuple[list[tuple[Value, ...]], int]:
        """See `tables.contract.Rows`."""
        if self._pages is None:
            self._pages, self._changed = Pages(self.columns, self._front), {}
        changed, self._changed = self._changed, {}
        blank, own, front = (None,) * len(self._note_columns), self._own_notes, self._front
        notes = self._notes

        def cells(key: Key) -> Sequence[Any]:
            return (*key, *notes.get(key, blank)[:own]) if own else key

        items, total = self._pages.page(
            self._groups.all,
            changed,
            self._groups.generation,
            order,
            begin,
            end,
            wanted,
            front=cells,
            number=lambda at: f"row[{at - front}]",
        )
        return [(*cells(key), *row) for key, row in items], total

    def cells(self) -> tuple[list[str], list[tuple[tuple[Value, ...], list[Any]]]]:
        """(names of the key's and all notes' columns, each row's cells of these with its numbers)."""
        blank = (None,) * len(self._note_columns)
        rows: list[Any] = [((*key, *self._notes.get(key, blank)), row) for key, row in self._groups.rows()]
        return [*self._key_columns, *self._note_columns], rows


class Coarser:
    """The rows of a coarser grouping: sums of another one's, made when they are asked for."""

    def __init__(self, tracer: Tracer, by: str, of: Tally) -> None:
        """`of` is a finer grouping: it has a row for each value of all the columns that `by` groups by."""
        self._tracer, self._by = tracer, by
        self._grouping = tracer.groupings[by]
        self._operations = tracer.operations()
        self._of = of
        self.columns: Sequence[Column] = [*self._grouping.columns, *tracer.measures]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows())

    def rows(self, sort_key: str, top: int | None) -> list[tuple[Value, ...]]:
        """As Tally's."""
        return sort_rows(self._rows(), self.columns, sort_key, top)

    def page(
        self, order: str, begin: int, end: int, wanted: Wanted | None = None
    ) -> tuple[list[tuple[Value, ...]], int]:
        """See `tables.contract.Rows`."""
        return page_of(self._rows(), self.columns, order, begin, end, wanted, len(self._grouping.columns))

    def counted(self) -> Tally:
        """The same rows, to be counted event by event from now on: for who looks at them again and again."""
        tally = Tally(self._tracer, self._by)
        keys, notes = len(self._grouping.key), len(self._grouping.columns)
        tally.begin_with([(row[:keys], row[keys:notes], list(row[notes:])) for row in self._rows()])
        return tally

    def _rows(self) -> list[tuple[Any, ...]]:
        names, finer = self._of.cells()
        key_at, note_at = (
            [names.index(column.key) for column in columns] for columns in (self._grouping.key, self._grouping.notes)
        )
        fold = _coarser(self._grouping.key)
        groups = Groups(self._operations, fold=fold, weight=lambda row: row[0], limit=len(finer) + 1)
        notes: dict[Key, tuple[Value, ...]] = {}
        for cells, row in finer:
            key = tuple([cells[at] for at in key_at])
            groups.add(key, row)
            notes[key] = tuple([cells[at] for at in note_at])
        return [(*key, *notes[key], *row) for key, row in groups.rows()]


def tallies(tracer: Tracer, groupings: Sequence[str]) -> dict[str, Tally | Coarser]:
    """For each grouping its rows: counted event by event, or derived from a finer one that is counted."""
    if LAST in tracer.operations():
        return {by: Tally(tracer, by) for by in groupings}
    keys = {by: {column.key for column in tracer.groupings[by].key} for by in groupings}
    finer = {
        by: next((of for of in groupings if keys[by] < keys[of] and not any(keys[of] < keys[o] for o in groupings)), "")
        for by in groupings
    }
    found: dict[str, Tally | Coarser] = {}
    for by in groupings:
        if not finer[by]:
            wanted = [c.key for of in groupings if finer[of] == by for c in tracer.groupings[of].notes]
            here = keys[by] | {column.key for column in tracer.groupings[by].notes}
            found[by] = Tally(tracer, by, [key for key in dict.fromkeys(wanted) if key not in here])
    for by in groupings:
        if finer[by]:
            base = found[finer[by]]
            assert isinstance(base, Tally)
            found[by] = Coarser(tracer, by, base)
    return {by: found[by] for by in groupings}


def _chosen(names: Sequence[str]) -> Callable[[Mapping[str, Value]], tuple[Value, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda cells: tuple([cells[name] for name in names])


def _folded(column: Column) -> Value:
    """What stands for many values in a cell: no number does."""
    return None if column.numeric or column.kind == "time" else _OTHERS


def _coarser(columns: Sequence[Column]) -> Callable[[Key], Key]:
    """A key without its last part that says something: file, then container, then pod."""
    folded = tuple([_folded(column) for column in columns])

    def coarser(key: Key) -> Key:
        at = next((at for at in reversed(range(len(key))) if key[at] != folded[at]), 0)
        return (*key[:at], folded[at], *key[at + 1 :])

    return coarser
