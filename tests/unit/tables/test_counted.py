"""Counters become rows: differences, moves between rows, rates and totals, from records written by hand."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kubetrace.attribution.attributor import Identity
from kubetrace.attribution.facts import CgroupSeen, MountGone, MountSeen
from kubetrace.attribution.selection import Selection
from kubetrace.attribution.whose import Attribution
from kubetrace.commands.group import kubetrace
from kubetrace.kit.context import Context
from kubetrace.kit.landing import Row
from kubetrace.recording.header import Header, Stream, Traced
from kubetrace.recording.writer import Recorder
from kubetrace.stream.layout import Batch, Field, Layout
from kubetrace.stream.steps import Step, Tick
from kubetrace.tables.aggregate import quantile
from kubetrace.tables.contract import Run
from kubetrace.tables.counted import Counted
from kubetrace.tracers import find
from kubetrace.tracers.writes import Writes

if TYPE_CHECKING:
    from kubetrace.kit.tracer import Tracer

OPERATIONS = ("write", "writev", "aio", "io-uring", "sendfile", "splice", "copy-file-range", "fallocate", "truncate")
REFUSED_NAMES = ("refused-exdev", "refused-unsupported", "refused-interrupted", "other-refused")
NAMES = (*OPERATIONS, "fsync", "mmap", "other", "other-fsync", "other-mmap", *REFUSED_NAMES)
WRITE, FSYNC, MMAP, OTHER, OTHER_FSYNC, OTHER_MMAP = 0, 9, 10, 11, 12, 13


def layout(name: str, *fields: tuple[str, int, str]) -> Layout:
    made, at = [], 0
    for field, size, kind in fields:
        made.append(Field(field, at, size, kind, "", NAMES if field == "operation" else ()))
        at += size
    return Layout(name, at, tuple(made))


KEY = (
    *(("cgroup_id", 8, "unsigned"), ("memory_cgroup_id", 8, "unsigned"), ("mount", 8, "unsigned")),
    *(("place", 8, "unsigned"), ("memory_hierarchy", 4, "unsigned"), ("device", 4, "unsigned")),
    *(("pid", 4, "unsigned"), ("operation", 4, "unsigned")),
)
COUNTER = layout(
    "writes_counter",
    ("time", 8, "unsigned"),
    *KEY,
    *((name, 8, "unsigned") for name in ("count", "bytes", "errors", "files", "last_file")),
    ("comm", 16, "bytes"),
)
LATENCY = layout("writes_latency", ("time", 8, "unsigned"), *KEY, ("longest", 8, "unsigned"), ("slots", 256, "bytes"))
MOUNT = layout(
    "writes_mount_event",
    *(("time", 8, "unsigned"), ("mount", 8, "unsigned"), ("magic", 8, "unsigned"), ("device", 4, "unsigned")),
    *((name, 4, "unsigned") for name in ("mount_id", "namespace")),
    *((name, 2, "unsigned") for name in ("root_bytes", "root_end", "point_bytes", "point_end")),
    *(("in_node", 4, "unsigned"), ("type", 16, "bytes"), ("source", 64, "bytes")),
    *(("root", 256, "bytes"), ("point", 256, "bytes")),
)
PLACE = layout(
    "writes_place_event",
    *(("time", 8, "unsigned"), ("place", 8, "unsigned"), ("device", 4, "unsigned")),
    *(("path_bytes", 2, "unsigned"), ("path_end", 2, "unsigned"), ("path", 256, "bytes")),
)
LAYOUTS = {
    "writes": COUNTER,
    "writes_rest": COUNTER,
    "latencies": LATENCY,
    "writes_mounts": MOUNT,
    "writes_places": PLACE,
}


def pack(shape: Layout, **values: Any) -> bytes:
    ordered = [values.get(field.name, b"" if field.kind == "bytes" else 0) for field in shape.fields]
    return bytes(8) + struct.pack(shape.format, *ordered)


def names(path: str) -> bytes:
    parts = [part for part in path.split("/") if part]
    return b"".join(part.encode() + b"\0" for part in reversed(parts))


def mount(number: int, fstype: str, root: str, point: str, *, node: bool = False, device: int = 5) -> Batch:
    root_names, point_names = names(root), names(point)
    data = pack(
        MOUNT,
        time=100,
        mount=number,
        device=device,
        namespace=2 if node else 1,
        in_node=int(node),
        type=fstype.encode(),
        root=root_names,
        root_bytes=len(root_names),
        point=point_names,
        point_bytes=len(point_names),
    )
    return Batch("writes_mounts", data)


def place(number: int, path: str, device: int = 5) -> Batch:
    path_names = names(path)
    data = pack(PLACE, place=number, device=device, path=path_names, path_bytes=len(path_names))
    return Batch("writes_places", data)


def counter(count: int, size: int, *, stream: str = "writes", errors: int = 0, files: int = 1, **key: Any) -> Batch:
    key = {"cgroup_id": 7, "mount": 1, "device": 5, "time": 200, **key}
    return Batch(stream, pack(COUNTER, count=count, bytes=size, errors=errors, files=files, **key))


class Node:
    """Who the cgroups are; may come to be known later."""

    def __init__(self) -> None:
        self.known = {7: "cart", 8: "db"}

    def identify(self, event: Any) -> Identity:
        name = self.known.get(event.cgroup_id)
        return Identity(namespace="shop", pod=name, container="app", kind="container") if name else Identity()


CONTEXT = Context("node1", 0)


class Known(Attribution):
    """What is known of cgroups is what the test says."""

    def __init__(self, node: Node, selection: Selection) -> None:
        super().__init__(selection)
        self._node = node

    def identify(self, event: Any) -> Identity:
        return self._node.identify(event)


class Table(Counted):
    """A table whose test is the pipeline."""

    def take(self, batches: Sequence[Batch]) -> None:
        self.read(batches)
        self.count(None)

    def all_rows(self) -> list[Row]:
        return list(self._rows.values())

    def changed(self) -> list[Row]:
        return [row for row in self._rows.values() if row in self._shown]


def counting(
    node: Node, by: str = "destination", selection: Selection | None = None, tracer: Tracer | None = None
) -> Table:
    context = Context("node1", 0, Known(node, selection or Selection()))
    made = Table(Run(tracer or find("writes"), context, LAYOUTS, by=by))
    made.learn([KUBELET])
    return made


# The kubelet's directory is on the disk 5.
KUBELET = MountSeen(5, "/kubelet", "/var/lib/kubelet", "ext4", "/dev/vda", 1)
CACHE = mount(1, "ext4", "/kubelet/pods/x/volumes/kubernetes.io~empty-dir/cache", "/cache")


def cells(made: Table, by: str = "destination") -> list[tuple[Any, ...]]:
    """(pod, destination, writes, bytes, rate, files, fsyncs, errors, mapped)."""
    columns = [column.key for column in made.rows(by).columns]
    at = [columns.index(k) for k in ("pod", "destination", "writes", "bytes", "rate", "files", "fsyncs", "errors")]
    return [tuple(row[i] for i in at) for row in made.rows(by).rows("bytes", None)]


def test_a_row_holds_the_latest_absolute_numbers_once() -> None:
    made = counting(Node())
    made.take([CACHE, counter(23, 2323)])
    made.take([counter(24, 2424)])
    made.take([])
    assert cells(made) == [("cart", "emptyDir/cache", 24, 2424, 0, 1, 0, 0)]
    assert made.counts.events == 24


def test_operations_of_one_destination_share_a_row() -> None:
    made = counting(Node())
    made.take([CACHE, counter(3, 300), counter(2, 70, operation=1, files=0)])
    made.take([counter(5, 0, operation=FSYNC, files=0), counter(7, 7 * 4096, operation=MMAP, files=2, errors=1)])
    assert cells(made) == [("cart", "emptyDir/cache", 5, 370, 0, 3, 5, 1)]
    total = made.total()
    assert (total["writes"], total["bytes"], total["mapped_bytes"]) == (5, 370, 7 * 4096)


def test_what_programs_do_by_other_means_then_is_not_an_error() -> None:
    made = counting(Node())
    copied = NAMES.index("copy-file-range")
    made.take([CACHE, counter(0, 0, operation=copied, errors=2), counter(966, 300, files=966)])
    made.take(
        [counter(0, 0, operation=NAMES.index(name), errors=at, files=0) for at, name in enumerate(REFUSED_NAMES, 10)]
    )
    total = made.total()
    assert (total["writes"], total["errors"], total["refused"]) == (966, 2, 10 + 11 + 12 + 13)
    # what found no room is a row of its own
    told = [(item["errors_total"], item["refused_total"]) for item in made.records(last=True, wall_ns=0)]
    assert sorted(told) == [(0, 13), (2, 10 + 11 + 12)]


def test_a_file_that_is_renamed_is_told_by_its_new_path() -> None:
    made = counting(Node(), by="file")
    made.take([CACHE, place(77, "/index.lock"), place(79, "/other"), counter(3, 30, place=77), counter(1, 5, place=79)])
    made.tick(1_000_000_000)
    made.take([place(77, "/index"), counter(4, 40, place=77)])
    assert paths(made) == [("/index", 4, 40), ("/other", 1, 5)]
    # another file takes the name: what both wrote is one row
    made.take([place(83, "/index.lock"), counter(2, 200, place=83)])
    assert paths(made) == [("/index.lock", 2, 200), ("/index", 4, 40), ("/other", 1, 5)]
    made.take([place(83, "/index")])
    made.tick(2_000_000_000)
    assert paths(made) == [("/index", 6, 240), ("/other", 1, 5)]
    assert made.counts.events == 7


def paths(made: Table) -> list[tuple[Any, ...]]:
    """(path, writes, bytes)."""
    columns = [column.key for column in made.rows("file").columns]
    at = [columns.index(key) for key in ("path", "writes", "bytes")]
    return [tuple(row[i] for i in at) for row in made.rows("file").rows("bytes", None)]


def test_rates_are_those_of_the_last_interval() -> None:
    made = counting(Node())
    made.take([CACHE, counter(1, 1000)])
    made.tick(1_000_000_000)
    assert cells(made)[0][4] == 1000
    made.take([counter(2, 4000)])
    made.tick(3_000_000_000)
    assert cells(made)[0][4] == 1500
    assert [row.window[1] for row in made.changed()] == [3000]
    made.tick(4_000_000_000)
    assert cells(made)[0][4] == 0
    assert made.changed() == []


def test_a_write_whose_owner_is_learned_late_moves_with_all_that_was_counted() -> None:
    node = Node()
    del node.known[8]
    made = counting(node)
    made.take([CACHE, counter(3, 33, cgroup_id=8)])
    assert (cells(made)[0][0], made.counts.unattributed) == ("cgroup:8", 3)
    node.known[8] = "db"
    made.learn([CgroupSeen(0, 8, "/db", 300)])
    made.tick(1_000_000_000)
    made.take([counter(4, 44, cgroup_id=8)])
    assert cells(made) == [("db", "emptyDir/cache", 4, 44, 33, 1, 0, 0)]
    assert (made.counts.unattributed, made.counts.events) == (0, 4)


def test_a_volume_keeps_its_name_when_it_is_gone() -> None:
    made = counting(Node())
    point = "/var/lib/kubelet/pods/x/volumes/kubernetes.io~secret/token"
    made.learn([MountSeen(9, "/", point, "tmpfs", "tmpfs", 50)])
    made.take([mount(3, "tmpfs", "/", "/etc/token", device=9), counter(1, 10, mount=3, device=9)])
    made.learn([MountGone(9, point, 300)])
    made.learn(
        [MountSeen(9, "/", "/var/lib/kubelet/pods/y/volumes/kubernetes.io~secret/other", "tmpfs", "t", 400, 300)]
    )
    made.tick(1_000_000_000)
    made.take([counter(2, 20, mount=3, device=9)])
    assert cells(made) == [("cart", "secret token", 2, 20, 10, 1, 0, 0)]


def test_a_mount_that_is_told_late_names_what_was_counted() -> None:
    made = counting(Node())
    made.take([counter(1, 10)])
    assert cells(made)[0][1] == "other"
    made.take([CACHE])
    assert cells(made) == [("cart", "emptyDir/cache", 1, 10, 0, 1, 0, 0)]


def test_counters_that_came_before_their_mount_and_places_have_a_path_each_once_these_are_told() -> None:
    made = counting(Node(), "file")
    made.take([counter(3, 30, place=77), counter(2, 20, place=79), counter(1, 10, place=81)])
    assert [row[4] for row in made.rows("file").rows("bytes", None)] == [None]
    made.take([place(77, "/a"), place(79, "/b"), CACHE])
    made.take([counter(4, 40, place=77)])
    rows = made.rows("file").rows("bytes", None)
    assert [(row[4], row[5], row[6]) for row in rows] == [("/a", 4, 40), ("/b", 2, 20), (None, 1, 10)]


def test_a_place_that_is_told_is_none_of_those_that_are_not() -> None:
    made = counting(Node(), "file")
    made.take([CACHE, place(83, "/late"), counter(3, 30, place=77), counter(2, 20, place=79), counter(5, 5, place=83)])
    made.take([counter(4, 40, place=77), counter(7, 70, place=79), counter(6, 6, place=83)])
    rows = made.rows("file").rows("bytes", None)
    assert [(row[4], row[5], row[6]) for row in rows] == [(None, 11, 110), ("/late", 6, 6)]
    assert len(made) == 3


def test_a_counter_that_comes_twice_in_one_batch_counts_once() -> None:
    made = counting(Node())
    made.take([CACHE, counter(3, 30), counter(4, 40)])
    made.take([counter(5, 50), counter(7, 70)])
    assert cells(made) == [("cart", "emptyDir/cache", 7, 70, 0, 1, 0, 0)]


def test_mounts_of_volumes_with_one_name_have_a_row_each() -> None:
    made = counting(Node(), "mount")
    other = mount(2, "ext4", "/kubelet/pods/y/volumes/kubernetes.io~empty-dir/cache", "/cache", device=6)
    made.take([CACHE, other, counter(3, 30), counter(2, 20, mount=2, device=6), counter(1, 1, operation=1)])
    rows = made.rows("mount").rows("bytes", None)
    assert [(row[0], str(row[2])[14:15], row[5]) for row in rows] == [("0:5", "x", 31), ("0:6", "y", 20)]


def test_owners_without_a_name_have_a_row_each() -> None:
    made = counting(Node())
    made.take([CACHE, counter(3, 30, cgroup_id=53), counter(2, 20, cgroup_id=59)])
    assert [row[0] for row in cells(made)] == ["cgroup:53", "cgroup:59"]
    assert made.counts.unattributed == 5


def test_the_rest_of_a_full_table_is_shown_and_added() -> None:
    made = counting(Node())
    made.take([CACHE, counter(1, 10), counter(5, 55, stream="writes_rest", mount=0, device=0, operation=OTHER)])
    assert [row[1:4] for row in cells(made)] == [("(others)", 5, 55), ("emptyDir/cache", 1, 10)]
    assert made.counts.events == 6


def test_the_rest_of_a_full_table_keeps_syncs_and_mapped_pages_apart() -> None:
    made = counting(Node(), "process")
    for operation, count, size in ((OTHER, 5, 55), (OTHER_FSYNC, 3, 0), (OTHER_MMAP, 2, 8192)):
        made.take([counter(count, size, stream="writes_rest", operation=operation, mount=0, device=0)])
    total = made.total()
    assert [total[key] for key in ("writes", "bytes", "fsyncs", "mapped_bytes")] == [5, 55, 3, 8192]
    (row,) = made.all_rows()
    record = Writes().row_record("process", row, CONTEXT, 0)
    assert (record["pid"], record["comm"], record["destination"]) == (None, None, None)


def test_latencies_of_the_rest_are_its_own() -> None:
    made = counting(Node())
    key = {"cgroup_id": 7, "operation": OTHER}
    made.take([counter(5, 55, stream="writes_rest", mount=0, device=0, operation=OTHER)])
    made.take([Batch("latencies", pack(LATENCY, longest=900, slots=struct.pack("<32Q", 5, *[0] * 31), **key))])
    (row,) = made.all_rows()
    assert (row.slots[0], row.longest) == (5, 900)


def test_another_grouping_adds_the_same_up_anew() -> None:
    made = counting(Node())
    made.take([CACHE, counter(3, 300), counter(2, 70, cgroup_id=8), counter(1, 5, operation=1)])
    made.tick(1_000_000_000)
    rows = made.rows("pod").rows("bytes", None)
    assert [(row[1], row[2], row[3]) for row in rows] == [("cart", 4, 305), ("db", 2, 70)]
    made.take([counter(4, 400)])
    assert [row[2] for row in made.rows("node").rows("bytes", None)] == [475]
    assert made.counts.events == 7
    assert made.rows("pod").rows("pod", 1)[0][1] == "cart"


def test_processes_that_write_to_one_place_have_a_row_each() -> None:
    made = counting(Node(), "process")
    made.take([CACHE, counter(3, 30, pid=53, comm=b"sh"), counter(2, 20, pid=59, comm=b"cat")])
    made.take([counter(4, 40, pid=53, comm=b"sh"), counter(1, 5, pid=53, comm=b"sh", operation=1)])
    columns = [column.key for column in made.rows("process").columns]
    cells = [
        (row[columns.index("pid")], row[columns.index("comm")], row[columns.index("bytes")])
        for row in made.rows("process").rows("bytes", None)
    ]
    assert cells == [(53, b"sh", 45), (59, b"cat", 20)]
    made.rows("destination")
    assert [(row.sums[0][0], row.sums[0][1]) for row in made.all_rows()] == [(7, 65)]


def test_a_log_belongs_to_the_pod_of_its_path() -> None:
    made = counting(Node())
    made.take([mount(2, "ext4", "/", "/", node=True), place(77, "/var/log/pods/jobs_batch-0_u-1/worker")])
    made.take([counter(53, 1234, mount=2, place=77)])
    (row,) = made.rows("container").rows("bytes", None)
    assert row[:3] == ("jobs", "batch-0", "worker")
    (whole,) = made.all_rows()
    assert (whole.landing.identity.attributed_by, whole.landing.destination.kind) == ("path", "container log")


def test_a_mount_of_a_container_that_looks_like_anothers_log_is_its_own() -> None:
    made = counting(Node())
    root = "/pods/kube-system_etcd-0_0123abcd/etcd"
    made.take([mount(2, "ext4", root, "/data"), counter(7, 70, mount=2)])
    # neither what is in the volume's own file system, nor below the kubelet's directory
    assert cells(made)[0][:2] == ("cart", "volume")
    made.learn([MountSeen(5, "/", "/mnt/disk", "ext4", "/dev/vda", 50)])
    made.tick(1_000_000_000)
    assert cells(made)[0][:2] == ("cart", f"hostPath /mnt/disk{root}")
    # the node's own log directory as a hostPath: the container that writes there is named, and not the log's
    made.learn([MountSeen(6, "/", "/var/log", "ext4", "/dev/vdb", 50)])
    made.take([mount(3, "ext4", root, "/logs", device=6), counter(9, 900, mount=3, device=6)])
    assert cells(made)[0][:2] == ("cart", f"hostPath /var/log{root}")


@pytest.mark.parametrize(("above", "end"), [(0, 1), (1 << 10, 0)], ids=["the walk", "the record"])
def test_a_root_that_is_too_deep_for_the_kernels_program_names_nothing(above: int, end: int) -> None:
    """Of a long one the names nearest to the root are missing: what is left was named by whoever made it so deep."""
    made = counting(Node())
    root = names("/kubelet/pods/other/volumes/kubernetes.io~empty-dir/cache")
    event = {"time": 100, "mount": 2, "device": 5, "namespace": 1, "type": b"ext4"}
    data = pack(MOUNT, **event, root=root, root_bytes=len(root) + above, root_end=end)
    made.take([Batch("writes_mounts", data), counter(7, 70, mount=2)])
    assert cells(made)[0][:2] == ("cart", "volume")


def test_pipes_and_the_kernels_own_files_are_left_out() -> None:
    made = counting(Node())
    made.take([mount(4, "proc", "/", "/proc"), counter(9, 90, mount=4)])
    assert (len(made.rows("destination")), made.counts.events) == (0, 0)
    tracer = Writes().with_options({"all_files": True})
    asked = counting(Node(), tracer=tracer)
    asked.take([mount(4, "proc", "/", "/proc"), counter(9, 90, mount=4)])
    assert [row[1] for row in cells(asked)] == ["kernel proc"]


def test_a_selection_leaves_others_out_of_rows_and_totals() -> None:
    made = counting(Node(), selection=Selection.parse((), ("db",), ()))
    made.take([CACHE, counter(3, 300), counter(2, 70, cgroup_id=8)])
    assert [row[0] for row in cells(made)] == ["db"]
    assert made.total()["bytes"] == 70


def test_latencies_join_their_row() -> None:
    made = counting(Node())
    made.take([CACHE, counter(4, 4)])
    slots = [0] * 32
    slots[2], slots[5] = 3, 1
    made.take(
        [
            Batch(
                "latencies",
                pack(LATENCY, cgroup_id=7, mount=1, device=5, longest=9000, slots=struct.pack("<32Q", *slots)),
            )
        ]
    )
    (row,) = made.all_rows()
    assert (row.slots, row.longest) == (slots, 9000)
    record = Writes().with_options({"latency": True}).row_record("destination", row, CONTEXT, 0)
    # three in [1024, 2048), one in [8192, 16384)
    assert 1024 <= record["p50_ns"] < 2048 and 8192 <= record["p99_ns"] <= 16384
    assert record["max_ns"] == 9000


def test_latencies_that_are_read_before_their_counter_are_kept_for_it() -> None:
    made = counting(Node())
    slots = struct.pack("<32Q", 0, 7, *[0] * 30)
    made.take([CACHE, Batch("latencies", pack(LATENCY, cgroup_id=7, mount=1, device=5, longest=900, slots=slots))])
    assert made.all_rows() == []
    made.take([counter(7, 70)])
    (row,) = made.all_rows()
    assert (row.slots[1], row.longest) == (7, 900)


def test_a_sync_is_no_slow_write_but_has_a_latency_of_its_own() -> None:
    made = counting(Node())
    slots = struct.pack("<32Q", *[0] * 20, 3, *[0] * 11)
    histogram = pack(LATENCY, cgroup_id=7, mount=1, device=5, operation=FSYNC, longest=1 << 29, slots=slots)
    made.take([CACHE, counter(4, 4), counter(3, 0, operation=FSYNC), Batch("latencies", histogram)])
    (row,) = made.all_rows()
    assert (sum(row.slots), row.longest) == (0, 0)
    made.rows("operation")
    assert [(row.longest, sum(row.slots)) for row in made.all_rows()] == [(0, 0), (1 << 29, 3)]
    made.rows("destination")
    assert [(row.longest, sum(row.slots)) for row in made.all_rows()] == [(0, 0)]


def test_a_row_as_json_has_the_contracts_keys() -> None:
    made = counting(Node())
    made.take([CACHE, counter(4, 44)])
    made.tick(1_000_000_000)
    (row,) = made.changed()
    record = Writes().row_record("destination", row, CONTEXT, 0)
    assert record | {"time": ""} == {
        "type": "writes",
        "time": "",
        "node": "node1",
        "namespace": "shop",
        "pod": "cart",
        "container": "app",
        "pod_uid": None,
        "container_id": None,
        "image": None,
        "qos_class": None,
        "cgroup_id": 7,
        "cgroup_path": None,
        "host": False,
        "attributed_by": "none",
        "names_from": None,
        "destination": "emptyDir/cache",
        "destination_kind": "emptyDir",
        "volume": "cache",
        "medium": "disk",
        "counted_as_ephemeral": True,
        "writes": 4,
        "bytes": 44,
        "writes_total": 4,
        "bytes_total": 44,
        "files_total": 1,
        "fsyncs_total": 0,
        "errors_total": 0,
        "mapped_bytes_total": 0,
        "refused_total": 0,
    }
    assert "operation" in Writes().row_record("operation", row, CONTEXT, 0)
    assert Writes().row_record("pod", row, CONTEXT, 0)["container"] is None


@pytest.mark.parametrize(
    ("slots", "q", "longest", "expected"),
    [
        ([], 0.5, 0, None),
        ([0, 0], 0.5, 0, None),
        # all below 512 ns, evenly spread from 0
        ([100, 0], 0.5, 511, 255),
        ([100, 0], 0.5, 4000, 256),
        # two of four lie at or below 1024
        ([2, 0, 2, 0], 0.5, 2000, 512),
        ([0, 4, 0], 0.25, 1023, 639),
        ([0, 4, 0], 1.0, 1023, 1023),
        ([99, 0, 0, 1, 0], 0.99, 4000, 512),
        ([98, 0, 0, 2, 0], 0.99, 4096, 3072),
        # no quantile is above the longest that was seen
        ([0, 0, 3, 0], 0.5, 1100, 1062),
        ([0, 0, 3, 0], 0.99, 1030, 1029),
        # the last slot has no end of its own
        ([0, 2], 0.5, 10_512, 5512),
        # the longest was read before a longer one was counted in a slot
        ([0, 0, 0, 1, 0], 0.99, 900, 2048),
    ],
)
def test_quantiles_of_a_log2_histogram(slots: list[int], q: float, longest: int, expected: int | None) -> None:
    assert quantile(slots, q, first_ns=256, longest_ns=longest) == expected


def test_an_empty_row_has_no_latency() -> None:
    row = Row([[0] * 4 for _ in range(4)], (0,) * 7, None, None, ())  # type: ignore[arg-type]
    assert list(Writes().counters.measures_of(row)) == [0, 0, 0, 0, 0, 0, 0, 0, None, None, None]


def test_a_recording_of_counters_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    streams = tuple(Stream(number, name, shape) for number, (name, shape) in enumerate(LAYOUTS.items(), 1))
    file = tmp_path / "writes.ktrace"
    recorder = Recorder(file, Header("node1", "6.1", 0, (Traced("writes", "fentry", (), {}, {}, streams),)))
    for second, batches in enumerate([[CACHE, counter(3, 33)], [counter(5, 55)]], 1):
        named = [Batch(f"writes/{batch.stream}", batch.data) for batch in batches]
        recorder.write(Step(facts=[KUBELET], batches=named, tick=Tick(second * 10**9, 10**18, 1000)))
    recorder.close()
    kubetrace.main(["replay", str(file), "--final", "-o", "json"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    *found, summary = map(json.loads, lines)
    # the interval's row, then every row as it is at the end
    assert [(row["destination"], row["writes_total"], row["bytes_total"]) for row in found] == [
        ("emptyDir/cache", 3, 33),
        ("emptyDir/cache", 5, 55),
    ]
    assert (summary["bytes_total"], summary["lost"]) == (55, 0)
    kubetrace.main(["export", str(file), "--format", "jsonl"], standalone_mode=False)
    assert capsys.readouterr().out.splitlines() == lines[:-1]
