"""Group-by over events: rows of counts, sums and maxima, bounded in number, exact in total."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from kubetrace.kit.tracer import LAST, MAX, SUM

Key = tuple[Hashable, ...]

# The same as statements, for loops that are compiled (here, and before anything is decoded: joining.py).
STATEMENTS = {
    SUM: "{into} += {new}",
    MAX: "if {new} > {into}: {into} = {new}",
    LAST: "{into} = {new}",
}


@cache
def joining(operations: tuple[str, ...]) -> Callable[[list[Any], Sequence[Any]], None]:
    """What joins the values of an event to those of a row, in place; without a loop, as it is done for every event."""
    source = "\n".join(
        [
            "def join(row, values):",
            f"    ({''.join(f'new{at}, ' for at in range(len(operations)))}) = values",
            *_statements(operations),
        ]
    )
    scope: dict[str, Any] = {}
    exec(compile(source, "<aggregate>", "exec"), scope)  # nothing in it is anyone else's
    return scope["join"]  # type: ignore[no-any-return]


def _statements(operations: Sequence[str]) -> list[str]:
    return [
        "    " + STATEMENTS[operation].format(into=f"row[{at}]", new=f"new{at}")
        for at, operation in enumerate(operations)
    ]


class Groups:
    """Rows by key. Each row is a list of numbers, one for each operation in `operations`.

    At most `limit` rows are kept: when there are more, the lightest half (by `weight`, given a row's numbers) is folded
    into rows that `fold` names (given a row's key), so that sums over any kept part of the key stay exact. Where that
    still leaves too many, `fold` is asked again for what it named.
    """

    def __init__(
        self,
        operations: Sequence[str],
        *,
        fold: Callable[[Key], Key],
        weight: Callable[[Sequence[Any]], Any],
        limit: int = 20_000,
    ) -> None:
        """`limit` is a number of rows."""
        self._operations = tuple(operations)
        self._add = joining(self._operations)
        self._fold = fold
        self._weight = weight
        self._limit = limit
        self._rows: dict[Key, list[Any]] = {}
        self.generation = 0
        """How often rows were taken away."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def add(self, key: Key, values: Sequence[Any]) -> None:
        """Count one event, or a row of many: `values` are in the order of the operations."""
        row = self._rows.get(key)
        if row is None:
            self._add_new(key, values)
        else:
            self._add(row, values)

    def _add_new(self, key: Key, values: Sequence[Any]) -> None:
        if len(self._rows) >= self._limit:
            self._fold_light_rows()
            if key in self._rows:  # folding made just this row
                self._add(self._rows[key], values)
                return
        self._rows[key] = list(values)

    def by_cells(self, names: Sequence[str]) -> Callable[[Mapping[str, Any], Sequence[Any]], Key]:
        """`add` for keys that are so many of an event's cells, by their names; it returns the key.

        It is compiled: a live table counts each event by all its groupings.
        """
        new = [f"new{at}" for at in range(len(self._operations))]
        source = "\n".join(
            [
                "def count(cells, values):",
                f"    key = ({''.join(f'cells[{name!r}], ' for name in names)})",
                "    row = find(key)",
                "    if row is None:",
                "        add_new(key, values)",
                "        return key",
                f"    ({', '.join(new)},) = values",
                *_statements(self._operations),
                "    return key",
            ]
        )
        scope: dict[str, Any] = {"find": self._rows.get, "add_new": self._add_new}
        exec(compile(source, "<aggregate>", "exec"), scope)  # the names are those of a tracer's columns
        return scope["count"]  # type: ignore[no-any-return]

    def fold_ended(
        self,
        matter: Callable[[Key], Hashable | None],
        fold: Callable[[Key], Key],
        weights: Iterable[Callable[[Sequence[Any]], Any]],
        keep: int,
    ) -> int:
        """Fold the rows of what has ended, all but the heaviest `keep` matters of it by each of the weights.

        `matter` says which one a row belongs to; None: it has not ended. `fold` names the row that takes a row in.
        How many rows were folded is returned.
        """
        ended: dict[Hashable, list[Key]] = {}
        for key in self._rows:
            if (of := matter(key)) is not None:
                ended.setdefault(of, []).append(key)
        if len(ended) <= keep:
            return 0
        kept: set[Hashable] = set()
        for weight in weights:
            sums = {of: sum([weight(self._rows[key]) for key in keys]) for of, keys in ended.items()}
            # of equal ones the newest, in a replay too (the sort is stable); what weighs nothing is not heavy
            kept.update([of for of in sorted(sums, key=sums.__getitem__)[-keep:] if sums[of]])
        folded = [key for of, keys in ended.items() if of not in kept for key in keys]
        self.generation += 1
        for key in folded:
            self._join(self._rows, fold(key), self._rows.pop(key))
        return len(folded)

    def _fold_light_rows(self) -> None:
        self.generation += 1
        ranked = sorted(self._rows.items(), key=lambda item: self._weight(item[1]), reverse=True)
        # the same dict: it is bound to what `by_cells` made
        self._rows.clear()
        self._rows.update(ranked[: self._limit // 2])
        light = ranked[self._limit // 2 :]
        for _ in range(len(ranked[0][0])):
            folded: dict[Key, list[Any]] = {}
            for key, values in light:
                self._join(folded, self._fold(key), values)
            light = list(folded.items())
            if len(light) <= self._limit // 4:
                break
        for key, values in light:
            self._join(self._rows, key, values)

    def _join(self, rows: dict[Key, list[Any]], key: Key, values: list[Any]) -> None:
        row = rows.get(key)
        if row is None:
            rows[key] = values
            return
        for index, operation in enumerate(self._operations):
            if operation == SUM:
                row[index] += values[index]
            else:
                row[index] = max(row[index], values[index])

    def __contains__(self, key: Key) -> bool:
        """Whether the key has a row of its own."""
        return key in self._rows

    @property
    def all(self) -> Mapping[Key, list[Any]]:
        """Every row by its key, in the order of arrival."""
        return self._rows

    def rows(self) -> Iterable[tuple[Key, list[Any]]]:
        """Every row, in the order of arrival."""
        return self._rows.items()


def quantile(slots: Sequence[int], q: float, *, first_ns: int, longest_ns: int) -> int | None:
    """The duration below which a share `q` of a log2 histogram lies, in nanoseconds; None if it is empty.

    Slot i counts durations from first_ns * 2**i up to twice that, slot 0 also shorter ones, the last one also longer
    ones; none is longer than `longest_ns`. Inside a slot they are taken as evenly spread, so the answer is exact to a
    factor of two at worst.
    """
    total = sum(slots)
    if not total:
        return None
    rank, below = q * total, 0
    for slot, count in enumerate(slots):
        if count and below + count >= rank:
            low = 0 if slot == 0 else first_ns << slot
            high = longest_ns if slot == len(slots) - 1 else min(first_ns << slot + 1, longest_ns)
            # the longest is read a moment before or after the slots
            high = max(low, high)
            return int(low + (high - low) * max(0.0, rank - below) / count)
        below += count
    return longest_ns
