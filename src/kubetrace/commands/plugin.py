"""The command line of `kubectl kubetrace`: what is ours is taken out, the rest is kubetrace's on the node."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from kubetrace import __version__, tracers
from kubetrace.commands import exits, group
from kubetrace.commands.kubectl_group import (
    IMAGE_VARIABLE,
    KUBECTL,
    NOT_THERE,
    command_of,
    commands,
    completions,
    kubectl_kubetrace,
)
from kubetrace.commands.options import COLOURS, shown
from kubetrace.errors import UsageError, no_such
from kubetrace.views.records import JSONPATH, are_objects, open_objects

if TYPE_CHECKING:
    from pathlib import Path

    from kubetrace.kit.tracer import Tracer
    from kubetrace.plugin.merge import Merged
    from kubetrace.plugin.streams import Said, Streams
    from kubetrace.views.keys import Keys
    from kubetrace.views.plain import PlainTable
    from kubetrace.views.screen import LiveTable

_MOST_NODES = 100
_ROWS_EACH = 200
# Tracers of one top whose summaries are told.
_MOST_TEXTS = 40
_TOP = "top"
_POD = re.compile(r"[a-z0-9.-]+/[a-z0-9.-]+")
_OWN = ("--node", "--selector", "--image", "--debug-namespace", *KUBECTL)


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
    words: list[str] = field(default_factory=list)
    """Those of the arguments that are not options, nor their values."""


def parse(given: Sequence[str]) -> Asked:
    """Take out what is the plugin's. Raises UsageError."""
    asked = Asked()
    rest = list(given)
    taking: frozenset[str] = frozenset()
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
            taking = _with_values(word)
        elif word.startswith("-"):
            asked.arguments.append(word)
            if rest and _wants_next(word, taking):
                asked.arguments.append(rest.pop(0))
        else:
            asked.words.append(word)
    return asked


def _with_values(command: str) -> frozenset[str]:
    """The options of a command that have a value."""
    made = group.kubetrace.get_command(click.Context(group.kubetrace), command)
    given = [param for param in made.params if isinstance(param, click.Option)] if made is not None else []
    return frozenset(name for option in given if not option.is_flag for name in option.opts)


def _wants_next(word: str, taking: frozenset[str]) -> bool:
    """Whether the next word is an option's value: of --by pod, -d 60 and -Ad 60, not of --by=pod and -d60."""
    if word.startswith("--"):
        return word in taking
    first = next((at for at, letter in enumerate(word) if at and f"-{letter}" in taking), None)
    return first == len(word) - 1


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
    if given[:1] == ["__complete"]:
        for line in completions(given[1:]):
            click.echo(line)
        return 0
    asked = parse(given)
    if not given or (not asked.command and {"-h", "--help"} & set(given)) or asked.command == "help":
        return _help(asked.words[0] if asked.command == "help" and asked.words else "") if given else _help("") or 2
    if "--version" in given and not asked.command:
        click.echo(f"kubectl kubetrace, version {__version__}")
        return 0
    if asked.command == "agent":
        raise UsageError("the agent is not a command for a debug pod.", do="kubectl apply -k deploy: a DaemonSet")
    if asked.command in NOT_THERE:
        raise UsageError(
            f"kubetrace {asked.command} works on a file here, not on a node.",
            do=f"kubetrace {asked.command} FILE, or kubectl kubetrace record TRACER FILE --node NODE",
        )
    if asked.command not in commands():
        raise no_such(f"there is no command {asked.command!r}", asked.command, commands(), option="kubectl kubetrace")
    if {"-h", "--help"} & set(asked.arguments):
        return _help(asked.command)
    return _start(asked)


def _help(command: str) -> int:
    root = click.Context(kubectl_kubetrace, info_name="kubectl kubetrace", **kubectl_kubetrace.context_settings)
    shown = root
    if command:
        made = command_of(command)
        if made is None:
            raise no_such(f"there is no command {command!r}", command, commands(), option="kubectl kubetrace help")
        shown = click.Context(made, info_name=command, parent=root, **made.context_settings)
    click.echo(shown.command.get_help(shown))
    return 0


