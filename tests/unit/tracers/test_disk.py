"""The board of kubetrace disk: growth, time left, whose a part is, and what it says could be removed; no node."""

from __future__ import annotations

from typing import Any

from kubetrace.attribution.attributor import Identity
from kubetrace.attribution.facts import CgroupSeen, ContainerSeen, PodSeen
from kubetrace.attribution.selection import Selection
from kubetrace.attribution.whose import Attribution
from kubetrace.kit.context import Context
from kubetrace.tracers.disk import TRACER, entry
from kubetrace.tracers.disk.board import DiskBoard
from kubetrace.tracers.disk.entry import LAYOUT, pack

CID, UID = "c" * 64, "0f0f0f0f-1111-2222-3333-444444444444"
GIB, S = 1 << 30, 1_000_000_000
NODE = Identity(kind="host", cgroup_path="/", attributed_by="host")


def decoded(**values: Any) -> Any:
    (event,) = LAYOUT.decode(pack(cgroup_id=1, **values))
    return event


class Board:
    """One run."""

    def __init__(self, selection: Selection | None = None) -> None:
        self.context = Context("node1", 0, Attribution(selection or Selection()))
        self.context.attribution.learn([CgroupSeen(0, 1, "/", 1)])
        self.board = DiskBoard(self.context)

    def take(self, **values: Any) -> list[tuple[Any, Identity]]:
        event = decoded(**values)
        return list(self.board.take(event, self.context.attribution.identify(event)))

    def system(self, second: float, used: int, *, inodes: int = 1000) -> list[tuple[Any, Identity]]:
        return self.take(
            what="filesystem",
            entry=1,
            time=int(second * S),
            as_of=int(second * S),
            disk=7 << 20,
            roles=3,
            path="/var",
            name="ext4 /dev/sda1",
            bytes=used,
            capacity=100 * GIB,
            available=95 * GIB - used,
            inodes=inodes,
            inodes_total=10_000,
            inodes_free=10_000 - inodes,
            frees=2 * GIB,
        )

    def threshold(self, number: int, signal: str, action: str, least: int, **values: Any) -> None:
        path = values.pop("path", "default")
        self.take(
            what="threshold",
            entry=number,
            time=S,
            disk=7 << 20,
            name=signal,
            action=action,
            least=least,
            path=path,
            **values,
        )

    def part(self, number: int, kind: str, size: int, **values: Any) -> tuple[Any, Identity]:
        values = {"how": "walk", "state": "whole", "time": 10 * S, "as_of": 9 * S, "inodes": 3, **values}
        (told,) = self.take(what="part", entry=number, kind=kind, bytes=size, disk=7 << 20, **values)
        return told

    def rows(self, by: str) -> list[dict[str, Any]]:
        names = [column.key for column in (*TRACER.groupings[by].columns, *TRACER.measures)]
        return [dict(zip(names, row, strict=True)) for row in self.board.rows(by)]


def test_time_left_is_what_is_available_above_the_threshold_by_the_growth() -> None:
    board = Board()
    board.threshold(2, "nodefs.available", "evicts", 10 * GIB)
    board.threshold(3, "imagefs.available", "evicts", 15 * GIB)
    board.threshold(4, "nodefs.inodesFree", "evicts", 500)
    board.threshold(5, "imagefs.usage", "image GC", 81 * GIB)
    for second in range(11):
        told = board.system(second, 20 * GIB + second * GIB, inodes=1000 + 50 * second)
    rows = board.rows("filesystem")
    # 65 GiB are available: at 1 GiB/s the disk is at 15 GiB in 50 s, 8,500 inodes left end in (8500-500)/50 s
    assert [(row["signal"], row["action"], row["left_ns"]) for row in rows] == [
        ("imagefs.usage", "image GC now", 0),
        ("imagefs.available", "evicts", 50 * S),
        ("nodefs.available", "evicts", 55 * S),
        ("nodefs.inodesFree", "evicts", 160 * S),
    ]
    assert rows[1]["available_text"] == "65 GiB" and rows[1]["least_text"] == "15 GiB"
    assert rows[3]["available_text"] == "8500" and rows[3]["least_text"] == "500"
    assert [row["available_percent"] for row in rows] == [65, 65, 65, 85]
    assert {row["growth_bytes"] for row in rows} == {GIB}
    assert {row["freeable_bytes"] for row in rows} == {2 * GIB}
    # the same is told to a reader of events, with the file system's own numbers
    assert [(event.left, event.growth) for event, _ in told] == [
        (entry.UNKNOWN, GIB),
        (55 * S, GIB),
        (50 * S, GIB),
        (160 * S, 50),
        (0, GIB),
    ]


