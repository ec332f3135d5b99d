"""kubetrace run: a tracer of the user's own, from a C file, with everything that the built-in ones have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from kubetrace.commands import options
from kubetrace.errors import KubetraceError, UsageError

if TYPE_CHECKING:
    from pathlib import Path


def _run(file: Path, **given: Any) -> None:
    from kubetrace.engines.own_program import OwnProgram
    from kubetrace.kit.own import PREFIX, Derived
    from kubetrace.session import trace

    try:
        open(file, "rb").close()
    except OSError as error:
        raise KubetraceError(f"cannot read {file}: {error.strerror or error}.") from error
    name = file.name.partition(".")[0]
    if not file.name.endswith(".bpf.c") or not name.replace("-", "_").isidentifier():
        raise UsageError(f"{file.name} is not called NAME.bpf.c.", do="kubetrace run unlink.bpf.c")
    program = OwnProgram(file, given["engine"], given["host_root"])
    layout = program.layout({"filter_by_cgroup": int(bool(options.selected(given)))})
    tracer = Derived(PREFIX + name, program.stream, layout)
    asked = replace(options.attached(given, {}), program=program.path, engine=program.engine)
    lost = trace.run(tracer, asked, options.shown(tracer, given), options.kept(given), options.lasted(given))
    options.lost(given, lost)


_HELP = """Show the events of a tracer of your own, NAME.bpf.c, live, by pod.

A tracer is a C file with a struct for its events, a stream of them, and programs at kernel functions or tracepoints.
Its columns follow from the struct. It is compiled by clang where that is installed, by bcc otherwise, and attributed,
shown, recorded and exported like the built-in ones. docs/own-tracer.md explains one, docs/unlink.bpf.c.

\b
Examples:
  kubetrace run unlink.bpf.c                    what containers remove from their root file systems
  kubetrace run unlink.bpf.c --events -n shop   a line for each
  kubetrace run unlink.bpf.c --record u.ktrace  for kubetrace replay and export
"""


def _command() -> click.Command:
    params: list[click.Parameter] = [
        click.Argument(["file"], type=options.File(), metavar="NAME.bpf.c"),
        *options.selecting(),
        *options.showing(),
        *options.lasting(),
        *options.recording(),
        *options.attaching(),
        *options.costing(),
        *options.strict(),
        *options.verbose(),
    ]
    return click.Command("run", params=params, callback=_run, help=_HELP, context_settings=options.SETTINGS)


command = _command()
