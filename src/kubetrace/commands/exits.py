"""Run a command, print its error, exit. Only this module does either of the last two."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from kubetrace.errors import KubetraceError, UsageError

STATUSES = {
    0: "Everything was done. Also where Ctrl-C, q or the end of a pipe's reader ended it.",
    1: "It failed: the kernel, the node, the cluster or a file said no; a file that is not there; nothing is known of "
    "what was asked for; no tracer works (doctor).",
    2: "It was asked for wrongly: no such command, option, column or value, or a file that would be overwritten.",
    3: "It ran, but events were lost, and --strict was given.",
    130: "Ctrl-C came before there was anything to show.",
}
"""Of every command, in the man page and docs/command-line.md."""


def run(command: Callable[[], object]) -> NoReturn:
    """Run a command and exit: 0, or the number that it gives; the statuses of STATUSES otherwise."""
    from kubetrace.errors import OutputError

    # start.py let an interrupt end the process while this was imported
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = command()
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.NoArgsIsHelpError as shown:
        click.echo(shown.format_message())
        sys.exit(2)
    except click.UsageError as error:
        _print_error(_asked_wrongly(error))
        sys.exit(2)
    except click.ClickException as error:
        _print_error(KubetraceError(error.format_message()))
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except KubetraceError as error:
        if error.exit_status:
            _print_error(error)
        _end_stdout()
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # the reader of stdout is gone: nothing is left to say
        _leave_stdout()
        sys.exit(0)
    except OSError as error:
        do = "ulimit -n 1024; kubetrace ..." if error.errno == errno.EMFILE else ""
        what = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        _print_error(OutputError(what, do=do))
        _end_stdout()
        sys.exit(1)


def _end_stdout() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _leave_stdout()


def _leave_stdout() -> None:
    # what waits there can not be written, and Python's own flush at the end would say so once more
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _asked_wrongly(error: click.UsageError) -> UsageError:
    """What click says of a command line, in the words and the form of our own errors."""
    from kubetrace.errors import no_such

    ctx = error.ctx
    path = ctx.command_path if ctx is not None else "kubetrace"
    if isinstance(error, click.NoSuchOption):
        params = ctx.command.get_params(ctx) if ctx is not None else []
        known = [name for param in params for name in param.opts if name.startswith("--")]
        return no_such(f"{path} has no option {error.option_name!r}", error.option_name, known, option=path)
    text = error.format_message().strip()
    return UsageError(text[:1].lower() + text[1:], do=f"{path} --help")


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
