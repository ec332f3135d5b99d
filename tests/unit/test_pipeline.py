"""The pipeline over a list of batches and facts: who, how many, in which order; no kernel."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kubetrace import tracers
from kubetrace.attribution.attributor import Identity
from kubetrace.attribution.facts import CgroupGone, CgroupSeen, ContainerSeen, Fact, LayerSeen, OverlaySeen
from kubetrace.attribution.selection import Selection
from kubetrace.attribution.whose import Attribution
from kubetrace.kit.context import Context
from kubetrace.pipeline import Pipeline
from kubetrace.recording.reader import Recording
from kubetrace.stream.layout import Batch, Field, Layout
from kubetrace.stream.live import DRAIN_INTERVAL_S, LiveSource
from kubetrace.stream.steps import STEP_ROWS, Joining, Step, Tick, split
from kubetrace.tables.summed import Summed
from kubetrace.tables.tally import Coarser, Tally

COPYUP = tracers.find("copyup")
# The members of struct copyup_event that the tracer reads, packed by hand.
EVENT = Layout(
    "copyup_event",
    8 * 8 + 6 * 4 + 3 * 2 + 16 + 64 + 24,
    tuple(
        Field(name, offset, size, kind, "", tuple(names))
        for name, offset, size, kind, *names in (
            ("time", 0, 8, "unsigned"),
            ("cgroup_id", 8, 8, "unsigned"),
            ("memory_cgroup_id", 16, 8, "unsigned"),
            ("inode", 24, 8, "unsigned"),
            ("size", 32, 8, "unsigned"),
            ("copied", 40, 8, "unsigned"),
            ("cloned", 48, 8, "unsigned"),
            ("duration", 56, 8, "unsigned"),
            ("memory_hierarchy", 64, 4, "unsigned"),
            ("device", 68, 4, "unsigned"),
            ("pid", 72, 4, "unsigned"),
            ("tid", 76, 4, "unsigned"),
            ("flags", 80, 4, "unsigned"),
            ("error", 84, 4, "signed"),
            ("mode", 88, 2, "unsigned"),
            ("path_bytes", 90, 2, "unsigned"),
            ("path_end", 92, 2, "unsigned"),
            ("comm", 94, 16, "bytes"),
            ("path", 110, 64, "bytes"),
            ("parents_duration", 174, 8, "unsigned"),
            ("trigger", 182, 4, "unsigned", "other", "open-write", "chmod"),
            ("part", 186, 4, "unsigned", "whole", "metadata", "data"),
            ("layer_index", 190, 2, "unsigned"),
            ("parents", 192, 2, "unsigned"),
            ("is_parent", 194, 4, "unsigned"),
        )
    ),
)
BIRTH = Layout(
    "cgroup_event",
    152,
    (
        Field("time", 0, 8, "unsigned"),
        Field("cgroup_id", 8, 8, "unsigned"),
        Field("hierarchy", 16, 4, "unsigned"),
        Field("step", 20, 2, "unsigned"),
        Field("path_bytes", 22, 2, "unsigned"),
        Field("path", 24, 128, "bytes"),
    ),
)
WEB, BATCH = "a" * 64, "b" * 64


def event(
    time: int,
    cgroup: int,
    path: bytes,
    copied: int,
    *,
    error: int = 0,
    device: int = 7,
    mode: int = 0o100644,
    parents: int = 0,
    is_parent: bool = False,
    pid: int = 10,
    trigger: int = 2,
    comm: bytes = b"sh",
) -> bytes:
    names = b"".join(name + b"\0" for name in reversed(path.strip(b"/").split(b"/")))
    numbers = struct.pack("<8Q6i", time, cgroup, 0, 5, copied, copied, 0, 11, 0, device, pid, pid, 1, error)
    rest = struct.pack("<3H16s64s", mode, len(names), 0, comm, names)
    return bytes(8) + numbers + rest + struct.pack("<QIIHHI", 100 * parents, trigger, 0, 3, parents, is_parent)


def birth(time: int, cgroup: int, path: bytes, step: int = 0) -> bytes:
    return bytes(8) + struct.pack("<QQIHH128s", time, cgroup, 0, step, len(path), path)


def container(container_id: str, namespace: str, pod: str, name: str) -> ContainerSeen:
    return ContainerSeen(container_id, "container", namespace, pod, name, f"uid-{pod}", "app:1", "s", "config.json", 0)


class ListSource:
    def __init__(self) -> None:
        self.layouts: Mapping[str, Layout] = {"copyup": EVENT, "copyup_long": EVENT, "cgroups": BIRTH}
        self.pending: dict[str, list[bytes]] = {}
        self.excluded: list[tuple[int, int]] = []
        self.joiners: dict[str, Joining] = {}
        self.losses_now = {"ring_full": 0}
        self.births_fd, self._write = os.pipe()
        self.ring_fds: list[int] = []

    def put(self, stream: str, *records: bytes) -> None:
        self.pending.setdefault(stream, []).extend(records)
        if stream == "cgroups":
            os.write(self._write, b"x")

    counters: tuple[str, ...] = ()

    slept = 0
    sees_births = True

    def wake_at_next(self) -> None:
        self.slept += 1

    def hurry(self) -> None:
        pass

    def read(self, *streams: str) -> Iterator[Batch]:
        for stream in streams:
            if records := self.pending.pop(stream, None):
                if joiner := self.joiners.get(stream):
                    joiner.add(b"".join(records))
                    yield Batch(stream, *joiner.take())
                else:
                    yield Batch(stream, b"".join(records))

    def join(self, stream: str, joiner: Joining) -> None:
        self.joiners[stream] = joiner

    def losses(self) -> dict[str, int]:
        return dict(self.losses_now)

    def iterate(self, group: str, event: str) -> None:
        """There is no iterator."""

    def exclude(self, hierarchy: int, cgroup_id: int, *, excluded: bool = True) -> None:
        if excluded:
            self.excluded.append((hierarchy, cgroup_id))
        else:
            self.excluded.remove((hierarchy, cgroup_id))


class Files:
    """A node with one container, and a second one that is born later."""

    def __init__(self) -> None:
        self.later: list[Fact] = []
        self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY)

    def scan(self) -> Iterable[Fact]:
        yield CgroupSeen(0, 1, "/", 0)
        yield CgroupSeen(0, 9, "/system.slice/ssh.service", 0)
        yield CgroupSeen(0, 21, f"/kubepods/podweb/{WEB}", 0)
        yield container(WEB, "shop", "web-0", "app")
        yield OverlaySeen(7, WEB, "/run/x", "/up", "/work", ("/lower",), 0)

    def cgroup_created(self, hierarchy: int, cgroup_id: int, path: str, time_ns: int) -> Sequence[Fact]:
        return [CgroupSeen(hierarchy, cgroup_id, path, time_ns), container(BATCH, "jobs", "batch-0", "worker")]

    def cgroup_removed(self, hierarchy: int, cgroup_id: int, path: str, time_ns: int) -> list[Fact]:
        return [CgroupGone(hierarchy, cgroup_id, time_ns)]

    def look_for_cgroups(self) -> list[Fact]:
        return []

    def resolve_again(self) -> Sequence[Fact]:
        return self.later

    def mounts(self) -> Sequence[Fact]:
        return []

    def layers(self, device: int) -> Sequence[Fact]:
        return []

    def layers_again(self) -> Sequence[Fact]:
        return []

    def mounts_fd(self) -> int:
        return self._fd


class Kept:
    def __init__(self) -> None:
        self.seen: list[tuple[Any, Identity]] = []
        self.losses: list[dict[str, int]] = []

    def event(self, event: Any, identity: Identity) -> None:
        self.seen.append((event, identity))

    def lost(self, losses: Mapping[str, int], wall_ns: int) -> None:
        self.losses.append(dict(losses))

    def flush(self) -> None:
        pass


class Driven(Pipeline):
    """A pipeline whose test is the loop."""

    def __init__(self, source: ListSource, selection: Selection, kept: Kept) -> None:
        self.live = LiveSource({"copyup": source}, Files())
        self.context = Context("node1", 0, Attribution(selection, self.live.exclude))
        super().__init__(
            COPYUP,
            self.live.layouts,
            self.context,
            groupings=["file", "pod"],
            events=kept,
            asked=self.live,
        )
        self.live.start()
        self.drain()

    def drain(self) -> None:
        for step in self.live.drain():
            self.take(step)


def pipeline(selection: Selection | None = None) -> tuple[Driven, ListSource, Kept]:
    source, kept = ListSource(), Kept()
    return Driven(source, selection or Selection(), kept), source, kept


def test_events_are_named_and_counted_by_file_and_pod() -> None:
    made, source, _ = pipeline()
    source.put("copyup", event(1, 21, b"/app/log", 64), event(2, 21, b"/app/log", 7), event(3, 21, b"/etc", 0))
    made.drain()
    assert _file_rows(made) == [
        ("shop", "web-0", "app", b"/app/log", "chmod", 2, 0, 71, 11, 0),
        ("shop", "web-0", "app", b"/etc", "chmod", 1, 0, 0, 11, 0),
    ]
    (pod,) = made.table.rows("pod").rows("copied_bytes", None)
    assert pod[:6] == ("shop", "web-0", None, 3, 0, 71)
    assert (made.counts.events, made.counts.unattributed, made.counts.lost) == (3, 0, 0)
    assert made.table.total()["copied_bytes"] == 71


def _file_rows(made: Pipeline) -> list[tuple[object, ...]]:
    tally = made.table.rows("file")
    shown = [at for at, column in enumerate(tally.columns) if not column.wide]
    return [tuple(row[at] for at in shown) for row in tally.rows("copied_bytes", None)]


def test_parents_are_folded_under_what_they_were_copied_up_for() -> None:
    made, source, kept = pipeline()
    directory: dict[str, Any] = {"mode": 0o040755, "is_parent": True}
    source.put("copyup", event(1, 21, b"/a", 0, **directory), event(2, 21, b"/a/b", 0, **directory))
    source.put("copyup", event(3, 21, b"/a/b/f", 9, parents=2))
    made.drain()
    # 11 ns of its own and 200 of its parents
    assert _file_rows(made) == [("shop", "web-0", "app", b"/a/b/f", "chmod", 1, 2, 9, 211, 0)]
    assert len(kept.seen) == made.counts.events == 3


def test_a_parent_that_fails_has_a_row_of_its_own() -> None:
    made, source, _ = pipeline()
    source.put("copyup", event(1, 21, b"/a", 0, mode=0o040755, is_parent=True, error=-28))
    made.drain()
    assert _file_rows(made) == [("shop", "web-0", "app", b"/a", "chmod", 1, 0, 0, 11, 1)]


def test_two_streams_are_merged_by_time() -> None:
    made, source, kept = pipeline()
    source.put("copyup", event(1, 21, b"/a", 1), event(3, 21, b"/c", 1))
    source.put("copyup_long", event(2, 21, b"/b", 1))
    made.drain()
    assert [seen.time for seen, _ in kept.seen] == [1, 2, 3]


def test_a_container_born_with_its_first_event_has_its_name() -> None:
    made, source, kept = pipeline()
    source.put("cgroups", birth(5, 30, f"/kubepods/podx/{BATCH}".encode()))
    source.put("copyup", event(6, 30, b"/a", 1))
    made.drain()
    identity = kept.seen[0][1]
    assert (identity.namespace, identity.pod, identity.container) == ("jobs", "batch-0", "worker")


def test_a_birth_wakes_the_pipeline() -> None:
    made, source, _ = pipeline(Selection.parse(["shop"], [], []))
    source.put("cgroups", birth(5, 30, f"/kubepods/podx/{BATCH}".encode()))
    assert made.live.wait(10) == set()
    made.drain()
    assert source.excluded == [(0, 30)]
    # the filter has room for 65,536: what is gone takes none of it
    source.put("cgroups", birth(6, 30, f"/kubepods/podx/{BATCH}".encode(), step=1))
    made.drain()
    assert source.excluded == []


def test_a_process_of_the_host_in_a_containers_root_is_shown_as_host() -> None:
    made, source, kept = pipeline()
    source.put("copyup", event(1, 9, b"/a", 1), event(2, 9, b"/a", 1, device=8))
    made.drain()
    (_, inside), (_, outside) = kept.seen
    assert (inside.pod, inside.host, inside.attributed_by) == ("web-0", True, "overlay")
    assert (outside.kind, outside.pod) == ("host", None)
    cells = COPYUP.key_cells(kept.seen[0][0], inside, Context("n", 0))
    assert (cells["pod"], cells["container"]) == ("web-0", "app (host)")


def test_what_cannot_be_attributed_is_shown_and_counted() -> None:
    made, source, kept = pipeline()
    source.put("copyup", event(1, 8123, b"/a", 1, device=99))
    made.drain()
    assert made.counts.unattributed == 1
    cells = COPYUP.key_cells(kept.seen[0][0], kept.seen[0][1], Context("n", 0))
    assert cells["pod"] == "cgroup:8123"


def test_a_selection_holds_in_user_space_and_tells_the_kernel() -> None:
    made, source, kept = pipeline(Selection.parse(["jobs"], [], []))
    assert source.excluded == [(0, 21)]
    source.put("copyup", event(1, 21, b"/a", 1), event(2, 8123, b"/a", 1, device=99))
    made.drain()
    assert (kept.seen, made.counts.events, made.context.attribution.matched) == ([], 0, False)


def test_a_recorder_looks_up_the_layers_of_every_container_without_events() -> None:
    class Layered(Files):
        def layers(self, device: int) -> Sequence[Fact]:
            return [LayerSeen(f"/lower{device}", "5", "sha256:1", None, 0)]

    live = LiveSource({"copyup": ListSource()}, Layered(), all_layers=True)
    live.start()
    learned = [fact for step in live.drain() for fact in step.facts]
    assert LayerSeen("/lower7", "5", "sha256:1", None, 0) in learned
    assert not [fact for step in live.drain() for fact in step.facts]


def test_a_birth_while_gauges_are_read_is_dealt_with_at_once() -> None:
    source = ListSource()

    class Slow:
        layouts: Mapping[str, Layout] = {}
        fds: Sequence[int] = ()

        def stir(self) -> bool:
            return False

        complete = True

        def close(self) -> None:
            pass

        def __init__(self) -> None:
            self.taught: list[Fact] = []

        def learn(self, fact: Fact) -> None:
            self.taught.append(fact)

        def read(self, between: Callable[[], None], *, whole: bool = False) -> list[Batch]:
            source.put("cgroups", birth(5, 30, f"/kubepods/podx/{BATCH}".encode()))
            between()
            assert "cgroups" not in source.pending
            return []

    gauge = Slow()
    live = LiveSource({"copyup": source}, Files(), {"copyup": gauge})
    (step,) = live.drain()
    born = CgroupSeen(0, 30, f"/kubepods/podx/{BATCH}", 5)
    assert born in step.facts and gauge.taught.count(born) == 1


def test_where_nothing_comes_it_sleeps_for_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ListSource()
    live = LiveSource({"copyup": source}, Files(), interval_s=0.7)
    live.drain()
    assert (live.pause_s, source.slept) == (0.1, 0)
    monkeypatch.setattr("kubetrace.stream.live._QUIET_S", 0.0)
    live.drain()
    live.drain()
    # told once: it stays said until a record takes it back
    assert (live.pause_s, source.slept) == (0.7, 1)
    live.pace(30.0)
    live.drain()
    assert live.pause_s == 1.0


def test_losses_are_told_once_each_time_they_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubetrace.stream.live._LOSSES_AGAIN_S", 0.0)
    made, source, kept = pipeline()
    made.drain()
    source.losses_now = {"ring_full": 3}
    made.drain()
    made.drain()
    assert kept.losses == [{"ring_full": 3}]
    assert made.counts.lost == 3


@pytest.mark.parametrize(
    ("code", "name"), [(-28, "ENOSPC"), (0, None), (-4095, "4095")], ids=["known", "none", "unknown"]
)
def test_errors_are_named(code: int, name: str | None) -> None:
    made, source, kept = pipeline()
    source.put("copyup", event(1, 21, b"/a", 1, error=code))
    made.drain()
    record = COPYUP.record(*kept.seen[0], Context("node1", 0))
    assert record["error"] == name


def test_a_json_object_keeps_its_contract() -> None:
    made, source, kept = pipeline()
    source.put("copyup", event(1_500_000_000, 21, b"/app/\xff\n", 13, mode=0o040755))
    made.drain()
    record = COPYUP.record(*kept.seen[0], Context("node1", 0))
    assert {
        "type": "copyup",
        "time": "1970-01-01T00:00:01.500000000Z",
        "node": "node1",
        "namespace": "shop",
        "pod": "web-0",
        "container": "app",
        "pod_uid": "uid-web-0",
        "container_id": WEB,
        "image": "app:1",
        "pid": 10,
        "tid": 10,
        "comm": b"sh",
        "path": b"/app/\xff\n",
        "path_truncated": False,
        "kind": "directory",
        "size_bytes": 13,
        "copied_bytes": 13,
        "cloned_bytes": 0,
        "duration_ns": 11,
        "error": None,
        "flags": 1,
        "trigger": "chmod",
        "part": "whole",
        "parents": 0,
        "is_parent": False,
        "layer_index": 3,
        "cgroup_id": 21,
        "attributed_by": "cgroup",
    }.items() <= record.items()


def filled(groupings: Sequence[str], *, joins: bool, metered: bool = False) -> Pipeline:
    """300 events of 2 containers, 3 files and some errors, in 5 steps; counted one by one where `joins` is false."""
    pipeline = Pipeline(
        COPYUP,
        {"copyup/copyup": EVENT, "copyup/copyup_long": EVENT},
        Context("node1", 0),
        groupings=groupings,
        metered=metered,
    )
    table = pipeline.table
    assert isinstance(table, Summed) and table.joiners
    if not joins:
        table._joiners = {}
    facts: list[Fact] = [
        CgroupSeen(0, 1 + at, f"/kubepods/poduid-{at}/{name}", 0) for at, name in enumerate((WEB, BATCH))
    ]
    facts += [container(WEB, "shop", "web", "app"), container(BATCH, "jobs", "batch", "worker")]
    pipeline.take(Step(facts=facts))
    for step in range(5):
        records = [
            event(
                1000 * step + at,
                1 + at % 2,
                b"/var/%d" % (at % 3),
                at * 7 % 11,
                error=-28 if at % 13 == 0 else 0,
                parents=at % 2,
                is_parent=at % 17 == 0,
                pid=10 + at % 3,
                trigger=1 + at % 3,  # the third has no name
            )
            for at in range(60)
        ]
        batches = [Batch("copyup/copyup", b"".join(records[:40])), Batch("copyup/copyup_long", b"".join(records[40:]))]
        pipeline.take(Step(batches=batches, tick=Tick(step, step, step)))
    return pipeline


def rows_of(pipeline: Pipeline, by: str) -> list[str]:
    return sorted(map(repr, pipeline.table.rows(by).rows("copied_bytes", None)))


@pytest.mark.parametrize("by", COPYUP.groupings)
def test_joined_events_give_the_rows_of_single_ones(by: str) -> None:
    joined, single = filled([by], joins=True), filled([by], joins=False)
    assert rows_of(joined, by) and rows_of(joined, by) == rows_of(single, by)
    assert len(rows_of(joined, by)) == {"file": 6, "process": 6, "container": 2, "pod": 2, "why": 3}.get(by, 1)
    assert joined.table.total() == single.table.total()
    assert (joined.counts.events, joined.counts.folded) == (300, single.counts.folded) == (300, 15)


def test_metrics_are_those_of_every_event_though_only_what_they_are_of_is_looked_at() -> None:
    by = COPYUP.metered_by
    metered, whole = filled([by], joins=True, metered=True), filled([by], joins=False)
    columns = [column.key for column in whole.table.rows(by).columns]
    served = [columns.index(key) for key in (*COPYUP.metric_labels, *(metric.measure for metric in COPYUP.metrics))]

    def series(pipeline: Pipeline) -> list[list[object]]:
        return [[row[at] for at in served] for row in pipeline.table.rows(by).rows("copied_bytes", None)]

    # of 150 events each 8 and 7 are parents; the 13th failed, and a parent that fails is no longer folded
    assert [row[1:3] for row in series(whole)] == [["web", "app"], ["batch", "worker"]]
    assert series(metered) == series(whole)
    assert (metered.counts.events, metered.counts.folded) == (300, 15)
    assert metered.table.remedies()[1] == [] != whole.table.remedies()[1]


@pytest.mark.parametrize("recorded", [False, True])
def test_what_is_joined_as_it_is_read_counts_as_one_by_one(recorded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # ten milliseconds from one look at the clock to the next, however long this waits for a CPU
    monkeypatch.setattr("kubetrace.stream.live.time.monotonic", map((0.01).__mul__, itertools.count(1)).__next__)
    source = ListSource()
    steps: list[Step] = []
    live = LiveSource({"copyup": source}, Files())
    made = Pipeline(
        COPYUP,
        live.layouts,
        Context("node1", 0),
        groupings=["file", "pod"],
        asked=live,
        record=steps.append if recorded else None,
    )
    events = [event(at, (21, 9)[at % 7 == 0], (b"/a", b"/b")[at % 3 == 0], at, parents=at % 2) for at in range(9000)]
    live.start()
    for step in live.drain():
        made.take(step)
    source.put("copyup", *events)
    for step in live.drain():
        made.take(step)
    assert bool(source.joiners) != recorded  # a recording has every record as it came
    assert sum(len(batch.data) for step in steps for batch in step.batches) == recorded * len(b"".join(events))
    # fuller rings are read sooner, however little is left of what was in them
    assert live.pause_s < DRAIN_INTERVAL_S
    single = Pipeline(COPYUP, live.layouts, Context("node1", 0), groupings=["file", "pod"], events=Kept())
    single.take(Step(facts=list(Files().scan()), batches=[Batch("copyup/copyup", b"".join(events))]))
    assert made.counts.events == single.counts.events == 9000
    assert made.table.total() == single.table.total() and made.table.total()["copied_bytes"] == sum(range(9000))
    for by in ("file", "pod"):
        assert rows_of(made, by) == rows_of(single, by)


@pytest.mark.parametrize("by", COPYUP.groupings)
def test_rows_derived_from_finer_ones_are_those_counted_alone(by: str) -> None:
    together, alone = filled(list(COPYUP.groupings), joins=True), filled([by], joins=True)
    assert isinstance(alone.table.rows(by), Tally)
    assert isinstance(together.table.rows(by), Coarser if by in ("container", "pod", "image") else Tally)
    assert rows_of(together, by) == rows_of(alone, by)
    assert len(together.table.rows(by)) == len(alone.table.rows(by))


def test_a_step_holds_so_many_records_with_their_counts() -> None:
    layouts = {"a/a": EVENT}
    record, many = event(1, 21, b"/a", 1), STEP_ROWS + 2
    joined = Batch("a/a", record * many, range(many))
    (first,), (second,) = split([joined], layouts)
    assert (first.data, first.counts) == (record * STEP_ROWS, range(STEP_ROWS))
    assert (second.data, second.counts) == (record * 2, range(STEP_ROWS, many))
    single = Batch("a/a", record * 3)
    assert list(split([single], layouts)) == [[single]]


def churn(seconds: int) -> Iterator[Step]:
    """A pod a second that lives for five: it copies one file up, of its number's size, and pod 17 a large one."""
    for number in range(seconds):
        now, name = number * 10**9, f"{number:064x}"
        path = f"/kubepods/pod00000000-0000-0000-0000-{number:012x}"
        facts: list[Fact] = [
            CgroupSeen(0, 100 + 2 * number, path, now),
            CgroupSeen(0, 101 + 2 * number, f"{path}/{name}", now),
            container(name, f"ns-{number % 3}", f"job-{number}", "app"),
        ]
        if number >= 5:
            facts += [CgroupGone(0, cgroup, now) for cgroup in (91 + 2 * number, 90 + 2 * number)]
        size = 1 << 30 if number == 17 else number
        error = -28 if number == 23 else 0
        records = [event(now + at, 101 + 2 * number, b"/srv/%d" % number, size, error=error) for at in range(2)]
        # processes of the node, each in a cgroup that is not made again
        records.append(event(now + 3, 50_000 + number, b"/run/x", 1))
        facts.append(CgroupSeen(0, 50_000 + number, f"/system.slice/run-{number}.scope", now))
        if number >= 5:
            facts.append(CgroupGone(0, 49_995 + number, now))
        yield Step(facts, [Batch("copyup/copyup", b"".join(records))], {}, Tick(now, now, 0))


