"""kubetrace agent: tracers that keep running, for the Prometheus that is there."""

from __future__ import annotations

import time
from typing import Any

import click

from kubetrace import tracers
from kubetrace.commands import complete, options
from kubetrace.errors import LibraryMissing, UsageError, no_such
from kubetrace.kit.tracer import Tracer

_DEFAULT_SERIES = 2000


def _run(names: tuple[str, ...], **given: Any) -> None:
    from kubetrace.node.host import Host
    from kubetrace.recording.private import touch
    from kubetrace.session.stop import Stop
    from kubetrace.views.text import visible
    from kubetrace.views.units import parse_duration

    chosen = [_metered(name) for name in dict.fromkeys(names)] or _all_metered()
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
    except ImportError as error:
        raise LibraryMissing(
            "the agent needs prometheus-client, which is not installed.",
            why="Only the agent does, so kubetrace does not bring it along.",
            do="pip install 'kubetrace[agent]'",
            check="",
        ) from error
    from kubetrace.agent.metrics import Collector, health, of_the_node
    from kubetrace.agent.serve import Server
    from kubetrace.agent.watch import Watch

    host = Host.find(given["host_root"])
    selection = options.selected(given)
    idle_s = parse_duration(given["idle"])
    watches = [
        Watch(
            tracer,
            host,
            selection=selection,
            hook=given["hook"],
            engine=given["engine"],
            cri_socket=given["cri_socket"],
            max_series=given["max_series"],
            idle_s=idle_s,
        )
        for tracer in chosen
    ]
    registry = CollectorRegistry()
    registry.register(Collector(watches, host.node_name(), host.kernel_release()))
    ProcessCollector(namespace="kubetrace", registry=registry)
    with Stop() as stop:
        server = Server(given["listen"], registry, lambda: health(watches))
        try:
            for watch in watches:
                watch.start()
            for watch in watches:
                while not watch.first.wait(0.1) and not stop.asked:
                    pass
            standings = [(watch.tracer.name, watch.standing()) for watch in watches]
            failed = [(name, standing.error) for name, standing in standings if standing.error is not None]
            for name, trouble in failed:
                click.echo(f"kubetrace: {name}: {visible(trouble.what)} {visible(trouble.why)}", err=True)
            if len(failed) == len(watches):
                if not all(of_the_node(error) for _, error in failed):
                    raise failed[0][1]
                # the node's kernel is so: to end would be to be started again for ever
                click.echo("kubetrace: no tracer can be attached on this node; it is tried again each minute", err=True)
            click.echo(f"kubetrace: serving {server.url}/metrics", err=True)
            if given["ready_file"] is not None:
                touch(given["ready_file"])
            while not stop.asked:
                time.sleep(0.2)
        finally:
            for watch in watches:
                watch.stop()
            server.close()


def _metered(name: str) -> Tracer:
    if name not in tracers.names():
        raise no_such(f"there is no tracer {name!r}", name, _names(), option="kubetrace agent")
    tracer = tracers.find(name)
    if not (tracer.metrics or tracer.standings):
        raise UsageError(f"{name} has no metrics.", do=f"kubetrace agent {'|'.join(_names())}")
    return tracer


def _all_metered() -> list[Tracer]:
    # what counts; who reads the node's files at length is asked for by name
    return [tracer for tracer in _served() if tracer.metrics]


def _served() -> list[Tracer]:
    found = (tracers.find(name) for name in tracers.names())
    return [tracer for tracer in found if tracer.metrics or tracer.standings]


def _names() -> list[str]:
    return [tracer.name for tracer in _served()]


_HELP = """Keep tracers running and serve what they count as OpenMetrics, for the Prometheus that is there.

\b
  /metrics   kubetrace_copyup_bytes_total{namespace,pod,container,image},
             kubetrace_writes_bytes_total{...,destination,medium}, and more;
             what was lost or unattributed, and the agent's own CPU and memory
  /healthz   200 while every tracer that could be attached runs, else 503;
             how each stands (200 too where the node's kernel allows none)

Without TRACER, all that count run; disk, which walks directories, has to be named. The number of label sets of each
is bounded: what finds no place is part of one (overflow) series. See deploy/ for a DaemonSet.

\b
Examples:
  kubetrace agent                            all tracers that count, on port 9435
  kubetrace agent copyup --listen 127.0.0.1:9435
  kubetrace agent cgroups disk               bytes on disk by kind and pod, and the time until the kubelet acts
"""

command = click.Command(
    "agent",
    params=[
        click.Argument(["names"], nargs=-1, metavar="[TRACER...]", shell_complete=complete.words(_names)),
        *options.selecting(),
        click.Option(
            ["--listen"],
            default=":9435",
            metavar="ADDRESS:PORT",
            help="Where to serve.  [default: :9435, all addresses]",
        ),
        click.Option(
            ["--max-series"],
            type=click.IntRange(min=1, max=100_000),
            default=_DEFAULT_SERIES,
            metavar="N",
            help=f"Label sets of each tracer at most.  [default: {_DEFAULT_SERIES}]",
        ),
        click.Option(
            ["--idle"],
            default="1h",
            metavar="TIME",
            help="Forget a label set that has not grown for so long, such as 30m.  [default: 1h]",
        ),
        *options.attaching(),
        *options.verbose(),
    ],
    callback=_run,
    help=_HELP,
    context_settings=options.SETTINGS,
)
