"""-o json-tables (before: windows): each interval's table as one object, for who puts many nodes together.

    {"type": "window", "node", "tracer", "columns": [key, ...], "rows": [[value, ...], ...], "total", "sort", "events",
     "lost", "unattributed", "own_cpu_percent", "elapsed_ns", "notices": [text, ...]}
    {"type": "summary", "node", "tracer", "text", "remedies": [text, ...], ...}              the last line

Values are those of views.columns.Value; bytes as views.json writes them. plugin/node_window.py reads them elsewhere.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kubetrace.session.table_view import TableView
from kubetrace.session.view import short_name
from kubetrace.views.json import JsonLines
from kubetrace.views.units import format_elapsed

if TYPE_CHECKING:
    from kubetrace.pipeline import Pipeline
    from kubetrace.stream.steps import Tick
    from kubetrace.views.window import Window


class WindowView(TableView):
    """Windows as JSON Lines on stdout."""

    def _can_be_live(self) -> bool:
        return False

    @property
    def _rows_elsewhere(self) -> int | None:
        return None

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
            "node": self._context.node,
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

    def last(self, pipeline: Pipeline, tick: Tick) -> None:
        """As every interval's."""
        self._draw(pipeline, tick)

    def end(self, pipeline: Pipeline, tick: Tick) -> None:
        """The summary's object."""
        total, counts = pipeline.table.total(), pipeline.counts
        elapsed = format_elapsed(tick.elapsed_ns / 1e9)
        text = (
            f"{self._tracer.summary_text(total)} in {elapsed}; {counts.lost} lost, {counts.unattributed} unattributed."
        )
        self._json.write(
            {
                "type": "summary",
                "node": self._context.node,
                "tracer": self._tracer.name,
                "events": counts.events - counts.folded,
                "lost": counts.lost,
                "unattributed": counts.unattributed,
                "text": text,
                "remedies": [remedy.text(short_name) for remedy in pipeline.table.remedies()[1]],
            }
        )
        self._json.flush()
