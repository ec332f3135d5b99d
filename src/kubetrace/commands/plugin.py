"""The command line of `kubectl kubetrace`: what is ours is taken out, the rest is kubetrace's on the node."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from kubetrace import __version__, tracers
from kubetrace.commands import exits, group
from kubetrace.errors import UsageError

if TYPE_CHECKING:
    from kubetrace.kit.tracer import Tracer
    from kubetrace.plugin.merge import Merged
    from kubetrace.plugin.streams import Said, Streams
    from kubetrace.views.keys import Keys
    from kubetrace.views.plain import PlainTable
    from kubetrace.views.screen import LiveTable

IMAGE_VARIABLE = "KUBETRACE_IMAGE"
_MOST_NODES = 100
_ROWS_EACH = 200
_HELP = """Usage: kubectl kubetrace COMMAND --node NODE[,NODE...] [OPTION...]

  Run kubetrace on nodes of the cluster, each in a debug pod that is deleted at
  the end: what `kubectl debug node/NODE --profile=sysadmin` does. Several nodes
  run side by side and are shown as one table with a NODE column; one that fails
  is a row with its error.

Which nodes:
  --node NODE[,NODE...]    These; may be given again.
  --pod NAMESPACE/POD      The node of this pod, and only this pod of it.
  -l, --selector LABELS    Those with these labels, as kubectl get nodes -l.
  --all-nodes              All Linux nodes (100 at most).

