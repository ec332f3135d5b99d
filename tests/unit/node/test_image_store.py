"""A containerd's databases as containerd 1.6 wrote them, damaged ones, and numbers as Go writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubetrace.attribution.reachability import shares
from kubetrace.node.host import Host
from kubetrace.node.image_store import marks, read_store
from tests.nodes import captured

ROOT = "/var/lib/containerd"
OVERLAY = "overlayfs"
# ctr images ls (tests/nodes/layers-1.6/ctr.txt)
WEB = "sha256:0d010889c5c233663fe11d252656f544e1896906d87d95881b0cd3344b631baf"
TOWER = "sha256:51c6bc86df7b6dc37aa054bce357a5a5ee6c8cf524bedde98c656f49f97646be"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    captured.layered(tmp_path)
    made = Host(tmp_path)
    made._base = str(tmp_path)
    return made


def test_images_containers_and_snapshots_are_those_that_ctr_lists(host: Host) -> None:
    (namespace,) = [one for one in read_store(host, ROOT).namespaces if one.images]
    assert {name: image.target for name, image in namespace.images.items() if name[-7:] == "web:1.4"} == {
        "registry.example/shop/web:1.4": WEB
    }
    assert len(namespace.images) == 6
    kinds = [snapshot.kind for snapshot in namespace.snapshots.values()]
    assert kinds.count("active") == 8 and kinds.count("committed") == 125
    active = namespace.snapshots[OVERLAY, "a" * 64]
    assert (active.number, active.size, active.parent) == (
        126,
        None,
        "sha256:0e72d4a25037414b838552f1aff3d0ee6aa89965575e4896e7101be21bd7c0dc",
    )
    assert all(one.size is not None and one.inodes for one in namespace.snapshots.values() if one.kind == "committed")


def test_a_tower_of_120_layers_is_one_images_own(host: Host) -> None:
    (namespace,) = [one for one in read_store(host, ROOT).namespaces if one.images]
    found = {image.target: image for image in shares(namespace, 1 << 62).images}
    assert len(found[TOWER].reached.snapshots) == 120
    # the container d... was made of it
    assert found[TOWER].complete
    assert found[WEB].names == (
        "registry.example/shop/web:1.4",
        "sha256:02277b0249c9c20d6a04c136654dc89a484d18d9c5696686a493258feeb87bfa",
    )


def test_a_directory_that_the_database_does_not_have_is_stray(host: Host) -> None:
    base = host.path(f"{ROOT}/io.containerd.snapshotter.v1.overlayfs/snapshots")
    for name in ("999", "126", "new-123", "7x"):
        os.makedirs(f"{base}/{name}", exist_ok=True)
    assert read_store(host, ROOT).stray == ((OVERLAY, 999),)


def test_a_database_that_is_torn_or_not_there_is_a_problem_and_no_error(host: Host) -> None:
    before = marks(host, ROOT)
    own = host.path(f"{ROOT}/io.containerd.snapshotter.v1.overlayfs/metadata.db")
    data = Path(own).read_bytes()
    Path(own).write_bytes(data[:8192] + os.urandom(len(data) - 8192))
    found = read_store(host, ROOT)
    assert found.problem is not None and "snapshots of overlayfs" in found.problem
    # the images are known, their sizes are not
    assert any(one.images for one in found.namespaces)
    Path(host.path(f"{ROOT}/io.containerd.metadata.v1.bolt/meta.db")).write_bytes(b"newer" * 5000)
    assert "metadata is not known" in (read_store(host, ROOT).problem or "")
    assert marks(host, ROOT) != before
    assert read_store(host, "/nowhere").problem is not None
