"""The table of several tracers, and from it each one's own: Enter goes into a pod, Tab to the next tracer."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubetrace.session.overall import Overall
from kubetrace.session.sheet import Sheet
from kubetrace.session.table_view import TableView
from kubetrace.session.view import print_remedies
from kubetrace.views.navigation import EVENTS, Level, State
from kubetrace.views.units import format_elapsed

if TYPE_CHECKING:
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Tracer
    from kubetrace.pipeline import Pipeline
    from kubetrace.session.options import Attach, Show
    from kubetrace.stream.steps import Tick
    from kubetrace.views.navigation import Wish
    from kubetrace.views.window import Item

_INTO = "(tracer)"


class _OverallSheet(Sheet):
    """Of pods, each opened in a tracer's own table."""

    has_events = False
    no_events = "single events are in each tracer's own table: Enter, then e"

    def finer(self, by: str) -> str:
        return _INTO

    def order_of(self, by: str) -> str:
        return ""


@dataclass
class _Subject:
    tracer: Tracer
    sheet: Sheet
    state: State


class TopView(TableView):
    """See `TableView`: which of the tracers is shown changes."""

    def __init__(self, tracers: Sequence[Tracer], asked: Attach, show: Show, context: Context, release: str) -> None:
        """Of pods at first."""
        overall = Overall(tracers)
        super().__init__(overall, asked, show, context, release)
        self._pipelines: Mapping[str, Pipeline] = {}
        self._at = 0
        sheet = _OverallSheet(overall, ["pod"], context)
        self._subjects = [_Subject(overall, sheet, self.state)]
        for tracer in tracers:
            own = Sheet(tracer, tracer.others(first_by(tracer)), context)
            self._subjects.append(_Subject(tracer, own, self._begun_state(own, (), "")))
        if self._live:
            self._sheet = sheet

    def shows(self, pipelines: Mapping[str, Pipeline]) -> None:
        """The tables, by their tracers' names. What was not attached is not shown."""
        self._pipelines = pipelines
        self._subjects = [self._subjects[0], *(one for one in self._subjects[1:] if one.tracer.name in pipelines)]

    def start_over(self, context: Context) -> None:
        """A replay begins again."""
        self._context = context
        for subject in self._subjects:
            subject.sheet.start_over(context)

    @property
    def traits(self) -> Sequence[str]:
        """Which keys work."""
        return (*super().traits, "several")

    def _begun_state(self, sheet: Sheet, where: Sequence[tuple[str, object]], crumb: str) -> State:
        by = "pod" if "pod" in sheet.groupings else sheet.groupings[0]
        if where and by == "pod":
            by = sheet.finer(by)
        level = Level(by, sheet.order_of(by), tuple(where), crumb)  # type: ignore[arg-type]  # of values
        now = self.state
        return State(
            (level,),
            wide=now.wide,
            paused=now.paused,
            interval_s=now.interval_s,
            speed=now.speed,
            searched=now.searched,
        )

    # Changing over.

    def _press(self, key: str) -> None:
        state = self.state
        if (
            key in ("escape", "backspace")
            and self._at
            and state.mode == "table"
            and len(state.levels) == 1
            and not state.level.filter
        ):
            self._change(0)
            return
        super()._press(key)
        level = self.state.level
        if level.by == _INTO:
            self.state = replace(self.state, levels=self.state.levels[:-1])
            if len(self._subjects) > 1:
                self._change(1, level.where, level.crumb)

    def _take_wish(self, wish: Wish) -> None:
        if wish.what != "tracer":
            super()._take_wish(wish)
            return
        base = self.state.levels[0]
        at = (self._at + wish.number) % len(self._subjects)
        self._change(at, base.where if at else (), base.crumb)

    def _change(self, at: int, where: Sequence[tuple[str, object]] = (), crumb: str = "") -> None:
        self._subjects[self._at].state = self.state
        before = self.state
        subject = self._subjects[at]
        state = subject.state
        if at and state.levels[0].where != tuple(where):
            state = self._begun_state(subject.sheet, where, crumb)
        self._at, self._tracer, self._sheet = at, subject.tracer, subject.sheet
        self.state = replace(
            state,
            wide=before.wide,
            paused=before.paused,
            interval_s=before.interval_s,
            speed=before.speed,
            wish=None,
            message="",
        )

    # Showing.

    def _draw(self, pipeline: Pipeline, tick: Tick) -> None:
        super()._draw(self._pipelines[self._tracer.name] if self._at else pipeline, tick)

    def _head(self, elapsed_s: float) -> list[Item]:
        names = " ".join(
            f"[{one.tracer.name}]" if at == self._at else one.tracer.name for at, one in enumerate(self._subjects)
        )
        return [
            ("kubetrace top", "title"),
            (names, "bold"),
            f"node {self._context.node}",
            f"Linux {self._release}",
            format_elapsed(elapsed_s),
        ]

    def _standing(self) -> str:
        return "events" if self.state.level.by == EVENTS else f"by {self.state.level.by}"

    def last(self, pipeline: Pipeline, tick: Tick) -> None:
        """The table of pods stays."""
        if self._at:
            self._change(0)
        super().last(pipeline, tick)

    def end(self, pipeline: Pipeline, tick: Tick) -> None:
        """The summary of each."""
        elapsed = format_elapsed(tick.elapsed_ns / 1e9)
        for subject in self._subjects[1:]:
            own = self._pipelines[subject.tracer.name]
            print(f"{subject.tracer.name}: {subject.tracer.summary_text(own.table.total())}")
        print(f"{elapsed}; {pipeline.counts.lost} lost, {pipeline.counts.unattributed} unattributed.")
        print_remedies(pipeline, sys.stdout)


def first_by(tracer: Tracer) -> str:
    """The grouping that a tracer is asked to begin with: the one that the overview reads."""
    return next((one.by for one in tracer.overview), next(iter(tracer.groupings)))
