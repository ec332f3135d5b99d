"""Options that several commands share, each declared once. Needs click; imports nothing else before it is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubetrace.errors import UsageError

if TYPE_CHECKING:
    from kubetrace.attribution.selection import Selection
    from kubetrace.kit.tracer import Tracer
    from kubetrace.session.options import Attach, Keep, Last, Show

OUTPUTS = ("table", "wide", "json", "csv", "windows")
HOOKS = ("auto", "fentry", "kprobe")
ENGINES = ("auto", "libbpf", "bcc")
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def selecting() -> list[click.Parameter]:
    """Whose events."""
    pattern = "NAME[,NAME...]"
    return [
        click.Option(
            ["-n", "--namespace"],
            multiple=True,
            metavar=pattern,
            help="Only these namespaces; '!NAME' leaves one out, * matches any text.",
        ),
        click.Option(["-p", "--pod"], multiple=True, metavar=pattern, help="Only these pods."),
        click.Option(["-c", "--container"], multiple=True, metavar=pattern, help="Only these containers."),
    ]


def showing(groupings: Sequence[str] = (), sorts: Sequence[str] = ()) -> list[click.Parameter]:
    """How they are shown; without names (several tracers) their own are told by errors."""
    by = f"  [default: {groupings[0]}]" if groupings else ""
    sort = f"{', '.join(sorts)}.  [default: {sorts[0]}]" if sorts else "Sort by this column of the table."
    return [
        click.Option(["--by"], metavar="|".join(groupings) or "GROUP", help=f"One row for each of these.{by}"),
        click.Option(["--sort"], metavar="COLUMN", help=sort),
        click.Option(
            ["--top"], type=click.IntRange(min=1), metavar="N", help="Show the first N rows.  [default: all that fit]"
        ),
        click.Option(
            ["-i", "--interval"],
            default="1",
            metavar="TIME",
            help="Time between refreshes, such as 500ms or 2s.  [default: 1s]",
        ),
        click.Option(["--events"], is_flag=True, help="Print a line for each event instead of a table."),
        click.Option(
            ["-o", "--output"],
            type=click.Choice(OUTPUTS),
            default="table",
            help="table and wide are for people; json and csv hold every event; windows are tables as JSON.  "
            "[default: table]",
        ),
        click.Option(["--no-headers"], is_flag=True, help="Leave out head, titles and foot."),
    ]


def lasting() -> list[click.Parameter]:
    """How long a live run lasts."""
    return [click.Option(["-d", "--duration"], metavar="TIME", help="End after this time.  [default: Ctrl-C]")]


def attaching() -> list[click.Parameter]:
    """How the kernel and the node are reached."""
    return [
        click.Option(
            ["--ready-file"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Create FILE once everything is attached (for scripts).",
        ),
        click.Option(
            ["--hook"],
            type=click.Choice(HOOKS),
            default="auto",
            help="How to attach.  [default: auto, whichever the kernel accepts]",
        ),
        click.Option(
            ["--engine"],
            type=click.Choice(ENGINES),
            default="auto",
            help="libbpf loads what was compiled before; bcc compiles here, where the kernel has no BTF.  "
            "[default: auto]",
        ),
        click.Option(
            ["--host-root"], metavar="DIR", help="Where the node's root is.  [default: /host in a debug pod, else /]"
        ),
        click.Option(["--cri-socket"], metavar="FILE", help="Ask the container runtime too (needs kubetrace[cri])."),
    ]


def costing() -> list[click.Parameter]:
    """Whether to tell what the tracer itself costs."""
    return [
        click.Option(
            ["--overhead"],
            is_flag=True,
            help="Show what the tracer's programs take of a core, as the kernel measures it (50 ns a run dearer).",
        )
    ]


def spanning() -> list[click.Parameter]:
    """--from and --to."""
    moment = "90s from its beginning, a local 18:02:03, or 2026-11-23T18:02:03Z."
    return [
        click.Option(["--from", "begin"], metavar="TIME", help=f"Leave out what was before: {moment}"),
        click.Option(["--to", "end"], metavar="TIME", help="Leave out what was after."),
    ]


def keeping() -> list[click.Parameter]:
    """What becomes of the recording's file."""
    return [
        click.Option(["--force"], is_flag=True, help="Replace the recording if it exists."),
        click.Option(
            ["--max-size"],
            metavar="SIZE",
            help="Go on in a new file when the recording is so large, such as 100Mi; one older is kept as FILE.1.",
        ),
    ]


def verbose() -> list[click.Parameter]:
    """-v behind the command's name, too."""
    return [click.Option(["-v", "--verbose"], is_flag=True, expose_value=False, help="Show what is behind an error.")]


def of_tracers(found: Iterable[Tracer]) -> list[click.Parameter]:
    """The tracers' own options, each name once."""
    own: dict[str, click.Parameter] = {}
    for tracer in found:
        for option in tracer.options():
            own.setdefault(str(option.name), option)
    return list(own.values())


def selected(given: Mapping[str, Any]) -> Selection:
    """What `selecting` came to. Raises UsageError."""
    from kubetrace.attribution.selection import Selection

    return Selection.parse(given["namespace"], given["pod"], given["container"])


def shown(tracer: Tracer, given: Mapping[str, Any]) -> Show:
    """What `showing` and `costing` came to. Raises UsageError."""
    from kubetrace.session.options import Show, check

    by, sort = check(tracer, given["by"], given["sort"])
    return Show(
        by=by,
        sort=sort,
        output=given["output"],
        events=given["events"],
        headers=not given["no_headers"],
        top=given["top"],
        interval_s=interval_s(given),
        overhead=given.get("overhead", False),
    )


def attached(given: Mapping[str, Any], own: Mapping[str, Any]) -> Attach:
    """What `selecting` and `attaching` came to; `own` are the tracers' own options. Raises UsageError."""
    from kubetrace.session.options import Attach

    return Attach(
        selection=selected(given),
        own=own,
        hook=given["hook"],
        engine=given["engine"],
        host_root=given["host_root"],
        cri_socket=given["cri_socket"],
    )


def kept(given: Mapping[str, Any]) -> Keep:
    """What --record and `keeping` came to. Raises UsageError."""
    from kubetrace.session.options import Keep

    return Keep(file=given["record"], force=given["force"], max_size=max_size(given))


def lasted(given: Mapping[str, Any]) -> Last:
    """What `lasting` came to. Raises UsageError."""
    from kubetrace.session.options import Last
    from kubetrace.views.units import parse_duration

    return Last(
        duration_s=parse_duration(given["duration"]) if given["duration"] else None,
        ready_file=given["ready_file"],
    )


def max_size(given: Mapping[str, Any]) -> int | None:
    """--max-size in bytes; raises UsageError."""
    if not given["max_size"]:
        return None
    from kubetrace.recording.writer import MIN_MAX_SIZE
    from kubetrace.views.units import format_bytes, parse_size

    size = parse_size(given["max_size"])
    if size < MIN_MAX_SIZE:
        raise UsageError(
            f"--max-size {given['max_size']} is too small for a recording.",
            do=f"--max-size {format_bytes(MIN_MAX_SIZE).replace(' ', '')}, or larger",
        )
    return size


def interval_s(given: Mapping[str, Any]) -> float:
    """--interval in seconds; raises UsageError."""
    from kubetrace.views.units import parse_duration

    found = parse_duration(given["interval"])
    if found < 0.1:
        raise UsageError(f"--interval {given['interval']} is too short to read.", do="--interval 100ms, or longer")
    return found
