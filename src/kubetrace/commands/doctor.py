"""kubetrace doctor: what works on this node."""

from __future__ import annotations

import sys

import click

from kubetrace.commands import options

_MOST_CELLS = 100


def run(host_root: str | None, output: str) -> int:
    """Probe, print, and give the exit status: 1 when no tracer works. Raises NodeError."""
    from kubetrace.doctor import rules
    from kubetrace.doctor.report import lines, record
    from kubetrace.doctor.surroundings import node_facts
    from kubetrace.doctor.trial import trials
    from kubetrace.engines.probe import kernel_facts
    from kubetrace.node.host import Host
    from kubetrace.views.records import are_objects, open_objects

    host = Host.find(host_root)
    kernel, node, tried = kernel_facts(), node_facts(host), trials(host)
    found = rules.findings(kernel, node, tried)
    if are_objects(output):
        objects = open_objects(sys.stdout, output)
        objects.write(record(kernel, node, tried, found))
        objects.flush()
    else:
        import shutil

        width = min(shutil.get_terminal_size().columns, _MOST_CELLS)
        for line in lines(kernel, node, tried, found, width):
            click.echo(line)
    return 0 if rules.works(tried) else 1


_HELP = """Say what works on this node, found out by trying, and what to do about what does not.

Every line is ok, or `less` (it works, but something is not seen or not sure) or `no`, with what to do. Then each
tracer is loaded, attached and detached again: the hook that it got, and what it cannot see. Other commands' errors
name the line that explains them. Exit status 1 when no tracer works.

\b
Examples:
  kubetrace doctor
  kubetrace doctor -o json | jq '.checks[] | select(.status != "ok")'
"""

command = click.Command(
    "doctor",
    params=[
        options.output(
            ("text", "json", "yaml"),
            "text is for people; json, yaml and jsonpath= have all of it as one object.",
            elsewhere={"name": ("Its lines have no names of objects.", "-o jsonpath='{.checks[*].check}'")},
        ),
        *options.finding_node(),
        *options.verbose(),
    ],
    callback=run,
    help=_HELP,
    context_settings=options.SETTINGS,
)
