"""Layers of overlays on a node that containerd made (tests/nodes/layers-1.6), and on damaged and hostile ones.

What is expected is written in make.py's images or was printed by ctr (ctr.txt).
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from kubetrace.attribution import mountinfo, oci
from kubetrace.attribution.attributor import NOT_LOOKED_UP, Attributor, Layer
from kubetrace.attribution.facts import (
    ContainerSeen,
    Fact,
    ImageSeen,
    LayerSeen,
    OverlayGone,
    OverlaySeen,
    from_json,
    to_json,
)
from kubetrace.node import containerd, layers
from kubetrace.node.bolt import BoltError
from kubetrace.node.host import Host
from kubetrace.node.layers import Layers
from kubetrace.node.reading import read_regular
from kubetrace.node.survey import Node
from tests.nodes import captured

WEB, BATCH, TOWER, BARE = (digit * 64 for digit in "abde")
WEB_NAME, BATCH_NAME = "registry.example/shop/web:1.4", "registry.example/jobs/batch:7"
WEB_CONFIG = "02277b0249c9c20d6a04c136654dc89a484d18d9c5696686a493258feeb87bfa"
WEB_MANIFEST = "639cbce5f37cdd4449a1a328d052aff7a8219d2f7d71790e7143e20e37b31b71"
WEB_INDEX = "0d010889c5c233663fe11d252656f544e1896906d87d95881b0cd3344b631baf"
OVERLAYFS = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs"
ADD = "/bin/sh -c #(nop) ADD file:5c3dd0c8d2ab1b3a5d4b9f0d4c0c1f5d in / "
RUN = "RUN /bin/sh -c mkdir -p /app/logs && make install # buildkit"
COPY = "COPY config.ini /app/ # buildkit"

CTR = (captured.HERE / "layers-1.6/ctr.txt").read_text()


class Seen:
    """A node's facts, learned as a recording gives them back."""

    def __init__(self, root: Path) -> None:
        self.node = Node(Host(root))
        self.attributor = Attributor()
        self.overlays: dict[str, OverlaySeen] = {}
        self.learn(*self.node.scan())

    def learn(self, *facts: Fact) -> None:
        for fact in facts:
            self.attributor.learn(from_json(to_json(fact)))
            if isinstance(fact, OverlaySeen) and fact.container_id:
                self.overlays[fact.container_id] = fact

    def look(self, container_id: str) -> list[Fact]:
        facts = self.node.layers(self.overlays[container_id].device)
        self.learn(*facts)
        return facts

    def layer(self, container_id: str, index: int) -> Layer:
        overlay = self.overlays[container_id]
        found = self.attributor.layer(overlay.device, index, overlay.time_ns)
        assert found is not None
        return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return captured.layered(tmp_path)


@pytest.fixture(autouse=True)
def on_amd64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The captured node's architecture, and time enough."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "node", "6.1", "#1", "x86_64")))
    monkeypatch.setattr(layers, "BUDGET_NS", 10**12)


def blob(root: Path, digest: str) -> Path:
    return root / "var/lib/containerd/io.containerd.content.v1.content/blobs/sha256" / digest


def kept(path: Path) -> Path:
    return path.with_name("kept")


# The captured node.


