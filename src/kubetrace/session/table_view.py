"""A table: windows of the grouped rows."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kubetrace.session.cost import Overhead, OwnCost
from kubetrace.session.options import sort_key, table_columns
from kubetrace.session.view import NODE_MODULES, UNMATCHED, print_remedies
from kubetrace.views.units import format_count, format_elapsed, format_percent
from kubetrace.views.window import Item, Window

if TYPE_CHECKING:
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Tracer
    from kubetrace.pipeline import EventView, Pipeline
    from kubetrace.session.options import Attach, Show
    from kubetrace.stream.steps import Tick
    from kubetrace.views.columns import Column, Value
    from kubetrace.views.keys import Keys

_KEYS = (("q", "quit"), ("space", "pause"), ("s", "sort"), ("g", "group by"))


class TableView:
    """Windows of the grouped rows: live on a terminal, plain blocks elsewhere."""

    def __init__(self, tracer: Tracer, asked: Attach, show: Show, context: Context, release: str) -> None:
        """Nothing is shown before it is open."""
        self._tracer = tracer
        self._show = show
        self._selection = asked.selection
        self._context = context
        self._live = self._can_be_live()
        # Only a live table can change its grouping; elsewhere one is counted.
        self._groupings = tracer.others(show.by)
        self.groupings: Sequence[str] = self._groupings if self._live else [show.by]
        self.events: EventView | None = None
        self._by = show.by
        self._sort = show.sort
        self._keys = _keys() if self._live else None
        self.modules: Sequence[str] = (*NODE_MODULES, "kubetrace.views.frame") if self._live else NODE_MODULES
        self._notices: list[str] = []
        self.overhead: Overhead | None = None
        self.paused = False
        self.unmatched = UNMATCHED
        self.pause_notice = "paused: counting goes on, space shows it"
        self._cost = OwnCost()
        self._begun = time.monotonic()
        self._hook = ""
        self._missing: Sequence[str] = ()
        self._release = release

    def _can_be_live(self) -> bool:
        from kubetrace.views.plain import can_be_live

        return can_be_live(sys.stdout)

    @contextlib.contextmanager
    def open(self) -> Iterator[TableView]:
        """Take the terminal for as long as the context lasts."""
        from kubetrace.views.screen import open_table

        with (
            open_table(
                sys.stdout, wide=self._show.output == "wide", headers=self._show.headers, colour=self._show.colour
            ) as self._table,
            self._keys or contextlib.nullcontext(),
        ):
            yield self

    def waiting(self, notice: str) -> None:
        """Show that nothing is attached yet, and why."""
        columns, _ = self._chosen(table_columns(self._tracer, self._by), ())
        self._table.show(Window(columns, head=self._head(time.monotonic() - self._begun), notices=[notice]))

    def attached(self, hook: str, missing: Sequence[str]) -> None:
        """The hook, and what is not seen."""
        self._hook, self._missing = hook, missing

    def warn(self, notice: str) -> None:
        """A notice above the table."""
        self._notices.append(notice)

    def keyboard(self) -> int | None:
        """The terminal's descriptor, where the table is live."""
        return self._keys.fileno() if self._keys is not None else None

    def typed(self, pipeline: Pipeline, tick: Tick) -> bool:
        """Do what the keys say; False to quit."""
        for key in self._keys.read() if self._keys is not None else ():
            if key == "q":
                return False
            if key == " ":
                self.paused = not self.paused
            elif key == "s":
                names = self._sorts()
                self._sort = names[(names.index(self._sort) + 1) % len(names)] if self._sort in names else names[0]
            elif key == "g":
                names = list(self._groupings)
                self._by = names[(names.index(self._by) + 1) % len(names)]
                key = sort_key(self._tracer, self._sort).lstrip("+-")
                if key not in {column.key for column in table_columns(self._tracer, self._by)}:
                    self._sort = next(iter(self._tracer.sorts))
        self._draw(pipeline, tick)
        return True

    def _sorts(self) -> list[str]:
        """The sorts whose column this grouping has."""
        columns = {column.key for column in table_columns(self._tracer, self._by)}
        return [name for name, key in self._tracer.sorts.items() if key in columns]

    def show(self, pipeline: Pipeline, tick: Tick) -> None:
        """A window, unless paused."""
        pipeline.table.tick(tick.elapsed_ns)
        if not self.paused:
            self._draw(pipeline, tick)

    def skip(self, pipeline: Pipeline, tick: Tick) -> None:
        """What a window leaves behind, without the window: rates and own cost are those since the one before."""
        pipeline.table.tick(tick.elapsed_ns)
        self._cost.percent(tick)

    def last(self, pipeline: Pipeline, tick: Tick) -> None:
        """The table that stays, with everything in it."""
        self.paused = False
        self._draw(pipeline, tick)

    def end(self, pipeline: Pipeline, tick: Tick) -> None:
        """The summary; the last table is on the normal screen already."""
        tracer, counts = self._tracer, pipeline.counts
        elapsed = format_elapsed(tick.elapsed_ns / 1e9)
        print(
            f"{tracer.summary_text(pipeline.table.total())} in {elapsed}; "
            f"{counts.lost} lost, {counts.unattributed} unattributed."
        )
        if self.overhead is not None:
            print(self.overhead.summary(tick.elapsed_ns))
        print_remedies(pipeline, sys.stdout)

    def _chosen(
        self, columns: Sequence[Column], rows: Sequence[Sequence[Value]]
    ) -> tuple[Sequence[Column], Sequence[Sequence[Value]]]:
        chosen = self._show.columns
        if chosen is None:
            return columns, rows
        places = chosen.places(columns, wide=self._show.output == "wide")
        return chosen.of(columns, places), [[row[at] for at in places] for row in rows]

    def _sort_is_hidden(self) -> bool:
        key = sort_key(self._tracer, self._sort).lstrip("+-")
        return self._show.output != "wide" and any(c.wide and c.key == key for c in self._tracer.measures)

    def _head(self, elapsed_s: float) -> list[Item]:
        return [
            (f"kubetrace {self._tracer.name}", "title"),
            f"node {self._context.node}",
            f"Linux {self._release}",
            self._hook or "not attached",
            format_elapsed(elapsed_s),
        ]

    def _draw(self, pipeline: Pipeline, tick: Tick) -> None:
        self._table.show(self._window(pipeline, tick, self._cost.percent(tick)))

    def _window(self, pipeline: Pipeline, tick: Tick, cost: float | None) -> Window:
        tracer, counts, selection = self._tracer, pipeline.counts, self._selection
        rows = pipeline.table.rows(self._by)
        shown = counts.events - counts.folded
        foot: list[Item] = [
            f"{format_count(shown)} {tracer.noun[shown != 1]}",
            (f"{counts.unattributed} unattributed", "warn" if counts.unattributed else "dim"),
        ]
        costs: list[Item] = [(f"own CPU {'-' if cost is None else format_percent(cost)}", "dim")]
        if self.overhead is not None:
            costs.append((self.overhead.look(tick), "dim"))
        notices = [*self._missing, *self._notices]
        if self.paused:
            notices.append(self.pause_notice)
        if selection and not self._context.attribution.matched:
            notices.append(self.unmatched.format(selection))
        order = sort_key(tracer, self._sort)
        head = self._head(tick.elapsed_ns / 1e9)
        if self._live:
            sort = f", {self._sort.lstrip('+-')} {'last' if order.startswith('+') else 'first'}"
            head.insert(4, f"by {self._by}{sort if self._sort_is_hidden() else ''}")
        columns, cells = self._chosen(rows.columns, rows.rows(order, self._show.top))
        return Window(
            columns,
            rows=cells,
            head=head,
            foot=foot,
            costs=costs,
            lost=counts.lost,
            total=len(rows),
            sort=order.lstrip("+-"),
            descending=not order.startswith("+"),
            notices=notices,
            empty=f"no {tracer.noun[1]} yet",
            keys=_KEYS,
        )


def _keys() -> Keys | None:
    try:
        from kubetrace.views.keys import Keys
    except ImportError:  # Windows: no termios
        return None
    return Keys()
