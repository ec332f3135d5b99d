"""What has changed of a pod from one look to the next, a line for each: for kubetrace pod -w."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kubetrace.views.units import format_bytes, format_count, format_cpu, format_duration

if TYPE_CHECKING:
    from kubetrace.node.pod_page import ContainerPage, PodPage, Space, Use


def changes(before: PodPage, now: PodPage, passed_s: float) -> Iterator[tuple[str, str]]:
    """(what, how it stands and what it has changed by) of all that is another than `passed_s` seconds before."""
    old = {one.files.identity.container_id: one for one in before.containers}
    for one in now.containers:
        name = _name(one)
        known = old.pop(one.files.identity.container_id, None)
        if known is None:
            yield name, "is new"
            continue
        if bool(known.processes) != bool(one.processes):
            yield name, "runs" if one.processes else "does not run any more"
        yield from _spaces(f"{name}: writable layer", known.writable, one.writable, passed_s)
        yield from _spaces(f"{name}: log", known.logged, one.logged, passed_s)
        yield from _uses(name, known.use, one.use, passed_s)
    for gone in old.values():
        yield _name(gone), "is gone"
    volumes = {one.volume.path: one for one in before.volumes}
    for volume in now.volumes:
        was = volumes.pop(volume.volume.path, None)
        if was is None:
            yield f"volume {volume.volume.name}", "is new"
        else:
            yield from _spaces(f"volume {volume.volume.name}", was.space, volume.space, passed_s)
    for left in volumes.values():
        yield f"volume {left.volume.name}", "is gone"
    yield from _uses("pod", before.use, now.use, passed_s)


def _name(one: ContainerPage) -> str:
    who = one.files.identity
    return "sandbox" if who.kind == "sandbox" else f"container {who.container or '-'}"


def _spaces(what: str, before: Space | None, now: Space | None, passed_s: float) -> Iterator[tuple[str, str]]:
    # of one that was not looked through it is not known
    if before is None or now is None or not (before.whole and now.whole):
        return
    grew, made = now.bytes - before.bytes, now.inodes - before.inodes
    if not grew and not made:
        return
    sign = "-" if grew < 0 else "+"
    inodes = f", {made:+,} inode{'s' * (abs(made) != 1)}" if made else ""
    yield what, f"{format_bytes(now.bytes)}, {sign}{format_bytes(round(abs(grew) / passed_s))}/s{inodes}"


def _uses(what: str, before: Use | None, now: Use | None, passed_s: float) -> Iterator[tuple[str, str]]:
    if before is None or now is None:
        return
    parts = []
    if before.cpu is not None and now.cpu is not None and now.cpu > before.cpu:
        used = round((now.cpu - before.cpu) / passed_s / 1e6)
        if used:
            limit = f" of {format_cpu(now.cpu_limit)}" if now.cpu_limit is not None else ""
            parts.append(f"CPU {format_cpu(used)}{limit}")
    if before.throttled is not None and now.throttled is not None and now.throttled > before.throttled:
        parts.append(f"throttled for {format_duration(now.throttled - before.throttled)}")
    if before.memory is not None and now.memory is not None and now.memory != before.memory:
        limit = f" of {format_bytes(now.memory_limit)}" if now.memory_limit is not None else ""
        sign = "-" if now.memory < before.memory else "+"
        parts.append(f"memory {format_bytes(now.memory)}{limit}, {sign}{format_bytes(abs(now.memory - before.memory))}")
    if before.memory_limit != now.memory_limit or before.cpu_limit != now.cpu_limit:
        parts.append("its limits were changed")
    if before.oom_kills is not None and now.oom_kills is not None and now.oom_kills > before.oom_kills:
        parts.append(f"{format_count(now.oom_kills - before.oom_kills)} killed for want of memory")
    if before.processes is not None and now.processes is not None and now.processes != before.processes:
        parts.append(f"{format_count(now.processes)} process{'es' * (now.processes != 1)}")
    if parts:
        yield what, ", ".join(parts)
