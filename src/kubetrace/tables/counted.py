"""Counters from the kernel -> rows: differences are taken here, and only what changed costs anything.

    counters (key, absolute value) --difference--> group of the key --> its row
                                                     |  whose, and where it landed: concluded once, and again while open
    mounts, places ----------------------------------'

A counter is never forgotten: the node may have lost the pod, its mounts and its names since.
"""

from __future__ import annotations

import contextlib
import gc
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from kubetrace.attribution.attributor import Identity
from kubetrace.attribution.destination import CUT, NOWHERE, UNKNOWN, UNSEEN, Destination, Destinations, Mounted
from kubetrace.kit.identity import path_of
from kubetrace.kit.landing import Landing, Row
from kubetrace.tables.contract import Counts
from kubetrace.tables.pages import Pages
from kubetrace.tables.snapshot import Reader
from kubetrace.tables.sorting import sort_rows

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Owners
    from kubetrace.attribution.facts import Fact
    from kubetrace.kit.landing import Counters
    from kubetrace.kit.tracer import Remedy
    from kubetrace.stream.layout import Batch
    from kubetrace.stream.steps import Joining
    from kubetrace.tables.contract import Rows, Run, Tell
    from kubetrace.tables.sorting import Wanted
    from kubetrace.views.columns import Column, Value


_NOTHING: Final = (0, 0, 0, 0)


class _Group:
    """Counters of operations that differ in nothing but a place that says nothing; while open, a single one.

    `into` is the sums that their values are added to: those of the row and kind; None where they are in no row.
    """

    __slots__ = ("into", "kind", "landing", "row", "sample")

    def __init__(self, sample: Any, kind: int, landing: Landing) -> None:
        self.sample, self.kind, self.landing = sample, kind, landing
        self.row: Row | None = None
        self.into: list[int] | None = None


class _Rows:
    """See `tables.contract.Rows`."""

    def __init__(
        self,
        columns: Sequence[Column],
        rows: Mapping[tuple[Any, ...], Row],
        counters: Counters,
        front: int,
        pages: Pages,
        generation: object,
        changed: dict[tuple[Any, ...], None],
    ) -> None:
        """Looks at `rows` when asked. `front`: cells before the measures; `changed`: rows since the last page."""
        self.columns = columns
        self._rows = rows
        self._counters = counters
        self._front = front
        self._pages, self._generation, self._changed = pages, generation, changed

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def rows(self, sort_key: str, top: int | None) -> list[tuple[Value, ...]]:
        """Sorted rows, at most `top`: numbers descending, names ascending."""
        measures = self._counters.measures_of
        count = len(self.columns)
        return sort_rows(
            [(*key, *measures(row))[:count] for key, row in self._rows.items()], self.columns, sort_key, top
        )

    def page(
        self, order: str, begin: int, end: int, wanted: Wanted | None = None
    ) -> tuple[list[tuple[Value, ...]], int]:
        """See `tables.contract.Rows`."""
        measures, count = self._counters.measures_of, len(self.columns)

        def number(at: int) -> Any:
            place = self._counters.sorted_by.get(self.columns[at].key)
            if place is not None:
                return f"row.{place[0]}[{place[1]}]"
            return lambda item: measures(item[1])[at - self._front] or 0

        changed = list(self._changed)
        self._changed.clear()
        items, total = self._pages.page(
            self._rows, changed, self._generation, order, begin, end, wanted, front=lambda key: key, number=number
        )
        return [(*key, *measures(row))[:count] for key, row in items], total


