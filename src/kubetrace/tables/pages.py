"""The rows that fit a screen, of very many, without a sort of all.

Of 100,000 rows a screen shows fifty, and from one refresh to the next few of them change. So the first few hundred rows
are kept, with what the last of them has reached: no row that has not changed since can be before that one. A refresh
looks at these and at what has changed. Only where that does not suffice all rows are passed over, with a heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import cache
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from kubetrace.tables.sorting import Wanted, direction, sortable

if TYPE_CHECKING:
    from kubetrace.views.columns import Column

Key = tuple[Any, ...]
Items = list[tuple[Key, Any]]

# So few rows are sorted at once, and of more so many are kept.
_FEW = 1_000
_KEPT = 200


@cache
def _passes(value: str) -> dict[str, Callable[..., Any]]:
    """Loops over rows by a value of `row`, an expression; compiled, since each is run over all rows."""
    scope: dict[str, Callable[..., Any]] = {}
    source = "\n".join(
        [
            f"def values(rows): return [{value} for row in rows.values()]",
            f"def above(rows, bound): return [(key, row) for key, row in rows.items() if {value} > bound]",
            f"def below(rows, bound): return [(key, row) for key, row in rows.items() if {value} < bound]",
            f"def of(item): row = item[1]; return {value}",
        ]
    )
    exec(compile(source, "<pages>", "exec"), scope)  # the expressions are those of tables/
    return scope


class Pages:
    """Screens of a table whose rows are a dict that grows: by key, in the order of arrival."""

    def __init__(self, columns: Sequence[Column], front: int) -> None:
        """The first `front` of the columns stand before the measures; those of them that make the key come first."""
        self._columns, self._front = columns, front
        self._wanted: Wanted | None = None
        self._generation: Hashable = None
        self._found: dict[Key, Any] = {}
        self._asked = 0
        self._arrived: dict[Key, int] = {}
        # What is kept: for which order, the rows, and (value, arrival) of the last of them.
        self._question: Hashable = None
        self._kept: dict[Key, Any] = {}
        self._last: tuple[Any, int] = (0, 0)

    def page(
        self,
        rows: Mapping[Key, Any],
        changed: Collection[Key],
        generation: Hashable,
        order: str,
        begin: int,
        end: int,
        wanted: Wanted | None,
        *,
        front: Callable[[Key], Sequence[Any]],
        number: Callable[[int], str | Callable[[tuple[Key, Any]], Any]],
    ) -> tuple[Items, int]:
        """(the items of rows `begin` to `end`, in order; how many are wanted).

        `changed`: keys of the rows that are new or other than at the last call. `generation` is another one when rows
        were taken away or replaced. `front` gives a row's cells before the measures by its key, `number` the value of
        a measure: an expression of `row`, or a function of a row's item.
        """
        if generation != self._generation or wanted is not self._wanted:
            self._generation, self._wanted = generation, wanted
            self._found, self._asked, self._question = {}, 0, None
            self._arrived.clear()
        if len(rows) > (seen := len(self._arrived)):
            self._arrived.update(zip(islice(rows, seen, None), count(seen), strict=False))
        rows = self._matching(rows, wanted, front)
        place, down = direction(order, self._columns)
        total = len(rows)
        end = min(end, total)
        if begin >= end:
            self._question = None  # what has changed is not looked at
            return [], total
        if place is None:
            self._question = None
            return list(islice(rows.items(), begin, end)), total
        value: str | Callable[[tuple[Key, Any]], Any]
        if place >= self._front:
            value = number(place)
        elif self._columns[place].numeric or self._columns[place].kind == "time":
            value = lambda item: front(item[0])[place] or 0  # noqa: E731  # one of two
        else:
            value = lambda item: sortable(front(item[0])[place])  # noqa: E731
        if total <= _FEW:
            self._question = None
            return sorted(rows.items(), key=_of(value), reverse=down)[begin:end], total
        if begin > total - end:
            # nearer to the end: the first of the other way round
            items = self._first(rows, changed, (order, True), value, total - begin, not down, late=True)
            return items[total - end : total - begin][::-1], total
        return self._first(rows, changed, (order, False), value, end, down, late=False)[begin:end], total

    def _matching(
        self, rows: Mapping[Key, Any], wanted: Wanted | None, front: Callable[[Key], Sequence[Any]]
    ) -> Mapping[Key, Any]:
        # each row is asked once: what is in its key does not change
        if wanted is None:
            return rows
        if len(rows) > self._asked:
            for key, row in islice(rows.items(), self._asked, None):
                if wanted(front(key)):
                    self._found[key] = row
            self._asked = len(rows)
        return self._found

    def _first(
        self,
        rows: Mapping[Key, Any],
        changed: Collection[Key],
        question: Hashable,
        value: str | Callable[[tuple[Key, Any]], Any],
        end: int,
        down: bool,
        *,
        late: bool,
    ) -> Items:
        """The first `end` rows (and more); of equal ones those that came first, or `late` ones."""
        of, arrived = _of(value), self._arrived
        keep = end + _KEPT
        if question == self._question and len(changed) * 4 < len(rows):
            self._keep_changed(rows, changed, of, down)
            kept = self._kept
            items = self._ordered(kept, of, down, late)
            if len(items) >= end and self._is_within(items[end - 1], of, down, late):
                if len(items) > 2 * keep and self._is_within(items[keep - 1], of, down, late):
                    self._kept = dict(items[:keep])
                    self._last = of(items[keep - 1]), arrived[items[keep - 1][0]]
                return items
        items = self._pass(rows, value, keep, down, late)
        self._question, self._kept = question, dict(items)
        self._last = of(items[-1]), arrived[items[-1][0]]
        return items

    def _keep_changed(
        self, rows: Mapping[Key, Any], changed: Collection[Key], of: Callable[[Any], Any], down: bool
    ) -> None:
        # what is still behind the last of those that are kept need not be
        kept, last = self._kept, self._last[0]
        for key in changed:
            row = rows.get(key)
            if row is None or key in kept:
                continue
            value = of((key, row))
            if value == last or (value > last if down else value < last):
                kept[key] = row

    def _ordered(self, rows: Mapping[Key, Any], of: Callable[[Any], Any], down: bool, late: bool) -> Items:
        arrived = self._arrived
        items = sorted(rows.items(), key=lambda item: arrived[item[0]], reverse=late)
        items.sort(key=of, reverse=down)
        return items

    def _is_within(self, item: tuple[Key, Any], of: Callable[[Any], Any], down: bool, late: bool) -> bool:
        # whether no row that has not changed is before this one
        value, (last, arrival) = of(item), self._last
        if value == last:
            at = self._arrived[item[0]]
            return at >= arrival if late else at <= arrival
        return bool(value > last if down else value < last)

    def _pass(
        self,
        rows: Mapping[Key, Any],
        value: str | Callable[[tuple[Key, Any]], Any],
        keep: int,
        down: bool,
        late: bool,
    ) -> Items:
        """The first `keep` of all rows."""
        of = _of(value)
        if keep * 2 >= len(rows) or not isinstance(value, str):
            return self._ordered(rows, of, down, late)[:keep]
        passes = _passes(value)
        values = passes["values"](rows)
        bound = (heapq.nlargest if down else heapq.nsmallest)(keep, values)[-1]
        items: Items = passes["above" if down else "below"](rows, bound)
        if late:
            items.reverse()
        items.sort(key=of, reverse=down)
        ways = reversed(list(rows.items())) if late else iter(rows.items())
        items += islice((item for item in ways if of(item) == bound), keep - len(items))
        return items


def _of(value: str | Callable[[tuple[Key, Any]], Any]) -> Callable[[tuple[Key, Any]], Any]:
    return _passes(value)["of"] if isinstance(value, str) else value
