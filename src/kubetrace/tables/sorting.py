"""The order of a table's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubetrace.views.columns import Column, Value


def sort_rows(
    rows: list[tuple[Any, ...]], columns: Sequence[Column], sort_key: str, top: int | None
) -> list[tuple[Value, ...]]:
    """Rows by one column, at most `top`: numbers descending, names ascending; equal ones in the order they came."""
    at = next((i for i, column in enumerate(columns) if column.key == sort_key), None)
    if at is not None:
        if columns[at].numeric or columns[at].kind == "time":
            rows.sort(key=lambda row: row[at] or 0, reverse=True)
        else:
            rows.sort(key=lambda row: _sortable(row[at]))
    return rows[:top] if top else rows


def _sortable(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    return str(value if value is not None else "\U0010ffff").encode("utf-8", "surrogateescape")
