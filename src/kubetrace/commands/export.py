"""kubetrace export: a recording's events in a format that other tools read."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import click

from kubetrace.commands import complete, options
from kubetrace.errors import OutputError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

_FORMATS = ("json", "csv", "parquet", "perfetto")
# How a file's name ends -> what is written to it; a longer ending goes first.
_ENDINGS = {
    ".perfetto.json": "perfetto",
    ".perfetto": "perfetto",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}


@contextlib.contextmanager
def _opened(out: Path | None, force: bool) -> Iterator[TextIO]:
    from kubetrace.recording.private import create

    if out is None or str(out) == "-":
        yield sys.stdout
        return
    stream = open(create(out, force=force), "w", encoding="utf-8", newline="\n")  # noqa: SIM115
    try:
        with stream:
            yield stream
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}.") from error


@contextlib.contextmanager
def _opened_binary(out: Path | None, force: bool) -> Iterator[BinaryIO]:
    from kubetrace.recording.private import create

    if out is not None and str(out) != "-":
        with open(create(out, force=force), "wb") as stream:
            yield stream
    elif sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal.", do="--output FILE.parquet")
    else:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()


def _format(given: str | None, out: Path | None) -> str:
    if given is not None:
        return given
    name = out.name.lower() if out is not None else ""
    found = next((kind for ending, kind in _ENDINGS.items() if name.endswith(ending)), None)
    if found is None:
        raise UsageError(
            f"the format is not told by {out}." if out is not None else "which format?",
            why=f"A file's name tells it by its end: {', '.join(_ENDINGS)}.",
            do=f"--format {'|'.join(_FORMATS)}",
        )
    return found


def _run(file: Path, names: tuple[str, ...], **given: Any) -> None:
    from kubetrace.recording import parquet
    from kubetrace.recording.flat import schema_of
    from kubetrace.recording.reader import Recording
    from kubetrace.recording.redact import Redactor
    from kubetrace.session.export import WRITERS, Events
    from kubetrace.session.replay import span_of, warn

    out: Path | None = given["output"]
    form = _format(given["format"], out)
    redactor = None
    if given["redact"] or given["redact_key"]:
        redactor = Redactor(given["redact_key"])
    with Recording(file) as recording:
        events = Events(
            recording,
            names,
            options.selected(given),
            span_of(recording, given["begin"], given["end"]),
            redactor,
        )
        if form == "parquet":
            parquet.needed()
            with _opened_binary(out, given["force"]) as binary:
                parquet.write(binary, schema_of(events.flat()), events.flat())
        else:
            with _opened(out, given["force"]) as stream:
                WRITERS[form](events, stream, recording)
        if events.lost:
            click.echo(f"kubetrace: {events.lost} events were lost when it was recorded", err=True)
        warn(recording, whole=given["end"] is None)
    options.lost(given, events.lost)


_HELP = """Turn the recording FILE into a format that other tools read.

json holds the objects that -o json prints live, one a line (pandas, DuckDB, jq); csv and parquet a column for each of
their keys; perfetto a timeline with a group for each pod: open it at https://ui.perfetto.dev (the file stays in your
browser).

--redact replaces the names of nodes, namespaces, pods, containers, images, threads and files by tokens (equal names
have equal ones), so that the result can be shared. Numbers, times and the depth of paths stay.

\b
Examples:
  kubetrace export node.ktrace --format json | jq .path
  kubetrace export node.ktrace -o node.perfetto.json
  kubetrace export node.ktrace -o node.parquet --redact
"""


def _command() -> click.Command:
    params: list[click.Parameter] = [
        click.Argument(["file"], type=options.File()),
        click.Argument(["names"], nargs=-1, metavar="[TRACER...]", shell_complete=complete.recorded),
        click.Option(
            ["--format"],
            type=options.OneOf(_FORMATS, also={"jsonl": "json"}),
            metavar="|".join(_FORMATS),
            help=f"What to write.  [default: by the end of OUT's name, {', '.join(_ENDINGS)}]",
        ),
        click.Option(
            ["-o", "--output"],
            type=options.File(),
            metavar="OUT",
            help="Write to the file OUT.  [default: -, which is stdout]",
        ),
        click.Option(["--force"], is_flag=True, help="Replace OUT if it exists."),
        click.Option(["--redact"], is_flag=True, help="Replace names and paths by tokens, others in each export."),
        click.Option(
            ["--redact-key"],
            metavar="TEXT",
            help="Redact with the same tokens wherever TEXT is the same (a secret).  [default: another in each export]",
        ),
        *options.selecting(),
        *options.spanning(),
        *options.strict(),
        *options.verbose(),
    ]
    return click.Command("export", params=params, callback=_run, help=_HELP, context_settings=options.SETTINGS)


command = _command()