def test_growth_of_less_than_five_seconds_is_not_told() -> None:
    board = Board()
    board.threshold(2, "nodefs.available", "evicts", 10 * GIB)
    for second in range(5):
        board.system(second, 20 * GIB + second * GIB)
    (row,) = board.rows("filesystem")
    assert row["growth_bytes"] is None and row["left_ns"] is None and row["used_bytes"] == 24 * GIB


def test_growth_forgets_what_was_more_than_five_minutes_ago() -> None:
    board = Board()
    board.threshold(2, "nodefs.available", "evicts", 10 * GIB)
    board.system(0, 0)
    for second in range(10, 700, 10):
        board.system(second, 50 * GIB)
    (row,) = board.rows("filesystem")
    assert row["growth_bytes"] == 0 and row["left_ns"] is None


def test_what_is_not_known_of_a_threshold_says_why() -> None:
    board = Board()
    board.threshold(2, "nodefs.available", "not known", entry.UNKNOWN, path="no kubelet is seen to run")
    board.system(1, GIB)
    (row,) = board.rows("filesystem")
    assert (row["action"], row["least_text"], row["left_ns"]) == ("not known", None, None)
    assert row["source"] == "no kubelet is seen to run"


def test_a_part_is_its_containers_by_cgroup_by_id_or_by_the_names_of_its_directory() -> None:
    board = Board()
    board.context.attribution.learn(
        [
            CgroupSeen(0, 41, f"/kubepods/burstable/pod{UID}/{CID}", 2),
            ContainerSeen(CID, "container", "shop", "cart-0", "app", UID, "web:1", None, "config.json", 2),
            PodSeen(UID, "shop", "cart-0", "log directories", 2),
        ]
    )
    event = decoded(what="part", entry=9, kind="writable layer", time=S, container_id=CID)._replace(cgroup_id=41)
    ((_, by_cgroup),) = board.board.take(event, board.context.attribution.identify(event))
    _, by_id = board.part(10, "writable layer", 5, container_id=CID)
    _, by_uid = board.part(11, "emptyDir", 5, pod_uid=UID)
    _, by_name = board.part(12, "log", 5, pod_uid=UID, namespace="shop", pod="cart-0", container="app")
    exited = {"namespace": "jobs", "pod": "once-1", "container": "main", "container_id": "d" * 64, "pod_uid": "u"}
    _, by_itself = board.part(13, "writable layer", 5, **exited)
    assert [(one.namespace, one.pod, one.container) for one in (by_cgroup, by_id, by_uid, by_name, by_itself)] == [
        ("shop", "cart-0", "app"),
        ("shop", "cart-0", "app"),
        ("shop", "cart-0", None),
        ("shop", "cart-0", "app"),
        ("jobs", "once-1", "main"),
    ]
    _, nobody = board.part(14, "image layers", 5, name="web:1")
    assert nobody.kind == "host"


