"""Every event as it comes; of counters the rows that changed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kubetrace.session.options import lines_columns, sort_key
from kubetrace.session.view import NODE_MODULES, UNMATCHED, print_remedies
from kubetrace.views.records import JSONPATH, are_objects, open_objects
from kubetrace.views.text import escape, visible
from kubetrace.views.units import format_elapsed, format_time

if TYPE_CHECKING:
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Tracer
    from kubetrace.pipeline import EventView, Pipeline
    from kubetrace.session.cost import Overhead
    from kubetrace.session.options import Attach, Show
    from kubetrace.stream.steps import Tick
    from kubetrace.views.columns import Column, Value
    from kubetrace.views.lines import Lines
    from kubetrace.views.navigation import Wish
    from kubetrace.views.records import Objects


class StreamView:
    """Every event as it comes: lines, JSON objects or CSV rows."""

    groupings: Sequence[str] = ()
    recent = 0
    speed = 1.0
    position: Callable[[int, bool], str] | None = None
    waits_for_more = False
    paused = False
    pause_notice = ""
    unmatched = UNMATCHED
    modules: Sequence[str] = NODE_MODULES

    def __init__(self, tracer: Tracer, asked: Attach, show: Show, context: Context) -> None:
        """Write to stdout."""
        self._tracer = tracer
        self._show = show
        self.interval_s = show.interval_s
        self._selection = asked.selection
        self._context = context
        self._objects: Objects | None = None
        self._rows: Any = None
        self._lines: Lines | None = None
        self._places: Sequence[int] | None = None
        self._warned = self._waits = False
        self.overhead: Overhead | None = None
        if are_objects(show.output):
            self._objects = open_objects(sys.stdout, show.output)
        elif show.output == "csv":
            from kubetrace.views.csv import CsvLines

            sys.stdout.reconfigure(newline="")  # type: ignore[union-attr]  # csv.writer ends lines itself
            self._rows = CsvLines(sys.stdout, self._chosen(lines_columns(tracer, show)), headers=show.headers)
        else:
            from kubetrace.views.lines import Lines

            columns = self._chosen(tracer.event_columns)
            wide = show.output == "wide"
            self._rows = self._lines = Lines(
                sys.stdout, columns, wide=wide, headers=show.headers, colour=show.colour, whole=show.at_once
            )
        # Of a template nothing but the events comes: what else is to say goes to stderr.
        self._tells = self._objects if not show.output.startswith(JSONPATH) else None
        self.events: EventView | None = self

    def _chosen(self, columns: Sequence[Column]) -> Sequence[Column]:
        chosen = self._show.columns
        if chosen is None:
            return columns
        # CSV has every column anyway
        self._places = chosen.places(columns, wide=self._show.output in ("wide", "csv"))
        return chosen.of(columns, self._places)

    def _row(self, cells: Sequence[Value]) -> None:
        self._rows.write(cells if self._places is None else [cells[at] for at in self._places])

    @contextlib.contextmanager
    def open(self) -> Iterator[StreamView]:
        """Nothing is taken."""
        yield self

    def waiting(self, notice: str) -> None:
        """Once on stderr."""
        if not self._waits:
            self._waits = True
            self.warn(notice)

    def attached(self, hook: str, missing: Sequence[str]) -> None:
        """The hook, and what is not seen."""
        self._hook = hook
        for notice in missing:
            print(f"kubetrace: {visible(notice)}", file=sys.stderr)
        self.flush()

    def warn(self, notice: str) -> None:
        """On stderr."""
        print(f"kubetrace: {visible(notice)}", file=sys.stderr)

    def keyboard(self) -> int | None:
        """No keys."""
        return None

    def typed(self, pipeline: Pipeline, tick: Tick) -> bool:
        """No keys."""
        return True

    def start_over(self, context: Context) -> None:
        """No keys."""

    def wishes(self) -> Sequence[Wish]:
        """No keys."""
        return ()

    def say(self, message: str) -> None:
        """No keys."""

    def look(self, pipeline: Pipeline, tick: Tick) -> None:
        """No keys."""

    def show(self, pipeline: Pipeline, tick: Tick) -> None:
        """Nothing of events, they are out already; of counters the rows that the interval touched."""
        if self._selection and not self._context.attribution.matched and not self._warned:
            self._warned = True
            print("kubetrace: " + self.unmatched.format(self._selection), file=sys.stderr)
        self._show_rows(pipeline, tick, last=False)

    def skip(self, pipeline: Pipeline, tick: Tick) -> None:
        """As `show`: these are lines, and none is left out."""
        self._show_rows(pipeline, tick, last=False)

    def _show_rows(self, pipeline: Pipeline, tick: Tick, *, last: bool) -> None:
        table = pipeline.table
        if not table.tells_rows or self._show.events:
            return
        table.tick(tick.elapsed_ns)
        if self._objects is not None:
            for record in table.records(last=last, wall_ns=tick.wall_ns):
                self._objects.write(record)
        else:
            for cells in table.rows(self._show.by).rows(sort_key(self._tracer, self._show.sort), self._show.top):
                self._row((tick.wall_ns, *cells))
        self.flush()

    def event(self, event: Any, of: Any) -> None:
        """One line."""
        if self._objects is not None:
            self._objects.write(self._tracer.record(event, of, self._context))
        else:
            self._row(self._tracer.event_cells(event, of, self._context))

    def lost(self, losses: Mapping[str, int], wall_ns: int) -> None:
        """What is missing from here on."""
        if self._tells is not None:
            self._tells.write(
                {
                    "type": "lost",
                    "time": format_time(wall_ns),
                    "node": self._context.node,
                    "lost": sum(losses.values()),
                    **losses,
                }
            )
        else:
            print(f"kubetrace: {_describe(losses)}", file=sys.stderr)

    def flush(self) -> None:
        """A step is over."""
        (self._objects or self._rows).flush()

    def last(self, pipeline: Pipeline, tick: Tick) -> None:
        """All events are out already, but those that are held back; of counters every row comes once more."""
        if self._lines is not None:
            self._lines.close()
        if not pipeline.table.tells_rows:
            self.show(pipeline, tick)
        self._show_rows(pipeline, tick, last=True)

    def end(self, pipeline: Pipeline, tick: Tick) -> None:
        """The summary: the last JSON object, or a line on stderr."""
        counts, total = pipeline.counts, pipeline.table.total()
        if self._tells is not None:
            title, remedies = pipeline.table.remedies()
            self._tells.write(
                {
                    "type": "summary",
                    "time": format_time(tick.wall_ns),
                    "node": self._context.node,
                    "tracer": self._tracer.name,
                    "hook": self._hook,
                    "duration_ns": tick.elapsed_ns,
                    "events": counts.events,
                    "lost": counts.lost,
                    "unattributed": counts.unattributed,
                    **self._tracer.summary_record(total),
                    **self._overhead_record(),
                    "remedies": [remedy.text(escape) for remedy in remedies],
                    **({"advice": [remedy.record() for remedy in remedies]} if title else {}),
                }
            )
            self._tells.flush()
            return
        if self.overhead is not None:
            print(self.overhead.summary(tick.elapsed_ns), file=sys.stderr)
        elapsed = format_elapsed(tick.elapsed_ns / 1e9)
        print(
            f"{self._tracer.summary_text(total)} in {elapsed}; {counts.lost} lost, {counts.unattributed} unattributed.",
            file=sys.stderr,
        )
        print_remedies(pipeline, sys.stderr)

    def _overhead_record(self) -> dict[str, Any]:
        if self.overhead is None:
            return {}
        programs = {name: {"run_time_ns": ns, "runs": runs} for name, (ns, runs) in self.overhead.total.items()}
        return {"bpf": programs}


def _describe(losses: Mapping[str, int]) -> str:
    kinds = ", ".join(f"{visible(kind).replace('_', ' ')} {count}" for kind, count in losses.items() if count)
    return f"{sum(losses.values())} events lost ({kinds})"
