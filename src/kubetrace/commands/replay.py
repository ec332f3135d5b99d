"""kubetrace replay: a recording through the pipeline and views of a live run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kubetrace import tracers
from kubetrace.commands import complete, help, options
from kubetrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kubetrace.kit.tracer import Tracer
    from kubetrace.recording.header import Traced
    from kubetrace.session.options import Attach, Show
    from kubetrace.session.replay import How

_TOP = "top"


def _run(file: Path, name: str | None, **given: Any) -> None:
    from dataclasses import replace

    from kubetrace.session.options import Attach, own_options
    from kubetrace.session.replay import How, run, selection_of

    if given["speed"] is not None and given["final"]:
        raise UsageError("--speed and --final exclude one another.", do="--final shows the end at once")
    speed = None if given["final"] else given["speed"] or 1.0
    how = How(speed, given["final"], given["begin"], given["end"])
    if name == _TOP:
        options.lost(given, _replay_top(file, how, given))
        return

    def make(tracer: Tracer, found: Traced) -> tuple[Attach, Show]:
        asked = Attach(selection_of(found, options.selected(given)), own_options(tracer, given))
        return asked, replace(options.shown(tracer, given), at_once=given["final"])

    options.lost(given, run(file, name, make, how))


def _replay_top(file: Path, how: How, given: Mapping[str, Any]) -> int:
    from kubetrace.commands.top import OUTPUTS, shown
    from kubetrace.session.top import replay

    refused = [name for name in ("by", "columns", "events") if given[name]]
    if refused or given["output"] not in OUTPUTS:
        raise UsageError(
            f"{_TOP} has no {'--' + refused[0] if refused else '-o ' + given['output']}.",
            why="It is a table of pods.",
            do=f"kubetrace replay {file} TRACER, or -o json-tables",
        )
    chosen = [tracers.find(each) for each in tracers.names()]
    return replay(file, options.selected(given), shown(chosen, given), how)


_HELP = """Show the recording FILE as it was shown live, or as it would have been with other options.

Runs anywhere: no Linux, no root, no cluster. Each pod has the name that it had. A recording of several tracers needs
the TRACER to show, or `top` for all of them as one table. On a terminal it stays open at its end and can be walked
through.

KEYS

\b
Examples:
  kubetrace replay node.ktrace                          the table, at the speed of then
  kubetrace replay node.ktrace top                      one row for each pod, as kubetrace top
  kubetrace replay node.ktrace --final --by pod         the last table, at once
  kubetrace replay node.ktrace --final -o json          every event
  kubetrace replay node.ktrace --from 18:02 --speed 10  from that (local) time on, ten times as fast
"""


def _command() -> click.Command:
    params: list[click.Parameter] = [
        click.Argument(["file"], type=options.File()),
        click.Argument(["name"], required=False, metavar="[TRACER]", shell_complete=complete.recorded),
        *options.selecting(),
        *options.of_tracers(tracers.find(name) for name in help.tracers()),
        *options.showing(),
        click.Option(
            ["--speed"],
            type=click.FloatRange(min=0, min_open=True),
            metavar="N",
            help="N times as fast as it was.  [default: 1, as it was]",
        ),
        click.Option(["--final"], is_flag=True, help="Do not wait: the last table, or all the lines, at once."),
        *options.spanning(),
        *options.strict(),
        *options.verbose(),
    ]
    from kubetrace.commands.top import keys_of

    text = _HELP.replace("KEYS", keys_of(("replay",)))
    return click.Command("replay", params=params, callback=_run, help=text, context_settings=options.SETTINGS)


command = _command()
