"""Source -> decode -> attribute -> aggregate -> view: one loop, readable at once.

    births of cgroups ---> node's files ---> facts ---.
                                                      v
    rings --every 100 ms--> decode --> identify --> select --> Tally --every interval--> view
                                                          '--> each event --> lines, json, csv

One thread. It wakes for the birth of a cgroup (the container's config.json may be gone 30 ms later), for a change of
the node's mounts, for a key, and for its ticks; events wait in their rings until a tick.
"""

from __future__ import annotations

import os
import resource
import select
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from kubetrace.aggregate import LAST, SUM, Groups, Key
from kubetrace.attribution.attributor import Attributor, Identity
from kubetrace.attribution.facts import CgroupSeen
from kubetrace.selection import Selection

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Fact
    from kubetrace.layout import Batch, Layout
    from kubetrace.tracers import Board, Gauges, Tracer
    from kubetrace.views.columns import Column, Value

DRAIN_INTERVAL_S = 0.1
# How often the node's files are asked again about what has no name yet, and how soon after one another mounts are read.
_ASK_AGAIN_S = 1.0
_MOUNTS_AGAIN_S = 0.02
_COST_OVER_S = 0.5
_OTHERS = "(others)"


class Source(Protocol):
    """Where batches come from: the kernel (engines.source.KernelSource), later a recording."""

    layouts: Mapping[str, Layout]

    @property
    def births_fd(self) -> int:
        """Readable when the stream `cgroups` has something."""

    def read(self, *streams: str) -> Iterable[Batch]:
        """What has come since the last call."""

    def losses(self) -> dict[str, int]:
        """Kind of loss -> count since the start."""

    def exclude(self, hierarchy: int, cgroup_id: int) -> None:
        """Do not send events of this cgroup any more."""


class NodeFiles(Protocol):
    """The node's files as facts (attribution.node.Node)."""

    def scan(self) -> Iterable[Fact]:
        """Everything there is now."""

    def cgroup_created(self, hierarchy: int, cgroup_id: int, path: str, time_ns: int) -> Sequence[Fact]:
        """What the files say about a cgroup that was just made."""

    def resolve_again(self) -> Sequence[Fact]:
        """What they say now about containers without a name."""

    def mounts(self) -> Sequence[Fact]:
        """Overlays that came and went since the last look."""

    def mounts_fd(self) -> int:
        """Polls POLLPRI when the node's mounts change."""


@dataclass
class Wall:
    """The node's name and clock."""

    node: str
    offset_ns: int

    def wall_ns(self, boot_ns: int) -> int:
        """Nanoseconds since 1970."""
        return boot_ns + self.offset_ns


@dataclass
class Counts:
    """What the foot and the summary say. `events` matched the selection; `folded` of them are part of another's row."""

    events: int = 0
    folded: int = 0
    unattributed: int = 0
    losses: dict[str, int] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """All kinds together."""
        return sum(self.losses.values())


class Tally:
    """The rows of a tracer's table under one grouping."""

    def __init__(self, tracer: Tracer, by: str, board: Board | None = None) -> None:
        """`by`: one of the tracer's groupings. The rows of a tracer with a board are that board's."""
        self._tracer = tracer
        self._by = by
        self._board = board
        grouping = tracer.groupings[by]
        self._key_columns = [column.key for column in grouping.key]
        self._note_columns = [column.key for column in grouping.notes]
        self.columns: Sequence[Column] = [*grouping.columns, *tracer.measures]
        weight = [column.key for column in tracer.measures].index(next(iter(tracer.sorts.values())))
        self._groups = Groups(
            tracer.operations(), fold=lambda key: (*key[:-1], _OTHERS), weight=lambda row: row[weight]
        )
        self._notes: dict[Key, tuple[Value, ...]] = {}

    def add(self, cells: Mapping[str, Value], values: Sequence[Any]) -> None:
        """Count one event."""
        if self._board is not None:
            return
        key = tuple([cells[name] for name in self._key_columns])
        self._groups.add(key, values)
        if self._note_columns:
            self._notes[key] = tuple([cells[name] for name in self._note_columns])

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._groups) if self._board is None else len(self._board.rows(self._by))

    def rows(self, sort_key: str, top: int | None) -> list[tuple[Value, ...]]:
        """Sorted rows, at most `top`: numbers descending, names ascending; equal ones in the order of arrival."""
        blank = (None,) * len(self._note_columns)
        rows: list[tuple[Any, ...]] = [(*key, *self._notes.get(key, blank), *row) for key, row in self._groups.rows()]
        if self._board is not None:
            rows = [tuple(row) for row in self._board.rows(self._by)]
        at = next((i for i, column in enumerate(self.columns) if column.key == sort_key), None)
        if at is not None:
            numeric = self.columns[at].numeric or self.columns[at].kind == "time"
            if numeric:
                rows.sort(key=lambda row: row[at] or 0, reverse=True)
            else:
                rows.sort(key=lambda row: _sortable(row[at]))
        return rows[:top] if top else rows


