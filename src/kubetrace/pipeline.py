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
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from kubetrace.aggregate import LAST, Groups, Key, joining
from kubetrace.attribution.attributor import NOT_LOOKED_UP
from kubetrace.attribution.whose import Attribution
from kubetrace.rows import HOST, ended
from kubetrace.stream.layout import Batch
from kubetrace.stream.steps import Step, stream_key
from kubetrace.tracers import Joins, NoAdvice, Stateful, counted_of

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity, Owners
    from kubetrace.attribution.facts import Fact
    from kubetrace.attribution.selection import Selected
    from kubetrace.clock import Wall
    from kubetrace.counting import Counting, Table
    from kubetrace.joining import Joiner
    from kubetrace.stream.layout import Layout
    from kubetrace.tracers import Board, Tracer
    from kubetrace.views.columns import Column, Value

_OTHERS = "(others)"
_MOST_NOTES = 50_000
# Rows of ended pods that keep their own names, by each measure; and cgroups forgotten between two looks for such.
_ENDED_ROWS = 100
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


class Tally:
    """The rows of a tracer's table under one grouping."""

    def __init__(self, tracer: Tracer, by: str, board: Board | None = None, also: Sequence[str] = ()) -> None:
        """`by`: one of the tracer's groupings. The rows of a tracer with a board are that board's.

        `also` are further notes, kept for groupings whose rows are sums of these.
        """
        self._tracer = tracer
        self._by = by
        self._board = board
        grouping = tracer.groupings[by]
        self._key_columns = [column.key for column in grouping.key]
        own = [column.key for column in grouping.notes]
        self._own_notes = len(own)
        self._note_columns = [*own, *also]
        self._notes_of = _chosen(self._note_columns)
        self.columns: Sequence[Column] = [*grouping.columns, *tracer.measures]
        weight = [column.key for column in tracer.measures].index(next(iter(tracer.sorts.values())))
        self._groups = Groups(tracer.operations(), fold=_coarser(grouping.key), weight=lambda row: row[weight])
        self._count = self._groups.by_cells(self._key_columns)
        self._notes: dict[Key, tuple[Value, ...]] = {}

    def add(self, cells: Mapping[str, Value], values: Sequence[Any]) -> None:
        """Count one event."""
        if self._board is not None:
            return
        key = self._count(cells, values)
        if self._note_columns:
            self._notes[key] = self._notes_of(cells)
            if len(self._notes) > _MOST_NOTES:
                self._notes = {key: notes for key, notes in self._notes.items() if key in self._groups}

    def depends_on(self, names: Collection[str]) -> bool:
        """Whether one of these cells is in its rows."""
        return any(name in names for name in (*self._key_columns, *self._note_columns))

    def let_go(self, owners: Owners) -> None:
        """Fold the light rows of pods, and cgroups of the node, that are not among the owners any more.

        Their sums go to one row for each namespace. A table that stands for weeks would else have every pod there was.
        """
        columns = self._tracer.groupings[self._by].key
        at = {column.key: place for place, column in enumerate(columns)}
        if "pod" not in at:
            return
        places = [at.get(name) for name in ("namespace", "pod", "container")]

        def matter(key: Key) -> Hashable | None:
            return key if ended(owners, *(None if place is None else key[place] for place in places)) else None

        def fold(key: Key) -> Key:
            host = key[at["pod"]] == HOST
            kept = ("namespace", "pod") if host else ("namespace",)
            return tuple(
                [value if column.key in kept else _folded(column) for column, value in zip(columns, key, strict=True)]
            )

        weights = [lambda row, place=place: row[place] for place in range(len(self._tracer.measures))]
        if self._groups.fold_ended(matter, fold, weights, _ENDED_ROWS):
            self._notes = {key: notes for key, notes in self._notes.items() if key in self._groups}

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._groups) if self._board is None else len(self._board.rows(self._by))

    def rows(self, sort_key: str, top: int | None) -> list[tuple[Value, ...]]:
        """Sorted rows, at most `top`: numbers descending, names ascending; equal ones in the order of arrival."""
        blank, own = (None,) * len(self._note_columns), self._own_notes
        rows: list[tuple[Any, ...]] = [
            (*key, *self._notes.get(key, blank)[:own], *row) for key, row in self._groups.rows()
        ]
        if self._board is not None:
            rows = [tuple(row) for row in self._board.rows(self._by)]
        return sort_rows(rows, self.columns, sort_key, top)

    def cells(self) -> tuple[list[str], list[tuple[tuple[Value, ...], list[Any]]]]:
        """(names of the key's and all notes' columns, each row's cells of these with its numbers)."""
        blank = (None,) * len(self._note_columns)
        rows: list[Any] = [((*key, *self._notes.get(key, blank)), row) for key, row in self._groups.rows()]
        return [*self._key_columns, *self._note_columns], rows


