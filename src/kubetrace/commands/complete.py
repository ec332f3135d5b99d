"""What a shell completes behind an option or as an argument: names of this node, of a tracer, of a recording.

Called by click's completion (commands/completion.py prints the scripts); a context's `obj` are the line's words. A
shell waits for each of these, and shows whatever is printed in the middle of the user's line: nothing is imported
before it is needed, and nothing is said.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from kubetrace.commands import help

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from kubetrace.kit.tracer import Tracer
    from kubetrace.node.named import Names

    Complete = Callable[[click.Context, click.Parameter, str], list[Any]]


def _silent(complete: Complete) -> Complete:
    @functools.wraps(complete)
    def completed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from kubetrace.errors import KubetraceError

        try:
            return complete(ctx, param, incomplete)
        except (KubetraceError, OSError, ValueError):
            return []

    return completed


def _in_list(incomplete: str, known: Iterable[str]) -> list[str]:
    """Completions of the last name of NAME,NAME or !NAME; those before it stay."""
    before, comma, last = incomplete.rpartition(",")
    sign = last[: len(last) - len(last.lstrip("!"))]
    given = set(before.split(","))
    return [
        f"{before}{comma}{sign}{name}"
        for name in dict.fromkeys(known)
        if name.startswith(last[len(sign) :]) and name not in given
    ]


def _named(ctx: click.Context) -> Names:
    from kubetrace.node.host import Host
    from kubetrace.node.named import names

    return names(Host.find(ctx.params.get("host_root")))


def _matches(ctx: click.Context, option: str, name: str) -> bool:
    """Whether what was given for an option before lets this name through."""
    patterns = [part for given in ctx.params.get(option) or () for part in given.split(",") if part]
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return not any(fnmatchcase(name, p) for p in unwanted) and (not wanted or any(fnmatchcase(name, p) for p in wanted))


@_silent
def namespaces(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """-n."""
    return _in_list(incomplete, sorted({namespace for namespace, _ in _named(ctx)}))


@_silent
def pods(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """-p: of the namespaces that were given before."""
    found = {pod for namespace, pod in _named(ctx) if _matches(ctx, "namespace", namespace)}
    return _in_list(incomplete, sorted(found))


@_silent
def containers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """-c: of the namespaces and pods that were given before."""
    found = {
        container
        for (namespace, pod), names in _named(ctx).items()
        if _matches(ctx, "namespace", namespace) and _matches(ctx, "pod", pod)
        for container in names
    }
    return _in_list(incomplete, sorted(found))


@_silent
def queries(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Of `who`: NAMESPACE/POD, or a path."""
    from click.shell_completion import CompletionItem

    if incomplete.startswith("/"):
        return [CompletionItem(incomplete, type="file")]
    return [name for key in sorted(_named(ctx)) if (name := "/".join(key)).startswith(incomplete)]


def words(known: Callable[[], Sequence[str]], *, lists: bool = False) -> Complete:
    """One of these words, or a list of them."""

    @_silent
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        if lists:
            return _in_list(incomplete, known())
        return [word for word in known() if word.startswith(incomplete)]

    return complete


def _tracers(ctx: click.Context, tracer: Tracer | None) -> list[Tracer]:
    """The command's own; else those that were named before, or those that the recording holds."""
    from kubetrace import tracers

    if tracer is not None:
        return [tracer]
    # click has no arguments where the line ends with an option that waits for its value
    words: list[str] = ctx.obj or []
    names = [word for word in words if word in tracers.names()]
    if not names and (file := next((word for word in words[1:] if os.path.isfile(word)), None)):
        from kubetrace.recording.reader import Recording

        with Recording(file) as recording:
            names = [item.name for item in recording.header.tracers]
    return [tracers.find(name) for name in names if name in tracers.names()]


def groupings(tracer: Tracer | None) -> Complete:
    """--by."""

    @_silent
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        names = dict.fromkeys(name for one in _tracers(ctx, tracer) for name in one.groupings)
        return [name for name in names if name.startswith(incomplete)]

    return complete


def heads(tracer: Tracer | None, *, signs: str, lists: bool = False) -> Complete:
    """A column by its head, as it is typed: in lower case unless the user began in upper; a sign in front stays."""

    @_silent
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        before, comma, last = incomplete.rpartition(",") if lists else ("", "", incomplete)
        sign = last[:1] if last[:1] in signs else ""
        begun = last[len(sign) :]
        given = {word.lstrip(signs).lower() for word in before.split(",")}
        heads = [
            head
            for one in _tracers(ctx, tracer)
            for head in columns_of(one, ctx.params.get("by"))
            if head.lower() not in given
        ]
        known = [head if begun.isupper() else head.lower() for head in heads]
        return [f"{before}{comma}{sign}{head}" for head in known if head.startswith(begun)]

    return complete


@_silent
def tracers_and_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Of `record`: TRACER... FILE."""
    from click.shell_completion import CompletionItem

    given = ctx.params.get(str(param.name)) or ()
    found: list[Any] = [name for name in help.tracers() if name.startswith(incomplete) and name not in given]
    return found if found else [CompletionItem(incomplete, type="file")]


@_silent
def recorded(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Of `replay` and `export`: a tracer that the recording holds."""
    from kubetrace.recording.reader import Recording

    with Recording(ctx.params["file"]) as recording:
        return [item.name for item in recording.header.tracers if item.name.startswith(incomplete)]


def columns_of(tracer: Tracer, by: str | None) -> list[str]:
    """The heads of a tracer's table."""
    grouping = tracer.groupings.get(by or "") or next(iter(tracer.groupings.values()))
    return list(dict.fromkeys(column.title for column in (*grouping.columns, *tracer.measures)))


def commands(texts: Mapping[str, str], incomplete: str) -> list[CompletionItem[str]]:
    """Commands and what each is for; none is imported for it."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(name, help=text) for name, text in texts.items() if name.startswith(incomplete)]