class Counted:
    """See `tables.contract.Table`: the counters of one tracer in one run."""

    tells_rows = True
    joiners: Mapping[str, Joining] = {}

    def __init__(self, run: Run) -> None:
        """Nothing is counted yet."""
        self._tracer, self._context, self._layouts = run.tracer, run.context, run.layouts
        self._counters = run.tracer.counters
        self._identify = run.context.attribution.identify
        self._containers_of = run.context.attribution.container_of
        self._selection = run.context.attribution.selection
        self.counts = Counts()
        self._by = run.by or next(iter(run.tracer.groupings))
        self._details = self._counters.details(self._by)
        self._rest: list[Batch] = []
        # Counters are numbered as they come: of each its group and its last values.
        self._numbers: dict[bytes, int] = {}
        self._groups: list[_Group] = []
        self._values: list[tuple[int, ...]] = []
        # Where counting began (start_over): values, and latencies.
        self._bases: list[tuple[int, ...]] = []
        self._base_slots: dict[int, tuple[int, ...]] = {}
        self._latencies: dict[int, tuple[int, tuple[int, ...]]] = {}
        # Groups that other counters may join, by what their keys have in common.
        self._shared: dict[bytes, _Group] = {}
        self._open: set[int] = set()
        self._rows: dict[tuple[Any, ...], Row] = {}
        # Rows whose sums have changed since the last tick, and since they were added up last.
        self._touched: set[Row] = set()
        self._fresh: set[Row] = set()
        self._shown: set[Row] = set()
        self._mounted: dict[int, Mounted] = {}
        self._places: dict[tuple[int, int], str] = {}
        self._landings: dict[tuple[int, ...], Landing] = {}
        self._found: dict[Any, Row | None] = {}
        self._early: dict[bytes, tuple[int, bytes]] = {}
        self._ticked_ns = 0
        self._kinds = 1 + max(self._counters.kinds.values(), default=0)
        self._zero = self._counters.totals(self._sums())
        self._all: Sequence[int] = self._zero
        """What all rows have come to (Row.now)."""
        self._destinations = Destinations()
        # Whether anything was learned since what is open was concluded, and whether it was of mounts.
        self._stale = self._news = False
        self._concluded: dict[tuple[int, int], Destination] = {}
        self._readers: dict[str, Reader] = {}
        # Of the grouping that is shown: screens of it, and how often rows were taken away.
        self._pages: tuple[str, Pages] | None = None
        self._changed: dict[tuple[Any, ...], None] = {}
        self._generation = 0

    # Learning.

    def learn(self, facts: Iterable[Fact]) -> None:
        """Volumes, mounts and directories of the node: where something lands may be known better now."""
        for fact in facts:
            self._stale = True
            if self._destinations.learn(fact):
                self._learned()

    def _learned(self) -> None:
        self._news = self._stale = True
        self._concluded.clear()

    def _learn_mounts(self, data: bytes) -> None:
        for event in self._layouts[self._counters.mounts].decode(data):
            self._mounted[event.mount] = Mounted(
                event.device,
                _text(event.type),
                _text(event.source),
                _path(event.root, event.root_bytes, event.root_end),
                _path(event.point, event.point_bytes, event.point_end),
                bool(event.in_node),
                event.namespace == 0,
                event.time,
                # recordings of before have none of these
                bool(getattr(event, "whole", 0)),
            )
        self._learned()

    def _learn_places(self, data: bytes) -> None:
        moved = set()
        for event in self._layouts[self._counters.places].decode(data):
            place = event.device, event.place
            path = _path(event.path, event.path_bytes, event.path_end)
            if self._places.get(place, path) != path:
                moved.add(place)
            self._places[place] = path
        if moved:
            self._rename(moved)
        self._learned()

    def _rename(self, places: Collection[tuple[int, int]]) -> None:
        # Files that have another path now. Those that have one have a group of their own.
        self._concluded.clear()
        self._landings = {key: landing for key, landing in self._landings.items() if (key[4], key[3]) not in places}
        for number, group in enumerate(self._groups):
            if group.landing.path is not None and (group.sample.device, group.sample.place) in places:
                landing = self._land(group.sample)
                if not landing.same_as(group.landing):
                    self._move(number, landing)

    # Concluding.

    def _land(self, event: Any) -> Landing:
        """Whose an operation is, and where it lands; a log is its pod's, whoever writes it."""
        mounted = self._mounted.get(event.mount)
        place = self._places.get((event.device, event.place)) if event.place else None
        if mounted is None:
            if event.mount:
                destination = UNKNOWN
            elif event.device:
                destination = Destination("block device", f"{event.device >> 20}:{event.device & 0xFFFFF}", "disk")
            else:
                destination = NOWHERE
        else:
            destination = self._destination(event.mount, mounted, event.place, place)
        identity = self._identify(event)
        owner = destination.owner
        if owner is not None:
            identity = self._containers_of(owner.pod_uid, owner.container) or Identity(
                namespace=owner.namespace,
                pod=owner.pod,
                container=owner.container,
                pod_uid=owner.pod_uid,
                kind="container" if owner.container else "pod",
                attributed_by="path",
                names_from="log directories",
            )
        path = None
        if place is not None and mounted is not None:
            path = self._destinations.path(mounted, place)
        return Landing(identity, destination, mounted, path)

    def _destination(self, mount: int, mounted: Mounted, place_number: int, place: str | None) -> Destination:
        # Of one mount all files land alike, unless it is the node's or stands for all of a file system.
        key = (mount, place_number if mounted.node or mounted.whole else 0)
        found = self._concluded.get(key)
        if found is None:
            found = self._concluded[key] = self._destinations.of(mounted, place)
        return found

    def _is_wanted(self, landing: Landing) -> bool:
        """Whether it is asked for."""
        if landing.destination.kind in UNSEEN and landing.destination.kind != "other" and not self._counters.shows_all:
            return False
        return not self._selection or self._selection.match(landing.identity)

    # Counting.

    def read(self, batches: Sequence[Batch]) -> None:
        """Count the counters that have changed: what nobody has a name for yet moves to its row when it has."""
        counters = self._counters
        own = {counters.mounts, counters.places, counters.histogram, *counters.counters}
        given: dict[str, bytes] = {}
        for batch in batches:
            if batch.stream in own:
                given[batch.stream] = given.get(batch.stream, b"") + batch.data
        if data := given.get(counters.mounts):
            self._learn_mounts(data)
        if data := given.get(counters.places):
            self._learn_places(data)
        if self._open and self._news:
            self.look_again()
        for stream in counters.counters:
            if data := given.get(stream):
                self._count(stream, data)
        if data := given.get(counters.histogram):
            self._measure(data)
        self._rest = [batch for batch in batches if batch.stream not in own]

    def start_over(self, elapsed_ns: int) -> None:
        """What was read so far is where counting begins: the numbers are absolute, and mounts are told once."""
        self._ticked_ns = elapsed_ns
        self._bases = list(self._values)
        self._base_slots = {number: slots for number, (_, slots) in self._latencies.items()}
        self._rows, self._touched, self._fresh, self._shown = {}, set(), set(), set()
        self._generation += 1
        self._found.clear()
        self._all = self._zero
        for group in dict.fromkeys(self._groups):
            self._place(group)

    def _counted(self, number: int) -> list[int]:
        # Of a counter, since counting began.
        if number >= len(self._bases):
            return list(self._values[number])
        return [now - then for now, then in zip(self._values[number], self._bases[number], strict=True)]

    def _slots_of(self, number: int) -> Sequence[int]:
        slots = self._latencies[number][1]
        before = self._base_slots.get(number)
        return slots if before is None else [now - then for now, then in zip(slots, before, strict=True)]

    def _counted_rows(self) -> dict[tuple[Any, ...], Row]:
        # Only of what was counted before is there a row in which nothing is.
        if not self._bases:
            return self._rows
        self._generation += 1
        return {key: row for key, row in self._rows.items() if any(map(any, row.sums))}

    def count(self, tell: Tell | None) -> None:
        """Tell each operation that is asked for, where they are told one by one, with its Landing."""
        for batch in self._rest if tell is not None else ():
            for event in self._layouts[batch.stream].decode(batch.data):
                landing = self._land_told(event)
                if self._is_wanted(landing):
                    assert tell is not None
                    tell(event, landing)
        self._rest = []
        self._add_up()
        self.counts.events = self._all[0]
        self.counts.unattributed = self._unknown

    def _land_told(self, event: Any) -> Landing:
        # it has its own path, in its file system
        landing = self._land(event)
        path, cut = path_of(event)
        named = self._destinations.path(landing.mounted, os.fsdecode(path)) if landing.mounted and not cut else None
        return Landing(landing.identity, landing.destination, landing.mounted, named)

    def _reader(self, stream: str, names: Sequence[str]) -> Reader:
        known = self._readers.get(stream)
        if known is None:
            # the keys of the rest's own map are told apart from those of the first
            prefix = stream.encode() if stream in self._counters.counters[1:] else b""
            known = self._readers[stream] = Reader(self._layouts[stream], self._counters.key_end, names, prefix)
        return known

    def _sums(self) -> list[list[int]]:
        return [[0] * len(self._counters.values) for _ in range(self._kinds)]

    def _count(self, stream: str, data: bytes) -> None:
        reader = self._reader(stream, self._counters.values)
        keys = reader.keys(data)
        known = list(map(self._numbers.get, keys))
        if None in known:
            with _garbage_left_alone():
                self._number_new(known, keys, reader, data)
            known = list(map(self._numbers.get, keys))
        numbers = cast("list[int]", known)
        groups, values = self._groups, self._values
        for number, new in zip(numbers, reader.values(data), strict=True):
            into = groups[number].into
            if into is not None:
                # unrolled: this is what a snapshot of many counters costs
                one, two, three, four = new
                old_one, old_two, old_three, old_four = values[number]
                into[0] += one - old_one
                into[1] += two - old_two
                into[2] += three - old_three
                into[3] += four - old_four
            values[number] = new
        touched = set(map(groups.__getitem__, numbers))
        rows = [group.row for group in touched if group.row is not None]
        self._touched.update(rows)
        self._fresh.update(rows)

    def _number_new(self, known: Sequence[int | None], keys: Sequence[bytes], reader: Reader, data: bytes) -> None:
        # Those that are new have come to nothing yet.
        numbers, groups, places, find = self._numbers, self._groups, self._places, self._shared.get
        head, tail = reader.head, reader.tail
        for at, key in enumerate(keys):
            if known[at] is not None or key in numbers:  # known before, or twice in this batch
                continue
            alike = key[head] + key[tail]
            told = places and reader.place_of(key) in places
            group = find(alike) if not told else None
            if group is None:
                group = self._group_of(reader.sample(data, at), bool(told))
                if group.landing.open:
                    self._open.add(len(groups))
                elif not told:
                    self._shared[alike] = group
            numbers[key] = len(groups)
            groups.append(group)
        self._values += [_NOTHING] * (len(groups) - len(self._values))
        if self._early:
            for key in keys:
                if early := self._early.pop(reader.raw(key), None):
                    self._time(numbers[key], *early)

    def _group_of(self, sample: Any, told: bool) -> _Group:
        # Operations of one place through one mount land alike, and all of one cgroup where places are not told apart.
        key = (sample.cgroup_id, sample.memory_cgroup_id, sample.mount, sample.place if told else 0, sample.device)
        landing = self._landings.get(key)
        if landing is None:
            landing = self._land(sample)
            if not landing.open:
                self._landings[key] = landing
        group = _Group(sample, self._counters.kinds.get(sample.NAMES["operation"][sample.operation], 0), landing)
        self._place(group)
        return group

    def _row_of(self, group: _Group) -> Row | None:
        # Many groups are of one row, unless each has its path: what its cells say depends on this.
        landing, sample = group.landing, group.sample
        if landing.path is not None:
            return self._named_row(sample, landing)
        owner = (sample.cgroup_id, sample.memory_cgroup_id, landing.identity)
        details = map(sample.__getattribute__, self._details)
        key = (*owner, landing.destination, sample.operation, *details)
        try:
            return self._found[key]
        except KeyError:
            row = self._found[key] = self._named_row(sample, landing)
            return row

    def _named_row(self, sample: Any, landing: Landing) -> Row | None:
        if not self._is_wanted(landing):
            return None
        cells = self._counters.cells(self._by, sample, landing, self._context.node)
        key = tuple([cells[column.key] for column in self._tracer.groupings[self._by].columns])
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = Row(self._sums(), self._zero, sample, landing, key)
        return row

    def _place(self, group: _Group) -> None:
        group.row = row = self._row_of(group)
        group.into = row.sums[group.kind] if row is not None else None

    def look_again(self) -> None:
        """Conclude anew what is open."""
        self._stale = self._news = False
        for number in list(self._open):
            group = self._groups[number]
            landing = self._land(group.sample)
            if not landing.open:
                self._open.discard(number)
            if not landing.same_as(group.landing):
                self._move(number, landing)

    def _move(self, number: int, landing: Landing) -> None:
        # What was counted under the old row is taken from it: of this counter alone, as its group is open.
        group = self._groups[number]
        old = group.row
        group.landing = landing
        self._take_out(number)
        self._place(group)
        if group.row is not None and group.row is not old:
            group.row.landing = landing
        self._put_in(number)
        if old is not None and not any(map(any, old.sums)):
            self._rows = {key: row for key, row in self._rows.items() if row is not old}
            self._generation += 1
            self._found.clear()
            for rows in (self._touched, self._fresh, self._shown):
                rows.discard(old)
            self._all = [total - own for total, own in zip(self._all, old.now, strict=True)]

    def _touch(self, row: Row) -> None:
        self._touched.add(row)
        self._fresh.add(row)

    def _take_out(self, number: int) -> None:
        group = self._groups[number]
        if group.row is not None and group.into is not None:
            group.into[:] = [total - own for total, own in zip(group.into, self._counted(number), strict=True)]
            if number in self._latencies and self._counters.timed(self._by, group.kind):
                for slot, count in enumerate(self._slots_of(number)):
                    group.row.slots[slot] -= count
            self._touch(group.row)

    def _put_in(self, number: int) -> None:
        group = self._groups[number]
        if group.row is not None and group.into is not None:
            group.into[:] = [total + own for total, own in zip(group.into, self._counted(number), strict=True)]
            if number in self._latencies and self._counters.timed(self._by, group.kind):
                longest, slots = self._latencies[number][0], self._slots_of(number)
                if not group.row.slots:
                    group.row.slots = [0] * len(slots)
                for slot, count in enumerate(slots):
                    group.row.slots[slot] += count
                group.row.longest = max(group.row.longest, longest)
            self._touch(group.row)

    def _measure(self, data: bytes) -> None:
        reader = self._reader(self._counters.histogram, ("longest", "slots"))
        find = self._numbers.get
        # no key is in both maps: those of the rest are no file's
        prefixes = [b"", *[stream.encode() for stream in self._counters.counters[1:]]]
        for raw, (longest, slots) in zip(reader.keys(data), reader.values(data), strict=True):
            number = next((number for prefix in prefixes if (number := find(prefix + raw)) is not None), None)
            if number is None:
                # read after the counters, or when those were not due
                self._early[raw] = longest, slots
            else:
                self._time(number, longest, slots)

    def _time(self, number: int, longest: int, slots: bytes) -> None:
        new = struct.unpack(f"<{len(slots) // 8}Q", slots)
        _, old = self._latencies.get(number, (0, (0,) * len(new)))
        self._latencies[number] = longest, new
        group = self._groups[number]
        row = group.row
        if row is not None and self._counters.timed(self._by, group.kind):
            if not row.slots:
                row.slots = [0] * len(new)
            row.slots = [total + now - before for total, now, before in zip(row.slots, new, old, strict=True)]
            row.longest = max(row.longest, longest)

    # Showing.

    def __len__(self) -> int:
        """Number of counters."""
        return len(self._groups)

    def _add_up(self) -> None:
        """What the rows that have changed come to now: once, however often it is asked for."""
        if not self._fresh:
            return
        totals_of = self._counters.totals
        before, now = [row.now for row in self._fresh], []
        for row in self._fresh:
            row.now = totals = totals_of(row.sums)
            now.append(totals)
        columns = zip(self._all, zip(*now, strict=True), zip(*before, strict=True), strict=True)
        self._all = [total + sum(new) - sum(old) for total, new, old in columns]
        # a page that was asked for had other totals
        self._note_changed(self._fresh)
        self._fresh = set()

    def total(self) -> dict[str, Value]:
        """The totals by the keys of the tracer's measures."""
        everything = Row(self._sums(), self._zero, None, Landing(Identity(), UNKNOWN, None, None), ())
        for row in self._rows.values():
            everything.sums = [
                [total + more for total, more in zip(mine, others, strict=True)]
                for mine, others in zip(everything.sums, row.sums, strict=True)
            ]
        values = self._counters.measures_of(everything)
        return {column.key: value for column, value in zip(self._tracer.measures, values, strict=False)}

    def nameless(self) -> Collection[str]:
        """The kinds of those whose name is not known."""
        owners = (self._groups[number].landing.identity for number in self._open)
        if not any(owner.pod is None and owner.kind != "host" for owner in owners):
            return ()
        return ("unknown",) if self._unknown else ("pod",)

    @property
    def _unknown(self) -> int:
        # operations whose owner is not known
        found = 0
        for number in self._open:
            group = self._groups[number]
            if group.landing.identity.kind == "unknown" and group.row is not None:
                sums = self._sums()
                sums[group.kind][:] = self._counted(number)
                found += self._counters.totals(sums)[0]
        return found

    def unknown_layers(self) -> Iterable[int]:
        """None: where something lands does not depend on an image's layers."""
        return ()

    def recent(self, since: int) -> tuple[int, Sequence[tuple[Any, Any, int]]]:
        """None: the kernel adds up, and tells no single operation unless it is asked to."""
        return 0, ()

    def fold_ended(self, owners: Owners) -> None:
        """Nothing: the kernel's counters are never forgotten, and so no row is."""

    def remedies(self) -> tuple[str, Sequence[Remedy]]:
        """What the tracer says of each container and place, however its rows are grouped."""
        found: dict[tuple[Identity, Destination], list[list[int]]] = {}
        for number, group in enumerate(self._groups):
            if group.row is not None:
                into = found.setdefault((group.landing.identity, group.landing.destination), self._sums())[group.kind]
                into[:] = [total + own for total, own in zip(into, self._counted(number), strict=True)]
        return self._tracer.remedies_of((*key, sums) for key, sums in found.items())

    def tick(self, elapsed_ns: int) -> None:
        """An interval is over: rates are those of it until the next."""
        if self._open and self._stale:
            self.look_again()
        span = elapsed_ns - self._ticked_ns
        self._ticked_ns = elapsed_ns
        self._add_up()
        # other rates are another row, too
        self._note_changed(self._touched)
        for row in self._shown - self._touched:
            row.window = self._zero
            if self._pages is not None:
                self._changed[row.key] = None
        for row in self._touched:
            row.window = [now - before for now, before in zip(row.now, row.base, strict=True)]
            row.base = row.now
        for row in self._shown | self._touched:
            row.elapsed_ns = span
        self._shown, self._touched = self._touched, set()

    def records(self, *, last: bool, wall_ns: int) -> Iterator[dict[str, Any]]:
        """The rows that the interval before the last tick has touched, as JSON objects; the `last` time all rows."""
        for row in self._counted_rows().values():
            if last or row in self._shown:
                yield self._tracer.row_record(self._by, row, self._context, wall_ns)

    def rows(self, by: str) -> Rows:
        """The rows of a grouping; another than the last one is added up anew."""
        if by != self._by:
            self._by, self._details = by, self._counters.details(by)
            self._generation += 1
            self._rows, self._touched, self._fresh, self._shown = {}, set(), set(), set()
            self._found.clear()
            self._all = self._zero
            for group in dict.fromkeys(self._groups):
                self._place(group)
            for number in range(len(self._groups)):
                self._put_in(number)
            self._add_up()
            for row in self._touched:
                row.base = row.now
            self._touched = set()
        front = self._tracer.groupings[by].columns
        columns = [*front, *self._tracer.measures]
        if self._pages is None or self._pages[0] != by:
            self._pages = by, Pages(columns, len(front))
            self._changed.clear()
        self._add_up()
        rows = self._counted_rows()
        return _Rows(columns, rows, self._counters, len(front), self._pages[1], self._generation, self._changed)

    def _note_changed(self, rows: Iterable[Row]) -> None:
        if self._pages is not None:
            self._changed.update([(row.key, None) for row in rows])


@contextlib.contextmanager
def _garbage_left_alone() -> Iterator[None]:
    # What is made of new counters stays. Looking for garbage among it again and again, as Python does while objects
    # become more, took longer than making it.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _path(names: bytes, size: int, end: int) -> str:
    # kt_path's form: leaf first, each name ended by NUL; `end` is an enum kt_path_end. A record has less room than the
    # walk: of what is longer the names nearest to the root are missing.
    path = "/" + b"/".join(reversed(names[:size].split(b"\0")[:-1])).decode("utf-8", "surrogateescape")
    return CUT + path if end or size > len(names) else path