@pytest.mark.parametrize(
    ("container_id", "index", "snapshot", "position", "shared_by", "image", "created_by"),
    [
        (WEB, 1, "3", "3 of 3", 2, WEB_NAME, COPY),
        (WEB, 2, "2", "2 of 3", 3, WEB_NAME, RUN),
        (WEB, 3, "1", "1 of 3", 4, WEB_NAME, ADD),
        (BATCH, 1, "4", "3 of 3", 1, BATCH_NAME, "|1 SPEED=9 /bin/sh -c make jobs"),
        (BATCH, 2, "2", "2 of 3", 3, BATCH_NAME, RUN),
        (BATCH, 3, "1", "1 of 3", 4, BATCH_NAME, ADD),
        (BARE, 1, "5", "2 of 2", 1, "registry.example/plain/bare:1", None),
        (TOWER, 1, "125", "120 of 120", 1, "registry.example/deep/tower:120", "RUN build floor 120"),
        (TOWER, 2, "124", "119 of 120", 1, "registry.example/deep/tower:120", "RUN build floor 119"),
        (TOWER, 61, "65", "60 of 120", 1, "registry.example/deep/tower:120", "RUN build floor 60"),
        (TOWER, 120, "6", "1 of 120", 1, "registry.example/deep/tower:120", "RUN build floor 1"),
    ],
)
def test_layer_of_a_container(
    container_id: str,
    index: int,
    snapshot: str,
    position: str,
    shared_by: int,
    image: str,
    created_by: str | None,
    root: Path,
) -> None:
    seen = Seen(root)
    seen.look(container_id)
    found = seen.layer(container_id, index)
    assert (found.index, found.snapshot, found.position) == (index, snapshot, position)
    assert (found.image, found.shared_by, found.created_by) == (image, shared_by, created_by)
    assert found.reason == (None if created_by else "the image has no history")


def test_digest_is_the_layers_diff_id_and_line_is_the_dockerfiles(root: Path) -> None:
    seen = Seen(root)
    seen.look(WEB)
    diff_ids = json.loads((captured.HERE / "layers-1.6/blobs" / WEB_CONFIG).read_text())["rootfs"]["diff_ids"]
    assert [seen.layer(WEB, index).layer_digest for index in (3, 2, 1)] == diff_ids
    assert seen.layer(WEB, 2).line == "RUN mkdir -p /app/logs && make install"


def test_lower_directories_are_those_that_containerd_gives() -> None:
    lines = (captured.HERE / "layers-1.6/mountinfo").read_bytes()
    for container_id in (WEB, BATCH, TOWER, BARE):
        said = re.search(rf"mounts /m {container_id}\n.*lowerdir=(\S+)", CTR)
        (line,) = [line for line in lines.splitlines() if container_id.encode() in line]
        mount = mountinfo.parse_line(line)
        assert mount is not None
        options = mountinfo.overlay_options(mount.super_options)
        found = mountinfo.absolute_lowerdirs(options.lowerdirs, options.upperdir, options.workdir)
        assert said is not None and list(found) == said[1].split(":")


def test_chain_ids_are_containerds(root: Path) -> None:
    # KEY PARENT KIND
    parents = {
        match[1]: match[2] for match in re.finditer(r"^(\S+) +(sha256:[0-9a-f]{64}) +(?:Active|Committed)", CTR, re.M)
    }
    seen = Seen(root)
    for container_id, depth in ((WEB, 3), (BATCH, 3), (TOWER, 120), (BARE, 2)):
        seen.look(container_id)
        chain = parents[container_id]
        for index in range(1, depth + 1):
            assert seen.layer(container_id, index).chain_id == chain
            chain = parents.get(chain, "")
        assert chain == ""


def test_index_that_is_none_still_names_the_image(root: Path) -> None:
    seen = Seen(root)
    assert seen.layer(WEB, 0) == Layer(0, reason=NOT_LOOKED_UP)
    seen.look(WEB)
    assert seen.layer(WEB, 0) == Layer(0, image=WEB_NAME, reason="the kernel did not tell the layer")
    for index in (4, -1, 2**31):
        found = seen.layer(WEB, index)
        assert (found.image, found.reason) == (WEB_NAME, "the overlay has 3 lower directories")


def test_before_the_look_it_says_so(root: Path) -> None:
    seen = Seen(root)
    assert seen.layer(WEB, 1) == Layer(1, reason=NOT_LOOKED_UP)
    assert seen.attributor.layer(999, 1, 10**18) is None


def container(container_id: str, image: str) -> ContainerSeen:
    return ContainerSeen(container_id, "container", "shop", "web", "web", "uid", image, None, "config.json", 1)


