"""The command line: finds the tracers and the other commands, each when it is asked for.

Only click is imported at once (start.py answers --help without it); everything else is when it is needed.
"""

from __future__ import annotations

import importlib
import os

import click

from kubetrace import __version__, tracers
from kubetrace.commands import help
from kubetrace.commands.exits import run
from kubetrace.errors import UsageError

_OTHERS = [name for commands in help.OTHERS.values() for name in commands]


class _Commands(click.Group):
    """Tracers by discovery, and the commands that need no kernel; each is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*tracers.names(), *_OTHERS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _OTHERS:
            command: click.Command = importlib.import_module(f"kubetrace.commands.{cmd_name}").command
            return command
        if cmd_name in tracers.names():
            from kubetrace.commands.trace import command_of

            return command_of(cmd_name)
        return None

    def get_help(self, ctx: click.Context) -> str:
        return help.help_text(help.columns())

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            raise UsageError(
                f"there is no command {args[0]!r}.", do="kubetrace " + "|".join(self.list_commands(ctx)) + ", or --help"
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kubetrace")
@click.option("-v", "--verbose", is_flag=True, expose_value=False, help="Show the kernel's own words behind an error.")
def kubetrace() -> None:
    """Show live, by pod, what this Kubernetes node's kernel does for its containers.

    Runs on the node, as root; needs neither the API server nor a live container runtime.
    """


def main() -> None:
    """The console script."""
    run(_attended)


def _attended() -> object:
    if "KUBETRACE_ATTENDED" in os.environ:
        from kubetrace.plugin import attended

        attended.begin()
    return kubetrace.main(prog_name="kubetrace", standalone_mode=False)
