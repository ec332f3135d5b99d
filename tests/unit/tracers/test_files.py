"""files: what its counters come to in rows, from records written by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest

from kubetrace.attribution.attributor import Identity
from kubetrace.attribution.destination import Destination, Destinations, Mounted
from kubetrace.attribution.facts import MountSeen
from kubetrace.attribution.selection import Selection
from kubetrace.attribution.whose import Attribution
from kubetrace.errors import UsageError
from kubetrace.kit.context import Context
from kubetrace.stream.layout import Batch, Field, Layout
from kubetrace.tables.contract import Run
from kubetrace.tables.counted import Counted
from kubetrace.tracers import find

OPERATIONS = (
    *("open", "create", "tmpfile", "open-missing", "lookup-missing", "stat", "list", "unlink", "rmdir", "mkdir"),
    *("mknod", "symlink", "link", "rename", "whiteout"),
)


def layout(name: str, *fields: tuple[str, int, str]) -> Layout:
    made, at = [], 0
    for field, size, kind in fields:
        made.append(Field(field, at, size, kind, "", OPERATIONS if field == "operation" else ()))
        at += size
    return Layout(name, at, tuple(made))


COUNTER = layout(
    "files_counter",
    *((name, 8, "unsigned") for name in ("time", "cgroup_id", "memory_cgroup_id", "mount", "place")),
    *((name, 4, "unsigned") for name in ("memory_hierarchy", "device", "pid", "operation")),
    *(("error", 4, "signed"), ("rest", 4, "unsigned")),
    *((name, 8, "unsigned") for name in ("count", "errors", "expected", "bytes")),
    ("comm", 16, "bytes"),
)
MOUNT = layout(
    "kt_mount_event",
    *(("time", 8, "unsigned"), ("mount", 8, "unsigned"), ("magic", 8, "unsigned"), ("device", 4, "unsigned")),
    *((name, 4, "unsigned") for name in ("mount_id", "namespace")),
    *((name, 2, "unsigned") for name in ("root_bytes", "root_end", "point_bytes", "point_end")),
    *(("in_node", 4, "unsigned"), ("type", 16, "bytes"), ("source", 64, "bytes")),
    *(("whole", 4, "unsigned"), ("reserved", 4, "unsigned"), ("root", 256, "bytes"), ("point", 256, "bytes")),
)
PLACE = layout(
    "kt_place_event",
    *(("time", 8, "unsigned"), ("place", 8, "unsigned"), ("device", 4, "unsigned")),
    *(("path_bytes", 2, "unsigned"), ("path_end", 2, "unsigned"), ("path", 256, "bytes")),
)
LAYOUTS = {"files": COUNTER, "files_rest": COUNTER, "files_mounts": MOUNT, "files_places": PLACE}
KUBELET = MountSeen(5, "/kubelet", "/var/lib/kubelet", "ext4", "/dev/vda", 1)


def pack(shape: Layout, **values: Any) -> bytes:
    ordered = [values.get(field.name, b"" if field.kind == "bytes" else 0) for field in shape.fields]
    return bytes(8) + struct.pack(shape.format, *ordered)


def names(path: str) -> bytes:
    return b"".join(part.encode() + b"\0" for part in reversed(path.strip("/").split("/")))


def mount(number: int, fstype: str, root: str = "", *, device: int = 5, whole: bool = False) -> Batch:
    told = names(root) if root else b""
    data = pack(
        MOUNT, mount=number, time=9, device=device, namespace=1, type=fstype.encode(), root=told, root_bytes=len(told)
    )
    if whole:
        data = pack(MOUNT, mount=number, time=9, device=device, namespace=1, type=fstype.encode(), whole=1)
    return Batch("files_mounts", data)


def counter(operation: str, count: int = 0, *, stream: str = "files", **more: Any) -> Batch:
    given = {"cgroup_id": 7, "mount": 1, "device": 5, "time": 20, "count": count, **more}
    return Batch(stream, pack(COUNTER, operation=OPERATIONS.index(operation), **given))


class Known(Attribution):
    def identify(self, event: Any) -> Identity:
        return Identity(namespace="shop", pod="cart", container="app", kind="container")


def counted(by: str, batches: Sequence[Batch], **options: Any) -> Counted:
    tracer = find("files").with_options(options)
    table = Counted(Run(tracer, Context("node1", 0, Known(Selection())), LAYOUTS, by=by))
    table.learn([KUBELET])
    table.read(batches)
    table.count(None)
    return table


def rows(by: str, batches: Sequence[Batch], *columns: str, **options: Any) -> list[tuple[Any, ...]]:
    shown = counted(by, batches, **options).rows(by)
    at = [[column.key for column in shown.columns].index(name) for name in columns]
    return [tuple(row[i] for i in at) for row in shown.rows("operations", None)]


def test_operations_of_one_place_are_one_row() -> None:
    cache = mount(1, "ext4", "/kubelet/pods/x/volumes/kubernetes.io~empty-dir/cache")
    work = [
        *(cache, counter("open", 131), counter("create", 200), counter("tmpfile", 13), counter("unlink", 60)),
        *(counter("mkdir", 5), counter("symlink", 19), counter("link", 23), counter("mknod", 2)),
    ]
    columns = ("destination", "operations", "opens", "created", "removed", "mkdirs", "links", "nodes", "errors")
    assert rows("destination", work, *columns) == [("emptyDir/cache", 453, 131, 213, 60, 5, 42, 2, 0)]


def test_a_whiteout_is_part_of_a_removal_and_no_operation() -> None:
    work = [mount(1, "overlay"), counter("unlink", 64), counter("whiteout", 64)]
    assert rows("destination", work, "destination", "operations", "removed", "whiteouts") == [
        ("writable layer", 64, 64, 64)
    ]


def test_failures_that_programs_go_by_are_no_errors() -> None:
    work = [mount(1, "overlay"), counter("unlink", error=-21, expected=41), counter("unlink", error=-13, errors=23)]
    assert rows("destination", work, "operations", "errors", "expected") == [(0, 23, 41)]
    assert sorted(rows("error", work, "operation", "error", "errors", "expected")) == [
        ("unlink", "EACCES", 23, 0),
        ("unlink", "EISDIR", 0, 41),
    ]


def test_what_is_not_there_is_nowhere_and_the_rest_is_the_others() -> None:
    work = [
        counter("open-missing", 61, mount=0, device=0),
        counter("lookup-missing", 301, mount=0, device=0),
        counter("open", mount=0, device=0, error=-13, errors=11),
        counter("stat", 17, mount=0, device=0, rest=1, stream="files_rest"),
    ]
    assert rows("destination", work, "destination", "operations", "missing", "stats", "errors") == [
        ("(no file)", 362, 362, 0, 11),
        ("(others)", 17, 0, 17, 0),
    ]


def test_a_directory_of_a_shared_disk_is_a_volume_until_its_place_is_told() -> None:
    path = names("/kubelet/pods/x/volumes/kubernetes.io~empty-dir/cache")
    place = Batch("files_places", pack(PLACE, place=77, device=5, path=path, path_bytes=len(path)))
    work = [mount(3, "ext4", whole=True), counter("mkdir", 1, mount=3), place, counter("unlink", 9, mount=3, place=77)]
    assert rows("destination", work, "destination", "operations") == [("emptyDir/cache", 9), ("volume", 1)]


@pytest.mark.parametrize(
    ("fstype", "device", "place", "expected"),
    [
        ("overlay", 60, None, Destination("writable layer", None, "disk")),
        ("ext4", 5, "/srv/data", Destination("hostPath", "/srv/data", "disk")),
        ("ext4", 6, None, Destination("persistent volume", "pvc-1", "disk")),
        ("tmpfs", 7, None, Destination("emptyDir", "scratch", "memory")),
        ("tmpfs", 8, None, Destination("tmpfs", "/dev/shm", "memory")),
    ],
)
def test_a_whole_file_system_is_named_by_where_the_node_has_it(
    fstype: str, device: int, place: str | None, expected: Destination
) -> None:
    known = Destinations()
    volumes = "/var/lib/kubelet/pods/x/volumes"
    for fact in (
        MountSeen(5, "/", "/", "ext4", "/dev/vda", 1),
        MountSeen(6, "/", f"{volumes}/kubernetes.io~csi/pvc-1/mount", "ext4", "/dev/vdb", 1),
        MountSeen(7, "/", f"{volumes}/kubernetes.io~empty-dir/scratch", "tmpfs", "tmpfs", 1),
    ):
        known.learn(fact)
    mounted = Mounted(device, fstype, "", "/", "/dev/shm", False, False, 9, whole=True)
    assert known.of(mounted, place) == expected


def test_names_are_those_made_less_those_removed() -> None:
    work = [
        *(
            mount(1, "overlay"),
            counter("create", 200),
            counter("tmpfile", 13),
            counter("mkdir", 38),
            counter("mknod", 5),
        ),
        *(counter("symlink", 19), counter("link", 23), counter("unlink", 60), counter("rmdir", 37)),
    ]
    assert rows("destination", work, "created", "names") == [(213, 188)]
    assert rows("destination", [mount(1, "overlay"), counter("unlink", 7)], "names") == [(-7,)]
    # what was not counted says nothing of what is left
    table = counted("destination", [mount(1, "overlay"), counter("create", 200_000)], only="create")
    assert "names" not in [column.key for column in table.rows("destination").columns]
    assert [one.record()["action"] for one in table.remedies()[1]] == ["volume"]


@pytest.mark.parametrize("by", ["destination", "pod", "operation"])
def test_a_remedy_has_its_number_however_rows_are_grouped(by: str) -> None:
    cache = mount(2, "ext4", "/kubelet/pods/x/volumes/kubernetes.io~empty-dir/cache")
    work = [
        *(mount(1, "overlay"), counter("create", 12_345), counter("unlink", 300), counter("whiteout", 64)),
        *(cache, counter("create", 250_000, mount=2), counter("unlink", 1, mount=2)),
        *(counter("lookup-missing", 45_000, mount=0, device=0), counter("open", 2_000)),
    ]
    title, said = counted(by, work).remedies()
    assert title
    assert [(one.record()["action"], one.record()["count"]) for one in said] == [
        ("pack", 249_999),
        ("search", 45_000),
        ("volume", 12_345),
        ("image", 64),
    ]
    texts = [one.text(lambda name: f"<{name!s}>") for one in said]
    assert texts[0].startswith("<shop/cart/app> has 249999 names more than before in <emptyDir/cache>, each an inode")
    assert "45000 files that are not there, 22 for each that it opened" in texts[1]
    assert "made 12345 files in its writable layer and removed 300" in texts[2]


def test_what_is_little_or_the_nodes_own_is_not_advised() -> None:
    work = [mount(1, "overlay"), counter("create", 999), counter("whiteout", 49), counter("lookup-missing", 999)]
    assert counted("destination", work).remedies()[1] == []
    searched = [counter("lookup-missing", 5_000, mount=0, device=0), mount(1, "overlay"), counter("open", 1_300)]
    assert counted("destination", searched).remedies()[1] == []


def test_only_what_is_asked_for_has_columns_and_programs() -> None:
    tracer = find("files").with_options({"only": "create, stat"})
    assert [column.key for column in tracer.measures] == ["operations", "created", "stats", "errors", "expected"]
    with pytest.raises(UsageError, match="'stta' is not an operation"):
        find("files").constants({"only": "create,stta"})