@pytest.mark.parametrize(
    ("spec", "image", "created_by"),
    [
        (WEB_NAME, WEB_NAME, RUN),
        (f"sha256:{WEB_CONFIG}", WEB_NAME, RUN),
        ("registry.example/shop/web:1.4-debug", "registry.example/shop/web:1.4-debug", None),
        # It has the layer too, but the container is not of it by its layers: its user's word counts.
        (BATCH_NAME, BATCH_NAME, RUN),
        ("registry.example/gone:1", WEB_NAME, RUN),
    ],
)
def test_containers_own_image_goes_before_others_that_share_the_layer(
    spec: str, image: str, created_by: str | None, root: Path
) -> None:
    seen = Seen(root)
    seen.look(WEB)
    assert seen.layer(WEB, 2).image == WEB_NAME
    seen.learn(container(WEB, spec))
    found = seen.layer(WEB, 2)
    assert (found.image, found.created_by, found.shared_by) == (image, created_by, 3)


def test_only_images_that_have_a_layer_of_a_seen_overlay_are_reported(root: Path) -> None:
    seen = Seen(root)
    names = {name for fact in seen.look(TOWER) if isinstance(fact, ImageSeen) for name in fact.references}
    assert names == {"registry.example/deep/tower:120"}
    names = {name for fact in seen.look(WEB) if isinstance(fact, ImageSeen) for name in fact.references}
    assert names == {
        WEB_NAME,
        f"sha256:{WEB_CONFIG}",
        "registry.example/shop/web:1.4-debug",
        BATCH_NAME,
        "registry.example/plain/bare:1",
    }


def test_known_overlay_is_not_looked_up_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(root)
    assert len([fact for fact in seen.look(WEB) if isinstance(fact, LayerSeen)]) == 3
    assert len([fact for fact in seen.look(BATCH) if isinstance(fact, LayerSeen)]) == 1

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("a file was read")

    monkeypatch.setattr(containerd, "snapshots", never)
    monkeypatch.setattr(containerd, "images", never)
    monkeypatch.setattr(layers, "read_regular", never)
    assert seen.look(WEB) == seen.look(BATCH) == []
    assert seen.node.layers_again() == []
    assert seen.node.layers(12345) == []


def test_without_time_only_the_containers_own_image_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "BUDGET_NS", 0)
    seen = Seen(root)
    seen.look(WEB)
    assert (seen.layer(WEB, 3).image, seen.layer(WEB, 3).shared_by, seen.layer(WEB, 3).created_by) == (WEB_NAME, 1, ADD)
    monkeypatch.undo()
    while seen.node._layers.pending:
        seen.learn(*seen.node.layers_again())
    assert seen.layer(WEB, 3).shared_by == 4


def test_container_that_is_gone_when_its_event_is_read(root: Path) -> None:
    seen = Seen(root)
    overlay = seen.overlays[WEB]
    mounts = root / "proc/1/mountinfo"
    mounts.write_text("".join(line for line in mounts.read_text().splitlines(True) if WEB not in line))
    seen.learn(*seen.node.mounts())
    seen.learn(*seen.node.layers(overlay.device))
    found = seen.attributor.layer(overlay.device, 1, overlay.time_ns)
    assert found is not None and found.created_by == COPY
    # Another one has the device number now.
    mounts.write_text(mounts.read_text() + f"9 1 0:43 / /run/x/{'f' * 64}/rootfs rw - overlay overlay rw,lowerdir=/x\n")
    seen.learn(*seen.node.mounts())
    seen.learn(*seen.node.layers(overlay.device))
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    other = seen.attributor.layer(overlay.device, 1, now)
    assert other is not None
    assert (other.created_by, other.reason) == (None, "not a directory of a container runtime's layers")
    again = seen.attributor.layer(overlay.device, 1, overlay.time_ns)
    assert again == found