def _start(asked: Asked) -> int:
    from kubetrace.plugin.kubectl import Kubectl
    from kubetrace.plugin.streams import on_terminal

    kubectl = Kubectl(asked.kubectl, namespace=asked.debug_namespace)
    is_tracer = asked.command in tracers.names()
    if is_tracer and asked.words:
        _take_pod(asked, kubectl)
    if asked.command in ("who", "pod") and not _ways(asked) and _POD.fullmatch((asked.words or [""])[0]):
        asked.pod = asked.words[0]  # where that is
    file = _file(asked) if asked.command == "record" else None
    asked.arguments += asked.words
    if asked.pod is not None:
        namespace, _, pod = asked.pod.partition("/")
        if is_tracer or file is not None:
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
    nodes = _nodes(asked, kubectl)
    # Who may not list pods, or does not reach the API server, could not clear away what is made now.
    kubectl.debug_pods()
    if file is not None:
        return _record(file, asked, kubectl, nodes, image)
    if len(nodes) == 1 and sys.stdin.isatty() and sys.stdout.isatty():
        return on_terminal(kubectl, nodes[0], image, [asked.command, *asked.arguments])
    if is_tracer and options["output"] in ("table", "wide") and not options["events"]:
        tracer = tracers.find(asked.command)
        if not tracer.tells(options):
            return _table(_of_tracer(tracer, options), options, asked, kubectl, nodes, image)
    if asked.command == _TOP and options["output"] in ("table", "wide"):
        return _table(_of_top(options), options, asked, kubectl, nodes, image)
    return _lines(str(options.get("output")), asked, kubectl, nodes, image)


def _take_pod(asked: Asked, kubectl: Any) -> None:
    """POD as kubectl takes it: web-0 -n shop, pod/web-0, or shop/web-0."""
    if len(asked.words) > 1 or asked.pod is not None:
        raise UsageError(
            f"{asked.words[-1]!r} is one pod too many.", do="one POD; -p 'NAME,NAME' with --node for several"
        )
    kind, slash, name = asked.words.pop().rpartition("/")
    if slash and kind not in ("pod", "pods", "po"):
        asked.pod = f"{kind}/{name}"
        return
    given = _parsed(asked)["namespace"]
    if len(given) > 1 or any(letter in "".join(given) for letter in ",!*?["):
        raise UsageError(f"-n has to name the one namespace of {name!r}.", do=f"{name} -n NAMESPACE")
    asked.pod = f"{given[0] if given else kubectl.namespace()}/{name}"


def _options(asked: Asked) -> Mapping[str, Any]:
    for name in ("--record", "--ready-file"):
        if any(word == name or word.startswith(f"{name}=") for word in asked.arguments):
            raise UsageError(
                f"{name} would write in the debug pod, which is deleted at the end.",
                do=f"kubectl kubetrace record {asked.command} FILE, or -o json > FILE",
            )
    options = _parsed(asked)
    if asked.command in tracers.names():
        shown(tracers.find(asked.command), options)
    return options


def _parsed(asked: Asked) -> Mapping[str, Any]:
    """What the node's kubetrace will understand. Raises click's errors, which name the plugin's options too."""
    command = group.kubetrace.get_command(click.Context(group.kubetrace), asked.command)
    ours = command_of(asked.command)
    assert command is not None and ours is not None
    try:
        return command.make_context(f"kubectl kubetrace {asked.command}", list(asked.arguments)).params
    except click.NoSuchOption as error:
        error.ctx = click.Context(ours, info_name=f"kubectl kubetrace {asked.command}", **ours.context_settings)
        raise


def _ways(asked: Asked) -> int:
    """In how many ways nodes are named."""
    return sum([bool(asked.nodes), asked.pod is not None, asked.selector is not None, asked.all_nodes])


