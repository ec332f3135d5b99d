"""The command line: finds the tracers, prints errors, exits. No other module does either of the last two.

Only click is imported at once (entry.py answers --help without it); everything else is when it is needed.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from kubetrace import __version__, entry, tracers
from kubetrace.errors import KubetraceError, UsageError
from kubetrace.kit.tracer import Tracer

_OTHERS = [name for commands in entry.OTHERS.values() for name in commands]


class _Commands(click.Group):
    """Tracers by discovery, and the commands that need no kernel; each is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*tracers.names(), *_OTHERS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _OTHERS:
            command: click.Command = importlib.import_module(f"kubetrace.{cmd_name}").command
            return command
        if cmd_name in tracers.names():
            return _tracer_command(cmd_name)
        return None

    def get_help(self, ctx: click.Context) -> str:
        return entry.help_text(entry.columns())

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


def _tracer_command(name: str) -> click.Command:
    from pathlib import Path

    from kubetrace import options

    tracer = tracers.find(name)

    def run(**given: Any) -> None:
        from kubetrace.attribution.selection import Selection
        from kubetrace.session import trace
        from kubetrace.session.options import Options, check, own_of

        by, sort = check(tracer, given["by"], given["sort"])
        trace.run(
            tracer,
            Options(
                selection=Selection.parse(given["namespace"], given["pod"], given["container"]),
                by=by,
                sort=sort,
                **options.of_run(given),
                own=own_of(tracer, given),
            ),
        )

    params: list[click.Parameter] = [
        *options.selecting(),
        *tracer.options(),
        *options.showing(list(tracer.groupings), list(tracer.sorts)),
        *options.lasting(),
        click.Option(
            ["--record"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Record everything to FILE too; kubetrace replay FILE shows it again.",
        ),
        *options.keeping(),
        *options.attaching(),
        *options.costing(),
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

    columns = [*next(iter(tracer.groupings.values())).columns, *tracer.measures]
    titles = [f"  {title:<12} {text}" for title, text in describe(columns)]
    width = max(len(command) for command, _ in tracer.examples)
    examples = [f"  {command:<{width}}  {text}" for command, text in tracer.examples]
    return (
        f"{tracer.summary}\n\n{tracer.explanation}\n\n\b\nColumns:\n"
        + "\n".join(titles)
        + "\n\n\b\nExamples:\n"
        + "\n".join(examples)
    )


def main() -> None:
    """The console script."""
    run(_attended)


def _attended() -> object:
    if "KUBETRACE_ATTENDED" in os.environ:
        from kubetrace import attended

        attended.begin()
    return kubetrace.main(prog_name="kubetrace", standalone_mode=False)


def run(command: Callable[[], object]) -> NoReturn:
    """Run a command and exit: 0, or the number that it gives, 1 for what failed, 2 for what was asked wrongly."""
    from kubetrace.errors import OutputError

    try:
        status = command()
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.NoArgsIsHelpError as shown:
        click.echo(shown.format_message())
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except KubetraceError as error:
        if error.exit_status:
            _print_error(error)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # the reader of stdout is gone: nothing is left to say, and Python's own flush must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _print_error(OutputError(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")))
        sys.exit(1)


def _print_error(error: KubetraceError) -> None:
    from kubetrace.views.text import escape

    click.echo("Error: " + escape(error.what), err=True)
    if error.why:
        click.echo(escape(error.why), err=True)
    if error.do:
        click.echo("Try:  " + escape(error.do), err=True)
    if error.see:
        click.echo("See:  " + escape(error.see), err=True)
    if error.detail and {"-v", "--verbose"} & set(sys.argv[1:]):
        click.echo("\n".join(escape(line.strip()) for line in error.detail.splitlines()), err=True)
