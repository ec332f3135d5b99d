"""One node's table as it came over the wire: what `-o windows` (session/window_view.py) wrote there, read here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubetrace.views.columns import Column

if TYPE_CHECKING:
    from kubetrace.views.columns import Value

# What is believed of a reader's peer.
_MOST_ROWS = 10_000
_MOST_COLUMNS = 100
_MOST_TEXT = 4096


@dataclass(frozen=True, slots=True)
class NodeWindow:
    """One node's table at one moment, as it came over the wire; every value is of its column's kind."""

    columns: Sequence[Column] = ()
    rows: Sequence[Sequence[Value]] = ()
    total: int = 0
    sort: str = ""
    events: int = 0
    lost: int = 0
    unattributed: int = 0
    own_cpu_percent: float | None = None
    notices: Sequence[str] = ()


def parse(record: Mapping[str, Any], known: Mapping[str, Column]) -> NodeWindow:
    """A window's record; `known` are the tracer's columns by key. Raises ValueError for what is none."""
    keys, rows = record.get("columns"), record.get("rows")
    if not isinstance(keys, list) or not isinstance(rows, list) or len(keys) > _MOST_COLUMNS or len(rows) > _MOST_ROWS:
        raise ValueError("columns and rows are not lists, or are too long")
    if len({str(key) for key in keys}) != len(keys):
        raise ValueError("a column comes twice")
    columns = [known.get(str(key)) or Column(str(key)[:40], str(key)[:40].upper()) for key in keys]
    if any(not isinstance(row, list) or len(row) != len(columns) for row in rows):
        raise ValueError("a row does not fit the columns")
    notices = record.get("notices")
    cost = record.get("own_cpu_percent")
    return NodeWindow(
        columns,
        [tuple([_value(value, column) for value, column in zip(row, columns, strict=True)]) for row in rows],
        total=_count(record, "total"),
        sort=str(record.get("sort", "")),
        events=_count(record, "events"),
        lost=_count(record, "lost"),
        unattributed=_count(record, "unattributed"),
        own_cpu_percent=float(cost) if isinstance(cost, int | float) else None,
        notices=[str(notice)[:_MOST_TEXT] for notice in notices[:20]] if isinstance(notices, list) else (),
    )


def _value(value: object, column: Column) -> Value:
    if column.numeric or column.kind == "time":
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 64
        if value is not None and not number:
            raise ValueError(f"{column.key} is not a number")
        return value  # type: ignore[return-value]  # as was just seen
    return None if value is None else str(value)[:_MOST_TEXT]


def _count(record: Mapping[str, Any], key: str) -> int:
    value = record.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64 else 0
