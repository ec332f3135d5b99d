"""Options that several commands share, each declared once. Needs click; imports nothing else before it is used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from kubetrace.commands import complete
from kubetrace.errors import UsageError, no_such

if TYPE_CHECKING:
    from kubetrace.attribution.selection import Selection
    from kubetrace.kit.tracer import Tracer
    from kubetrace.session.options import Attach, Keep, Last, Show
    from kubetrace.views.columns import Chosen

OUTPUTS = ("table", "wide", "json", "yaml", "csv", "json-tables")
HOOKS = ("auto", "fentry", "kprobe", "none")
ENGINES = ("auto", "libbpf", "bcc")
COLOURS = {"auto": None, "always": True, "never": False}
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_JSONPATH = "jsonpath="
# session.table_view.PIPE_ROWS; a unit test holds them together: this file imports nothing for --help
_PIPE_ROWS = 20


class OneOf(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2
    """A choice that has other names for some of what it offers, and says what may have been meant."""

    def __init__(
        self,
        choices: Sequence[str],
        *,
        also: Mapping[str, str] | None = None,
        elsewhere: Mapping[str, tuple[str, str]] | None = None,
        templates: bool = False,
    ) -> None:
        """`also`: another name -> the choice; `elsewhere`: a word -> (why it is not here, what to do)."""
        super().__init__(choices)
        self._also, self._elsewhere, self._templates = also or {}, elsewhere or {}, templates

    @property
    def shown(self) -> str:
        """For an option's metavar."""
        return "|".join([*self.choices, *([f"{_JSONPATH}TEMPLATE"] if self._templates else [])])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The choice. Raises UsageError."""
        name = self._also.get(value, value)
        if name in self.choices or (self._templates and name.startswith(_JSONPATH)):
            return name
        option = param.opts[-1] if isinstance(param, click.Option) else ""
        word = name.partition("=")[0]
        if word in self._elsewhere:
            why, do = self._elsewhere[word]
            raise UsageError(f"there is no {option} {word} here.", why=why, do=do)
        what = f"{option} cannot be {value!r}" if option else f"{value!r} is none of {', '.join(self.choices)}"
        raise no_such(what, value, list(self.choices), option=option)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """The choices, and how a template begins."""
        found = super().shell_complete(ctx, param, incomplete)
        if self._templates and _JSONPATH.startswith(incomplete):
            from click.shell_completion import CompletionItem

            found.append(CompletionItem(_JSONPATH))
        return found


class File(click.Path):
    """A click.Path whose value is a pathlib.Path; imported when there is one."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, whether it is there or not."""
        from pathlib import Path

        return Path(os.fsdecode(super().convert(value, param, ctx)))


