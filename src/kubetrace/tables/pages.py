"""The rows that fit a screen, of very many: by what they reached the last time, and not by a sort of all.

Of 100,000 rows a screen shows fifty. Those that reach the value of the last one shown a moment ago are nearly always
the fifty of now: one pass finds them. Only where that was too high is the value looked for anew, with a heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from kubetrace.tables.sorting import Wanted, direction, sortable

if TYPE_CHECKING:
    from kubetrace.views.columns import Column

Key = tuple[Any, ...]
Items = list[tuple[Key, Any]]


@cache
def _passes(value: str) -> dict[str, Callable[..., Any]]:
    """Loops over rows by a value of `row`, an expression; compiled, since each is run over all rows."""
    scope: dict[str, Callable[..., Any]] = {}
    source = "\n".join(
        [
            f"def values(rows): return [{value} for row in rows.values()]",
            f"def above(rows, bound): return [(key, row) for key, row in rows.items() if {value} > bound]",
            f"def below(rows, bound): return [(key, row) for key, row in rows.items() if {value} < bound]",
            f"def equal(rows, bound): return ((key, row) for key, row in rows.items() if {value} == bound)",
            f"def of(item): row = item[1]; return {value}",
        ]
    )
    exec(compile(source, "<pages>", "exec"), scope)  # the expressions are those of tables/
    return scope


class Pages:
    """Screens of a table whose rows are a dict that grows: by key, in the order of arrival."""

    def __init__(self, columns: Sequence[Column], keys: int, front: int) -> None:
        """The first `keys` of the columns are a row's key, those up to `front` stand before the measures."""
        self._columns, self._keys, self._front = columns, keys, front
        self._bounds: dict[Hashable, Any] = {}
        self._wanted: Wanted | None = None
        self._generation: Hashable = None
        self._found: dict[Key, Any] = {}
        self._asked = 0
        self._named: dict[int, tuple[list[Key], list[bytes]]] = {}

    def page(
        self,
        rows: Mapping[Key, Any],
        generation: Hashable,
        order: str,
        begin: int,
        end: int,
        wanted: Wanted | None,
        *,
        front: Callable[[Key], Sequence[Any]],
        number: Callable[[int], str | Callable[[Key, Any], Any]],
    ) -> tuple[Items, int]:
        """(the items of rows `begin` to `end`, in order; how many are wanted).

        `generation` is another one when rows were taken away or replaced. `front` gives a row's cells before the
        measures by its key, `number` the value of a column: an expression of `row`, or a function of key and row.
        """
        if generation != self._generation or wanted is not self._wanted:
            self._named.clear()
            self._generation, self._wanted = generation, wanted
            self._found, self._asked = {}, 0
            self._bounds.clear()
        rows = self._matching(rows, wanted, front)
        at, down = direction(order, self._columns)
        total = len(rows)
        end = min(end, total)
        if begin >= end:
            return [], total
        if at is None:
            return list(islice(rows.items(), begin, end)), total
        if at >= self._front:
            value = number(at)
            if isinstance(value, str):
                return self._by_number(rows, value, end, down)[begin:end], total
            items = sorted(rows.items(), key=lambda item: value(*item) or 0, reverse=down)
            return items[begin:end], total
        if self._columns[at].numeric or self._columns[at].kind == "time":
            items = sorted(rows.items(), key=lambda item: front(item[0])[at] or 0, reverse=down)
            return items[begin:end], total
        return self._by_name(rows, at, front, end, down)[begin:end], total

    def _matching(
        self, rows: Mapping[Key, Any], wanted: Wanted | None, front: Callable[[Key], Sequence[Any]]
    ) -> Mapping[Key, Any]:
        # each row is asked once: what is in its key does not change
        if wanted is None:
            return rows
        for key, row in islice(rows.items(), self._asked, None):
            if wanted(front(key)):
                self._found[key] = row
        self._asked = len(rows)
        return self._found

    def _by_number(self, rows: Mapping[Key, Any], value: str, end: int, down: bool) -> Items:
        passes = _passes(value)
        beyond, of = passes["above" if down else "below"], passes["of"]
        if end * 2 >= len(rows):
            return sorted(rows.items(), key=of, reverse=down)
        known = self._bounds.get((value, down, end))
        for bound in (known, None):
            if bound is None:
                values = passes["values"](rows)
                bound = (heapq.nlargest if down else heapq.nsmallest)(end, values)[-1]
            items: Items = beyond(rows, bound)
            items.sort(key=of, reverse=down)
            if len(items) < end:
                items += islice(passes["equal"](rows, bound), end - len(items))
            if len(items) >= end:
                break
        self._bounds[value, down, end] = of(items[end - 1])
        return items

    def _by_name(
        self, rows: Mapping[Key, Any], at: int, front: Callable[[Key], Sequence[Any]], end: int, down: bool
    ) -> Items:
        # names do not change: each is made comparable once
        keys, names = self._named.setdefault(at, ([], []))
        new = list(islice(rows, len(names), None))
        keys += new
        names += [sortable(front(key)[at]) for key in new] if at >= self._keys else [sortable(key[at]) for key in new]
        if end * 2 >= len(names):
            order: Iterable[int] = sorted(range(len(names)), key=names.__getitem__, reverse=down)
        else:
            order = _first(names, end, down)
        return [(keys[number], rows[keys[number]]) for number in islice(order, end)]


def _first(names: Sequence[bytes], end: int, down: bool) -> Iterator[int]:
    bound = (heapq.nlargest if down else heapq.nsmallest)(end, names)[-1]
    if down:
        found = [number for number, name in enumerate(names) if name > bound]
    else:
        found = [number for number, name in enumerate(names) if name < bound]
    found.sort(key=names.__getitem__, reverse=down)
    yield from found
    yield from (number for number, name in enumerate(names) if name == bound)
