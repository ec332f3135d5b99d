"""kubetrace record: what tracers see, to a file and nothing else; records are compressed as they come, not decoded."""

from __future__ import annotations

import sys
from typing import Any

import click

from kubetrace import tracers
from kubetrace.commands import complete, help, options
from kubetrace.errors import UsageError, no_such


def _run(what: tuple[str, ...], **given: Any) -> None:
    from pathlib import Path

    from kubetrace.session.options import Keep, own_options
    from kubetrace.session.record import run

    *names, file = what
    known = tracers.names()
    usage = f"kubetrace record {'|'.join(known)} FILE"
    if not names:
        raise UsageError("record needs at least one tracer and a FILE.", do=usage)
    for name in names:
        if name not in known:
            raise no_such(f"there is no tracer {name!r}", name, known, option="kubetrace record")
    if file in known:
        raise UsageError(f"{file!r} is a tracer; the last argument is the FILE to write.", do=usage)
    if len(set(names)) != len(names):
        raise UsageError("a tracer is named twice.", do=usage)
    if file == "-" and (given["max_size"] or sys.stdout.isatty()):
        raise UsageError("a recording on stdout is for a pipe, and cannot go on in another file.", do=usage)
    chosen = [tracers.find(name) for name in names]
    by = given["by"] or ""
    if by and not any(by in tracer.groupings for tracer in chosen):
        known_by = list(dict.fromkeys(name for tracer in chosen for name in tracer.groupings))
        raise no_such(f"{' and '.join(names)} cannot group by {by!r}", by, known_by, option="--by")
    own = {name: value for tracer in chosen for name, value in own_options(tracer, given).items()}
    keep = Keep(Path(file), given["force"], options.max_size(given))
    options.lost(given, run(chosen, options.attached(given, own), keep, options.lasted(given), by))


_HELP = """Record what tracers see to FILE, for later and elsewhere.

Every event is kept as the kernel gave it, with all that is known of its pod (names, image, layers) and with what was
lost: a replay needs neither the node nor the cluster. The file is written at least once a second and is readable
whatever happens to the recorder. It is created for its owner only (mode 0600). - is stdout.

\b
Examples:
  kubetrace record copyup node.ktrace -d 60              one minute
  kubetrace record copyup node.ktrace --max-size 100Mi   for days: the newest 100 to 200 MiB
  kubetrace record copyup shop.ktrace -n shop            one namespace
  kubetrace record writes --by file -L node.ktrace       for replay --by file, with latencies
"""


def _command() -> click.Command:
    params: list[click.Parameter] = [
        click.Argument(
            ["what"],
            nargs=-1,
            required=True,
            metavar="TRACER... FILE",
            shell_complete=complete.tracers_and_file,
        ),
        *options.selecting(),
        *options.of_tracers(tracers.find(name) for name in help.tracers()),
        click.Option(
            ["--by"],
            metavar="GROUP",
            shell_complete=complete.groupings(None),
            help="What counters tell apart: writes by file or process.  [default: neither]",
        ),
        *options.lasting(),
        *options.keeping(),
        *options.attaching(),
        *options.strict(),
        *options.verbose(),
    ]
    return click.Command("record", params=params, callback=_run, help=_HELP, context_settings=options.SETTINGS)


command = _command()
