"""reads: whose file was read, by whom and by which way, from records written by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest

from kubetrace.attribution.attributor import Identity
from kubetrace.attribution.selection import Selection
from kubetrace.attribution.whose import Attribution
from kubetrace.errors import UsageError
from kubetrace.kit.context import Context
from kubetrace.stream.layout import Batch, Field, Layout
from kubetrace.tables.boarded import BoardedCounters, boarded
from kubetrace.tables.contract import Run
from kubetrace.tracers import find
from kubetrace.tracers.reads import hashed

THROUGH = ("own", "executed", "node", "node-from-elsewhere", "from-elsewhere", "unmounted", "unknown")
KINDS = ("none", "secret", "token", "projected", "configmap", "downward", "driver", "volume")
CART, AUDIT = "5f3b9a52-7d1c-4f6e-9d55-1f0f2f8f4c11", "0d5e2c1b-1111-4222-8333-444455556666"
CREDS = f"/kubelet/pods/{CART}/volumes/kubernetes.io~secret/creds"
MONDAY, TUESDAY = "..2026_11_30_02_43_53.456339893", "..2026_12_01_02_43_53.1"
# cgroup id -> whose it is
READERS = {
    7: Identity("shop", "cart", "app", CART, "c" * 64, kind="container", attributed_by="cgroup"),
    8: Identity("shop", "audit", "agent", AUDIT, "d" * 64, kind="container", attributed_by="cgroup"),
    9: Identity(kind="host", host=True, cgroup_path="/system.slice/kubelet.service", attributed_by="host"),
}


def layout(name: str, *fields: tuple[str, int, str]) -> Layout:
    made, at = [], 0
    for field, size, kind in fields:
        names = {"through": THROUGH, "kind": KINDS}.get(field, ())
        made.append(Field(field, at, size, kind, "", names))
        at += size
    return Layout(name, at, tuple(made))


COUNTER = layout(
    "reads_counter",
    *((name, 8, "unsigned") for name in ("time", "cgroup_id", "memory_cgroup_id", "file")),
    *((name, 4, "unsigned") for name in ("memory_hierarchy", "device", "volume", "pid", "through", "rest")),
    ("comm", 16, "bytes"),
    *((name, 8, "unsigned") for name in ("opens", "reads", "maps", "bytes", "first", "last")),
    *(("last_pid", 4, "unsigned"), ("reserved", 4, "unsigned")),
)
FILE = layout(
    "reads_file_event",
    *((name, 8, "unsigned") for name in ("time", "cgroup_id", "memory_cgroup_id")),
    *((name, 4, "unsigned") for name in ("memory_hierarchy", "device", "pid", "volume")),
    *(("file", 8, "unsigned"), ("kind", 4, "unsigned")),
    *((name, 2, "unsigned") for name in ("path_bytes", "path_end", "point_bytes", "point_end")),
    *(("in_memory", 4, "unsigned"), ("path", 984, "bytes"), ("point", 992, "bytes")),
)
LAYOUTS = {"reads": COUNTER, "reads_rest": COUNTER, "reads_files": FILE}


def pack(shape: Layout, **values: Any) -> bytes:
    ordered = [values.get(field.name, b"" if field.kind == "bytes" else 0) for field in shape.fields]
    return bytes(8) + struct.pack(shape.format, *ordered)


def leaf_first(path: str) -> bytes:
    return b"".join(part.encode() + b"\0" for part in reversed(path.strip("/").split("/")))


def told(path: str, point: str = CREDS, *, file: int = 1, volume: int = 59, **more: Any) -> Batch:
    names, at = leaf_first(path), leaf_first(point) if point else b""
    given = {"time": 5, "cgroup_id": 7, "file": file, "volume": volume, "kind": 1, "in_memory": 1, **more}
    data = pack(FILE, path=names, path_bytes=len(names), point=at, point_bytes=len(at), **given)
    return Batch("reads_files", data)


def counter(opens: int = 0, *, stream: str = "reads", through: str = "own", **more: Any) -> Batch:
    given = {
        "time": 20,
        "cgroup_id": 7,
        "file": 1,
        "volume": 59,
        "comm": b"nginx",
        "first": 10,
        "last": 15,
        "opens": opens,
        "last_pid": 4242,
        **more,
    }
    return Batch(stream, pack(COUNTER, through=THROUGH.index(through), **given))


class Known(Attribution):
    def identify(self, event: Any) -> Identity:
        return READERS.get(event.cgroup_id, Identity())

    def owner(self, container_id: str | None, pod_uid: str | None) -> Identity | None:
        pods = {CART: "cart", AUDIT: "audit"}
        if pod_uid not in pods:
            return None
        return Identity("shop", pods[pod_uid], pod_uid=pod_uid, kind="pod", attributed_by="path")


class Made:
    """A table of one run, and what it has told."""

    def __init__(self, *, select: Selection | None = None, **options: Any) -> None:
        context = Context("node1", 1_000, Known(select or Selection()))
        self.tracer = find("reads")
        self.table = boarded(Run(self.tracer, context, LAYOUTS, own=options, tells=True))
        self.told: list[dict[str, Any]] = []
        self.cells: list[Sequence[Any]] = []
        self._context = context

    def take(self, *batches: Batch) -> Made:
        self.table.read(batches)
        self.table.count(self._tell)
        return self

    def _tell(self, event: Any, of: Any) -> None:
        self.told.append(self.tracer.record(event, of, self._context))
        self.cells.append(self.tracer.event_cells(event, of, self._context))

    def rows(self, by: str, *columns: str) -> list[tuple[Any, ...]]:
        shown = self.table.rows(by)
        at = [[column.key for column in shown.columns].index(name) for name in columns]
        return [tuple(row[i] for i in at) for row in shown.rows("opens", None)]


def test_a_row_is_a_file_and_its_reader() -> None:
    made = Made().take(told(f"/{MONDAY}/password"), counter(3, reads=4, bytes=31, maps=1))
    columns = ("namespace", "pod", "volume", "path", "reader", "comm", "way", "pid", "version")
    assert made.rows("file", *columns) == [
        ("shop", "cart", "secret creds", "password", "app", b"nginx", "own mount", 4242, MONDAY)
    ]
    assert made.rows("file", "opens", "reads", "bytes", "maps", "first", "last") == [(3, 4, 31, 1, 1_010, 1_015)]


@pytest.mark.parametrize(
    ("cgroup", "through", "opens", "way", "reader"),
    [
        (7, "own", 1, "own mount", "app"),
        (7, "executed", 1, "exec", "app"),
        (8, "own", 1, "another's mount", "shop/audit/agent"),
        (8, "executed", 1, "another's mount", "shop/audit/agent"),
        (9, "executed", 1, "nsenter", "host /system.slice/kubelet.service"),
        (9, "own", 1, "nsenter", "host /system.slice/kubelet.service"),
        (9, "node", 1, "node's path", "host /system.slice/kubelet.service"),
        (9, "from-elsewhere", 1, "/proc/PID/root", "host /system.slice/kubelet.service"),
        (8, "node-from-elsewhere", 1, "/proc/1/root", "shop/audit/agent"),
        (8, "from-elsewhere", 0, "passed on", "shop/audit/agent"),
        (7, "own", 0, "own mount", "app"),
        (7, "unmounted", 0, "unmounted", "app"),
        (9, "unknown", 1, "(not known)", "host /system.slice/kubelet.service"),
    ],
)
def test_the_way_is_told_by_whose_mount_it_is(cgroup: int, through: str, opens: int, way: str, reader: str) -> None:
    made = Made().take(told("/password"), counter(opens, through=through, cgroup_id=cgroup, reads=1, bytes=1))
    # whoever reads, the row is of the pod whose secret it is
    assert made.rows("file", "pod", "reader", "way") == [("cart", reader, way)]


def test_a_refreshed_secret_stays_one_row() -> None:
    made = Made().take(told(f"/{MONDAY}/password"), counter(3, reads=3, bytes=27))
    made.take(
        told(f"/{TUESDAY}/password", file=2), counter(2, file=2, reads=2, bytes=40, first=30, last=40, last_pid=77)
    )
    assert made.rows("file", "path", "version", "opens", "bytes", "first", "last", "pid") == [
        ("password", TUESDAY, 5, 67, 1_010, 1_040, 77)
    ]
    assert [one["new"] for one in made.told] == [True, False]


def test_new_tells_the_first_reading_alone() -> None:
    made = Made(new=True).take(told("/password"), counter(1))
    made.take(counter(2), counter(1, pid=5))  # another process of that name
    made.take(counter(1, cgroup_id=9, through="node"))
    assert [(one["reader_kind"], one["way"], one["new"]) for one in made.told] == [
        ("container", "own mount", True),
        ("host", "node's path", True),
    ]
    # the rows have all
    assert sum(row[0] for row in made.rows("file", "opens")) == 4


def test_an_event_says_what_came_and_all_so_far() -> None:
    made = Made().take(told("/password"), counter(3, reads=2, bytes=16)).take(counter(5, reads=2, bytes=16, last=90))
    first, second = (
        [one[name] for name in ("opens", "reads", "bytes", "opens_total", "reads_total")] for one in made.told
    )
    assert (first, second) == ([3, 2, 16, 3, 2], [2, 0, 0, 5, 2])
    assert made.told[1]["time"].endswith("00:00:00.000001090Z")
    assert made.table.total()["opens"] == 5


def test_an_object_is_the_volumes_pod_with_its_reader() -> None:
    (one,) = Made().take(told("/password"), counter(1, cgroup_id=9, through="node")).told
    assert (one["namespace"], one["pod"], one["pod_uid"], one["container"], one["host"]) == (
        *("shop", "cart", CART, None),
        True,
    )
    assert (one["volume_kind"], one["volume"], one["path"]) == ("secret", b"creds", b"password")
    assert (one["reader"], one["cgroup_path"]) == (
        b"host /system.slice/kubelet.service",
        "/system.slice/kubelet.service",
    )


@pytest.mark.parametrize(
    ("pod", "expected"),
    [("cart", ["app", "host /system.slice/kubelet.service", "shop/audit/agent"]), ("audit", ["agent"])],
)
def test_a_pod_is_chosen_by_whose_volume_it_is_and_by_who_reads(pod: str, expected: list[str]) -> None:
    made = Made(select=Selection.parse([], [pod], []))
    made.take(
        *(told("/password"), counter(1), counter(1, cgroup_id=9, through="node"), counter(1, cgroup_id=8)),
    )
    if pod == "cart":
        assert sorted(row[0] for row in made.rows("file", "reader")) == expected
    else:
        assert [row[0] for row in made.rows("file", "reader")] == ["shop/audit/agent"]
        assert [one["pod"] for one in made.told] == ["audit"]
    assert len(made.told) == len(expected)


@pytest.mark.parametrize(
    ("path", "point", "volume", "name"),
    [
        ("/password", CREDS, "secret creds", "password"),
        # below a directory of its own, and one that only looks like a version
        ("/tls/key", CREDS, "secret creds", "tls/key"),
        ("/..2026/key", CREDS, "secret creds", "..2026/key"),
        ("/token", f"/pods/{CART}/volumes/kubernetes.io~projected/kube-api-access-x2x9z", None, "token"),
        ("/token", f"/pods/{CART}/volumes/kubernetes.io~projected/vault", "projected vault", "token"),
        ("/key", f"/lib/kubelet/pods/{CART}/volumes/kubernetes.io~csi/vault", "CSI volume vault", "key"),
        # on a disk
        (f"/kubelet/pods/{CART}/volumes/kubernetes.io~configmap/settings/{MONDAY}/a", "", "configMap settings", "a"),
        # a container's own directory of that form, in its volume
        (
            f"{CREDS.replace('~secret', '~empty-dir')}/pods/x/volumes/kubernetes.io~secret/y/z",
            "",
            "emptyDir creds",
            None,
        ),
    ],
)
def test_volume_and_file_come_from_the_kubelets_directories(
    path: str, point: str, volume: str | None, name: str | None
) -> None:
    made = Made().take(told(path, point), counter(1))
    ((shown, shown_name),) = made.rows("file", "volume", "path")
    assert shown == (volume or "token kube-api-access-x2x9z")
    assert shown_name == (name or "pods/x/volumes/kubernetes.io~secret/y/z")


def test_what_was_not_told_or_has_no_room_says_so() -> None:
    made = Made().take(counter(1, file=404), counter(2, stream="reads_rest", file=0, volume=0, rest=1, comm=b""))
    assert made.rows("file", "pod", "path", "comm", "opens") == [
        ("cart", "(others)", None, 2),
        ("cart", "(not told)", b"nginx", 1),
    ]


def test_a_hostile_name_is_a_name() -> None:
    made = Made().take(told("/\x1b[31mroot"), counter(1))
    assert made.rows("file", "path") == [("\x1b[31mroot",)]


def test_only_files_of_the_given_names() -> None:
    made = Made(file_names=("tls.*", "ca/*.pem,x"))
    for number, path in enumerate(("/tls.key", "/password", "/ca/one.pem", "/x"), 1):
        made.take(told(path, file=number), counter(number, file=number))
    assert made.rows("file", "path") == [("x",), ("ca/one.pem",), ("tls.key",)]
    assert len(made.told) == 3


def test_an_unknown_pod_is_told_by_its_uid() -> None:
    point = CREDS.replace(CART, "9" * 32)
    made = Made().take(told("/password", point), counter(1, cgroup_id=9, through="node"))
    assert made.rows("pod", "namespace", "pod") == [(None, "pod:" + "9" * 32)]


def test_columns_of_a_line() -> None:
    (cells,) = Made().take(told("/password"), counter(1, bytes=9)).cells
    assert cells == [1_015, "shop", "cart", "secret creds", "password", "app", b"nginx", 4242, "own mount", 1, 9, 0]


@pytest.mark.parametrize(
    ("options", "kinds", "on_disk"),
    [
        ({}, ["secret", "projected", "driver"], 0),
        ({"secrets": True, "tokens": True}, ["secret", "token", "projected", "driver"], 0),
        ({"tokens": True}, ["token"], 0),
        ({"configmaps": True}, ["configmap", "downward"], 1),
        ({"volume": "creds"}, list(KINDS[1:]), 1),
        ({"volume": "creds", "secrets": True}, ["secret", "projected", "driver"], 0),
    ],
)
def test_options_say_what_the_kernel_looks_at(options: dict[str, Any], kinds: list[str], on_disk: int) -> None:
    constants = find("reads").constants(options)
    assert constants["kinds"] == sum(1 << KINDS.index(name) for name in kinds)
    assert constants["on_disk"] == on_disk
    assert bool(constants["wanted_volume"]) == ("volume" in options)


def test_names_of_volumes_have_hashes_of_their_own() -> None:
    # by hand: one word, and seven of zeros
    mix, found = 0x9E3779B97F4A7C15, int.from_bytes(b"a", "little")
    for _ in range(8):
        found = found * mix % 2**64
    assert hashed(b"a") == found
    assert len({hashed(f"volume-{number}".encode()) for number in range(1000)}) == 1000


@pytest.mark.parametrize("name", ["", "v" * 64])
def test_no_volume_has_such_a_name(name: str) -> None:
    with pytest.raises(UsageError, match="is not a volume's name"):
        find("reads").constants({"volume": name})


def test_counting_begins_where_it_is_asked_to() -> None:
    made = Made()
    # what is read before, is not counted
    made.table.read([told("/password"), counter(3, reads=3, bytes=27)])
    made.table.read([counter(4, reads=4, bytes=36, last=30)])
    assert isinstance(made.table, BoardedCounters)
    made.table.start_over(0)
    assert made.rows("file", "path") == []
    made.take(counter(6, reads=4, bytes=36, last=40))
    assert made.rows("file", "path", "opens", "reads", "bytes", "first", "last") == [
        ("password", 2, 0, 0, 1_040, 1_040)
    ]
    # of this recording it is not the first
    assert [(one["opens"], one["new"]) for one in made.told] == [(2, False)]


def test_a_name_that_comes_late_names_what_was_counted() -> None:
    made = Made().take(counter(1))
    assert made.rows("file", "volume", "path") == [(None, "(not told)")]
    made.take(told("/password"))
    assert made.rows("file", "volume", "path") == [("secret creds", "password")]


def test_an_owner_who_becomes_known_has_his_row(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made().take(told("/password"), counter(1, cgroup_id=5))
    assert made.rows("file", "pod", "reader") == [("cart", "(not known)")]
    monkeypatch.setitem(READERS, 5, READERS[7])
    assert made.rows("file", "pod", "reader") == [("cart", "app")]


def test_of_a_volume_on_a_disk_bytes_are_not_known() -> None:
    path = f"/kubelet/pods/{CART}/volumes/kubernetes.io~configmap/settings/{MONDAY}/app.conf"
    made = Made().take(told(path, "", in_memory=0), counter(3, maps=2))
    assert made.rows("file", "volume", "opens", "reads", "bytes", "maps") == [("configMap settings", 3, None, None, 2)]
    assert [made.told[0][name] for name in ("bytes", "bytes_total", "reads", "opens")] == [None, None, None, 3]
    # of several volumes together, of those that are counted
    made.take(told("/password", file=2), counter(1, file=2, reads=1, bytes=9))
    assert made.rows("pod", "opens", "reads", "bytes") == [(4, 1, 9)]


@pytest.mark.parametrize(
    ("options", "volumes"),
    [
        ({}, ["configMap settings", "secret creds", "token kube-api-access-x"]),
        ({"secrets": True}, ["secret creds"]),
        ({"tokens": True, "configmaps": True}, ["configMap settings", "token kube-api-access-x"]),
        ({"volume": "settings"}, ["configMap settings"]),
        ({"volume": "settings", "secrets": True}, []),
    ],
)
def test_of_a_recording_only_the_volumes_that_are_asked_for(options: dict[str, Any], volumes: list[str]) -> None:
    made, above = Made(**options), f"/kubelet/pods/{CART}/volumes/kubernetes.io~"
    for number, place in enumerate(("secret/creds", "projected/kube-api-access-x", "configmap/settings"), 1):
        made.take(told("/a", above + place, file=number), counter(1, file=number))
    assert sorted(row[0] for row in made.rows("volume", "volume")) == volumes
    assert len(made.told) == len(volumes)