def test_rows_are_sums_of_parts_and_say_how_and_how_old() -> None:
    board = Board()
    pod = {"namespace": "shop", "pod": "cart-0", "pod_uid": UID}
    board.system(10, GIB)
    board.part(10, "writable layer", 4096, container="app", container_id=CID, path="/s/7", **pod)
    board.part(11, "emptyDir", 10 * 4096, name="cache", path="/p/cache", as_of=4 * S, **pod)
    board.part(12, "log", 4096, container="app", path="/l/app", state="walking", **pod)
    board.part(13, "image layers", GIB, name="web:1", how="metadata", shared=5, frees=7, users=0)
    board.part(14, "image blobs", 8192, name="web:1", how="metadata", shared=1)
    (cart,) = [row for row in board.rows("pod") if row["pod"] == "cart-0"]
    assert (cart["used_bytes"], cart["inodes"], cart["how"]) == (12 * 4096, 9, "walk, walk so far")
    assert (cart["largest"], cart["age_ns"]) == ("emptyDir 40 KiB, writable layer 4.0 KiB", 6 * S)
    (image,) = board.rows("image")
    assert (image["used_bytes"], image["shared_bytes"], image["frees_bytes"]) == (GIB + 8192, 6, 7)
    kinds = {row["kind"]: row["used_bytes"] for row in board.rows("kind")}
    assert kinds == {"writable layer": 4096, "emptyDir": 40_960, "log": 4096, "image layers": GIB, "image blobs": 8192}
    assert {row["mount"] for row in board.rows("kind")} == {"/var"}
    assert [row["pod"] for row in board.rows("pod")] == ["cart-0", "(host)"]
    board.take(what="gone", entry=11, time=11 * S)
    assert "emptyDir" not in {row["kind"] for row in board.rows("kind")}


def test_a_part_grows_by_its_whole_walks() -> None:
    board = Board()
    board.part(10, "log", 1000, as_of=10 * S)
    event, _ = board.part(10, "log", 9000, as_of=20 * S)
    assert event.growth == 800
    event, _ = board.part(10, "log", 500, as_of=21 * S, state="walking")
    assert event.growth == 800
    (row,) = board.rows("path")
    assert row["growth_bytes"] == 800


def test_only_the_parts_of_selected_pods_are_shown() -> None:
    board = Board(Selection.parse(["shop"], [], [], None))
    board.system(1, GIB)
    board.threshold(2, "nodefs.available", "evicts", GIB)
    board.part(10, "emptyDir", 5, namespace="shop", pod="cart-0", pod_uid="u1")
    board.part(11, "emptyDir", 5, namespace="jobs", pod="batch-0", pod_uid="u2")
    board.part(12, "node logs", 5)
    assert [row["pod"] for row in board.rows("pod")] == ["cart-0"]
    assert len(board.rows("filesystem")) == 1


def advice(*told: tuple[Any, Identity]) -> list[str]:
    found = TRACER.advice()
    for event, identity in told:
        found.add(event, identity, Context("node1", 0))
    return [one.text(str) for one in found.remedies()]


def test_what_could_be_removed_is_said_with_what_it_frees() -> None:
    board = Board()
    used = board.part(1, "image layers", GIB, name="used:1", frees=GIB, users=2)
    unused = board.part(2, "image layers", GIB, name="old;rm -rf:1", frees=3 << 20, users=0)
    pods = [
        board.part(number, kind, size, namespace="shop", pod=pod, pod_uid=pod)
        for number, (pod, kind, size) in enumerate(
            [("a", "log", 1 << 20), ("b", "emptyDir", 4 << 20), ("b", "log", 1 << 20), ("b", "volume", GIB)], 3
        )
    ]
    held = board.part(9, "deleted, open", 2 << 20, name="inode 5 held by app[77] fd 3", path="/tmp/x", pid=77)
    assert advice(used, unused, *pods, held) == [
        "kubectl delete pod -n shop b   frees 5.0 MiB: its emptyDir 4.0 MiB, log 1.0 MiB",
        "crictl rmi 'old;rm -rf:1'   frees 3.0 MiB: no container uses it",
        "kill 77   frees 2.0 MiB: /tmp/x is deleted, inode 5 held by app[77] fd 3",
    ]


def test_a_text_that_does_not_fit_loses_its_beginning() -> None:
    event = decoded(what="part", path="/a" * 500, pod="p" * 400, name="\udcff" * 200)
    assert entry.text_of(event.path).startswith("…") and entry.text_of(event.path).endswith("/a/a")
    assert len(event.path) == 200 and len(event.pod) == 256 and len(event.name) == 120
