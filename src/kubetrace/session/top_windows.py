"""top -o json-tables: the table of pods at each interval as one object, and what each tracer says at the end.

{"type": "window", "tracer": "top", ...}                as session/window_view.py; keys of columns are TRACER.KEY,
                                                            and `badness` is what WORST sorts by
{"type": "summary", "tracer": "top", "node", "events", "lost", "unattributed", "texts": {tracer: text}, "remedies"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kubetrace.session.overall import Overall
from kubetrace.session.view import short_name
from kubetrace.session.window_view import WindowView

if TYPE_CHECKING:
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Tracer
    from kubetrace.pipeline import Pipeline
    from kubetrace.session.options import Attach, Show
    from kubetrace.stream.steps import Tick


class TopWindows(WindowView):
    """Windows of pods as JSON Lines on stdout."""

    def __init__(self, tracers: Sequence[Tracer], asked: Attach, show: Show, context: Context, release: str) -> None:
        """Of what these tracers have to say of a pod."""
        super().__init__(Overall(tracers, rated=True), asked, show, context, release)
        self._tracers = {tracer.name: tracer for tracer in tracers}
        self._pipelines: Mapping[str, Pipeline] = {}

    def shows(self, pipelines: Mapping[str, Pipeline]) -> None:
        """The tables, by their tracers' names."""
        self._pipelines = pipelines

    def end(self, pipeline: Pipeline, tick: Tick) -> None:
        """The summary's object."""
        counts = pipeline.counts
        self._json.write(
            {
                "type": "summary",
                "node": self._context.node,
                "tracer": self._tracer.name,
                "events": counts.events - counts.folded,
                "lost": counts.lost,
                "unattributed": counts.unattributed,
                "texts": {
                    name: self._tracers[name].summary_text(one.table.total()) for name, one in self._pipelines.items()
                },
                "remedies": [remedy.text(short_name) for remedy in pipeline.table.remedies()[1]],
            }
        )
        self._json.flush()