def counted(steps: Iterable[Step], *, fold_ended: bool = True) -> Pipeline:
    layouts = {"copyup/copyup": EVENT, "copyup/copyup_long": EVENT}
    made = Pipeline(COPYUP, layouts, Context("node1", 0), groupings=list(COPYUP.groupings), fold_ended=fold_ended)
    for step in steps:
        made.take(step)
    return made


def test_what_the_runtime_does_is_one_row_and_no_advice() -> None:
    (start, *_) = churn(6)
    init, hostile = b"runc:[2:INIT]", b"runc:[\x1b[2J"
    records = [event(number, 101, b"/etc/%d" % number, 5, pid=number, comm=init) for number in range(1, 8)]
    records += [event(9, 101, b"/etc/x", 3, comm=b"runcible"), event(10, 101, b"/etc/y", 2, comm=hostile)]
    made = counted([start, Step([], [Batch("copyup/copyup", b"".join(records))], {}, Tick(20, 20, 0))])
    table = made.table.rows("file")
    at = [[column.key for column in table.columns].index(key) for key in ("path", "copies", "copied_bytes")]
    rows = [tuple(row[i] for i in at) for row in table.rows("copied_bytes", None)]
    # by the name that the process has, whoever gave it that
    assert rows[:3] == [(b"(by runc:[2:INIT])", 7, 35), (b"/etc/x", 1, 3), (b"(by %s)" % hostile, 1, 2)]
    assert [remedy.record()["copied_bytes"] for remedy in made.table.remedies()[1]] == [3]