def _nodes(asked: Asked, kubectl: Any) -> list[str]:
    from kubetrace.plugin.kubectl import check_name

    if _ways(asked) != 1:
        raise UsageError(
            "which nodes?" if not _ways(asked) else "the nodes are named in more than one way.",
            do="POD -n NAMESPACE, or one of --node NODE, --pod NAMESPACE/POD, -l LABELS, --all-nodes",
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


def _of_tracer(tracer: Tracer, options: Mapping[str, Any]) -> Merged:
    from kubetrace.plugin.merge import Merged
    from kubetrace.session.options import check, own_options, sort_key

    by, sort = check(tracer, options["by"], options["sort"])
    tracer = tracer.with_options(own_options(tracer, options))
    columns = [*tracer.groupings[by].columns, *tracer.measures]
    order, chosen, wide = sort_key(tracer, sort), shown(tracer, options).columns, options["output"] == "wide"
    return Merged(tracer.name, tracer.noun, columns, order, options["top"], chosen, wide=wide)


def _of_top(options: Mapping[str, Any]) -> Merged:
    from kubetrace.commands import top
    from kubetrace.plugin.merge import Merged
    from kubetrace.session.overall import BADNESS, WORST, Overall

    chosen = top.chosen(options["names"])
    order = top.shown(chosen, options).sort
    if order.lstrip("+-") == WORST.key:
        # of several nodes the worst is told by its number
        order = order.replace(WORST.key, BADNESS.key)
    overall = Overall(chosen, rated=True)
    columns = [*overall.groupings["pod"].columns, *overall.measures]
    return Merged(_TOP, overall.noun, columns, order, options["top"], wide=options["output"] == "wide")


def _table(
    merged: Merged, options: Mapping[str, Any], asked: Asked, kubectl: Any, nodes: Sequence[str], image: str
) -> int:
    from kubetrace.plugin.merge import NodeState
    from kubetrace.plugin.streams import Streams
    from kubetrace.session.stop import Stop
    from kubetrace.views.plain import can_be_live
    from kubetrace.views.screen import open_table
    from kubetrace.views.units import parse_duration

    merged.nodes = {node: NodeState() for node in nodes}
    more = [] if options["top"] else ["--top", str(_ROWS_EACH)]
    # what is left out of the table may be what it is sorted by; and the older name is known to older images
    whole = _without(asked.arguments, "--columns", "--color")
    arguments = {node: [asked.command, *whole, "-o", "windows", *more] for node in nodes}
    interval_s = parse_duration(options["interval"])
    summaries: dict[str, Mapping[str, Any]] = {}
    keys = _keys() if can_be_live(sys.stdout) else None
    with Stop() as stop, contextlib.ExitStack() as stack:
        # the screen is given back before the pods are deleted, which takes a moment
        streams = stack.enter_context(Streams(kubectl, image, arguments))
        headers = not options["no_headers"]
        view: LiveTable | PlainTable = open_table(
            sys.stdout, wide=options["output"] == "wide", headers=headers, colour=COLOURS[options["color"]]
        )
        stack.enter_context(view)
        if keys is not None:
            stack.enter_context(keys)
        _show(streams, merged, view.show, stop, keys, interval_s, summaries)
    return _close(merged, summaries, streams)


def _without(arguments: Sequence[str], *names: str) -> list[str]:
    """The arguments but for these options and their values."""
    found: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in names:
            del rest[:1]
        elif not word.startswith(tuple(f"{name}=" for name in names)):
            found.append(word)
    return found


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
        texts = summary.get("texts")
        each = (
            [f"{name}: {text}" for name, text in texts.items()]
            if isinstance(texts, dict)
            else [summary.get("text", "")]
        )
        for text in each[:_MOST_TEXTS]:
            click.echo(f"{node}: {visible(str(text))}")
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
    if streams.lost:
        click.echo("kubectl kubetrace: events were lost (--strict)", err=True)
    return 1 if failed or streams.troubles else 3 if streams.lost else 0


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

    more = ["-o", "json"] if are_objects(output) and output != "json" else []
    arguments = {node: [asked.command, *asked.arguments, *more] for node in nodes}
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
                    if said.failed:
                        out.write(form.failure(said.node, said.failed))
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


# A recording, brought back.


def _file(asked: Asked) -> Path:
    """The file here that `record` writes; its words become TRACER... and -, which is stdout. Raises UsageError."""
    from pathlib import Path

    *names, file = asked.words or [""]
    if not names or file in tracers.names():
        raise UsageError(
            "record needs at least one tracer and a FILE.",
            do=f"kubectl kubetrace record {'|'.join(tracers.names())} FILE --node NODE",
        )
    if any(word == "--max-size" or word.startswith("--max-size=") for word in asked.arguments):
        raise UsageError(
            "--max-size is not for a recording that is brought here.",
            why="It would go on in a new file on the node.",
            do="-d TIME bounds it",
        )
    asked.words = [*names, "-"]
    return Path(file)


def _record(file: Path, asked: Asked, kubectl: Any, nodes: Sequence[str], image: str) -> int:
    from kubetrace.plugin.bring import Brought, file_of
    from kubetrace.plugin.streams import END_S, Streams
    from kubetrace.session.stop import Stop
    from kubetrace.views.text import escape
    from kubetrace.views.units import format_bytes

    force = "--force" in asked.arguments
    own = [word for word in asked.arguments if word != "--force"]
    files = {node: file_of(file, node, alone=len(nodes) == 1) for node in nodes}
    failed = 0
    stopped = 0.0
    with (
        Brought(files, force=force) as brought,
        Stop() as stop,
        Streams(kubectl, image, {node: [asked.command, *own] for node in nodes}, raw=True) as streams,
    ):
        while streams.running and not (stopped and time.monotonic() - stopped > END_S):
            for said in streams.read(0.1):
                if said.waits:
                    click.echo(f"{said.node}: {said.waits}", err=True)
                elif not said.ended:
                    brought.write(said.node, said.line)
                else:
                    told = next((line for line in streams.words(said.node) if line.startswith("Recorded ")), "")
                    if said.failed or not told:
                        failed += 1
                        _tell_failure(said.node, streams)
                        continue
                    path = files[said.node]
                    what = told.removeprefix("Recorded ").partition(" to stdout")[0]
                    size = format_bytes(brought.sizes[said.node])
                    click.echo(f"{said.node}: {escape(what)}, {size} in {escape(str(path))}.")
                    click.echo(f"View it: kubetrace replay {escape(str(path))}")
            if stop.asked and not stopped:
                stopped = time.monotonic()
                streams.stop()
    return _status(failed, streams)


class _Lines:
    """What becomes of a line of one node: an object is told with its node, all else is led by the node's name."""

    def __init__(self, output: str, nodes: Sequence[str]) -> None:
        self._output = output
        self._width = max(map(len, nodes)) if len(nodes) > 1 else 0
        self._headers: set[str] = set()
        self._text = io.StringIO()
        self._objects = open_objects(self._text, output) if are_objects(output) else None
        from kubetrace.session.options import WINDOWS

        if output == WINDOWS:
            self._objects = open_objects(self._text, "json")

    def failure(self, node: str, why: str) -> str:
        """What is said of a node that failed, among the objects."""
        return self._object({"type": "error", "node": node, "error": why})

    def _object(self, record: Mapping[str, Any]) -> str:
        # a template is for what was asked for, not for what is said of it
        if self._objects is None or (
            self._output.startswith(JSONPATH) and record.get("type") in ("error", "lost", "summary")
        ):
            return ""
        self._text.seek(0)
        self._text.truncate()
        self._objects.write(record)
        return self._text.getvalue()

    def line(self, node: str, line: bytes) -> str:
        from kubetrace.views.text import visible

        if self._objects is not None:
            # whole objects only: what else comes over the wire is not a line of this stream
            with contextlib.suppress(ValueError, RecursionError):
                record = json.loads(line)
                if isinstance(record, dict):
                    return self._object({**record, "node": node})
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


def complete() -> None:
    """The console script kubectl_complete-kubetrace, which kubectl runs to complete `kubectl kubetrace ...`."""
    exits.run(lambda: run(["__complete", *sys.argv[1:]]))
