"""Builds a node's root in a directory from a captured tree, and says what its other mouths expect."""

from __future__ import annotations

import json
import lzma
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TREES = ("v2-cgroupfs-apiserver", "v2-systemd", "v1-cgroupfs", "hybrid-cgroupfs")
CONTAINER_CGROUPS = {"v2-cgroupfs-apiserver": 10, "v2-systemd": 8, "v1-cgroupfs": 8, "hybrid-cgroupfs": 6}


@dataclass(frozen=True)
class Cgroup:
    """One line of a captured cgroup tree."""

    hierarchy: int
    cgroup_id: int
    path: str
    pids: tuple[int, ...]


@dataclass(frozen=True)
class Expected:
    """A container as the kubelet and the runtime's CRI tell it; `image` is the one in the pod's spec."""

    namespace: str
    pod: str
    container: str | None
    pod_uid: str
    container_id: str
    image: str | None
    qos_class: str
    kind: str


def cgroups(tree: str, name: str) -> list[Cgroup]:
    """The cgroups of one captured mount, by its file's name."""
    lines = (HERE / tree / "cgroup-tree" / f"{name}.txt").read_text().splitlines()
    hierarchy = {"unified-root": 0, "unified": 0, "memory": 3, "pids": 7}[name]
    found = []
    for line in lines[1:]:
        number, path, pids = line.split(" ")
        found.append(Cgroup(hierarchy, int(number), path, tuple(int(pid) for pid in pids.split(",") if pid)))
    return found


def unified(tree: str) -> list[Cgroup]:
    """The v2 tree; [] on the pure v1 node."""
    name = {"v1-cgroupfs": None, "hybrid-cgroupfs": "unified"}.get(tree, "unified-root")
    return cgroups(tree, name) if name else []


def memory(tree: str) -> list[Cgroup]:
    """The v1 memory tree; [] on v2 nodes."""
    return cgroups(tree, "memory") if tree in ("v1-cgroupfs", "hybrid-cgroupfs") else []


def expected(tree: str) -> dict[str, Expected]:
    """Every sandbox and container of the node by its id, running or exited."""
    listed: dict[str, Any] = json.loads((HERE / tree / "cri/v1-list.json").read_text())
    pods: dict[str, Any] = {
        item["metadata"]["uid"]: item for item in json.loads((HERE / tree / "kubelet-10255/pods").read_text())["items"]
    }
    found = {}
    for sandbox in listed["pods"]:
        names = sandbox["metadata"]
        found[sandbox["id"]] = Expected(
            names["namespace"],
            names["name"],
            None,
            names["uid"],
            sandbox["id"],
            None,
            pods[names["uid"]]["status"]["qosClass"],
            "sandbox",
        )
    for container in listed["containers"]:
        sandbox = found[container["pod_sandbox_id"]]
        name = container["metadata"]["name"]
        spec = pods[sandbox.pod_uid]["spec"]
        images = {item["name"]: item["image"] for item in spec["containers"] + spec.get("initContainers", [])}
        found[container["id"]] = Expected(
            sandbox.namespace,
            sandbox.pod,
            name,
            sandbox.pod_uid,
            container["id"],
            images[name],
            sandbox.qos_class,
            "container",
        )
    return found


def build(tree: str, root: Path, *, directories: bool = False) -> Path:
    """Make `root` the captured node's root; with `directories` the cgroup trees too (with new inode numbers)."""
    source = HERE / tree
    shutil.copytree(source / "text", root, dirs_exist_ok=True)
    shutil.copytree(source / "proc", root / "proc")
    (root / "proc/1").mkdir(exist_ok=True)
    shutil.move(root / "proc/mounts-host-mountinfo", root / "proc/1/mountinfo")
    for line in (source / "listing/var-log.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        left, _, target = line.partition(" -> ")
        kind, _, _, _, path = left.rstrip().split(" ", 4)
        path = path.removesuffix(" ->").rstrip()
        here = root / path.lstrip("/")
        if kind == "d":
            here.mkdir(parents=True, exist_ok=True)
        elif kind == "l":
            here.parent.mkdir(parents=True, exist_ok=True)
            here.symlink_to(target)
    if directories:
        mount = {"hybrid-cgroupfs": "sys/fs/cgroup/unified"}.get(tree, "sys/fs/cgroup")
        for cgroup in unified(tree):
            (root / mount / cgroup.path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for cgroup in memory(tree):
            (root / "sys/fs/cgroup/memory" / cgroup.path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    return root


def database(name: str, to: Path) -> Path:
    """A database that containerd 1.6 wrote, meta.db or metadata.db, at `to`."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(lzma.decompress((HERE / "containerd-1.6" / f"{name}.xz").read_bytes()))
    return to


def layered(root: Path) -> Path:
    """Make `root` a node whose containers have images of several layers (layers-1.6/make.py)."""
    source = HERE / "layers-1.6"
    containerd = root / "var/lib/containerd"
    for name, directory in (
        ("meta.db", "io.containerd.metadata.v1.bolt"),
        ("metadata.db", "io.containerd.snapshotter.v1.overlayfs"),
    ):
        (containerd / directory).mkdir(parents=True)
        (containerd / directory / name).write_bytes(lzma.decompress((source / f"{name}.xz").read_bytes()))
    shutil.copytree(source / "blobs", containerd / "io.containerd.content.v1.content/blobs/sha256")
    (root / "proc/1").mkdir(parents=True)
    (root / "proc/1/cgroup").write_text("0::/\n")
    cgroup = b"30 24 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    (root / "proc/1/mountinfo").write_bytes(cgroup + (source / "mountinfo").read_bytes())
    (root / "sys/fs/cgroup").mkdir(parents=True)
    return root


MODERN = ("containerd-1.6", "containerd-2.1", "crio")


def modern(name: str, root: Path) -> list[dict[str, Any]]:
    """Make `root` one of the nodes of modern/make.py, with its pods' cgroups; what was made there."""
    with tarfile.open(HERE / "modern" / f"{name}.tar.xz") as tar:
        tar.extractall(root)
    truth: list[dict[str, Any]] = json.loads((root / "truth.json").read_text())
    for one in truth:
        (root / one["queries"]["cgroup"].lstrip("/")).mkdir(parents=True)
        # where the layers are there is no need of what is in them
        for kind in ("root", "writable", "volume", "log"):
            if one[kind] is not None:
                (root / one[kind].lstrip("/")).mkdir(parents=True, exist_ok=True)
    return truth
