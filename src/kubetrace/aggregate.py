"""Group-by over events: rows of counts, sums and maxima, bounded in number, exact in total."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

# How a measure of a new event joins that of its row.
SUM = "sum"
MAX = "max"
LAST = "last"

Key = tuple[Hashable, ...]


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
        self._fold = fold
        self._weight = weight
        self._limit = limit
        self._rows: dict[Key, list[Any]] = {}

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def add(self, key: Key, values: Sequence[Any]) -> None:
        """Count one event, or a row of many: `values` are in the order of the operations."""
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= self._limit:
                self._fold_light_rows()
            # folding may have made just this row
            row = self._rows.get(key)
            if row is None:
                self._rows[key] = list(values)
                return
        for index, operation in enumerate(self._operations):
            if operation == SUM:
                row[index] += values[index]
            elif operation == LAST or values[index] > row[index]:
                row[index] = values[index]

    def _fold_light_rows(self) -> None:
        ranked = sorted(self._rows.items(), key=lambda item: self._weight(item[1]), reverse=True)
        self._rows = dict(ranked[: self._limit // 2])
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

    def rows(self) -> Iterable[tuple[Key, list[Any]]]:
        """Every row, in the order of arrival."""
        return self._rows.items()
