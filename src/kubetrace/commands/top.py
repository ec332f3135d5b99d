"""kubetrace top: several tracers in one process, and one row for each pod: where to begin in an incident."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from kubetrace import tracers
from kubetrace.commands import complete, options
from kubetrace.errors import no_such
from kubetrace.kit.tracer import Tracer

if TYPE_CHECKING:
    from kubetrace.session.options import Show


def _run(names: tuple[str, ...], **given: Any) -> None:
    from kubetrace.session.options import own_defaults
    from kubetrace.session.top import run

    found = chosen(names)
    own = {name: value for tracer in found for name, value in own_defaults(tracer).items()}
    show = shown(found, given)
    options.lost(given, run(found, options.attached(given, own), show, options.kept(given), options.lasted(given)))


def chosen(names: Sequence[str]) -> list[Tracer]:
    """All that have something to say of a pod unasked, and those with these names. Raises KubetraceError."""
    usual = _usual()
    known = tracers.names()
    for name in names:
        if name not in known:
            raise no_such(f"there is no tracer {name!r}", name, known, option="kubetrace top")
    others = [name for name in dict.fromkeys(names) if name not in {one.name for one in usual}]
    return [*usual, *(tracers.find(name) for name in others)]


def shown(chosen: Sequence[Tracer], given: Mapping[str, Any]) -> Show:
    """What the options of `showing` came to for these tracers. Raises UsageError."""
    from kubetrace.session.options import Show
    from kubetrace.session.overall import Overall

    sorts = Overall(chosen).sorts
    sort = given["sort"] or "worst"
    sign, word = (sort[0], sort[1:]) if sort[0] in "+-" else ("", sort)
    key = sorts.get(word.lower())
    if key is None:
        raise no_such(f"top cannot sort by {word!r}", word, list(sorts), option="--sort")
    return Show(
        by="pod",
        sort=sign + key.lstrip("-") if sign else key,
        output=given["output"],
        headers=not given["no_headers"],
        top=given["top"] or None,
        whole=given["top"] == 0,
        interval_s=options.interval_s(given),
        colour=options.COLOURS[given["color"]],
    )


def _usual() -> list[Tracer]:
    found = (tracers.find(name) for name in tracers.names())
    return [tracer for tracer in found if tracer.overview and tracer.unasked]


def _others() -> list[str]:
    usual = {tracer.name for tracer in _usual()}
    return [name for name in tracers.names() if name not in usual]


_HELP = """Show one row for each pod, live: what it uses, where it writes, what it copies up, and what it is denied.

It runs all tracers that have something to say of a pod, and each TRACER that is named besides, in one process. What is
worst comes first: processes that were killed and what failed, then limits that are reached, then who has most of all.
Enter opens a pod in each tracer's own table, Tab goes to the next tracer, Esc back (docs/table.md). A tracer that this
kernel cannot run is left out, and it is said why.

KEYS

\b
Examples:
  kubetrace top                     every pod of this node
  kubetrace top -n shop starts      a namespace, with how its pods start
  kubetrace top disk                what pods have on disk and how it grows, beside what they write
  kubetrace top --sort mem          the pods that use most memory first
  kubetrace top -d 10 | cat         the table after ten seconds, in parts of one
  kubetrace top --record now.ktrace what all of it saw, for kubetrace replay now.ktrace top
"""

OUTPUTS = ("table", "wide", "json-tables")
"""Of -o."""


def keys_of(traits: Collection[str]) -> str:
    """The keys of a live table, for a help."""
    from kubetrace.views.keymap import shortly

    lines = "\n".join(f"  {line}" for line in shortly(traits))
    return f"\b\nKeys in the live table, the most used (? shows all):\n{lines}"


def _command() -> click.Command:
    left_out = {"--by", "--columns", "--events", "--sort", "--output"}
    outputs = options.OneOf(
        OUTPUTS,
        also={"windows": "json-tables"},
        elsewhere={
            name: (
                "Top has a table of pods; each tracer has its own objects.",
                f"kubetrace {_usual()[0].name} -o {name}, or -o json-tables here",
            )
            for name in ("json", "jsonl", "yaml", "csv")
        },
    )
    params: list[click.Parameter] = [
        click.Argument(["names"], nargs=-1, metavar="[TRACER...]", shell_complete=complete.words(_others)),
        *options.selecting(),
        *(option for option in options.showing() if option.opts[-1] not in left_out),
        click.Option(
            ["--sort"],
            metavar="COLUMN",
            help="Sort by a column of the table, such as mem or pod; -COLUMN: the largest or z first, +COLUMN: the "
            "smallest or a.  [default: worst]",
        ),
        click.Option(
            ["-o", "--output"],
            type=outputs,
            default="table",
            metavar=outputs.shown,
            help="wide has the columns that are left out otherwise; json-tables is each interval's table as a JSON "
            "object.  [default: table]",
        ),
        *options.recording(),
        *options.lasting(),
        *options.attaching(),
        *options.strict(),
        *options.verbose(),
    ]
    text = _HELP.replace("KEYS", keys_of(("live", "several")))
    return click.Command("top", params=params, callback=_run, help=text, context_settings=options.SETTINGS)


command = _command()
