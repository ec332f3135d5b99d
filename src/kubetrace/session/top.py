"""One run of several tracers in one process, shown as one table of pods (session/top_view.py)."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubetrace.errors import KubetraceError, RecordingError
from kubetrace.pipeline import Pipeline
from kubetrace.recording.private import refuse_parts, touch
from kubetrace.session.attach import Attachment
from kubetrace.session.loop import shown
from kubetrace.session.options import WINDOWS
from kubetrace.session.overall import Overall, Together
from kubetrace.session.recorded import recorded, recorder_of, warning
from kubetrace.session.stop import Stop
from kubetrace.session.top_view import TopView, first_by
from kubetrace.session.top_windows import TopWindows
from kubetrace.stream.steps import stream_key
from kubetrace.views.output import Reader

if TYPE_CHECKING:
    from pathlib import Path

    from kubetrace.attribution.facts import Fact
    from kubetrace.attribution.selection import Selection
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Tracer
    from kubetrace.pipeline import Asked
    from kubetrace.session.options import Attach, Keep, Last, Show
    from kubetrace.session.replay import How
    from kubetrace.stream.layout import Layout
    from kubetrace.stream.steps import Step


class Joint:
    """Several pipelines that share what is known of the node; each takes every step."""

    def __init__(
        self,
        tracers: Sequence[Tracer],
        layouts: Mapping[str, Layout],
        context: Context,
        *,
        recent: int,
        own: Mapping[str, Any],
        missing: Mapping[str, Sequence[str]],
        asked: Asked | None = None,
        record: Callable[[Step], None] | None = None,
        rated: bool = False,
    ) -> None:
        """`missing`: of each tracer what is not seen; `rated` as for `overall.Overall`.

        The other words are those of `pipeline.Pipeline`.
        """
        self._context = context
        self._record = record
        self._completed: list[Fact] = []
        self.pipelines = {
            tracer.name: Pipeline(
                tracer,
                layouts,
                context,
                groupings=tracer.others(first_by(tracer)) if recent else [*{one.by for one in tracer.overview}],
                asked=asked,
                record=self._complete if record is not None else None,
                by=first_by(tracer),
                own=own,
                missing=missing[tracer.name],
                recent=recent,
                learn=self._learn,
            )
            for tracer in tracers
        }
        self.together = Together(Overall(tracers, rated=rated), self.pipelines)

    def _learn(self, facts: Sequence[Fact]) -> None:
        self._context.attribution.learn(facts)
        for pipeline in self.pipelines.values():
            pipeline.table.learn(facts)

    def _complete(self, step: Step) -> None:
        # what one of them has asked for more; its own facts were none
        self._completed += step.facts

    @property
    def needs_all(self) -> bool:
        """Whether one of them needs the records of what was before."""
        return any(pipeline.needs_all for pipeline in self.pipelines.values())

    @property
    def shown(self) -> Any:
        """The table of all."""
        return self.together

    def before(self, step: Step) -> None:
        """Learn from a step that is before what is asked for."""
        self._learn(step.facts)
        for pipeline in self.pipelines.values():
            pipeline.before(replace(step, facts=()))

    def take(self, step: Step) -> None:
        """Count a step: its facts are learned once. It is recorded with what was asked for more."""
        self._learn(step.facts)
        for pipeline in self.pipelines.values():
            pipeline.take(replace(step, facts=()))
        if self._record is not None:
            self._record(replace(step, facts=[*step.facts, *self._completed]) if self._completed else step)
            self._completed = []


def run(tracers: Sequence[Tracer], asked: Attach, show: Show, keep: Keep, last: Last) -> int:
    """Trace until the duration is over or the user ends it; how many events were lost. Raises KubetraceError.

    A tracer that cannot be attached here is left out, and it is said why.
    """
    gc.disable()
    attachment = Attachment(tracers, asked)
    if keep.file is not None:
        refuse_parts(keep.file, rotated=keep.max_size is not None, force=keep.force)
    reader = Reader(sys.stdout)
    notices: list[str] = []

    def without(tracer: Tracer, error: KubetraceError) -> None:
        notices.append(f"without {tracer.name}: {error.what}")

    with Stop() as stop:
        with attachment:
            attachment.attach(["kubetrace.stream.live", "kubetrace.node.survey"], without=without)
            view = _view(attachment.tracers, asked, show, attachment.context, attachment.host.kernel_release())
            for tracer in attachment.tracers:
                notices += [f"{tracer.name}: {notice}" for notice in attachment.notices(tracer)]
            with contextlib.ExitStack() as stack:
                stack.enter_context(view.open())
                source = attachment.open(interval_s=show.interval_s)
                recorder = recorder_of(attachment, keep)
                if recorder is not None:
                    stack.callback(recorder.close)
                joint = Joint(
                    attachment.tracers,
                    source.layouts,
                    attachment.context,
                    recent=view.recent,
                    own=asked.own,
                    missing={tracer.name: attachment.missing(tracer) for tracer in attachment.tracers},
                    asked=source,
                    record=recorder.write if recorder is not None else None,
                    rated=show.output == WINDOWS,
                )
                view.shows(joint.pipelines)
                source.start()
                if last.ready_file is not None:
                    touch(last.ready_file)
                view.attached("", notices)
                each = warning(view, recorder)
                tick = shown(source, joint.take, joint.together, view, show, last, stop, reader, each=each)
        view.end(joint.together, tick)  # type: ignore[arg-type]  # what the views ask of a pipeline, it has
        if recorder is not None:
            print(recorded(recorder), file=sys.stderr)
    return joint.together.counts.lost


def _view(tracers: Sequence[Tracer], asked: Attach, show: Show, context: Context, release: str) -> TopView | TopWindows:
    kind = TopWindows if show.output == WINDOWS else TopView
    return kind(tracers, asked, show, context, release)


def replay(file: Path, selection: Selection, show: Show, how: How) -> int:
    """Show a recording of several tracers; how many events were lost. Raises KubetraceError."""
    from kubetrace.recording.reader import Recording
    from kubetrace.session.options import Attach, own_defaults
    from kubetrace.session.replay import _PATIENCE_S, Play, context_of, selection_of, traced

    with Recording(file) as recording, Stop(_PATIENCE_S) as stop:
        chosen = [traced(recording, item.name) for item in recording.header.tracers]
        if not any(tracer.overview for tracer, _ in chosen):
            held = " and ".join(tracer.name for tracer, _ in chosen) or "no tracer"
            raise RecordingError(
                f"{recording.path} holds {held}, which top does not show.", do=f"kubetrace replay {recording.path}"
            )
        own = {name: value for tracer, _ in chosen for name, value in own_defaults(tracer).items()}
        found = chosen[0][1]
        asked = Attach(selection_of(found, selection), own)
        tracers = [tracer.with_options(own) for tracer, _ in chosen]
        span = how.span(recording)
        context = context_of(recording, asked.selection)
        view = _view(tracers, asked, show, context, recording.header.kernel)
        view.unmatched = "no container matches {} so far"
        view.pause_notice = "paused: space goes on"

        def assemble(context: Context) -> Joint:
            missing = {item.name: item.missing for item in recording.header.tracers}
            joint = Joint(
                tracers,
                recording.layouts,
                context,
                recent=view.recent,
                own=own,
                missing=missing,
                rated=show.output == WINDOWS,
            )
            view.shows(joint.pipelines)
            return joint

        streams = [stream_key(tracer.name, stream) for tracer in tracers for stream in tracer.streams]
        play = Play(recording, assemble, lambda: context_of(recording, asked.selection), streams, view, how, span, stop)
        return play.to_the_end(context, "", [])
