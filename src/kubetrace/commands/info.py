"""kubetrace info: what a recording holds, before anybody replays it."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from kubetrace.commands import options

if TYPE_CHECKING:
    from pathlib import Path

    from kubetrace.recording.reader import Recording

_MOST_PODS = 20


def describe(recording: Recording) -> dict[str, Any]:
    """Reads the whole recording; the keys of `-o json` are a contract."""
    from kubetrace.attribution.selection import Selection
    from kubetrace.attribution.whose import Attribution
    from kubetrace.stream.steps import stream_key

    header = recording.header
    attribution = Attribution(Selection())
    events: dict[str, int] = {item.name: 0 for item in header.tracers}
    losses: dict[str, dict[str, int]] = {}
    pods: Counter[str] = Counter()
    owners = {stream_key(item.name, stream.name): item.name for item in header.tracers for stream in item.streams}
    begin_ns = wall_ns = None
    elapsed_ns = 0
    for step in recording.steps():
        attribution.learn(step.facts)
        for batch in step.batches:
            layout = recording.layouts[batch.stream]
            events[owners[batch.stream]] += len(batch.data) // layout.stride
            for event in layout.decode(batch.data):
                try:
                    who = attribution.identify(event)
                except (AttributeError, TypeError):  # a later version's, or no tracer's: it has no cgroup
                    break
                name = f"{who.namespace or '-'}/{who.pod}" if who.pod else {"host": "(host)"}.get(who.kind, "(unknown)")
                if len(pods) < 10_000 or name in pods:
                    pods[name] += 1
        for tracer, kinds in step.losses.items():
            losses[tracer] = dict(kinds)
        if step.tick is not None:
            elapsed_ns, wall_ns = step.tick.elapsed_ns, step.tick.wall_ns
            if begin_ns is None:
                begin_ns = wall_ns - elapsed_ns
    return {
        "file": str(recording.path),
        "bytes": recording.size,
        "version": header.version,
        "kubetrace": header.kubetrace,
        "node": header.node,
        "kernel": header.kernel,
        "part": header.part,
        "begin_ns": begin_ns,
        "end_ns": wall_ns,
        "duration_ns": elapsed_ns,
        "tracers": [
            {
                "name": item.name,
                "hook": item.hook,
                "missing": list(item.missing),
                "selection": dict(item.selection),
                "options": dict(item.options),
                "events": events[item.name],
                "losses": losses.get(item.name, {}),
            }
            for item in header.tracers
        ],
        "pods": dict(pods.most_common()),
        "complete": recording.end is not None and not recording.damage,
        "closed": recording.end is not None,
        "continued": recording.end is not None and recording.end.continued,
        "damage": [{"offset": d.offset, "bytes": d.size, "what": d.what} for d in recording.damage],
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The same for a person; names are escaped."""
    from kubetrace.views.text import escape, visible
    from kubetrace.views.units import format_bytes, format_duration, format_time

    span = "nothing"
    if found["begin_ns"] is not None:
        span = (
            f"{format_time(found['begin_ns'], local=True)} to {format_time(found['end_ns'], local=True)}"
            f" ({format_duration(found['duration_ns'])})"
        )
    out = [
        f"File:      {escape(found['file'])}, {format_bytes(found['bytes'])}, part {found['part']},"
        f" format {found['version']} of kubetrace {escape(found['kubetrace'])}",
        f"Node:      {escape(found['node'])}, Linux {escape(found['kernel'])}",
        f"Time:      {span}",
    ]
    for item in found["tracers"]:
        lost = sum(item["losses"].values())
        kinds = ", ".join(f"{kind} {count}" for kind, count in item["losses"].items() if count)
        out.append(
            f"Tracer:    {escape(item['name'])} by {escape(item['hook']) or '-'}, {item['events']} events,"
            f" {lost} lost{visible(f' ({kinds})') if kinds else ''}"
        )
        given = {**item["selection"], **item["options"]}
        if given:
            out.append("           asked for: " + ", ".join(f"{escape(k)} {escape(v)}" for k, v in given.items()))
        out += [f"           {visible(notice)}" for notice in dict.fromkeys(item["missing"]) if notice]
    pods = list(found["pods"].items())
    for number, (name, count) in enumerate(pods[:_MOST_PODS]):
        out.append(f"{'           ' if number else 'Pods:      '}{escape(name)}  {count}")
    if len(pods) > _MOST_PODS:
        out.append(f"           and {len(pods) - _MOST_PODS} more (-o json has all)")
    if found["complete"]:
        out.append("Complete:  yes" + ("; it goes on in the next part" if found["continued"] else ""))
    elif not found["closed"]:
        out.append("Complete:  no, its recorder was killed or its disk full: up to a second may be missing at the end")
    else:
        out.append("Complete:  no")
    out += [f"Damage:    {item['bytes']} bytes at {item['offset']}: {item['what']}" for item in found["damage"][:10]]
    if len(found["damage"]) > 10:
        out.append(f"           and {len(found['damage']) - 10} more")
    return out


def _run(files: tuple[Path, ...], output: str) -> None:
    from kubetrace.recording.reader import Recording
    from kubetrace.views.records import are_objects, open_objects

    objects = open_objects(sys.stdout, output) if are_objects(output) else None
    for number, file in enumerate(files):
        with Recording(file) as recording:
            found = describe(recording)
        if objects is not None:
            objects.write(found)
            continue
        for line in [*([""] if number else []), *lines(found)]:
            click.echo(line)
    if objects is not None:
        objects.flush()


_HELP = """Say what each recording FILE holds: node, kernel, tracers, time span, pods, losses, and whether it is whole.

\b
Examples:
  kubetrace info node.ktrace
  kubetrace info *.ktrace -o jsonpath='{.file} {.node} {.tracers[*].name}'
"""

command = click.Command(
    "info",
    params=[
        click.Argument(["files"], nargs=-1, required=True, type=options.File(), metavar="FILE..."),
        options.output(
            ("text", "json", "yaml"),
            "text is for people; json, yaml and jsonpath= have an object for each file, with all pods.",
            elsewhere={"name": ("A recording has no name but its file's.", "-o jsonpath='{.file}'")},
        ),
        *options.verbose(),
    ],
    callback=_run,
    help=_HELP,
    context_settings=options.SETTINGS,
)
