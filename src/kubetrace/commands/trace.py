"""kubetrace TRACER: what a tracer sees, live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kubetrace import tracers
from kubetrace.commands import options

if TYPE_CHECKING:
    from kubetrace.kit.tracer import Tracer


def command_of(name: str) -> click.Command:
    """A tracer's command."""
    tracer = tracers.find(name)

    def run(**given: Any) -> None:
        from kubetrace.session import trace
        from kubetrace.session.options import own_options

        asked = options.attached(given, own_options(tracer, given))
        lost = trace.run(tracer, asked, options.shown(tracer, given), options.kept(given), options.lasted(given))
        options.lost(given, lost)

    params: list[click.Parameter] = [
        *options.selecting(),
        *tracer.options(),
        *options.showing(tracer),
        *options.lasting(),
        *(options.once() if tracer.once else ()),
        *options.recording(),
        *options.attaching(),
        *options.costing(),
        *options.strict(),
        *options.verbose(),
    ]
    return click.Command(
        name,
        params=params,
        callback=run,
        short_help=tracer.summary,
        help=_help(tracer),
        context_settings=options.SETTINGS,
    )


def _help(tracer: Tracer) -> str:
    from kubetrace.views.columns import describe
    from kubetrace.views.keymap import shortly

    columns = [*next(iter(tracer.groupings.values())).columns, *tracer.measures]
    described = describe(columns)
    cells = max(len(title) for title, _ in described)
    titles = [f"  {title:<{cells}}  {text}" for title, text in described]
    width = max(len(command) for command, _ in tracer.examples)
    examples = [f"  {command:<{width}}  {text}" for command, text in tracer.examples]
    return (
        f"{tracer.summary}\n\n{tracer.explanation}\n\n\b\nColumns:\n"
        + "\n".join(titles)
        + "\n\n\b\nKeys in the live table, the most used (? shows all):\n"
        + "\n".join(f"  {line}" for line in shortly())
        + "\n\n\b\nExamples:\n"
        + "\n".join(examples)
    )