def test_what_is_folded_is_no_word_in_a_column_of_numbers() -> None:
    """20,000 processes of one pod are too many rows: those that share one have no pid, and none is called so."""
    (start, *_) = churn(6)
    records = b"".join([event(number, 101, b"/srv/a", 1, pid=number) for number in range(1, 20_011)])
    made = counted([start, Step([], [Batch("copyup/copyup", records)], {}, Tick(20_011, 20_011, 0))])
    table = made.table.rows("process")
    keys = [column.key for column in table.columns]
    rows = table.rows("", None)
    pids = [row[keys.index("pid")] for row in rows]
    assert len(pids) < 20_000 and None in pids
    assert all(pid is None or isinstance(pid, int) for pid in pids)
    copies = [row[keys.index("copies")] for row in rows]
    assert sum(count for count in copies if isinstance(count, int)) == made.counts.events == 20_013


def test_a_pod_a_second_for_an_hour_leaves_few_rows_and_exact_sums() -> None:
    made, kept = counted(churn(3607)), counted(churn(3607), fold_ended=False)
    assert len(kept.table.rows("file")) == 2 * 3607
    for by in ("file", "container", "pod", "process"):
        table = made.table.rows(by)
        # two minutes' pods and cgroups, a look's, and the heaviest by each measure of both
        assert len(table) < 2 * 120 + 256 + 3 * 100, by
        columns = [column.key for column in table.columns]
        sums: dict[str, list[dict[object, list[int]]]] = {}
        for pipeline in (made, kept):
            for key in ("namespace", "node"):
                found: dict[object, list[int]] = {}
                for row in pipeline.table.rows(by).rows("copied_bytes", None):
                    group = row[columns.index(key)] if key in columns else None
                    measured = found.setdefault(group, [0, 0, 0])
                    for at, name in enumerate(("copies", "copied_bytes", "errors")):
                        value = row[columns.index(name)]
                        assert isinstance(value, int)
                        measured[at] += value
                sums.setdefault(key, []).append(found)
        assert all(pair[0] == pair[1] for pair in sums.values())
        assert len(sums["namespace"][0]) == 4
    rows = made.table.rows("file").rows("copied_bytes", None)
    # heavy, failed and new pods have their names yet; a light one that ended half an hour ago has not
    pods = {row[1] for row in rows}
    assert rows[0][:4] == ("ns-2", "job-17", "app", b"/srv/17")
    assert {"job-17", "job-23", "job-3606", "job-3500"} <= pods and not {"job-1", "job-1000", "job-1800"} & pods
    assert {row[:4] for row in rows if "(others)" in row} == {
        *((f"ns-{at}", "(others)", "(others)", "(others)") for at in range(3)),
        (None, "(host)", "(others)", "(others)"),
    }
    assert made.table.total() == kept.table.total()
    assert made.table.remedies() == kept.table.remedies()


def test_a_pod_that_is_there_keeps_its_rows_whatever_ends_around_it() -> None:
    facts: list[Fact] = [CgroupSeen(0, 21, f"/kubepods/podweb/{WEB}", 0), container(WEB, "shop", "web-0", "app")]
    first = Step(facts, [Batch("copyup/copyup", event(1, 21, b"/one", 0))], {}, Tick(0, 0, 0))
    made = counted([first, *churn(1009)])
    assert any(
        row[:4] == ("shop", "web-0", "app", b"/one") for row in made.table.rows("file").rows("copied_bytes", None)
    )


def test_a_replay_folds_what_the_live_table_did(tmp_path: Path) -> None:
    from .recordings import record

    steps = list(churn(701))
    record(tmp_path / "x.ktrace", steps, every=7)
    live = counted(steps)
    with Recording(tmp_path / "x.ktrace") as recording:
        replayed = counted(recording.steps())
    for by in COPYUP.groupings:
        assert live.table.rows(by).rows("", None) == replayed.table.rows(by).rows("", None)
    assert any("(others)" in row for row in live.table.rows("process").rows("", None))