class _Top(click.IntRange):
    """A number of rows, or `all`, which is 0."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        return 0 if value == "all" else super().convert(value, param, ctx)


class _Directory(click.Path):
    """A click.Path that completes directories; whether it is one is said by who opens it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As it is."""
        return value


def output(choices: Sequence[str], text: str, *, elsewhere: Mapping[str, tuple[str, str]]) -> click.Option:
    """-o of a command: one of these, the first by default, or a template."""
    kind = OneOf(choices, also={"jsonl": "json", "windows": "json-tables"}, elsewhere=elsewhere, templates=True)
    return click.Option(
        ["-o", "--output"],
        type=kind,
        default=choices[0],
        metavar=kind.shown,
        help=f"{text}  [default: {choices[0]}]",
    )


def selecting() -> list[click.Parameter]:
    """Whose events."""
    pattern = "NAME[,NAME...]"
    return [
        click.Option(["-A", "--all-namespaces"], is_flag=True, help="Every namespace, which is the default."),
        click.Option(
            ["-n", "--namespace"],
            multiple=True,
            metavar=pattern,
            shell_complete=complete.namespaces,
            help="Only these namespaces; '!NAME' leaves one out, * matches any text.  [default: all]",
        ),
        click.Option(
            ["-p", "--pod"],
            multiple=True,
            metavar=pattern,
            shell_complete=complete.pods,
            help="Only these pods.  [default: all]",
        ),
        click.Option(
            ["-c", "--container"],
            multiple=True,
            metavar=pattern,
            shell_complete=complete.containers,
            help="Only these containers.  [default: all]",
        ),
        click.Option(
            ["-l", "--selector"],
            metavar="LABELS",
            help="Only pods with these labels, such as app=web or 'tier in (a,b)' (of containerd).  [default: all]",
        ),
    ]


def showing(tracer: Tracer | None = None) -> list[click.Parameter]:
    """How they are shown; without a tracer (there are several) its own names are told by errors."""
    groupings = list(tracer.groupings) if tracer is not None else []
    by = f"  [default: {groupings[0] if groupings else 'the first of the tracer'}]"
    first = next(iter(tracer.sorts)) if tracer is not None else "the first of the tracer"
    sorts = f": {', '.join(tracer.sorts)}, or any head" if tracer is not None else ""

    return [
        click.Option(
            ["--by"],
            metavar="|".join(groupings) or "GROUP",
            shell_complete=complete.groupings(tracer),
            help=f"One row for each of these.{by}",
        ),
        click.Option(
            ["--sort"],
            metavar="COLUMN",
            shell_complete=complete.heads(tracer, signs="+-"),
            help=f"Sort by a column of the table{sorts}. Numbers begin with the largest, names with a; "
            f"-COLUMN: the largest or z first, +COLUMN: the smallest or a.  [default: {first}]",
        ),
        click.Option(
            ["--columns"],
            metavar="COLUMN[,COLUMN...]",
            shell_complete=complete.heads(tracer, signs="+", lists=True),
            help="Only these columns of a table, of --events or of CSV; +COLUMN adds one to the usual ones.  "
            "[default: the usual ones]",
        ),
        click.Option(
            ["--top"],
            type=_Top(min=1),
            metavar="N|all",
            help=f"Show the first N rows; all: the last table on a pipe has every row.  [default: all that fit a "
            f"terminal, {_PIPE_ROWS} elsewhere]",
        ),
        refreshing(),
        click.Option(["--events"], is_flag=True, help="Print a line for each event instead of a table."),
        output(
            OUTPUTS,
            "table and wide are for people; json, yaml and csv hold every event, jsonpath= what kubectl's template "
            "makes of each; json-tables is each interval's table as a JSON object.",
            elsewhere={
                "name": ("Events are not objects of the cluster: kubetrace who has them.", "-o jsonpath='{.pod}'")
            },
        ),
        click.Option(["--no-headers"], is_flag=True, help="Leave out head, titles and foot."),
        click.Option(
            ["--color"],
            type=OneOf(list(COLOURS)),
            default="auto",
            metavar="|".join(COLOURS),
            help="Colours of the table: auto on a terminal without NO_COLOR.  [default: auto]",
        ),
    ]


def strict() -> list[click.Parameter]:
    """--strict."""
    return [click.Option(["--strict"], is_flag=True, help="Exit with status 3 where events were lost.")]


def refreshing() -> click.Option:
    """How often what is shown is looked at again."""
    return click.Option(
        ["-i", "--interval"],
        default="1",
        metavar="TIME",
        help="Time between refreshes, such as 500ms or 2s.  [default: 1s]",
    )


def lasting() -> list[click.Parameter]:
    """How long a live run lasts."""
    text = "End after this time, such as 90s or 5m.  [default: at Ctrl-C]"
    return [click.Option(["-d", "--duration"], metavar="TIME", help=text)]


def once() -> list[click.Parameter]:
    """--once, of tracers whose one look is an answer."""
    return [click.Option(["--once"], is_flag=True, help="End when everything has been read once.")]


def attaching() -> list[click.Parameter]:
    """How the kernel and the node are reached."""
    return [
        click.Option(
            ["--ready-file"],
            type=File(),
            metavar="FILE",
            help="Create FILE once everything is attached (for scripts).  [default: none]",
        ),
        click.Option(
            ["--hook"],
            type=OneOf(HOOKS),
            default="auto",
            metavar="|".join(HOOKS),
            help="How to attach; none: read the node's files alone.  [default: auto, whichever the kernel accepts]",
        ),
        click.Option(
            ["--engine"],
            type=OneOf(ENGINES),
            default="auto",
            metavar="|".join(ENGINES),
            help="libbpf loads what was compiled before; bcc compiles here, where the kernel has no BTF.  "
            "[default: auto]",
        ),
        *finding_node(),
        cri_socket(),
    ]


def finding_node() -> list[click.Parameter]:
    """Where the node's files are."""
    return [
        click.Option(
            ["--host-root"],
            type=_Directory(file_okay=False),
            metavar="DIR",
            # whatever else is completed is looked up below it
            is_eager=True,
            help="Where the node's root is.  [default: /host in a debug pod, else /]",
        )
    ]


