"""kubetrace help: the help of a command, for who types it in this order."""

from __future__ import annotations

import click

from kubetrace.commands import complete, help, options
from kubetrace.errors import no_such


def _run(name: str | None) -> None:
    root = click.get_current_context().find_root()
    group = root.command
    assert isinstance(group, click.Group)
    shown = root
    if name:
        named = group.get_command(root, name)
        if named is None:
            raise no_such(f"there is no command {name!r}", name, group.list_commands(root), option="kubetrace help")
        shown = click.Context(named, info_name=name, parent=root, **named.context_settings)
    click.echo(shown.command.get_help(shown))


command = click.Command(
    "help",
    params=[
        click.Argument(
            ["name"],
            required=False,
            metavar="[COMMAND]",
            shell_complete=complete.words(lambda: list(help.one_liners())),
        )
    ],
    callback=_run,
    help="Show the help of COMMAND, as COMMAND --help does; without one, what commands there are.",
    context_settings=options.SETTINGS,
)