@pytest.mark.parametrize(
    "prefix", ["/var/lib/rancher/k3s/agent/containerd", "/var/snap/microk8s/common/var/lib/containerd", "/data/ctrd"]
)
def test_containerd_with_another_root(prefix: str, root: Path) -> None:
    to = root / prefix.lstrip("/")
    to.parent.mkdir(parents=True)
    shutil.move(root / "var/lib/containerd", to)
    mounts = root / "proc/1/mountinfo"
    mounts.write_text(mounts.read_text().replace("/var/lib/containerd", prefix))
    seen = Seen(root)
    for container_id, line in ((WEB, RUN), (TOWER, "RUN build floor 119")):
        seen.look(container_id)
        assert seen.layer(container_id, 2).created_by == line


def test_snapshotter_of_another_program_has_the_same_files(root: Path) -> None:
    # As stargz-snapshotter lays them out; known from its source, not run here.
    to = root / "var/lib/containerd-stargz-grpc/snapshotter"
    to.parent.mkdir(parents=True)
    shutil.move(root / OVERLAYFS.lstrip("/"), to)
    mounts = root / "proc/1/mountinfo"
    mounts.write_text(mounts.read_text().replace(OVERLAYFS, "/var/lib/containerd-stargz-grpc/snapshotter"))
    seen = Seen(root)
    seen.look(WEB)
    assert seen.layer(WEB, 2).created_by == RUN


def test_new_mount_api_lists_the_same_layers(root: Path) -> None:
    mounts = root / "proc/1/mountinfo"
    old = re.search(r"lowerdir=(\S+?),upperdir=\S+snapshots/130", mounts.read_text())
    assert old is not None
    new = ",".join(f"lowerdir+={one}" for one in [*old[1].split(":"), "/data"])
    mounts.write_text(mounts.read_text().replace(f"lowerdir={old[1]},upperdir", f"{new},datadir+=/more,upperdir", 1))
    seen = Seen(root)
    seen.look(WEB)
    assert [seen.layer(WEB, index).created_by for index in (1, 2, 3)] == [COPY, RUN, ADD]
    assert [seen.layer(WEB, index).snapshot for index in (4, 5)] == [None, None]


# What is missing, damaged or hostile.


def test_layer_without_an_image_still_has_its_place_and_snapshot(root: Path) -> None:
    (root / "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db").unlink()
    seen = Seen(root)
    seen.look(WEB)
    found = seen.layer(WEB, 1)
    assert (found.snapshot, found.position, found.layer_digest, found.image) == ("3", "3 of 3", None, None)
    assert found.chain_id is not None and found.shared_by == 0
    assert found.reason == "no image on this node is known to have this layer"


@pytest.mark.parametrize(
    ("digest", "reason"),
    [
        (WEB_CONFIG, "the image's configuration is not in containerd's content store"),
        (WEB_MANIFEST, "the image's manifest is not in containerd's content store"),
        (WEB_INDEX, "the image's manifest is not in containerd's content store"),
    ],
)
def test_image_whose_content_was_pruned(digest: str, reason: str, root: Path) -> None:
    blob(root, digest).unlink()
    # The other manifests of the index were not pulled either, as it is on most nodes.
    for line in CTR.splitlines():
        if line.startswith("registry.example/") and "web:1.4 " not in line:
            blob(root, line.split("sha256:")[1].split()[0]).unlink(missing_ok=True)
    for other in (
        "932c2e65105646779b4ff4e88c7b02ff134db9ea285a86c4415305fcb74d4788",
        "d56fc21d8f6d0f72dadb5546c52412442fca5c6691dc0af43f0396396ff58dff",
    ):
        blob(root, other).unlink()
    seen = Seen(root)
    seen.look(WEB)
    seen.learn(container(WEB, WEB_NAME))
    found = seen.layer(WEB, 2)
    assert (found.image, found.layer_digest, found.created_by) == (WEB_NAME, None, None)
    assert (found.reason, found.position, found.snapshot) == (reason, "2 of 3", "2")


