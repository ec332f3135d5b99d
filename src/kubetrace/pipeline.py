"""Source -> decode -> attribute -> aggregate -> view: one loop, readable at once.

    step.facts ------------------------.
                                       v
    step.batches --> decode --> identify --> select --> Tally --every interval--> view
                                                   '--> each event --> lines, json, csv

The steps come from the node (stream/live.py) or from a recording; nothing here knows which, nor asks the time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from kubetrace.attribution.attributor import NOT_LOOKED_UP
from kubetrace.attribution.whose import Attribution
from kubetrace.kit.tracer import Joins, NoAdvice, Stateful, counted_of
from kubetrace.stream.layout import Batch
from kubetrace.stream.steps import Step, stream_key
from kubetrace.tables.aggregate import joining
from kubetrace.tables.tally import Coarser, Tally, tallies

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.attribution.facts import Fact
    from kubetrace.attribution.selection import Selected
    from kubetrace.kit.context import Wall
    from kubetrace.kit.tracer import Board, Tracer
    from kubetrace.stream.layout import Layout
    from kubetrace.tables.counting import Counting, Table
    from kubetrace.tables.joining import Joiner
    from kubetrace.views.columns import Value

# Cgroups forgotten between two looks for rows of pods that ended.
_FORGOTTEN = 256


class Asked(Protocol):
    """The live end of the source (live.LiveSource)."""

    def ask(self, unknown: bool) -> Sequence[Fact]:
        """What can be learned now about containers without a name, or (`unknown`) about cgroups never heard of."""

    def layers(self, device: int) -> Sequence[Fact]:
        """What can be learned about the image layers below this overlay."""

    def exclude(self, hierarchy: int, cgroup_id: int, *, excluded: bool = True) -> None:
        """Do not send events of this cgroup any more; or, when it is gone, do not remember that."""

    def join(self, joiners: Mapping[str, Joiner]) -> None:
        """From now on, take alike records of these streams as one, while they are read."""


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


class EventView(Protocol):
    """Takes each event as it comes: lines, JSON or CSV."""

    def event(self, event: Any, identity: Identity) -> None:
        """One event that is asked for."""

    def lost(self, losses: Mapping[str, int], wall_ns: int) -> None:
        """The counts of losses have risen to these."""

    def flush(self) -> None:
        """A batch has ended."""


class Pipeline:
    """One tracer between a source's steps and a view."""

    def __init__(
        self,
        tracer: Tracer,
        layouts: Mapping[str, Layout],
        clock: Wall,
        selection: Selected,
        *,
        groupings: Sequence[str] = (),
        events: EventView | None = None,
        keep: Callable[[Any], bool] | None = None,
        asked: Asked | None = None,
        record: Callable[[Step], None] | None = None,
        by: str = "",
        own: Mapping[str, Any] | None = None,
        missing: Collection[str] = (),
        metered: bool = False,
        fold_ended: bool = True,
    ) -> None:
        """`groupings` are those tallied from the start: a table can change over to any of them and lose nothing.

        `by` is the grouping that counters begin with. `layouts` are those of all streams (steps.stream_key). `keep`
        says which events count (None: all). A live source is `asked` about the nameless, and told what is not selected;
        `record` is given every step when it is complete.
        `own` are the tracer's own options and `missing` is what is not seen, for a tracer that keeps a board.
        `metered`: only the tracer's metrics are asked for, so that what these do not depend on is not looked at.
        `fold_ended`: of pods that ended a while ago, only the heavy keep rows of their own.
        """
        self._fold_ended = fold_ended
        self._forgotten = 0
        self.counts = Counts()
        own_layouts = {
            key.removeprefix(stream_key(tracer.name, "")): layout
            for key, layout in layouts.items()
            if key.startswith(stream_key(tracer.name, ""))
        }
        self._board: Board | None = None
        if isinstance(tracer, Stateful):
            self._board = tracer.board(own or {}, own_layouts, missing, clock)
        counted = counted_of(tracer)
        self.tallies = {} if counted else tallies(tracer, groupings, self._board)
        self._tallied = [tally for tally in self.tallies.values() if isinstance(tally, Tally)]
        self.totals: list[Any] = [0] * len(tracer.measures)
        self._tracer = tracer
        self._clock = clock
        self._selection = selection
        self._events = events
        self._keep = keep
        self._asked = asked
        self._record = record
        self._metered = metered
        self.attribution = Attribution(selection, asked.exclude if asked is not None else None)
        self.advice = tracer.advice()
        clock.attribution = self.attribution
        self._add_total = joining(tuple(tracer.operations()))
        self._layouts = {stream_key(tracer.name, stream): layout for stream, layout in own_layouts.items()}
        # Where every event is told, or may be left out one by one, none is joined with another.
        self._joiners: dict[str, Joiner] = {}
        if isinstance(tracer, Joins) and events is None and keep is None:
            from kubetrace.tables.joining import Joiner

            unseen = tracer.unmetered if metered else ()
            alike = {name: how for name, how in tracer.alike.items() if name not in unseen}
            if all(Joiner.fits(layout, alike, unseen) for layout in self._layouts.values()):
                self._joiners = {key: Joiner(layout, alike, unseen) for key, layout in self._layouts.items()}
                if asked is not None and record is None:  # a recording has them as they came
                    asked.join(self._joiners)
        self.counting: Counting | None = None
        if counted is not None:
            from kubetrace.tables.counting import Counting

            self.counting = clock.counting = Counting(
                tracer,
                {key.rpartition("/")[2]: layout for key, layout in self._layouts.items()},
                self.attribution.identify,
                self.attribution.container_of,
                selection,
                clock.node,
                by or next(iter(tracer.groupings)),
            )

    def take(self, step: Step) -> None:
        """Count one step."""
        self._learn(step.facts)
        if self.counting is not None:
            self._take_counters(self.counting, step)
            return
        events, counts = self._decode(step)
        identities = [self.attribution.identify(event) for event in events]
        if self._asked is not None:
            nameless = {identity.kind for identity in identities if _nameless(identity)}
            if nameless and (facts := self._asked.ask("unknown" in nameless)):
                # Known before the first record of the step is counted: a replay has them there too.
                step = replace(step, facts=[*step.facts, *facts])
                self._learn(facts)
                identities = [self.attribution.identify(event) for event in events]
            if facts := self._missing_layers(self._asked, events, identities):
                step = replace(step, facts=[*step.facts, *facts])
                self.attribution.learn(facts)
        if self._record is not None:
            self._record(step)
        if counts is None:
            for event, identity in zip(events, identities, strict=True):
                self._take(event, identity)
        else:
            self._take_joined(zip(events, identities, counts, strict=True))
        self._end(step)

    def _learn(self, facts: Sequence[Fact]) -> None:
        self.attribution.learn(facts)
        for listener in (self._board, self.counting):
            if listener is not None:
                for fact in facts:
                    listener.learn(fact)

    def _take_counters(self, counting: Counting, step: Step) -> None:
        rest = counting.take(
            [Batch(b.stream.rpartition("/")[2], b.data) for b in step.batches if b.stream in self._layouts]
        )
        if self._asked is not None and counting.nameless and (facts := self._asked.ask(bool(counting.unknown))):
            step = replace(step, facts=[*step.facts, *facts])
            self._learn(facts)
            counting.look_again()
        if self._record is not None:
            self._record(step)
        for batch in rest:
            for event in self._layouts[stream_key(self._tracer.name, batch.stream)].decode(batch.data):
                landing = counting.land(event)
                if self._events is not None and counting.wanted(landing):
                    self._events.event(event, landing.identity)
        self.counts.events = counting.operations
        self.counts.unattributed = counting.unknown
        self._end(step)

    def _end(self, step: Step) -> None:
        # At a tick, when all is known that belongs before it: so that a replay folds just the same.
        if step.tick is not None and self.attribution.forgotten - self._forgotten >= _FORGOTTEN:
            self._forgotten = self.attribution.forgotten
            if self._fold_ended and (self._tallied or not isinstance(self.advice, NoAdvice)):
                owners = self.attribution.owners()
                for tally in self._tallied:
                    tally.let_go(owners)
                self.advice.let_go(owners)
        losses = step.losses.get(self._tracer.name)
        if losses is not None and losses != self.counts.losses:
            if self._events is not None and any(losses.values()):
                self._events.lost(losses, step.tick.wall_ns if step.tick is not None else 0)
            self.counts.losses = dict(losses)
        if self._events is not None:
            self._events.flush()

    def _missing_layers(self, asked: Asked, events: Sequence[Any], identities: Sequence[Identity]) -> list[Fact]:
        """Facts about the layers of overlays that these events are the first of."""
        devices: dict[int, None] = {}
        looked: set[tuple[int, int, str | None]] = set()
        for event, identity in zip(events, identities, strict=True):
            if not hasattr(event, "layer_index"):
                continue
            key = (event.device, event.layer_index, identity.container_id)
            if key in looked or (self._selection and not self._selection.match(identity)):
                continue
            looked.add(key)
            layer = self.attribution.layer(event, identity)
            if layer is None or layer.reason == NOT_LOOKED_UP:
                devices[event.device] = None
        return [fact for device in devices for fact in asked.layers(device)]

    def table(self, by: str) -> Tally | Coarser | Table:
        """The rows of a grouping."""
        return self.tallies[by] if self.counting is None else self.counting.table(by)

    def total(self) -> dict[str, Any]:
        """Every measure over all events, by its column's key."""
        if self.counting is not None:
            return self.counting.total()
        return {column.key: value for column, value in zip(self._tracer.measures, self.totals, strict=True)}

    def _decode(self, step: Step) -> tuple[list[Any], list[int] | None]:
        """The events of a step in the order of time, and how many each stands for (None: one)."""
        decoded: list[Any] = []
        counts: list[int] = []
        streams = set()
        for batch in step.batches:
            layout = self._layouts.get(batch.stream)
            if layout is not None:
                streams.add(batch.stream)
                data, joined = batch.data, batch.counts
                if joined is None and self._joiners:
                    data, joined = self._joiners[batch.stream].join(data)
                counts += joined or ()
                decoded.extend(layout.decode(data))
        if len(streams) > 1 and counts:
            order = sorted(range(len(decoded)), key=lambda at: decoded[at].time)
            return [decoded[at] for at in order], [counts[at] for at in order]
        if len(streams) > 1:
            decoded.sort(key=lambda event: event.time)
        return decoded, counts if self._joiners else None

    def _take(self, event: Any, identity: Identity) -> None:
        if self._keep is not None and not self._keep(event):
            return
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
        if self._is_counted(event, identity, 1):
            values = self._tracer.values(event, self._clock)
            self._add_total(self.totals, values)
            if self._tallied:
                cells = self._tracer.key_cells(event, identity, self._clock)
                for tally in self._tallied:
                    tally.add(cells, values)
            self.advice.add(event, identity, self._clock)
        if self._events is not None:
            self._events.event(event, identity)

    def _is_counted(self, event: Any, identity: Identity, count: int) -> bool:
        self.counts.events += count
        if identity.kind == "unknown":
            self.counts.unattributed += count
        if self._tracer.folded(event):
            self.counts.folded += count
            return False
        return True

    def _take_joined(self, events: Iterable[tuple[Any, Identity, int]]) -> None:
        """Count the events of a step, each with how many it stands for.

        What events of one kind have in common is looked up once, and counted at the end: of a storm each is of a file
        of its own, but most are of one process.
        """
        tracer, clock, advice = self._tracer, self._clock, None if self._metered else self.advice
        assert isinstance(tracer, Joins)
        own = [tally for tally in self._tallied if tally.depends_on(tracer.own_cells)]
        match = self._selection.match if self._selection else None
        # (identity, kind) -> (cells, values)
        kinds: dict[Hashable, tuple[dict[str, Value], list[Any]]] = {}
        for event, identity, count in events:
            if (match is not None and not match(identity)) or not self._is_counted(event, identity, count):
                continue
            values = tracer.joined_values(event, clock, count)
            kind = (id(identity), tracer.kind(event, identity, clock))
            known = kinds.get(kind)
            if known is None:
                known = kinds[kind] = dict(tracer.key_cells(event, identity, clock)), list(values)
            else:
                self._add_total(known[1], values)
            if own:
                cells = known[0]
                cells.update(tracer.cells_of(event))
                for tally in own:
                    tally.add(cells, values)
            if advice is not None:
                advice.add(event, identity, clock, count)
        for cells, sums in kinds.values():
            self._add_total(self.totals, sums)
            for tally in self._tallied:
                if tally not in own:
                    tally.add(cells, sums)


def _nameless(identity: Identity) -> bool:
    return identity.kind == "unknown" or (identity.kind in ("container", "sandbox", "pod") and identity.pod is None)
