"""Every event as it comes; of counters the rows that changed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kubetrace.kit.tracer import Counts
from kubetrace.session.view import NODE_MODULES, print_remedies
from kubetrace.views.columns import Column
from kubetrace.views.text import escape, visible
from kubetrace.views.units import format_elapsed, format_time

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.kit.context import Wall
    from kubetrace.kit.tracer import Tracer
    from kubetrace.pipeline import EventView, Pipeline
    from kubetrace.session.cost import Overhead
    from kubetrace.session.options import Options
    from kubetrace.stream.steps import Tick
    from kubetrace.views.columns import Value

# In front of the rows of counters as CSV.
_TIME = Column("time", "TIME", "time")


class StreamView:
    """Every event as it comes: lines, JSON objects or CSV rows."""

    groupings: Sequence[str] = ()
    paused = False
    modules: Sequence[str] = NODE_MODULES

    def __init__(self, tracer: Tracer, options: Options, clock: Wall) -> None:
        """Write to stdout."""
        self._tracer = tracer
        self._options = options
        self._clock = clock
        self._json: Any = None
        self._rows: Any = None
        self._warned = False
        self.overhead: Overhead | None = None
        if options.output == "json":
            from kubetrace.views.json import JsonLines

            self._json = JsonLines(sys.stdout)
        elif options.output == "csv":
            from kubetrace.views.csv import CsvLines

            sys.stdout.reconfigure(newline="")  # type: ignore[union-attr]  # csv.writer ends lines itself
            self._rows = CsvLines(sys.stdout, self._columns(), headers=options.headers)
        else:
            from kubetrace.views.lines import Lines

            self._rows = Lines(sys.stdout, tracer.event_columns, wide=options.output == "wide", headers=options.headers)
        self.events: EventView | None = self

    def _columns(self) -> Sequence[Column]:
        if not isinstance(self._tracer, Counts) or self._options.events:
            return self._tracer.event_columns
        return [_TIME, *self._tracer.groupings[self._options.by].columns, *self._tracer.measures]

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

    def show(self, pipeline: Pipeline, tick: Tick) -> None:
        """Nothing of events, they are out already; of counters the rows that the interval touched."""
        if self._options.selection and not pipeline.attribution.matched and not self._warned:
            self._warned = True
            print(f"kubetrace: no container matches {self._options.selection} yet; waiting", file=sys.stderr)
        self._show_rows(pipeline, tick, last=False)

    def skip(self, pipeline: Pipeline, tick: Tick) -> None:
        """As `show`: these are lines, and none is left out."""
        self._show_rows(pipeline, tick, last=False)

    def _show_rows(self, pipeline: Pipeline, tick: Tick, *, last: bool) -> None:
        counting, by = pipeline.counting, self._options.by
        if counting is None or not isinstance(self._tracer, Counts) or self._options.events:
            return
        counting.tick(tick.elapsed_ns)
        if self._json is not None:
            latency = bool(self._options.own.get("latency"))
            for row in counting.all_rows() if last else counting.changed():
                self._json.write(self._tracer.row_record(by, row, self._clock, tick.wall_ns, latency))
        else:
            sort = self._tracer.sorts[self._options.sort]
            for cells in pipeline.table(by).rows(sort, self._options.top):
                self._rows.write((tick.wall_ns, *cells))
        self.flush()

    def event(self, event: Any, identity: Identity) -> None:
        """One line."""
        if self._json is not None:
            self._json.write(self._tracer.record(event, identity, self._clock))
        else:
            cells: Sequence[Value] = self._tracer.event_cells(event, identity, self._clock)
            self._rows.write(cells)

    def lost(self, losses: Mapping[str, int], wall_ns: int) -> None:
        """What is missing from here on."""
        if self._json is not None:
            self._json.write(
                {
                    "type": "lost",
                    "time": format_time(wall_ns),
                    "node": self._clock.node,
                    "lost": sum(losses.values()),
                    **losses,
                }
            )
        else:
            print(f"kubetrace: {_describe(losses)}", file=sys.stderr)

    def flush(self) -> None:
        """A step is over."""
        (self._json or self._rows).flush()

    def last(self, pipeline: Pipeline, tick: Tick) -> None:
        """All events are out already; of counters every row comes once more."""
        if pipeline.counting is None:
            self.show(pipeline, tick)
        self._show_rows(pipeline, tick, last=True)

    def end(self, pipeline: Pipeline, tick: Tick) -> None:
        """The summary: the last JSON object, or a line on stderr."""
        counts, total = pipeline.counts, pipeline.total()
        if self._json is not None:
            self._json.write(
                {
                    "type": "summary",
                    "time": format_time(tick.wall_ns),
                    "node": self._clock.node,
                    "tracer": self._tracer.name,
                    "hook": self._hook,
                    "duration_ns": tick.elapsed_ns,
                    "events": counts.events,
                    "lost": counts.lost,
                    "unattributed": counts.unattributed,
                    **self._tracer.summary_record(total),
                    **self._overhead_record(),
                    "remedies": [remedy.text(escape) for remedy in pipeline.advice.remedies()],
                }
            )
            self._json.flush()
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
