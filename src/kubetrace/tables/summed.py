"""Rows that are sums of events: decoded, looked up, joined where many are alike, and added up by grouping."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from kubetrace.attribution.attributor import NOT_LOOKED_UP
from kubetrace.tables.aggregate import joining
from kubetrace.tables.contract import Counts
from kubetrace.tables.tally import Coarser, Tally, tallies

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity, Owners
    from kubetrace.attribution.facts import Fact
    from kubetrace.kit.tracer import Remedy
    from kubetrace.stream.layout import Batch
    from kubetrace.stream.steps import Joining
    from kubetrace.tables.contract import Rows, Run, Tell
    from kubetrace.tables.joining import Joiner
    from kubetrace.views.columns import Value


class Summed:
    """See `tables.contract.Table`."""

    tells_rows = False

    def __init__(self, run: Run) -> None:
        """Nothing is counted yet."""
        self._run = run
        self._tracer, self._context, self._keep = run.tracer, run.context, run.keep
        self._attribution, self._selection = run.context.attribution, run.context.attribution.selection
        self.counts = Counts()
        self._tallies = tallies(run.tracer, run.groupings) if run.tracer.table == "summed" else {}
        self._tallied = [tally for tally in self._tallies.values() if isinstance(tally, Tally)]
        self._totals: list[Any] = [0] * len(run.tracer.measures)
        self._add_total = joining(tuple(run.tracer.operations()))
        self._advice = run.tracer.advice()
        self._joiners = _joiners_of(run)
        self._events: list[Any] = []
        self._identities: list[Identity] = []
        # how many each stands for; None: one
        self._stands_for: list[int] | None = None
        self._recent: deque[tuple[Any, Identity, int]] = deque(maxlen=run.recent)
        self._remembered = 0

    @property
    def joiners(self) -> Mapping[str, Joining]:
        """Stream -> what may join its alike records while they are read."""
        return self._joiners

    def learn(self, facts: Iterable[Fact]) -> None:
        """Nothing: sums are of events alone."""

    # Reading.

    def read(self, batches: Sequence[Batch]) -> None:
        """Decode what has come, in the order of time, and look up whose it is."""
        decoded: list[Any] = []
        counts: list[int] = []
        streams = set()
        for batch in batches:
            layout = self._run.layouts[batch.stream]
            streams.add(batch.stream)
            data, joined = batch.data, batch.counts
            if joined is None and self._joiners:
                data, joined = self._joiners[batch.stream].join(data)
            counts += joined or ()
            decoded.extend(layout.decode(data))
        if len(streams) > 1 and counts:
            order = sorted(range(len(decoded)), key=lambda at: decoded[at].time)
            decoded, counts = [decoded[at] for at in order], [counts[at] for at in order]
        elif len(streams) > 1:
            decoded.sort(key=lambda event: event.time)
        self._events, self._stands_for = decoded, counts if self._joiners else None
        self.look_again()

    def look_again(self) -> None:
        """Look up again whose what was read is."""
        self._identities = [self._attribution.identify(event) for event in self._events]

    def nameless(self) -> Collection[str]:
        """The kinds of those whose name is not known."""
        return {identity.kind for identity in self._identities if identity.nameless}

    def unknown_layers(self) -> Iterable[int]:
        """Device numbers of overlays that these events are the first of."""
        devices: dict[int, None] = {}
        looked: set[tuple[int, int, str | None]] = set()
        for event, identity in zip(self._events, self._identities, strict=True):
            if not hasattr(event, "layer_index"):
                continue
            key = (event.device, event.layer_index, identity.container_id)
            if key in looked or (self._selection and not self._selection.match(identity)):
                continue
            looked.add(key)
            layer = self._attribution.layer(event, identity)
            if layer is None or layer.reason == NOT_LOOKED_UP:
                devices[event.device] = None
        return devices

    # Counting.

    def count(self, tell: Tell | None) -> None:
        """Count what was read, and tell each event that is asked for."""
        if self._stands_for is None:
            for event, identity in zip(self._events, self._identities, strict=True):
                if self._keep is None or self._keep(event):
                    self._take(event, identity, tell)
        else:
            self._take_joined(zip(self._events, self._identities, self._stands_for, strict=True))
            if self._run.recent:
                self._remember(self._stands_for)
        self._events, self._identities = [], []

    def _remember(self, counts: Sequence[int]) -> None:
        # in a storm these are all that is done for each event: whether it is another one's is asked by `recent`
        last = slice(-self._run.recent, None)
        new: Iterable[tuple[Any, Identity, int]] = zip(
            self._events[last], self._identities[last], counts[last], strict=True
        )
        if self._selection:
            match = self._selection.match
            new = [item for item in new if match(item[1])]
        else:
            new = list(new)
        self._recent.extend(new)
        self._remembered += len(new)

    def _take(self, event: Any, identity: Identity, tell: Tell | None) -> None:
        if not self._selection or self._selection.match(identity):
            self._add(event, identity, tell)

    def _add(self, event: Any, identity: Identity, tell: Tell | None) -> None:
        if self._is_counted(event, identity, 1):
            values = self._tracer.values(event, self._context)
            self._add_total(self._totals, values)
            if self._tallied:
                cells = self._tracer.key_cells(event, identity, self._context)
                for tally in self._tallied:
                    tally.add(cells, values)
            if self._advice is not None:
                self._advice.add(event, identity, self._context)
            if self._run.recent:
                self._recent.append((event, identity, 1))
                self._remembered += 1
        if tell is not None:
            tell(event, identity)

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
        tracer, context, advice = self._tracer, self._context, None if self._run.metered else self._advice
        own = [tally for tally in self._tallied if tally.depends_on(tracer.own_cells)]
        match = self._selection.match if self._selection else None
        # (identity, kind) -> (cells, values)
        kinds: dict[Hashable, tuple[dict[str, Value], list[Any]]] = {}
        for event, identity, count in events:
            if (match is not None and not match(identity)) or not self._is_counted(event, identity, count):
                continue
            values = tracer.joined_values(event, context, count)
            kind = (id(identity), tracer.kind(event, identity, context))
            known = kinds.get(kind)
            if known is None:
                known = kinds[kind] = dict(tracer.key_cells(event, identity, context)), list(values)
            else:
                self._add_total(known[1], values)
            if own:
                cells = known[0]
                cells.update(tracer.cells_of(event))
                for tally in own:
                    tally.add(cells, values)
            if advice is not None:
                advice.add(event, identity, context, count)
        for cells, sums in kinds.values():
            self._add_total(self._totals, sums)
            for tally in self._tallied:
                if tally not in own:
                    tally.add(cells, sums)

    # Showing.

    def tick(self, elapsed_ns: int) -> None:
        """Nothing: sums have no rates."""

    def fold_ended(self, owners: Owners) -> None:
        """Of pods that are not among the owners any more only the heavy keep rows of their own."""
        for tally in self._tallied:
            tally.fold_ended(owners)
        if self._advice is not None:
            self._advice.forget_ended(owners)

    def rows(self, by: str) -> Rows:
        """The rows of one of the run's groupings; those that are sums of finer ones are counted from then on."""
        found = self._tallies[by]
        if isinstance(found, Coarser) and self._run.recent:
            found = self._tallies[by] = found.counted()
            self._tallied.append(found)
        return found

    def recent(self, since: int) -> tuple[int, Sequence[tuple[Any, Any, int]]]:
        """The last events."""
        new = min(self._remembered - since, len(self._recent))
        if new <= 0:
            return self._remembered, ()
        folded = self._tracer.folded
        found = [item for item in islice(self._recent, len(self._recent) - new, None) if not folded(item[0])]
        return self._remembered, found

    def records(self, *, last: bool, wall_ns: int) -> Iterable[dict[str, Any]]:
        """None: each event is told."""
        return ()

    def total(self) -> dict[str, Any]:
        """Every measure over all events, by its column's key."""
        return {column.key: value for column, value in zip(self._tracer.measures, self._totals, strict=True)}

    def remedies(self) -> tuple[str, Sequence[Remedy]]:
        """What could be done better, the worst first, and the line that goes in front."""
        return (self._advice.title, self._advice.remedies()) if self._advice is not None else ("", ())

    def __len__(self) -> int:
        """Rows are bounded; nothing else is remembered."""
        return 0


def _joiners_of(run: Run) -> dict[str, Joiner]:
    # Where every event is told, or may be left out one by one, none is joined with another.
    if not run.tracer.alike or run.tells or run.keep is not None:
        return {}
    from kubetrace.tables.joining import Joiner

    unseen = run.tracer.unmetered if run.metered else ()
    alike = {name: how for name, how in run.tracer.alike.items() if name not in unseen}
    if not all(Joiner.fits(layout, alike, unseen) for layout in run.layouts.values()):
        return {}
    return {stream: Joiner(layout, alike, unseen) for stream, layout in run.layouts.items()}
