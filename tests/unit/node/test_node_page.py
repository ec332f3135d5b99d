"""What is unusual on a node, and what of its page does not come from a runtime."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kubetrace.attribution.eviction import thresholds
from kubetrace.node.filesystems import Place, Room
from kubetrace.node.host import Host
from kubetrace.node.node_page import Disk, KubeletOfNode, NodePage, Store, Unpacked, _system, _with_unusual

GIB = 1 << 30
KUBELET = KubeletOfNode("kubelet", None, None, ())
USUAL = NodePage(
    name="node1",
    system=None,
    kernel="6.1.0",
    machine="x86_64",
    memory=4 * GIB,
    swap=0,
    pressure=True,
    disks=(),
    stores=(),
    kubelets=(KUBELET,),
    thresholds=thresholds({}, None),
    roots=("/var/lib/kubelet",),
    logs=(),
    pods=3,
    unusual=(),
)


def disk(free: int, available: int, inodes_free: int = 1000, inodes: int = 1000) -> Disk:
    return Disk(Place(1, "/data", "ext4", "/dev/sdb"), Room(100 * GIB, free, available, inodes, inodes_free), ())


def store(*unpacked: Unpacked, root: str = "/var/lib/containerd", images: int = 1) -> Store:
    return Store("containerd", root, images, 0, 0, 0, unpacked)


OVERLAY, NATIVE, EMPTY = (Unpacked("overlayfs", 3, 1, 1), Unpacked("native", 1, 1, 0), Unpacked("erofs", 0, 0, 0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        # as df: 10 GiB are root's, and no part of it
        ({"disks": (disk(20 * GIB, 10 * GIB),)}, ["/data is 89% full: kubetrace disk"]),
        ({"disks": (disk(30 * GIB, 20 * GIB),)}, []),
        ({"disks": (disk(60 * GIB, 60 * GIB, 99),)}, ["/data has 10% of its inodes left: kubetrace files"]),
        # btrfs has no number of them
        ({"disks": (disk(60 * GIB, 60 * GIB, 0, 0),)}, []),
        ({"swap": GIB}, ["the node has swap: a container may have memory in it"]),
        ({"kubelets": ()}, ["no kubelet is seen to run"]),
        ({"kubelets": (KUBELET, KUBELET)}, ["2 kubelets run"]),
        ({"stores": (store(OVERLAY, EMPTY),)}, []),
        (
            {"stores": (store(OVERLAY, NATIVE),)},
            ["/var/lib/containerd unpacks by overlayfs and native: an image may be on disk several times"],
        ),
        ({"stores": (store(OVERLAY), store(OVERLAY, root="/x", images=0))}, []),
        ({"stores": (store(OVERLAY), store(root="/x"))}, ["2 stores of images: /var/lib/containerd, /x"]),
    ],
)
def test_what_is_unusual_is_said(change: dict[str, object], said: list[str]) -> None:
    assert list(_with_unusual(dataclasses.replace(USUAL, **change)).unusual) == said  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('NAME=x\nPRETTY_NAME="Talos (v1.9.0)"\n', "Talos (v1.9.0)"),
        ("PRETTY_NAME=Alpine\n", "Alpine"),
        ('PRETTY_NAME="half\n', '"half'),
        ("", None),
    ],
)
def test_the_system_is_what_os_release_calls_it(tmp_path: Path, text: str, name: str | None) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(text)
    host = Host(tmp_path)
    host._base = str(tmp_path)
    assert _system(host) == name
