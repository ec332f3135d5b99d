"""kubetrace export: a recording's events in a format that other tools read."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from kubetrace import options
from kubetrace.errors import OutputError, UsageError

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.clock import Wall
    from kubetrace.recording.reader import Recording
    from kubetrace.recording.redact import Redactor
    from kubetrace.replay import Span
    from kubetrace.selection import Selection
    from kubetrace.tracers import Tracer

_FORMATS = ("jsonl", "csv", "parquet", "perfetto")


class _Collect:
    """An EventView that keeps the objects of one step."""

    def __init__(self, tracer: Tracer, clock: Wall) -> None:
        self.found: list[tuple[dict[str, Any], Any]] = []
        self._tracer = tracer
        self.clock = clock

    def event(self, event: Any, identity: Identity) -> None:
        self.found.append((self._tracer.record(event, identity, self.clock), event))

    def lost(self, losses: Mapping[str, int], wall_ns: int) -> None:
        from kubetrace.views.units import format_time

        record = {"type": "lost", "time": format_time(wall_ns), "node": self.clock.node, "tracer": self._tracer.name}
        self.found.append(({**record, "lost": sum(losses.values()), **losses}, None))

    def flush(self) -> None:
        pass


class Events:
    """The events of a recording as JSON objects, as often as they are asked for; in bounded memory."""

    def __init__(
        self, recording: Recording, names: Sequence[str], selection: Selection, span: Span, redactor: Redactor | None
    ) -> None:
        """Raises RecordingError and UsageError as replay does. `names`: of tracers; none means all."""
        from kubetrace.replay import clock_of, selection_of, traced

        self.lost = 0
        """Events that the recording lacks, as far as it was read."""
        self.redactor = redactor
        self._recording = recording
        self._span = span
        self._clock = clock_of(recording)
        held = list(names) or [item.name for item in recording.header.tracers]
        self._traced = [
            (tracer, selection_of(found, selection)) for tracer, found in (traced(recording, name) for name in held)
        ]

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Any]]:
        """(object, event) in order; for a loss the event is None."""
        from kubetrace.pipeline import Pipeline
        from kubetrace.replay import clock_of

        losses: dict[str, Mapping[str, int]] = {}
        collected = [_Collect(tracer, clock_of(self._recording)) for tracer, _ in self._traced]
        pipelines = [
            Pipeline(tracer, self._recording.layouts, collect.clock, selection, events=collect)
            for (tracer, selection), collect in zip(self._traced, collected, strict=True)
        ]
        for step in self._span.cut(self._recording.steps(self._span.begin_ns)):
            losses.update(step.losses)
            for pipeline in pipelines:
                pipeline.take(step)
            found = [item for collect in collected for item in collect.found]
            if len(collected) > 1:
                found.sort(key=lambda item: item[1].time if item[1] is not None else 1 << 64)
            for collect in collected:
                collect.found.clear()
            self.lost = sum(sum(kinds.values()) for kinds in losses.values())
            for record, event in found:
                yield (self.redactor.record(record) if self.redactor is not None else record), event

    def wall(self) -> Iterator[dict[str, Any]]:
        """Events only, with `time` as nanoseconds since 1970."""
        for record, event in self:
            if event is not None:
                yield {**record, "time": self._clock.wall_ns(event.time)}


def _jsonl(events: Events, stream: TextIO, recording: Recording) -> None:
    from kubetrace.views.json import JsonLines

    lines = JsonLines(stream)
    for record, _ in events:
        lines.write(record)
    lines.flush()


def _csv(events: Events, stream: TextIO, recording: Recording) -> None:
    from kubetrace.views.columns import Column
    from kubetrace.views.csv import CsvLines

    if hasattr(stream, "reconfigure"):
        stream.reconfigure(newline="")
    lines: CsvLines | None = None
    keys: list[str] = []
    for record in events.wall():
        if lines is None:
            keys = list(record)
            columns = [Column(key, key.upper(), "time" if key == "time" else "name") for key in keys]
            lines = CsvLines(stream, columns)
        if list(record) != keys:
            raise UsageError("a CSV file has the columns of one tracer.", do="name the tracer, or --format jsonl")
        lines.write([_cell(value) for value in record.values()])
    if lines is not None:
        lines.flush()


def _cell(value: Any) -> Any:
    return ("false", "true")[value] if isinstance(value, bool) else value


def _perfetto(events: Events, stream: TextIO, recording: Recording) -> None:
    from kubetrace.recording.perfetto import PerfettoTrace

    header = recording.header
    about = {"node": header.node, "kernel": header.kernel, "clock_offset_ns": header.clock_offset_ns}
    trace = PerfettoTrace(stream, events.redactor.record(about) if events.redactor is not None else about)
    for record, event in events:
        if event is not None:
            trace.event(record, event.time)
    trace.close(events.lost)


_WRITERS: dict[str, Callable[[Events, TextIO, Recording], None]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "perfetto": _perfetto,
}


@contextlib.contextmanager
def _opened(out: Path | None, force: bool) -> Iterator[TextIO]:
    if out is None or str(out) == "-":
        yield sys.stdout
        return
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        stream = open(os.open(out, flags, 0o600), "w", encoding="utf-8", newline="\n")  # noqa: SIM115
    except FileExistsError:
        raise UsageError(f"{out} exists.", do="another -o OUT, or --force to replace it") from None
    except OSError as error:
        raise OutputError(f"cannot create {out}: {error.strerror}.") from error
    try:
        with stream:
            yield stream
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}.") from error


def _run(file: Path, names: tuple[str, ...], **given: Any) -> None:
    from kubetrace.recording import parquet
    from kubetrace.recording.reader import Recording
    from kubetrace.recording.redact import Redactor
    from kubetrace.replay import span_of, warn
    from kubetrace.selection import Selection

    redactor = None
    if given["redact"] or given["redact_key"]:
        redactor = Redactor(given["redact_key"])
    with Recording(file) as recording:
        events = Events(
            recording,
            names,
            Selection.parse(given["namespace"], given["pod"], given["container"]),
            span_of(recording, given["begin"], given["end"]),
            redactor,
        )
        out: Path | None = given["out"]
        if given["format"] == "parquet":
            if out is None:
                raise UsageError("Parquet is not for a terminal.", do="-o FILE.parquet")
            if out.exists() and not given["force"]:
                raise UsageError(f"{out} exists.", do="another -o OUT, or --force to replace it")
            parquet.write(out, parquet.schema_of(events.wall()), events.wall())
        else:
            with _opened(out, given["force"]) as stream:
                _WRITERS[given["format"]](events, stream, recording)
        if events.lost:
            click.echo(f"kubetrace: {events.lost} events were lost when it was recorded", err=True)
        warn(recording, whole=given["end"] is None)


_HELP = """Turn the recording FILE into a format that other tools read.

