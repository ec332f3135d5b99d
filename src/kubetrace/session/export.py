"""A recording's events as objects, and these in the formats that other tools read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from kubetrace.attribution.selection import Both, Selection
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Tracer
    from kubetrace.pipeline import Pipeline
    from kubetrace.recording.header import Traced
    from kubetrace.recording.reader import Recording
    from kubetrace.recording.redact import Redactor
    from kubetrace.session.replay import Span
    from kubetrace.stream.steps import Step, Tick


class _Collect:
    """An EventView that keeps the objects of one step, each with the boot time that it tells of; None: a loss."""

    def __init__(self, tracer: Tracer, context: Context) -> None:
        self.found: list[tuple[dict[str, Any], int | None]] = []
        self.tracer = tracer
        self.context = context

    def event(self, event: Any, of: Any) -> None:
        self.found.append((self.tracer.record(event, of, self.context), event.time))

    def lost(self, losses: Mapping[str, int], wall_ns: int) -> None:
        from kubetrace.views.units import format_time

        record = {"type": "lost", "time": format_time(wall_ns), "node": self.context.node, "tracer": self.tracer.name}
        self.found.append(({**record, "lost": sum(losses.values()), **losses}, None))

    def flush(self) -> None:
        pass


class _Rows:
    """Of a tracer that counts in the kernel: its rows, once a second and at the end, as they are printed live."""

    def __init__(self, pipeline: Pipeline, collect: _Collect) -> None:
        from kubetrace.session.loop import Pace

        self._pipeline, self._collect = pipeline, collect
        self._pace = Pace(1.0)
        self._tick: Tick | None = None

    def take(self, step: Step, *, more: bool) -> None:
        if step.tick is not None:
            self._tick = step.tick
            if more and self._pace.due(step.tick, self._pipeline.counts.events):
                self._tell(step.tick, last=False)

    def end(self) -> None:
        if self._tick is not None:
            self._tell(self._tick, last=True)

    def _tell(self, tick: Tick, *, last: bool) -> None:
        table, context = self._pipeline.table, self._collect.context
        if not table.tells_rows:
            return
        table.tick(tick.elapsed_ns)
        time_ns = tick.wall_ns - context.wall_ns(0)
        for record in table.records(last=last, wall_ns=tick.wall_ns):
            self._collect.found.append((record, time_ns))


class Events:
    """The events of a recording as JSON objects, as often as they are asked for; in bounded memory."""

    def __init__(
        self, recording: Recording, names: Sequence[str], selection: Selection, span: Span, redactor: Redactor | None
    ) -> None:
        """Raises RecordingError and UsageError as replay does. `names`: of tracers; none means all."""
        from kubetrace.session.replay import context_of, selection_of, traced

        self.lost = 0
        """Events that the recording lacks, as far as it was read."""
        self.redactor = redactor
        self._recording = recording
        self._span = span
        self._context = context_of(recording, selection)
        held = list(names) or [item.name for item in recording.header.tracers]
        self._traced = [
            (tracer, found, selection_of(found, selection))
            for tracer, found in (traced(recording, name) for name in held)
        ]

    def _pipeline(self, tracer: Tracer, found: Traced, selection: Selection | Both) -> tuple[Pipeline, _Collect, _Rows]:
        from kubetrace.pipeline import Pipeline
        from kubetrace.session.replay import context_of

        tracer = tracer.as_recorded(found.options)
        collect = _Collect(tracer, context_of(self._recording, selection))
        pipeline = Pipeline(
            tracer,
            self._recording.layouts,
            collect.context,
            events=collect,
            missing=found.missing,
        )
        return pipeline, collect, _Rows(pipeline, collect)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], int | None]]:
        """(object, nanoseconds of CLOCK_BOOTTIME) in order; for a loss the time is None."""
        from kubetrace.session.replay import with_more

        losses: dict[str, Mapping[str, int]] = {}
        runs = [self._pipeline(*of) for of in self._traced]
        pipelines = [pipeline for pipeline, _, _ in runs]

        def before(step: Step) -> None:
            losses.update(step.losses)
            for pipeline in pipelines:
                pipeline.before(step)

        begun = self._recording.steps(self._span.records_from(*pipelines))
        for step, more in with_more(self._span.cut(begun, before)):
            losses.update(step.losses)
            for pipeline, _, rows in runs:
                pipeline.take(step)
                rows.take(step, more=more)
            self.lost = sum(sum(kinds.values()) for kinds in losses.values())
            yield from self._collected([collect for _, collect, _ in runs])
        for _, _, rows in runs:
            rows.end()
        yield from self._collected([collect for _, collect, _ in runs])

    def _collected(self, all_of: Sequence[_Collect]) -> Iterator[tuple[dict[str, Any], int | None]]:
        found = [(record, time_ns, collect.tracer) for collect in all_of for record, time_ns in collect.found]
        if len(all_of) > 1:
            found.sort(key=lambda item: item[1] if item[1] is not None else 1 << 64)
        for collect in all_of:
            collect.found.clear()
        for record, time_ns, tracer in found:
            yield (self.redactor.record(record, tracer.ours) if self.redactor is not None else record), time_ns

    def flat(self) -> Iterator[dict[str, Any]]:
        """Events only, of one column for each key: `time` as nanoseconds since 1970, objects as OBJECT_KEY."""
        from kubetrace.recording.flat import flattened

        for record, time_ns in self:
            if time_ns is not None:
                yield flattened({**record, "time": self._context.wall_ns(time_ns)})


def _jsonl(events: Events, stream: TextIO, recording: Recording) -> None:
    from kubetrace.views.json import JsonLines

    lines = JsonLines(stream)
    for record, _ in events:
        lines.write(record)
    lines.flush()


def _csv(events: Events, stream: TextIO, recording: Recording) -> None:
    from kubetrace.recording.flat import schema_of
    from kubetrace.views.columns import Column
    from kubetrace.views.csv import CsvLines

    if hasattr(stream, "reconfigure"):
        stream.reconfigure(newline="")
    # Read twice: each kind of event has values of its own, and the columns are those of all.
    keys = list(schema_of(events.flat()))
    lines = CsvLines(stream, [Column(key, key.upper(), "time" if key == "time" else "name") for key in keys])
    for record in events.flat():
        lines.write([_cell(record.get(key)) for key in keys])
    if keys:
        lines.flush()


def _cell(value: Any) -> Any:
    return ("false", "true")[value] if isinstance(value, bool) else value


def _perfetto(events: Events, stream: TextIO, recording: Recording) -> None:
    from kubetrace.recording.perfetto import PerfettoTrace

    header = recording.header
    about = {"node": header.node, "kernel": header.kernel, "clock_offset_ns": header.clock_offset_ns}
    trace = PerfettoTrace(stream, events.redactor.record(about) if events.redactor is not None else about)
    for record, time_ns in events:
        if time_ns is not None:
            trace.event(record, time_ns)
    trace.close(events.lost)


WRITERS: dict[str, Callable[[Events, TextIO, Recording], None]] = {
    "json": _jsonl,
    "csv": _csv,
    "perfetto": _perfetto,
}