class Derived:
    """The rows of a coarser grouping: sums of another one's, made when they are asked for."""

    def __init__(self, tracer: Tracer, by: str, of: Tally) -> None:
        """`of` tells apart all that `by` does."""
        self._grouping = tracer.groupings[by]
        self._operations = tracer.operations()
        self._of = of
        self.columns: Sequence[Column] = [*self._grouping.columns, *tracer.measures]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows())

    def rows(self, sort_key: str, top: int | None) -> list[tuple[Value, ...]]:
        """As Tally's."""
        return sort_rows(self._rows(), self.columns, sort_key, top)

    def _rows(self) -> list[tuple[Any, ...]]:
        names, finer = self._of.cells()
        key_at, note_at = (
            [names.index(column.key) for column in columns] for columns in (self._grouping.key, self._grouping.notes)
        )
        fold = _coarser(self._grouping.key)
        groups = Groups(self._operations, fold=fold, weight=lambda row: row[0], limit=len(finer) + 1)
        notes: dict[Key, tuple[Value, ...]] = {}
        for cells, row in finer:
            key = tuple([cells[at] for at in key_at])
            groups.add(key, row)
            notes[key] = tuple([cells[at] for at in note_at])
        return [(*key, *notes[key], *row) for key, row in groups.rows()]


def tallies(tracer: Tracer, groupings: Sequence[str], board: Board | None) -> dict[str, Tally | Derived]:
    """For each grouping its rows: counted event by event, or derived from a finer one that is counted."""
    if board is not None or LAST in tracer.operations():
        return {by: Tally(tracer, by, board) for by in groupings}
    keys = {by: {column.key for column in tracer.groupings[by].key} for by in groupings}
    finer = {
        by: next((of for of in groupings if keys[by] < keys[of] and not any(keys[of] < keys[o] for o in groupings)), "")
        for by in groupings
    }
    found: dict[str, Tally | Derived] = {}
    for by in groupings:
        if not finer[by]:
            wanted = [c.key for of in groupings if finer[of] == by for c in tracer.groupings[of].notes]
            here = keys[by] | {column.key for column in tracer.groupings[by].notes}
            found[by] = Tally(tracer, by, None, [key for key in dict.fromkeys(wanted) if key not in here])
    for by in groupings:
        if finer[by]:
            base = found[finer[by]]
            assert isinstance(base, Tally)
            found[by] = Derived(tracer, by, base)
    return {by: found[by] for by in groupings}


def sort_rows(
    rows: list[tuple[Any, ...]], columns: Sequence[Column], sort_key: str, top: int | None
) -> list[tuple[Value, ...]]:
    """Rows by one column, at most `top`: numbers descending, names ascending; equal ones in the order they came."""
    at = next((i for i, column in enumerate(columns) if column.key == sort_key), None)
    if at is not None:
        if columns[at].numeric or columns[at].kind == "time":
            rows.sort(key=lambda row: row[at] or 0, reverse=True)
        else:
            rows.sort(key=lambda row: _sortable(row[at]))
    return rows[:top] if top else rows


def _chosen(names: Sequence[str]) -> Callable[[Mapping[str, Value]], tuple[Value, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda cells: tuple([cells[name] for name in names])


def _folded(column: Column) -> Value:
    """What stands for many values in a cell: no number does."""
    return None if column.numeric or column.kind == "time" else _OTHERS


def _coarser(columns: Sequence[Column]) -> Callable[[Key], Key]:
    """A key without its last part that says something: file, then container, then pod."""
    folded = tuple([_folded(column) for column in columns])

    def coarser(key: Key) -> Key:
        at = next((at for at in reversed(range(len(key))) if key[at] != folded[at]), 0)
        return (*key[:at], folded[at], *key[at + 1 :])

    return coarser


def _sortable(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    return str(value if value is not None else "\U0010ffff").encode("utf-8", "surrogateescape")


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
            from kubetrace.joining import Joiner

            unseen = tracer.unmetered if metered else ()
            alike = {name: how for name, how in tracer.alike.items() if name not in unseen}
            if all(Joiner.fits(layout, alike, unseen) for layout in self._layouts.values()):
                self._joiners = {key: Joiner(layout, alike, unseen) for key, layout in self._layouts.items()}
                if asked is not None and record is None:  # a recording has them as they came
                    asked.join(self._joiners)
        self.counting: Counting | None = None
        if counted is not None:
            from kubetrace.counting import Counting

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

    def table(self, by: str) -> Tally | Derived | Table:
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