def test_image_that_shares_the_layer_answers_where_the_own_one_is_pruned(root: Path) -> None:
    blob(root, WEB_INDEX).unlink()
    seen = Seen(root)
    seen.look(WEB)
    found = seen.layer(WEB, 2)
    assert (found.image, found.shared_by) == ("registry.example/shop/web:1.4-debug", 2)
    assert found.layer_digest is not None


@pytest.mark.parametrize("kind", ["huge", "deep", "text", "fifo", "directory", "loop", "other"])
@pytest.mark.parametrize("digest", [WEB_CONFIG, WEB_MANIFEST, WEB_INDEX])
def test_blob_that_is_no_such_file_is_a_reason_and_takes_no_time(digest: str, kind: str, root: Path) -> None:
    path = blob(root, digest)
    path.unlink()
    if kind == "huge":
        path.write_bytes(b'{"a":"' + b"x" * (5 << 20) + b'"}')
    elif kind == "deep":
        path.write_bytes(b"[" * 3_000_000)
    elif kind == "text":
        path.write_text("\x1b[2Jnot json")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.write_text("{}")
    seen = Seen(root)
    started = time.thread_time()
    seen.look(WEB)
    assert time.thread_time() - started < 2
    assert seen.layer(WEB, 1).image == "registry.example/shop/web:1.4-debug"
    seen.look(BATCH)
    assert seen.layer(BATCH, 1).created_by == "|1 SPEED=9 /bin/sh -c make jobs"


def test_image_whose_configuration_is_too_large_says_so(root: Path) -> None:
    path = blob(root, "c1e3fb4b646019e048dc7296a32b12263ddd79cc3a0ec5d916e01274dcaad63e")
    path.write_bytes(path.read_bytes()[:-1] + b', "pad": "' + b"x" * (4 << 20) + b'"}')
    seen = Seen(root)
    seen.look(TOWER)
    seen.learn(container(TOWER, "registry.example/deep/tower:120"))
    found = seen.layer(TOWER, 1)
    assert (found.image, found.position) == ("registry.example/deep/tower:120", "120 of 120")
    assert found.reason == "the image's configuration is too large or cannot be read"


def test_index_that_names_itself_and_thousands_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [{"digest": f"sha256:{WEB_INDEX}"}] * 20_000
    blob(root, WEB_INDEX).write_text(json.dumps({"manifests": entries}))
    reads = 0

    def counted(path: str, limit: int) -> bytes:
        nonlocal reads
        reads += path.endswith(WEB_INDEX)
        return read_regular(path, limit)

    monkeypatch.setattr(layers, "read_regular", counted)
    seen = Seen(root)
    started = time.thread_time()
    seen.look(WEB)
    assert time.thread_time() - started < 2 and reads <= 64
    assert seen.layer(WEB, 1).image == "registry.example/shop/web:1.4-debug"


def test_torn_databases_are_read_again_at_ticks(root: Path) -> None:
    databases = [
        root / "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db",
        root / OVERLAYFS.lstrip("/") / "metadata.db",
    ]
    for path in databases:
        path.rename(kept(path))
        path.write_bytes(kept(path).read_bytes()[:6000])
    seen = Seen(root)
    seen.look(WEB)
    found = seen.layer(WEB, 1)
    assert (found.snapshot, found.reason) == ("3", "containerd's snapshot database cannot be read")
    assert found.position == "3 of 3"
    for path in databases:
        kept(path).rename(path)
    seen.learn(*seen.node.layers_again())
    assert seen.layer(WEB, 1).created_by == COPY
    assert seen.layer(WEB, 1).shared_by == 2
    assert seen.node.layers_again() == []