def _sortable(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    return str(value if value is not None else "\U0010ffff").encode("utf-8", "surrogateescape")


class Attribution:
    """Facts in, identities out; asks the node's files again when an event has no name yet."""

    def __init__(self, files: NodeFiles, selection: Selection, exclude: Callable[[int, int], None]) -> None:
        """`exclude` is told every cgroup whose container is known and not selected."""
        self._files = files
        self._attributor = Attributor()
        self._selection = selection
        self._exclude = exclude
        self._excluded: set[tuple[int, int]] = set()
        self._asked_again = -_ASK_AGAIN_S
        self._undecided: dict[tuple[int, int], int] = {}
        self.told: list[Callable[[Fact], None]] = []
        """Who is also given every fact."""
        self._matched: set[Identity] = set()

    def scan(self) -> None:
        """Learn all that the node's files say now."""
        self._learn(self._files.scan())

    def births(self, events: Iterable[Any]) -> None:
        """Learn of cgroups that were made, in the order the kernel told."""
        for event in events:
            if event.step == 0:
                path = os.fsdecode(event.path[: event.path_bytes])
                self._learn(self._files.cgroup_created(event.hierarchy, event.cgroup_id, path, event.time))

    def mounts(self) -> None:
        """Learn which overlays are mounted now."""
        self._learn(self._files.mounts())

    def ask_again(self) -> None:
        """Learn what became known about the nameless."""
        if time.monotonic() - self._asked_again >= _ASK_AGAIN_S:
            self._asked_again = time.monotonic()
            self._learn(self._files.resolve_again())

    def identify(self, event: Any) -> Identity:
        """Whose event this is."""
        identity = self._ask(event)
        if identity.kind == "unknown" or (identity.kind in ("container", "sandbox", "pod") and identity.pod is None):
            if identity.kind == "unknown" and time.monotonic() - self._asked_again >= _ASK_AGAIN_S:
                self.scan()
            self.ask_again()
            identity = self._ask(event)
        return identity

    def _ask(self, event: Any) -> Identity:
        return self._attributor.identify(
            cgroup_id=event.cgroup_id,
            memory_cgroup_id=event.memory_cgroup_id,
            memory_hierarchy=event.memory_hierarchy,
            device=event.device,
            time_ns=event.time,
        )

    def _learn(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            self._attributor.learn(fact)
            for learn in self.told:
                learn(fact)
            if isinstance(fact, CgroupSeen):
                self._undecided[fact.hierarchy, fact.cgroup_id] = fact.time_ns
        self._decide()

    def _decide(self) -> None:
        """Judge the cgroups that came: what is no pod's, or has no name yet, is judged event by event."""
        for (hierarchy, number), time_ns in list(self._undecided.items()):
            identity = self._attributor.identify(
                cgroup_id=number if hierarchy == 0 else 1,
                memory_cgroup_id=number,
                memory_hierarchy=hierarchy,
                device=None,
                time_ns=time_ns,
            )
            if identity.kind in ("container", "sandbox"):
                if identity.pod is None or (identity.kind == "container" and identity.container is None):
                    continue
                if self._selection.match(identity):
                    self._matched.add(identity)
                elif self._selection and (hierarchy, number) not in self._excluded:
                    self._excluded.add((hierarchy, number))
                    self._exclude(hierarchy, number)
            del self._undecided[hierarchy, number]

    @property
    def matched(self) -> int:
        """How many containers (sandboxes included) are or were selected."""
        return len(self._matched)


class EventView(Protocol):
    """Takes each event as it comes: lines, JSON or CSV."""

    def event(self, event: Any, identity: Identity) -> None:
        """One event that is asked for."""

    def lost(self, losses: Mapping[str, int], wall_ns: int) -> None:
        """The counts of losses have risen to these."""

    def flush(self) -> None:
        """A batch has ended."""


class Pipeline:
    """One tracer between its source and a view, for as long as the caller steps it."""

    def __init__(
        self,
        tracer: Tracer,
        source: Source,
        files: NodeFiles,
        clock: Wall,
        selection: Selection,
        *,
        groupings: Sequence[str] = (),
        events: EventView | None = None,
        gauges: Gauges | None = None,
        board: Board | None = None,
    ) -> None:
        """`groupings` are those tallied from the start: a table can change over to any of them and lose nothing.

        `gauges` are read by `sample`, and `board` keeps the rows of a tracer that has them (tracers.Stateful).
        """
        self.counts = Counts()
        self.tallies = {by: Tally(tracer, by, board) for by in groupings}
        self._gauges = gauges
        self._board = board
        self.totals: list[Any] = [0] * len(tracer.measures)
        self._tracer = tracer
        self._source = source
        self._clock = clock
        self._selection = selection
        self._events = events
        self.attribution = Attribution(files, selection, source.exclude)
        self.attribution.told += [of.learn for of in (gauges, board) if of is not None]
        self._operations = tracer.operations()
        self._mounts_fd = files.mounts_fd()
        self._mounts_changed = False
        self._mounts_read = 0.0
        self._poller = select.poll()
        self._poller.register(source.births_fd, select.POLLIN)
        self._poller.register(self._mounts_fd, select.POLLPRI)
        self._streams = tuple(tracer.streams)

    def watch(self, fd: int) -> None:
        """Let `wait` return when this descriptor can be read (the keyboard)."""
        self._poller.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Stop watching it (it was closed at the other end)."""
        self._poller.unregister(fd)

    def start(self) -> None:
        """Learn the node as it is; the source is attached already, so nothing is born unseen."""
        self.attribution.scan()
        self._births()

    def wait(self, timeout_s: float) -> set[int]:
        """Sleep until something happens or the time is over; births and mounts are dealt with, the rest is returned."""
        ready = {fd for fd, _ in self._poller.poll(max(0.0, timeout_s) * 1000)}
        if self._source.births_fd in ready:
            self._births()
        if self._mounts_fd in ready:
            self._mounts_changed = True
        if self._mounts_changed and time.monotonic() - self._mounts_read >= _MOUNTS_AGAIN_S:
            self._mounts()
        return ready - {self._source.births_fd, self._mounts_fd}

    def drain(self) -> None:
        """Take in every event that is there."""
        # events first: whatever they are about was born before them, and its birth is read now
        batches = list(self._source.read(*self._streams))
        self._births()
        if self._mounts_changed:
            self._mounts()
        decoded: list[Any] = []
        for batch in batches:
            decoded.extend(self._source.layouts[batch.stream].decode(batch.data))
        if len(batches) > 1:
            decoded.sort(key=lambda event: event.time)
        for event in decoded:
            self._take(event)
        losses = self._source.losses()
        if losses != self.counts.losses:
            if self._events is not None and any(losses.values()):
                self._events.lost(losses, time.time_ns())
            self.counts.losses = losses
        if self._events is not None:
            self._events.flush()

    def sample(self) -> None:
        """Read the gauges, once an interval, and take their records in as events."""
        if self._gauges is None:
            return
        for batch in self._gauges.read():
            for record in self._gauges.layouts[batch.stream].decode(batch.data):
                self._take(record)
        if self._events is not None:
            self._events.flush()

    def total(self) -> dict[str, Any]:
        """Every measure over all events, by its column's key."""
        return {column.key: value for column, value in zip(self._tracer.measures, self.totals, strict=True)}

    def _births(self) -> None:
        for batch in self._source.read("cgroups"):
            self.attribution.births(self._source.layouts["cgroups"].decode(batch.data))

    def _mounts(self) -> None:
        self._mounts_changed = False
        self._mounts_read = time.monotonic()
        self.attribution.mounts()

    def _take(self, event: Any) -> None:
        identity = self.attribution.identify(event)
        if self._board is None:
            if not self._selection or self._selection.match(identity):
                self._tell(event, identity)
            return
        # what the node itself does may concern a pod: the runtime mounts its roots
        if self._selection and identity.kind != "host" and not self._selection.match_pod(identity):
            return
        for told, of in self._board.take(event, identity):
            if not self._selection or self._selection.match(of):
                self._tell(told, of)

    def _tell(self, event: Any, identity: Identity) -> None:
        self.counts.events += 1
        if identity.kind == "unknown":
            self.counts.unattributed += 1
        if self._tracer.folded(event):
            self.counts.folded += 1
        else:
            self._count(event, identity)
        if self._events is not None:
            self._events.event(event, identity)

    def _count(self, event: Any, identity: Identity) -> None:
        values = self._tracer.values(event, self._clock)
        for index, operation in enumerate(self._operations):
            if operation == SUM:
                self.totals[index] += values[index]
            elif operation == LAST or values[index] > self.totals[index]:
                self.totals[index] = values[index]
        if self.tallies:
            cells = self._tracer.key_cells(event, identity, self._clock)
            for tally in self.tallies.values():
                tally.add(cells, values)


class OwnCost:
    """kubetrace's own CPU time, in percent of one core since the last call."""

    def __init__(self) -> None:
        """From now on."""
        self._then = (time.monotonic(), self._cpu_s())
        self._percent: float | None = None

    @staticmethod
    def _cpu_s() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def percent(self) -> float | None:
        """Since the last call that was at least half a second ago; None before there was one."""
        now, cpu = time.monotonic(), self._cpu_s()
        before, cpu_before = self._then
        if now - before >= _COST_OVER_S:
            self._then = (now, cpu)
            self._percent = 100.0 * (cpu - cpu_before) / (now - before)
        return self._percent
