"""-o windows: the table of each interval as one object of JSON Lines, for who puts the tables of many nodes together.

    {"type": "window", "node", "tracer", "columns": [key, ...], "rows": [[value, ...], ...], "total", "sort", "events",
     "lost", "unattributed", "own_cpu_percent", "elapsed_ns", "notices": [text, ...]}
    {"type": "summary", "node", "tracer", "text", "remedies": [text, ...], ...}              the last line

Values are those of views.columns.Value; bytes as views.json writes them. Written here on the node, read here elsewhere.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubetrace.session import TableView, short_name
from kubetrace.views.columns import Column
from kubetrace.views.json import JsonLines
from kubetrace.views.units import format_elapsed

if TYPE_CHECKING:
    from kubetrace.pipeline import Pipeline
    from kubetrace.stream.steps import Tick
    from kubetrace.views.columns import Value
    from kubetrace.views.window import Window

# What is believed of a reader's peer.
_MOST_ROWS = 10_000
_MOST_COLUMNS = 100
_MOST_TEXT = 4096


class WindowView(TableView):
    """Windows as JSON Lines on stdout."""

    def _can_be_live(self) -> bool:
        return False

    @contextlib.contextmanager
    def open(self) -> Iterator[WindowView]:
        """Nothing is taken."""
        self._json = JsonLines(sys.stdout)
        yield self

    def waiting(self, notice: str) -> None:
        """A window without rows."""
        self._write(None, {"notices": [notice]})

    def _draw(self, pipeline: Pipeline, tick: Tick) -> None:
        counts, cost = pipeline.counts, self._cost.percent(tick)
        window = self._window(pipeline, tick, cost)
        self._write(
            window,
            {
                "events": counts.events - counts.folded,
                "lost": counts.lost,
                "unattributed": counts.unattributed,
                "own_cpu_percent": cost,
                "elapsed_ns": tick.elapsed_ns,
                "notices": list(window.notices),
            },
        )

    def _write(self, window: Window | None, more: Mapping[str, object]) -> None:
        record: dict[str, object] = {
            "type": "window",
            "node": self._clock.node,
            "tracer": self._tracer.name,
            "columns": [],
            "rows": [],
        }
        if window is not None:
            record["columns"] = [column.key for column in window.columns]
            record["rows"] = [list(row) for row in window.rows]
            record["total"] = window.total
            record["sort"] = window.sort
        self._json.write({**record, **more})
        self._json.flush()

    def end(self, pipeline: Pipeline, tick: Tick) -> None:
        """The summary's object."""
        total, counts = pipeline.total(), pipeline.counts
        elapsed = format_elapsed(tick.elapsed_ns / 1e9)
        text = (
            f"{self._tracer.summary_text(total)} in {elapsed}; {counts.lost} lost, {counts.unattributed} unattributed."
        )
        self._json.write(
            {
                "type": "summary",
                "node": self._clock.node,
                "tracer": self._tracer.name,
                "events": counts.events - counts.folded,
                "lost": counts.lost,
                "unattributed": counts.unattributed,
                "text": text,
                "remedies": [remedy.text(short_name) for remedy in pipeline.advice.remedies()],
            }
        )
        self._json.flush()


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
        raise ValueError("columns and rows are no lists, or too long")
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
            raise ValueError(f"{column.key} is no number")
        return value  # type: ignore[return-value]  # as was just seen
    return None if value is None else str(value)[:_MOST_TEXT]


def _count(record: Mapping[str, Any], key: str) -> int:
    value = record.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64 else 0