def test_databases_that_stay_damaged_are_tried_a_few_times(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = {"snapshots": 0, "images": 0}

    def snapshots(_: str) -> Any:
        tries["snapshots"] += 1
        raise BoltError("torn")

    def images(*_: object, **__: object) -> Any:
        tries["images"] += 1
        raise BoltError("torn")

    monkeypatch.setattr(containerd, "snapshots", snapshots)
    monkeypatch.setattr(containerd, "images", images)
    seen = Seen(root)
    seen.look(WEB)
    for _ in range(50):
        seen.node.layers_again()
    assert tries == {"snapshots": 5, "images": 5}
    assert not seen.node._layers.pending


def test_snapshot_that_containerd_does_not_know(root: Path) -> None:
    mounts = root / "proc/1/mountinfo"
    mounts.write_text(mounts.read_text().replace("/snapshots/3/fs:", "/snapshots/999/fs:"))
    seen = Seen(root)
    seen.look(WEB)
    found = seen.layer(WEB, 1)
    assert (found.snapshot, found.reason) == ("999", "the snapshot is not in containerd's database")
    assert seen.layer(WEB, 2).created_by == RUN
    assert not seen.node._layers.pending


def test_writable_snapshot_as_a_lower_directory_is_no_image_layer(root: Path) -> None:
    mounts = root / "proc/1/mountinfo"
    mounts.write_text(mounts.read_text().replace("/snapshots/3/fs:", "/snapshots/126/fs:"))
    seen = Seen(root)
    seen.look(WEB)
    assert seen.layer(WEB, 1).reason == "the snapshot is not an image layer by its key"


@pytest.mark.parametrize(
    "lowerdir",
    [
        "/var/lib/docker/overlay2/l/ABC",
        "18/fs",
        "",
        "/snapshots/18/fs",
        f"{OVERLAYFS}/snapshots/18/work",
        f"{OVERLAYFS}/snapshots/{'9' * 40}/fs",
        f"{OVERLAYFS}/snapshots/../fs",
        "/x\0y/snapshots/3/fs",
        "/\udcff\n/snapshots/3/fs",
    ],
)
def test_directory_that_is_none_of_containerds_has_a_reason(lowerdir: str, root: Path) -> None:
    looked = Layers(Host(root))
    (fact,) = [fact for fact in looked.look([lowerdir], None, 1) if isinstance(fact, LayerSeen)]
    assert fact.chain_id is None and fact.problem
    assert from_json(to_json(fact)) == fact


def test_damaged_bytes_never_raise_and_never_hang(root: Path) -> None:
    chance = random.Random(20261123)
    started = time.thread_time()
    databases = (
        root / "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db",
        root / OVERLAYFS.lstrip("/") / "metadata.db",
    )
    whole = [path.read_bytes() for path in databases]
    resolved = 0
    for _ in range(60):
        for path, data in zip(databases, whole, strict=True):
            torn = bytearray(data)
            used = len(data.rstrip(b"\0"))
            for _ in range(chance.choice((1, 8, 300))):
                torn[chance.randrange(8192, used)] = chance.randrange(256)
            path.write_bytes(torn)
        looked = Layers(Host(root))
        attributor = Attributor()
        for fact in looked.look([f"{OVERLAYFS}/snapshots/{number}/fs" for number in (3, 2, 1)], WEB, 1):
            attributor.learn(from_json(to_json(fact)))
        while looked.pending:
            for fact in looked.more(1):
                attributor.learn(fact)
        resolved += any(layer.created_by for layer in attributor.layers_in(f"{OVERLAYFS}/snapshots/2/fs"))
    assert 0 < resolved < 60
    assert time.thread_time() - started < 60


# What follows from facts alone.


def layer_fact(number: int, chain_id: str | None, problem: str | None = None) -> LayerSeen:
    return LayerSeen(f"/s/{number}/fs", str(number), chain_id, problem, 1)


def digest(digit: str) -> str:
    return "sha256:" + digit * 64


def overlay(container_id: str | None, *numbers: int, at: int = 5, since: int = 0, device: int = 149) -> OverlaySeen:
    lower = tuple(f"/s/{number}/fs" for number in numbers)
    return OverlaySeen(device, container_id, "/r", "/s/9/fs", "/s/9/work", lower, at, since)


def knowing(*facts: Fact) -> Attributor:
    attributor = Attributor()
    for fact in facts:
        attributor.learn(fact)
    return attributor


def test_layer_is_looked_up_by_the_time_of_its_device_number() -> None:
    attributor = knowing(
        layer_fact(1, digest("a")),
        layer_fact(2, digest("b")),
        ImageSeen("i", ("one",), (digest("a"),), ("RUN one",), None, 1),
        ImageSeen("j", ("two",), (digest("b"),), ("RUN two",), None, 1),
        overlay(WEB, 1),
        OverlayGone(149, 100),
        overlay(BATCH, 2, at=120, since=90),
    )

    def line(at: int, container_id: str | None = None) -> str | None:
        found = attributor.layer(149, 1, at, container_id)
        return None if found is None else found.created_by

    assert [line(50), line(130)] == ["RUN one", "RUN two"]
    assert [line(95), line(95, WEB), line(95, BATCH), line(95, BARE)] == [None, "RUN one", "RUN two", None]


def test_answer_improves_with_each_fact_in_any_order() -> None:
    facts: list[Fact] = [
        overlay(WEB, 2, 1),
        layer_fact(2, None, "torn"),
        layer_fact(2, oci.chain_ids([digest("a"), digest("b")])[1]),
        ImageSeen("i", ("one",), (digest("a"), digest("b")), (None, "RUN b"), None, 1),
    ]
    attributor = Attributor()
    answers = []
    for fact in facts:
        attributor.learn(fact)
        found = attributor.layer(149, 1, 10)
        assert found is not None
        answers.append((found.position, found.created_by, found.reason))
    assert answers == [
        (None, None, "not looked up yet"),
        ("2 of 2", None, "torn"),
        ("2 of 2", None, "no image on this node is known to have this layer"),
        ("2 of 2", "RUN b", None),
    ]
    backwards = knowing(facts[3], facts[2], facts[0])
    assert backwards.layer(149, 1, 10) == attributor.layer(149, 1, 10)
    assert attributor.layer(149, 1, 10) is attributor.layer(149, 1, 10)
    attributor.learn(layer_fact(1, digest("a")))
    below = attributor.layer(149, 2, 10)
    assert below is not None and below.reason == "the image's history does not say it"


def test_image_that_is_removed_is_not_counted_while_another_has_the_layer() -> None:
    image = ImageSeen("i", ("one",), (digest("a"),), ("RUN one",), None, 1)
    other = ImageSeen("j", ("two",), (digest("a"),), ("RUN two",), None, 1)
    attributor = knowing(layer_fact(1, digest("a")), image, other)
    assert [layer.image for layer in attributor.layers_in("/s/1/fs")] == ["one", "two"]
    attributor.learn(ImageSeen("i", (), (digest("a"),), ("RUN one",), None, 2))
    assert [(layer.image, layer.shared_by) for layer in attributor.layers_in("/s/1/fs")] == [("two", 1)]
    attributor.learn(ImageSeen("j", (), (digest("a"),), ("RUN two",), None, 3))
    assert [layer.image for layer in attributor.layers_in("/s/1/fs")] == ["i", "j"]
    assert attributor.layers_in("/nowhere") == []


def test_images_of_a_hostile_recording_do_not_raise() -> None:
    attributor = knowing(
        overlay(WEB, 1),
        layer_fact(1, digest("a")),
        ImageSeen("i", (), (digest("a"), "x"), (), None, 1),
        ImageSeen("i", (), ("\udcff", "\ud800"), (), None, 1),
        ImageSeen("k", ("\udcff",), (digest("a"),), (), None, 1),
    )
    found = attributor.layer(149, 1, 10)
    assert found is not None and found.image == "\udcff" and found.created_by is None