How:
  --image IMAGE            kubetrace's image.  [default: $KUBETRACE_IMAGE]
  --debug-namespace NAME   Where the debug pods are made.  [default: kubectl's]
  --context, --kubeconfig, --cluster, --user, --as VALUE
                           As kubectl's own.

  All other options are those of kubetrace COMMAND; see
  kubectl kubetrace COMMAND --help.

Commands: {commands}

Examples:
  kubectl kubetrace copyup --node worker-3
  kubectl kubetrace copyup --pod shop/web-0 --events
  kubectl kubetrace writes --all-nodes --by pod
  kubectl kubetrace cgroups -l pool=batch -o json -d 60 > cgroups.jsonl
  kubectl kubetrace doctor --node worker-3
"""
# They read or write files where kubetrace runs, which is a pod that is deleted.
_NOT_THERE = ("record", "replay", "export", "info", "agent")
_KUBECTL = ("--context", "--kubeconfig", "--cluster", "--user", "--as")
_OWN = ("--node", "--selector", "--image", "--debug-namespace", *_KUBECTL)


@dataclass
class Asked:
    """The command line, taken apart."""

    command: str = ""
    nodes: list[str] = field(default_factory=list)
    pod: str | None = None
    selector: str | None = None
    all_nodes: bool = False
    image: str | None = None
    debug_namespace: str | None = None
    kubectl: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    """kubetrace's own, on the node."""


def parse(given: Sequence[str]) -> Asked:
    """Take out what is the plugin's. Raises UsageError."""
    asked = Asked()
    rest = list(given)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word.startswith("-l") and not word.startswith("--"):
            name, equals, value = "--selector", word[2:], word[2:].removeprefix("=")
        if name == "--all-nodes" and not equals:
            asked.all_nodes = True
        elif name in _OWN or name in ("--pod", "-p"):
            if not equals:
                if not rest:
                    raise UsageError(f"{word} needs a value.", do="kubectl kubetrace --help")
                value = rest.pop(0)
            if name in ("--pod", "-p") and "/" not in value:
                asked.arguments += [name, value]  # a pattern, which is kubetrace's
            else:
                _take(asked, "--pod" if name == "-p" else name, value)
        elif not asked.command and not word.startswith("-"):
            asked.command = word
        else:
            asked.arguments.append(word)
    return asked


def _take(asked: Asked, name: str, value: str) -> None:
    if name == "--node":
        asked.nodes += [part.removeprefix("node/") for part in value.split(",") if part]
    elif name == "--selector":
        asked.selector = value
    elif name == "--pod":
        asked.pod = value
    elif name == "--image":
        asked.image = value
    elif name == "--debug-namespace":
        asked.debug_namespace = value
    else:
        asked.kubectl.append(f"{name}={value}")


def run(given: Sequence[str]) -> int:
    """The exit status. Raises KubetraceError."""
    commands = [
        name for name in group.kubetrace.list_commands(click.Context(group.kubetrace)) if name not in _NOT_THERE
    ]
    asked = parse(given)
    if not given or (not asked.command and {"-h", "--help"} & set(given)):
        click.echo(_HELP.format(commands=", ".join(commands)))
        return 0 if given else 2
    if "--version" in given and not asked.command:
        click.echo(f"kubectl kubetrace, version {__version__}")
        return 0
    if asked.command == "agent":
        raise UsageError("the agent is not a command for a debug pod.", do="kubectl apply -k deploy: a DaemonSet")
    if asked.command in _NOT_THERE:
        raise UsageError(
            f"kubetrace {asked.command} works on a file here, not on a node.",
            do="kubectl kubetrace TRACER --node NODE -o json > FILE",
        )
    if asked.command not in commands:
        raise UsageError(f"there is no command {asked.command!r}.", do=f"kubectl kubetrace {'|'.join(commands)}")
    if {"-h", "--help"} & set(asked.arguments):
        return int(
            group.kubetrace.main([asked.command, "--help"], prog_name="kubectl kubetrace", standalone_mode=False) or 0
        )
    return _start(asked)


def _start(asked: Asked) -> int:
    from kubetrace.plugin.kubectl import Kubectl
    from kubetrace.plugin.streams import on_terminal

    if asked.pod is not None:
        namespace, _, pod = asked.pod.partition("/")
        asked.arguments += ["-n", namespace, "-p", pod]
    # What kubetrace would refuse on the node is refused here, before there is a pod.
    options = _options(asked)
    image = asked.image or os.environ.get(IMAGE_VARIABLE, "")
    if not image or image.startswith("-"):
        raise UsageError(
            "no image to run is named.",
            why="kubetrace's image (scripts/image) has to be in a registry that the nodes pull from.",
            do=f"--image REGISTRY/kubetrace:{__version__}, or {IMAGE_VARIABLE} in the environment",
        )
    kubectl = Kubectl(asked.kubectl, namespace=asked.debug_namespace)
    nodes = _nodes(asked, kubectl)
    # Who may not list pods, or does not reach the API server, could not clear away what is made now.
    kubectl.debug_pods()
    if len(nodes) == 1 and sys.stdin.isatty() and sys.stdout.isatty():
        return on_terminal(kubectl, nodes[0], image, [asked.command, *asked.arguments])
    tracer = tracers.find(asked.command) if asked.command in tracers.names() else None
    if tracer is not None and options["output"] in ("table", "wide") and not options["events"]:
        return _table(tracer, options, asked, kubectl, nodes, image)
    return _lines(str(options.get("output")), asked, kubectl, nodes, image)


def _options(asked: Asked) -> Mapping[str, Any]:
    for name in ("--record", "--ready-file"):
        if any(word == name or word.startswith(f"{name}=") for word in asked.arguments):
            raise UsageError(
                f"{name} would write in the debug pod, which is deleted at the end.",
                do="-o json > FILE, or kubectl debug for a pod of your own",
            )
    command = group.kubetrace.get_command(click.Context(group.kubetrace), asked.command)
    assert command is not None
    options = command.make_context(f"kubectl kubetrace {asked.command}", list(asked.arguments)).params
    if asked.command in tracers.names():
        from kubetrace.session.options import check

        check(tracers.find(asked.command), options["by"], options["sort"])
    return options


def _nodes(asked: Asked, kubectl: Any) -> list[str]:
    from kubetrace.plugin.kubectl import check_name

    ways = [bool(asked.nodes), asked.pod is not None, asked.selector is not None, asked.all_nodes]
    if sum(ways) != 1:
        raise UsageError(
            "which nodes?" if not any(ways) else "the nodes are named in more than one way.",
            do="one of --node NODE, --pod NAMESPACE/POD, -l LABELS, --all-nodes",
        )
    if asked.pod is not None:
        namespace, _, pod = asked.pod.partition("/")
        return [kubectl.node_of(namespace, pod)]
    nodes = list(dict.fromkeys(check_name(name, "node") for name in asked.nodes)) or kubectl.nodes(asked.selector)
    if len(nodes) > _MOST_NODES:
        raise UsageError(
            f"{len(nodes)} nodes are more than the {_MOST_NODES} that are traced from here at once.",
            do="-l LABELS for a part of them, or the DaemonSet (deploy/) for all",
        )
    return nodes


# Several nodes as one table.


def _table(
    tracer: Tracer, options: Mapping[str, Any], asked: Asked, kubectl: Any, nodes: Sequence[str], image: str
) -> int:
    from kubetrace.plugin.merge import Merged, NodeState
    from kubetrace.plugin.streams import Streams
    from kubetrace.session.options import check, own_options
    from kubetrace.session.stop import Stop
    from kubetrace.views.plain import can_be_live
    from kubetrace.views.screen import open_table
    from kubetrace.views.units import parse_duration

    by, sort = check(tracer, options["by"], options["sort"])
    tracer = tracer.with_options(own_options(tracer, options))
    columns = [*tracer.groupings[by].columns, *tracer.measures]
    merged = Merged(tracer.name, tracer.noun, columns, tracer.sorts[sort], options["top"])
    merged.nodes = {node: NodeState() for node in nodes}
    more = [] if options["top"] else ["--top", str(_ROWS_EACH)]
    arguments = {node: [asked.command, *asked.arguments, "-o", "windows", *more] for node in nodes}
    interval_s = parse_duration(options["interval"])
    summaries: dict[str, Mapping[str, Any]] = {}
    keys = _keys() if can_be_live(sys.stdout) else None
    with Stop() as stop, contextlib.ExitStack() as stack:
        # the screen is given back before the pods are deleted, which takes a moment
        streams = stack.enter_context(Streams(kubectl, image, arguments))
        wide, headers = options["output"] == "wide", not options["no_headers"]
        view: LiveTable | PlainTable = open_table(sys.stdout, wide=wide, headers=headers)
        stack.enter_context(view)
        if keys is not None:
            stack.enter_context(keys)
        _show(streams, merged, view.show, stop, keys, interval_s, summaries)
    return _close(merged, summaries, streams)


def _show(
    streams: Streams,
    merged: Merged,
    show: Callable[[Any], None],
    stop: Any,
    keys: Keys | None,
    interval_s: float,
    summaries: dict[str, Mapping[str, Any]],
) -> None:
    from kubetrace.plugin.streams import END_S
    from kubetrace.views.output import Reader

    reader = Reader(sys.stdout)
    begun = time.monotonic()
    next_show, stopped, paused, heard = begun, 0.0, False, False
    while streams.running:
        reader.check()
        for said in streams.read(0.1):
            heard = _take_said(merged, said, summaries) or heard
        now = time.monotonic()
        typed = list(keys.read()) if keys is not None else []
        if " " in typed:
            paused = not paused
            next_show = now
        if ("q" in typed or stop.asked) and not stopped:
            stopped = now
            streams.stop()
        if stopped and now - stopped > END_S:
            break
        # the first table comes as soon as there is any
        if (now >= next_show or heard) and not (paused and not typed):
            show(merged.window(now - begun, paused=paused))
            next_show = now + interval_s
            heard = False
    show(merged.window(time.monotonic() - begun))


def _take_said(merged: Merged, said: Said, summaries: dict[str, Mapping[str, Any]]) -> bool:
    """Whether it is a node's first table."""
    state = merged.nodes[said.node]
    if said.waits:
        state.status = f"starting: {said.waits}"
    elif said.ended:
        done = said.node in summaries
        state.failed = bool(said.failed) or not done
        state.status = f"failed: {said.failed or 'it ended without a summary'}" if state.failed else "ended"
    else:
        first = bool(state.status)
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(said.line)
            kind = record.get("type") if isinstance(record, dict) else None
            if kind == "window":
                merged.take(said.node, record)
                return first
            if kind == "summary":
                summaries[said.node] = record
    return False


def _close(merged: Merged, summaries: Mapping[str, Mapping[str, Any]], streams: Streams) -> int:
    from kubetrace.views.text import visible

    for node, summary in summaries.items():
        click.echo(f"{node}: {visible(str(summary.get('text', '')))}")
        remedies = summary.get("remedies")
        for remedy in remedies[:20] if isinstance(remedies, list) else ():
            click.echo(f"  {visible(str(remedy))}")
    failed = [node for node, state in merged.nodes.items() if state.failed or node not in summaries]
    for node in failed:
        _tell_failure(node, streams)
    return _status(len(failed), streams)


def _tell_failure(node: str, streams: Streams) -> None:
    from kubetrace.views.text import visible

    for line in streams.words(node)[-8:] or ["it said nothing"]:
        click.echo(f"{node}: {visible(line)}", err=True)


def _status(failed: int, streams: Streams) -> int:
    from kubetrace.views.text import escape

    for trouble in streams.troubles:
        click.echo(f"kubectl kubetrace: {escape(trouble)}", err=True)
    return 1 if failed or streams.troubles else 0


def _keys() -> Keys | None:
    try:
        from kubetrace.views.keys import Keys
    except ImportError:  # Windows: no termios
        return None
    return Keys()


# Several nodes as lines.


def _lines(output: str, asked: Asked, kubectl: Any, nodes: Sequence[str], image: str) -> int:
    from kubetrace.plugin.streams import END_S, Streams
    from kubetrace.session.stop import Stop
    from kubetrace.views.output import Output, Reader

    arguments = {node: [asked.command, *asked.arguments] for node in nodes}
    out, reader = Output(sys.stdout), Reader(sys.stdout)
    form = _Lines(output, nodes)
    failed = 0
    stopped = 0.0
    with Stop() as stop, Streams(kubectl, image, arguments) as streams:
        while streams.running and not (stopped and time.monotonic() - stopped > END_S):
            reader.check()
            for said in streams.read(0.1):
                if said.ended:
                    failed += bool(said.failed)
                    if said.failed and output == "json":
                        out.write(json.dumps({"type": "error", "node": said.node, "error": said.failed}) + "\n")
                    if said.failed:
                        _tell_failure(said.node, streams)
                elif said.waits:
                    click.echo(f"{said.node}: {said.waits}", err=True)
                else:
                    out.write(form.line(said.node, said.line))
            out.flush()
            if stop.asked and not stopped:
                stopped = time.monotonic()
                streams.stop()
    return _status(failed, streams)


class _Lines:
    """What becomes of a line of one node: JSON stays as it is, all else is led by the node's name."""

    def __init__(self, output: str, nodes: Sequence[str]) -> None:
        self._output = output
        self._width = max(map(len, nodes)) if len(nodes) > 1 else 0
        self._headers: set[str] = set()

    def line(self, node: str, line: bytes) -> str:
        from kubetrace.views.text import visible

        if self._output == "json":
            # whole objects only: what else comes over the wire is not a line of this stream
            with contextlib.suppress(ValueError, RecursionError):
                record = json.loads(line)
                if isinstance(record, dict):
                    return json.dumps({**record, "node": node}, separators=(",", ":")) + "\n"
            return ""
        text = visible(line)
        if not self._width:
            return text + "\n"
        if self._output == "csv":
            if node not in self._headers:
                self._headers.add(node)
                return f"node,{text}\n" if len(self._headers) == 1 else ""
            return f"{node},{text}\n"
        return f"{node:<{self._width}}  {text}\n"


def main() -> None:
    """The console script kubectl-kubetrace, which kubectl runs as `kubectl kubetrace`."""
    exits.run(lambda: run(sys.argv[1:]))
