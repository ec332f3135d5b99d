"""The table of one run of disk: how full the file systems are, how fast they fill, and what is on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from kubetrace.attribution.attributor import Identity
from kubetrace.attribution.eviction import growth, time_left_s
from kubetrace.kit.identity import HOST, identity_cells
from kubetrace.tracers.disk.entry import (
    NO_GROWTH,
    UNKNOWN,
    action,
    kind_of,
    known,
    of_inodes,
    roles,
    text_of,
    what,
)
from kubetrace.views.units import format_bytes, format_count

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Fact
    from kubetrace.kit.context import Context
    from kubetrace.views.columns import Value

# Growth is that of so long, and of so many looks at most; of less than the second it is not told.
_SPAN_NS: Final = 300_000_000_000
_SAMPLES: Final = 300
_SHORTEST_NS: Final = 5_000_000_000
_PART_SAMPLES: Final = 8
# Entries of one node: more are made up.
_MOST: Final = 200_000


@dataclass(slots=True)
class _System:
    event: Any
    bytes: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    inodes: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def sample(self, event: Any) -> None:
        self.event = event
        for samples, value in ((self.bytes, event.bytes), (self.inodes, event.inodes)):
            if value != UNKNOWN:
                samples.append((event.time, value))
                while samples[0][0] < event.time - _SPAN_NS:
                    samples.popleft()

    def growth(self, *, inodes: bool = False) -> float | None:
        """In a second."""
        samples = self.inodes if inodes else self.bytes
        if len(samples) < 2 or samples[-1][0] - samples[0][0] < _SHORTEST_NS:
            return None
        return growth(list(samples))


@dataclass(slots=True)
class _Part:
    event: Any
    identity: Identity
    samples: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_PART_SAMPLES))

    @property
    def growth(self) -> float | None:
        return growth(list(self.samples))


class DiskBoard:
    """See kit.tracer.Board."""

    def __init__(self, context: Context) -> None:
        """Nothing is known yet."""
        self._context = context
        self._systems: dict[int, _System] = {}
        self._thresholds: dict[int, Any] = {}
        self._parts: dict[int, _Part] = {}
        self._time_ns = 0

    def learn(self, fact: Fact) -> None:
        """Names come with the entries' identities."""

    def take(self, event: Any, identity: Identity) -> Iterable[tuple[Any, Identity]]:
        """What a reader is told of an entry: of a file system its thresholds too, with the time that is left."""
        self._time_ns = max(self._time_ns, event.time)
        said = what(event)
        if len(self._parts) + len(self._thresholds) + len(self._systems) > _MOST and said != "gone":
            return ()
        if said == "filesystem":
            system = self._systems.setdefault(event.entry, _System(event))
            system.sample(event)
            return self._of_system(event, system, identity)
        if said == "threshold":
            self._thresholds[event.entry] = event
            return ()
        if said == "gone":
            self._systems.pop(event.entry, None)
            self._thresholds.pop(event.entry, None)
            self._parts.pop(event.entry, None)
            return ((event, identity),)
        if said != "part":
            return ()
        owner = self._owner(event, identity)
        part = self._parts.get(event.entry)
        if part is None:
            part = self._parts[event.entry] = _Part(event, owner)
        part.event, part.identity = event, owner
        if event.NAMES["state"][event.state] != "walking" and event.bytes != UNKNOWN:
            part.samples.append((event.as_of, event.bytes))
        grown = part.growth
        return ((event._replace(growth=NO_GROWTH if grown is None else round(grown)), owner),)

    def _of_system(self, event: Any, system: _System, identity: Identity) -> Iterator[tuple[Any, Identity]]:
        grown = system.growth()
        yield event._replace(growth=NO_GROWTH if grown is None else round(grown)), identity
        for threshold in self._thresholds.values():
            if threshold.disk == event.disk:
                grown = system.growth(inodes=of_inodes(threshold))
                left = self._left_ns(threshold, system)
                yield (
                    threshold._replace(
                        time=event.time,
                        as_of=event.as_of,
                        roles=event.roles,
                        capacity=event.capacity,
                        available=event.available,
                        inodes_total=event.inodes_total,
                        inodes_free=event.inodes_free,
                        growth=NO_GROWTH if grown is None else round(grown),
                        left=UNKNOWN if left is None else left,
                    ),
                    identity,
                )

    def _owner(self, event: Any, identity: Identity) -> Identity:
        """Whose a part is: by its cgroup, else by what the attribution knows of its ids, else by its own names."""
        if identity.kind in ("container", "sandbox", "pod") and identity.pod is not None:
            return identity
        container_id, pod_uid = text_of(event.container_id) or None, text_of(event.pod_uid) or None
        if container_id is None and pod_uid is None and not event.pod.rstrip(b"\0"):
            return Identity(kind="host", cgroup_path="/", attributed_by="host")
        named: dict[str, Any] = {
            name: text_of(getattr(event, name)) or None
            for name in ("namespace", "pod", "container", "pod_uid", "container_id")
        }
        attribution = self._context.attribution
        if container_id is None and pod_uid is not None and named["container"] is not None:
            found = attribution.container_of(pod_uid, named["container"])
        else:
            found = attribution.owner(container_id, None if named["pod"] else pod_uid)
        if found is not None and found.pod is not None:
            return found
        return Identity(kind="container" if container_id else "pod", attributed_by="path", **named)

    @staticmethod
    def _left_ns(threshold: Any, system: _System) -> int | None:
        if threshold.least == UNKNOWN:
            return None
        inodes = of_inodes(threshold)
        available = system.event.inodes_free if inodes else system.event.available
        left = time_left_s(available, max(threshold.least, 1), system.growth(inodes=inodes))
        return None if left is None else min(round(left * 1e9), 1 << 61)

    # Rows.

    def rows(self, by: str) -> Sequence[Sequence[Value]]:
        """Under one of the groupings."""
        if by == "filesystem":
            return list(self._system_rows())
        return list(self._part_rows(by))

    def _system_rows(self) -> Iterator[list[Value]]:
        for system in sorted(self._systems.values(), key=lambda one: (not one.event.roles, one.event.path)):
            event = system.event
            found = [one for one in self._thresholds.values() if one.disk == event.disk]
            lefts = {id(one): self._left_ns(one, system) for one in found}
            # what comes first, first
            found.sort(key=lambda one: (lefts[id(one)] is None, lefts[id(one)] or 0, -self._near(one, event)))
            for threshold in found:
                inodes = of_inodes(threshold)
                available = event.inodes_free if inodes else event.available
                total = event.inodes_total if inodes else event.capacity
                grown = system.growth()
                yield [
                    text_of(event.path),
                    text_of(threshold.name),
                    lefts[id(threshold)],
                    action(threshold, available),
                    _amount(available, inodes=inodes),
                    _amount(threshold.least, inodes=inodes) if threshold.least > 0 else None,
                    100 * available / total if total > 0 else None,
                    known(event.frees),
                    text_of(threshold.path) or None,
                    roles(event) or "other",
                    known(threshold.grace) or None,
                    event.capacity,
                    text_of(event.name),
                    event.bytes,
                    known(event.inodes),
                    None if grown is None else round(grown),
                ]

    @staticmethod
    def _near(threshold: Any, event: Any) -> float:
        # how near it is, as a share of the whole
        inodes = of_inodes(threshold)
        total = event.inodes_total if inodes else event.capacity
        available = event.inodes_free if inodes else event.available
        return -(available - max(threshold.least, 0)) / total if total > 0 else 0.0

    def _part_rows(self, by: str) -> Iterator[list[Value]]:
        found: dict[tuple[Value, ...], list[_Part]] = {}
        selection = self._context.attribution.selection
        for part in self._parts.values():
            if selection and not selection.match(part.identity):
                continue
            if (key := self._key(part, by)) is not None:
                found.setdefault(key, []).append(part)
        for key, parts in found.items():
            sizes = [part.event.bytes for part in parts if part.event.bytes != UNKNOWN]
            inodes = [part.event.inodes for part in parts if part.event.inodes != UNKNOWN]
            grown = [value for part in parts if (value := part.growth) is not None]
            yield [
                *key,
                *self._notes(parts, by),
                sum(sizes) if sizes else None,
                sum(inodes) if inodes else None,
                round(sum(grown)) if grown else None,
            ]

    def _key(self, part: _Part, by: str) -> tuple[Value, ...] | None:
        event = part.event
        kind = kind_of(event)
        if by == "kind":
            return (self._mount_of(event), kind)
        if by == "image":
            if kind not in ("image layers", "image blobs"):
                return None
            return (text_of(event.name),)
        cells = identity_cells(event, part.identity)
        if cells["pod"] == HOST:
            cells = {**cells, "container": None}
        if by == "pod":
            return (cells["namespace"], cells["pod"])
        if by == "container":
            return (cells["namespace"], cells["pod"], cells["container"])
        if by == "node":
            return (self._context.node,)
        whose = [cells[name] for name in ("namespace", "pod", "container")]
        return (self._mount_of(event), text_of(event.path), text_of(event.name) or None, kind, *whose)

    def _mount_of(self, event: Any) -> str:
        for system in self._systems.values():
            if system.event.disk == event.disk:
                return text_of(system.event.path)
        return f"{event.disk >> 20}:{event.disk & 0xFFFFF}"

    def _notes(self, parts: Sequence[_Part], by: str) -> list[Value]:
        hows = dict.fromkeys(_how(part.event) for part in parts)
        oldest = min(part.event.as_of for part in parts)
        age = max(0, self._time_ns - oldest) if oldest > 0 else None
        if by == "node":
            return []
        told: list[Value] = [", ".join(sorted(hows)), age]
        if by in ("pod", "container"):
            return [_largest(parts), *told]
        if by == "image":
            layers = [part for part in parts if kind_of(part.event) == "image layers"]
            frees = [part.event.frees for part in layers if part.event.frees != UNKNOWN]
            shared = [part.event.shared for part in parts if part.event.shared != UNKNOWN]
            users = sum(part.event.users for part in layers)
            return [sum(shared) if shared else None, sum(frees) if frees else None, users, *told]
        return told


def _how(event: Any) -> str:
    how = str(event.NAMES["how"][event.how])
    state = str(event.NAMES["state"][event.state])
    if state == "walking":
        return f"{how} so far"
    return f"{how} in part" if state == "part" else how


def _amount(value: int, *, inodes: bool) -> str | None:
    if value < 0:
        return None
    return format_count(value) if inodes else format_bytes(value)


def _largest(parts: Sequence[_Part]) -> str:
    """What most of it is: log 1.2 GiB, emptyDir 300 MiB."""
    sums: Mapping[str, int] = {}
    for part in parts:
        kind = kind_of(part.event)
        sums = {**sums, kind: sums.get(kind, 0) + max(0, part.event.bytes)}
    best = sorted(sums.items(), key=lambda one: -one[1])[:2]
    return ", ".join(f"{kind} {format_bytes(size)}" for kind, size in best if size)