def cri_socket() -> click.Option:
    """--cri-socket."""
    return click.Option(
        ["--cri-socket"],
        type=click.Path(),
        metavar="FILE",
        help="Ask the container runtime's socket too (needs kubetrace[cri]).  [default: only files are read]",
    )


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
        click.Option(
            ["--from", "begin"], metavar="TIME", help=f"Leave out what was before: {moment}  [default: its beginning]"
        ),
        click.Option(["--to", "end"], metavar="TIME", help="Leave out what was after; as --from.  [default: its end]"),
    ]


def recording() -> list[click.Parameter]:
    """--record and what becomes of its file."""
    return [
        click.Option(
            ["--record"],
            type=File(),
            metavar="FILE",
            help="Record everything to FILE too; kubetrace replay FILE shows it again.  [default: none]",
        ),
        *keeping(),
    ]


def keeping() -> list[click.Parameter]:
    """What becomes of the recording's file."""
    return [
        click.Option(["--force"], is_flag=True, help="Replace the recording if it exists."),
        click.Option(
            ["--max-size"],
            metavar="SIZE",
            help="Go on in a new file when the recording is so large, such as 100Mi; one older is kept as FILE.1.  "
            "[default: no limit]",
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

    if given.get("all_namespaces") and given["namespace"]:
        raise UsageError("-A and -n exclude one another.", why="-A is every namespace.", do="one of them")
    return Selection.parse(given["namespace"], given["pod"], given["container"], given["selector"])


def shown(tracer: Tracer, given: Mapping[str, Any]) -> Show:
    """What `showing` and `costing` came to. Raises UsageError."""
    from dataclasses import replace

    from kubetrace.session.options import Show, check, chosen, lines_columns, own_options, table_columns

    by, sort = check(tracer, given["by"], given["sort"])
    show = Show(
        by=by,
        sort=sort,
        output=given["output"],
        events=given["events"] or tracer.tells(given),
        headers=not given["no_headers"],
        top=given["top"] or None,
        whole=given["top"] == 0,
        interval_s=interval_s(given),
        overhead=given.get("overhead", False),
        colour=COLOURS[given["color"]],
    )
    if given["columns"] is None:
        return show
    if show.output not in ("table", "wide", "csv"):
        raise UsageError(
            "--columns is for tables, lines and CSV.",
            why=f"-o {show.output.partition('=')[0]} has every key.",
            do="-o jsonpath='{.pod} {.path}', or jq",
        )
    of_lines = show.events or show.output == "csv"

    def columns(of: Tracer) -> Chosen:
        return chosen(lines_columns(of, show) if of_lines else table_columns(of, by), given["columns"])

    asked = columns(tracer)
    try:
        columns(tracer.with_options(own_options(tracer, given)))
    except UsageError as error:
        raise UsageError(
            error.what, why="There is one with an option that was not given.", do=f"kubetrace {tracer.name} --help"
        ) from error
    return replace(show, columns=asked)


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
        once=given.get("once", False),
    )


def lost(given: Mapping[str, Any], events: int) -> None:
    """What --strict makes of lost events. Raises EventsLost."""
    if events and given["strict"]:
        from kubetrace.errors import EventsLost

        raise EventsLost(
            f"{events} event{'s were' if events != 1 else ' was'} lost.",
            why="Everything else was done; --strict makes this an error.",
            do="fewer events: -n, -p, the tracer's own options",
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
