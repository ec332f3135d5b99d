"""The command line: finds the tracers and the other commands, each when it is asked for.

Only click is imported at once (start.py answers --help without it); everything else is when it is needed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import Any

import click

from kubetrace.commands import help
from kubetrace.errors import no_such

_OTHERS = [name for commands in help.OTHERS.values() for name in commands]
# Commands whose module has another name than theirs.
_MODULES = {"help": "show_help"}


class Commands(click.Group):
    """Tracers by discovery, and the commands that need no kernel; each is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Tracers first."""
        return [*help.tracers(), *_OTHERS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports its module."""
        if cmd_name in _OTHERS:
            module = f"kubetrace.commands.{_MODULES.get(cmd_name, cmd_name)}"
            command: click.Command = importlib.import_module(module).command
            return command
        if cmd_name in help.tracers():
            from kubetrace.commands.trace import command_of

            return command_of(cmd_name)
        return None

    def get_help(self, ctx: click.Context) -> str:
        """What start.py says."""
        return help.help_text(help.columns())

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's. Raises UsageError with what may have been meant."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise no_such(f"there is no command {args[0]!r}", args[0], known, option=ctx.command_path)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Commands with what they are for, or the options in front of them; no command is imported for it."""
        from kubetrace.commands import complete

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return complete.commands(help.one_liners(), incomplete)


def _version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from kubetrace.commands.version import lines

        for line in lines():
            click.echo(line)
        ctx.exit()


kubetrace = Commands(
    "kubetrace",
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help=help.OPTIONS["--version"],
        ),
        click.Option(["-v", "--verbose"], is_flag=True, expose_value=False, help=help.OPTIONS["-v, --verbose"]),
    ],
    help="\n\n".join(help.TEXT),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main() -> None:
    """The console script."""
    from kubetrace.commands.exits import run

    run(_attended)


def complete() -> None:
    """Answer a shell that completes a line (commands/completion.py): in silence, whatever goes wrong."""
    from kubetrace.commands.completion import register

    register()
    with contextlib.suppress(Exception):
        kubetrace.main(prog_name="kubetrace", standalone_mode=False, complete_var=help.COMPLETION)


def _attended() -> object:
    if "KUBETRACE_ATTENDED" in os.environ:
        from kubetrace.plugin import attended

        attended.begin()
    return kubetrace.main(prog_name="kubetrace", standalone_mode=False)
