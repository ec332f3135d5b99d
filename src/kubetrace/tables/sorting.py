"""The order of a table's rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubetrace.views.columns import Column, Value


def sort_rows(
    rows: list[tuple[Any, ...]], columns: Sequence[Column], sort_key: str, top: int | None
) -> list[tuple[Value, ...]]:
    """Rows by one column, at most `top`: numbers descending, names ascending; equal ones in the order they came.

    A key with - in front is descending, with + ascending, whatever it is.
    """
    sign, key = (sort_key[0], sort_key[1:]) if sort_key[:1] in ("-", "+") else ("", sort_key)
    at = next((i for i, column in enumerate(columns) if column.key == key), None)
    if at is not None:
        if columns[at].numeric or columns[at].kind == "time":
            rows.sort(key=lambda row: row[at] or 0, reverse=sign != "+")
        else:
            rows.sort(key=lambda row: _sortable(row[at]), reverse=sign == "-")
    return rows[:top] if top else rows


Wanted = Callable[[Sequence[Any]], bool]
"""Whether a row of these cells in front of the measures is asked for."""


def page_of(
    rows: list[tuple[Any, ...]],
    columns: Sequence[Column],
    order: str,
    begin: int,
    end: int,
    wanted: Wanted | None,
    front: int,
) -> tuple[list[tuple[Value, ...]], int]:
    """(rows `begin` to `end` of those that are wanted, in order; how many are). `front`: cells before the measures."""
    if wanted is not None:
        rows = [row for row in rows if wanted(row[:front])]
    return sort_rows(rows, columns, order, end)[begin:], len(rows)


def direction(order: str, columns: Sequence[Column]) -> tuple[int | None, bool]:
    """(which of the columns an order goes by, None if it is not among them; whether it goes down)."""
    sign, key = (order[0], order[1:]) if order[:1] in ("-", "+") else ("", order)
    at = next((at for at, column in enumerate(columns) if column.key == key), None)
    if at is None:
        return None, False
    if columns[at].numeric or columns[at].kind == "time":
        return at, sign != "+"
    return at, sign == "-"


def sortable(value: Value) -> bytes:
    """A name, so that names in any form can be compared."""
    return _sortable(value)


def _sortable(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    return str(value if value is not None else "\U0010ffff").encode("utf-8", "surrogateescape")
