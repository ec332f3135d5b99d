"""kubetrace export: a recording's events in a format that other tools read."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import click

from kubetrace.commands import options
from kubetrace.errors import OutputError, UsageError

_FORMATS = ("jsonl", "csv", "parquet", "perfetto")


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
        raise UsageError("Parquet is not for a terminal.", do="-o FILE.parquet")
    else:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()


def _run(file: Path, names: tuple[str, ...], **given: Any) -> None:
    from kubetrace.recording import parquet
    from kubetrace.recording.flat import schema_of
    from kubetrace.recording.reader import Recording
    from kubetrace.recording.redact import Redactor
    from kubetrace.session.export import WRITERS, Events
    from kubetrace.session.replay import span_of, warn

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
        out: Path | None = given["out"]
        if given["format"] == "parquet":
            parquet.needed()
            with _opened_binary(out, given["force"]) as binary:
                parquet.write(binary, schema_of(events.flat()), events.flat())
        else:
            with _opened(out, given["force"]) as stream:
                WRITERS[given["format"]](events, stream, recording)
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
        *options.spanning(),
        *options.verbose(),
    ]
    return click.Command("export", params=params, callback=_run, help=_HELP, context_settings=options.SETTINGS)


command = _command()
