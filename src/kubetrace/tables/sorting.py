"""The order of a table's rows."""

from __future__ import annotations

from collections.abc import Sequence
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


def _sortable(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    return str(value if value is not None else "\U0010ffff").encode("utf-8", "surrogateescape")