jsonl holds the objects that -o json prints live (pandas, DuckDB, jq); csv and parquet a column for each of their keys;
perfetto a timeline with a group for each pod: open it at https://ui.perfetto.dev (the file stays in your browser).

--redact replaces the names of nodes, namespaces, pods, containers, images, threads and files by tokens (equal names
have equal ones), so that the result can be shared. Numbers, times and the depth of paths stay.

\b
Examples:
  kubetrace export node.ktrace --format jsonl | jq .path
  kubetrace export node.ktrace --format perfetto -o node.json
  kubetrace export node.ktrace --format parquet -o node.parquet --redact
"""


def _command() -> click.Command:
    from kubetrace.replay import spanning

    params: list[click.Parameter] = [
        click.Argument(["file"], type=click.Path(path_type=Path)),
        click.Argument(["names"], nargs=-1, metavar="[TRACER...]"),
        click.Option(["--format"], type=click.Choice(_FORMATS), required=True, help="What to write."),
        click.Option(
            ["-o", "out"], type=click.Path(path_type=Path), metavar="OUT", help="Write to OUT.  [default: stdout]"
        ),
        click.Option(["--force"], is_flag=True, help="Replace OUT if it exists."),
        click.Option(["--redact"], is_flag=True, help="Replace names and paths by tokens, others in each export."),
        click.Option(
            ["--redact-key"], metavar="TEXT", help="Redact with the same tokens wherever TEXT is the same (a secret)."
        ),
        *options.selecting(),
        *spanning(),
        *options.verbose(),
    ]
    return click.Command("export", params=params, callback=_run, help=_HELP, context_settings=options.SETTINGS)


command = _command()
