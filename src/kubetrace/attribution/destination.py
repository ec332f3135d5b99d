"""Where a write lands: conclusions from mounts, paths and the node's facts, without any I/O.

The kernel tells each mount that is written through with its root inside its file system (bpf/place.bpf.h). A
volume is a bind mount of its own in a container, and is named by where the node itself has that root mounted: below the
kubelet's directory. What processes of the node write is named by its place, a directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, Literal

from kubetrace.attribution.directories import Directories
from kubetrace.attribution.facts import DirectorySeen, Fact, MountGone, MountSeen, OverlayGone, OverlaySeen
from kubetrace.attribution.mountinfo import KERNEL_FSTYPES

Medium = Literal["disk", "memory", "network"]
Kind = Literal[
    "writable layer",
    "emptyDir",
    "hostPath",
    "persistent volume",
    "configMap",
    "secret",
    "projected",
    "downwardAPI",
    "gitRepo",
    "volume",
    "container log",
    "content store",
    "snapshotter",
    "containerd",
    "containers-storage",
    "image volume",
    "image VOLUME",
    "CSI volume",
    "local-path claim",
    "kubelet",
    "host",
    "tmpfs",
    "block device",
    "memory file",
    "kernel",
    "pipe",
    "socket",
    "other",
    "nowhere",
]

_MEMORY: Final = frozenset({"tmpfs", "ramfs", "hugetlbfs", "devtmpfs"})
_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "glusterfs", "fuse.glusterfs", "fuse.s3fs", "lustre", "afs"}
)
# By the directory in <kubelet root>/pods/<uid>/volumes: the plugin's name, '/' written as '~'.
_PLUGINS: Final[Mapping[str, Kind]] = {
    "kubernetes.io~empty-dir": "emptyDir",
    "kubernetes.io~configmap": "configMap",
    "kubernetes.io~secret": "secret",
    "kubernetes.io~projected": "projected",
    "kubernetes.io~downward-api": "downwardAPI",
    "kubernetes.io~git-repo": "gitRepo",
}
# What the kubelet adds up and evicts by, where it is on disk: the writable layer, logs, and "local ephemeral volumes"
# (pkg/kubelet/eviction/helpers.go, podDiskUsage; pkg/volume/util/util.go, IsLocalEphemeralVolume: emptyDir without a
# medium, configMap, gitRepo).
_EPHEMERAL: Final = frozenset({"writable layer", "container log", "emptyDir", "configMap", "gitRepo"})
_NAMED: Final = frozenset({"persistent volume", "volume", "CSI volume"})
# Shown with --all only: no file is written.
UNSEEN: Final = frozenset({"pipe", "socket", "memory file", "kernel", "other"})

# Below the kubelet's directory, containerd's and that of the logs.
_VOLUME = re.compile(r"/pods/([^/]+)/volumes/([^/]+)/([^/]+)")
_SUBPATH = re.compile(r"/pods/([^/]+)/volume-subpaths/([^/]+)")
_LOG = re.compile(r"/([^/_]+)_([^/_]+)_([^/_]+)(?:/([^/]+))?(?:/|\Z)")
# Where CRI-O and podman keep what they pull meanwhile (containers/image, "container_images_storage").
_DOWNLOAD = re.compile(r"/var/tmp/container_images_[a-z]+-?[0-9]+(?:/|\Z)")
_CONTENT = re.compile(r"/io\.containerd\.content\.v1\.content(?:/|\Z)")
# Beside the snapshots a snapshotter has its metadata.db, which every container that is made or removed changes.
_SNAPSHOTS = re.compile(r"/(?:io\.containerd\.snapshotter\.v1\.[^/]+/snapshots|tmpmounts)(?:/|\Z)")
_PLUGIN = re.compile(r"/io\.containerd\.[^/]+(?:/|\Z)")
_POD = re.compile(r"/pods/[^/]")
# A container's root that is not an overlay: a disk of its own, fuse, or a bind of a directory (native snapshotter).
_BUNDLE = re.compile(r"/io\.containerd\.runtime\.v2\.task/[^/]+/[0-9a-f]{64}/rootfs(?:/|\Z)")
# A claim of the local-path provisioner, k3s' default: DIRECTORY/PV_NAMESPACE_CLAIM, where DIRECTORY is its own or k3s'.
_CLAIM = re.compile(r"(/.+)/pvc-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}_([^/_]+)_([^/_]+)(?:/|\Z)")
_LOCAL_PATH = "/opt/local-path-provisioner"
# What a Dockerfile's VOLUME becomes where the pod has no volume there: a directory of containerd's own.
# An image that a pod has as a volume (containerd 2).
_MOUNTED_IMAGE = re.compile(r"/io\.containerd\.grpc\.v1\.cri/image-volumes/[0-9a-f]{64}/")
_IMAGE_VOLUME = re.compile(r"/io\.containerd\.grpc\.v1\.cri/containers/[0-9a-f]{64}/volumes/([^/]+)(?:/|\Z)")
_STORED_LAYER = re.compile(r"/overlay/[0-9a-f]{64}(?:/|\Z)")
_MERGED = re.compile(r"/overlay/[0-9a-f]{64}/merged(?:/|\Z)")
_BUNDLE_OF_STORAGE = re.compile(r"/overlay-containers(?:/|\Z)")
_ROOTFS = re.compile(r"/([0-9a-f]{64})/rootfs\Z")
_SANDBOX = re.compile(r"/sandboxes/[0-9a-f]{64}/shm\Z")
# How many mounts that are gone are passed over in search of the one of a time: a device number is not given again
# that often in what a counter's life covers.
_MOST_PASSED = 1_000
_MOST_AGAIN = 8


def volume_kind(plugin: str) -> Kind:
    """What a directory of the kubelet's for volumes has, by its name, such as kubernetes.io~empty-dir."""
    return _PLUGINS.get(plugin, "persistent volume")


@dataclass(frozen=True, slots=True)
class Owner:
    """The pod and container that a log's path names."""

    namespace: str
    pod: str
    pod_uid: str
    container: str | None


@dataclass(frozen=True, slots=True)
class Destination:
    """A kind of place, and which one: the volume's name, the directory of a hostPath or tmpfs.

    `medium` is None where nothing is stored, or it is not known. `owner` is set for container logs. Names are untrusted
    text.
    """

    kind: Kind
    name: str | None = None
    medium: Medium | None = None
    owner: Owner | None = None

    @property
    def counted_as_ephemeral(self) -> bool:
        """Whether the kubelet counts it as the pod's ephemeral storage, and evicts by it."""
        return self.kind in _EPHEMERAL and self.medium == "disk"

    @property
    def volume(self) -> str | None:
        """The name of the pod's volume; None where it is none, or has no name on the node (hostPath)."""
        return self.name if self.kind in _PLUGINS.values() or self.kind in _NAMED else None

    @property
    def text(self) -> str:
        """For a table: emptyDir/cache (memory), configMap settings, hostPath /data, content store (image download)."""
        words = {"content store": "content store (image download)", "snapshotter": "snapshotter (image unpack)"}
        text = words.get(self.kind, self.kind)
        if self.name is not None:
            text += f"{'/' if self.kind == 'emptyDir' else ' '}{self.name}"
        # these may be either, and are two rows where they are both
        if self.medium == "memory" and self.kind in ("emptyDir", "containerd", "kubelet", "CSI volume"):
            text += " (memory)"
        if self.kind == "local-path claim":
            text += " (node's disk)"
        elif self.kind == "image VOLUME":
            text += " (in no quota)"
        return text


UNKNOWN: Final = Destination("other")
NOWHERE: Final = Destination("nowhere")
"""Of an operation that found nothing."""
CUT: Final = "…"
"""What stands for the components nearest to the root where these are not known."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount that is written through, as the kernel told it; `node` is whether it is in the node's own namespace.

    `root` is the path inside the file system that is mounted, `point` that of the mount point inside the one it is on.
    One that was too deep for the kernel's program begins with CUT instead of a slash.
    `detached`: in no namespace at all (memfd, pipes, sockets). `whole`: all of a file system, told by an operation that
    the kernel gives no mount: `point` is one of those that it is mounted at, and a volume in it is told by its place.
    """

    device: int
    fstype: str
    source: str
    root: str
    point: str
    node: bool
    detached: bool
    time_ns: int
    whole: bool = False


def medium_of(fstype: str) -> Medium | None:
    """What a file system keeps its files on."""
    if fstype in KERNEL_FSTYPES:
        return None
    return "memory" if fstype in _MEMORY else "network" if fstype in _NETWORK else "disk"


def by_path(path: str, directories: Directories) -> Destination | None:
    """What a path of the node says that is in one of the node's own directories; the medium is left open.

    None if it is in none of them.
    """
    found = directories.find(path)
    if found is None:
        return Destination("content store") if _DOWNLOAD.match(path) else None
    role, rest = found
    if role == "logs":
        match = _LOG.match(rest)
        return Destination("container log", owner=Owner(*match.groups())) if match else None
    if role == "containerd":
        if _BUNDLE.match(rest):
            return Destination("writable layer")
        if _CONTENT.match(rest):
            return Destination("content store")
        if _SNAPSHOTS.match(rest):
            return Destination("snapshotter")
        if match := _IMAGE_VOLUME.match(rest):
            return Destination("image VOLUME")
        if _MOUNTED_IMAGE.match(rest):
            return Destination("image volume")
        return Destination("containerd") if _PLUGIN.match(rest) else None
    if role == "storage":
        if _BUNDLE_OF_STORAGE.match(rest):
            return Destination("containers-storage")
        if _MERGED.match(rest):
            return Destination("writable layer")
        return Destination("snapshotter") if _STORED_LAYER.match(rest) else Destination("containers-storage")
    if match := _VOLUME.match(rest):
        return Destination(volume_kind(match[2]), match[3])
    if match := _SUBPATH.match(rest):
        return Destination("volume", match[2])
    return Destination("kubelet")


@dataclass(slots=True, eq=False)
class _Shown:
    # A mount of the node and its time.
    root: str
    mount_point: str
    since_ns: int
    until_ns: int | None = None

    def at(self, time_ns: int) -> bool:
        return self.since_ns <= time_ns and (self.until_ns is None or time_ns < self.until_ns)


class _Device:
    # The node's mounts of one file system: by the root that each has in it, and those that are there by mount point.

    __slots__ = ("at_point", "by_root")

    def __init__(self) -> None:
        self.by_root: dict[str, list[_Shown]] = {}
        self.at_point: dict[str, list[_Shown]] = {}

    def add(self, shown: _Shown) -> None:
        self.by_root.setdefault(shown.root, []).append(shown)
        self.at_point.setdefault(shown.mount_point, []).append(shown)

    def gone(self, mount_point: str, time_ns: int) -> None:
        for shown in self.at_point.pop(mount_point, ()):
            shown.until_ns = time_ns

    def above(self, path: str, time_ns: int) -> Iterator[_Shown]:
        """Those that held a path at a time: the nearest root first, of one root the newest first."""
        while True:
            for shown in islice(reversed(self.by_root.get(path, ())), _MOST_PASSED):
                if shown.at(time_ns):
                    yield shown
            if path == "/":
                return
            path = path[: path.rfind("/")] or "/"


class Destinations:
    """Learns facts and mounts, and names where a write through a mount lands.

    A container's mount is named by where the node itself has what is mounted. What its path inside its file system
    looks like says nothing: whoever may make directories in a volume chooses it.
    """

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._devices: dict[int, _Device] = {}
        self._overlays: dict[int, list[OverlaySeen]] = {}
        self._directories = Directories()

    def learn(self, fact: Fact) -> bool:
        """Take in what the node's mounts and directories are; false for other facts, which are not looked at."""
        self._directories.learn(fact)
        if isinstance(fact, MountSeen):
            shown = _Shown(fact.root, fact.mount_point, fact.since_ns)
            self._devices.setdefault(fact.device, _Device()).add(shown)
        elif isinstance(fact, MountGone):
            if fact.device in self._devices:
                self._devices[fact.device].gone(fact.mount_point, fact.time_ns)
        elif isinstance(fact, OverlaySeen):
            known = self._overlays.setdefault(fact.device, [])
            # told again when its layers became known: that is no other mount
            if not any(_same_mount(fact, one) for one in known[-_MOST_AGAIN:]):
                known.append(fact)
        else:
            return isinstance(fact, OverlayGone | DirectorySeen)
        return True

    def of(self, mounted: Mounted, place: str | None) -> Destination:
        """Where what is written through a mount lands; `place` is the file's directory where the kernel told it."""
        if mounted.detached:
            return _detached(mounted.fstype)
        medium = medium_of(mounted.fstype)
        if medium is None:
            return Destination("kernel", mounted.fstype)
        unplaced = mounted.whole and not mounted.node and place is None
        if mounted.whole and place is not None:
            mounted = replace(mounted, root=place)
        found = self._overlay(mounted) if mounted.fstype == "overlay" else None
        if found is None:
            # a volume that is a file system of its own has no place, and is all of its mount
            found = self._of_node(mounted, place or mounted.root) if mounted.node else self._of_container(mounted)
        if found is None and unplaced and medium == "disk":
            # a directory of a disk that others share: which volume it is in was not told
            return Destination("volume", None, medium)
        found = found if found is not None else self._plain(mounted)
        if found.kind == "persistent volume" and medium == "memory":
            # what a driver keeps in memory lives as long as the pod: secrets of a secret store
            found = replace(found, kind="CSI volume")
        return replace(found, medium=medium)

    def _overlay(self, mounted: Mounted) -> Destination | None:
        at = self._overlay_at(mounted)
        if at is not None and at.container_id is not None:
            return Destination("writable layer")
        found = by_path(at.mount_point, self._directories) if at is not None else None
        if found is not None and found.kind in ("snapshotter", "image volume"):
            return found
        if _ROOTFS.search(mounted.point) or (at is not None and _ROOTFS.search(at.mount_point)):
            return Destination("writable layer")
        # A container whose mount the node's table no longer shows; a bind mount of the node's own overlay has a root.
        if not mounted.node and mounted.root == "/" and at is None:
            return Destination("writable layer")
        return None

    def _overlay_at(self, mounted: Mounted) -> OverlaySeen | None:
        for seen in islice(reversed(self._overlays.get(mounted.device, ())), _MOST_PASSED):
            if seen.since_ns <= mounted.time_ns:
                return seen
        return None

    def _of_node(self, mounted: Mounted, place: str) -> Destination | None:
        # The node's own: where its mount table lacks the file system, the path inside it is all that is known.
        for path in list(self._node_paths(mounted, place)) or [place]:
            if (found := by_path(path, self._directories)) is not None:
                return found
        return None

    def _of_container(self, mounted: Mounted) -> Destination | None:
        subpath: Destination | None = None
        if not mounted.root.startswith("/"):
            return self._of_cut(mounted)
        paths = self._node_paths(mounted, mounted.root)
        for path in paths:
            if mounted.root == "/" and _SANDBOX.search(path):
                return Destination("tmpfs", "/dev/shm")
            if (claim := self._claim(path)) is not None:
                return claim
            found = by_path(path, self._directories)
            if found is None or found.kind == "container log":
                # A container that has another one's logs as a hostPath: they are not that one's then.
                continue
            if found.kind == "volume":
                # A subPath is a mount too, of a volume that has another one, or of a hostPath.
                subpath = subpath or found
            elif found.kind == "persistent volume":
                # of a local volume the node has the directory too, which has the claim's name
                return next((claim for other in paths if (claim := self._claim(other)) is not None), found)
            elif found.kind == "image VOLUME":
                return replace(found, name=mounted.point)
            elif found.kind != "kubelet" or _POD.match(self._below_kubelet(path)):
                return found
        if subpath is not None and not any(self._node_paths(mounted, mounted.root, subpaths=False)):
            return subpath
        return None

    def _claim(self, path: str) -> Destination | None:
        match = _CLAIM.match(path)
        if match is None:
            return None
        # k3s keeps its claims beside its containerd
        beside = match[1].removesuffix("/storage") + "/agent/containerd"
        found = self._directories.find(beside)
        if match[1] != _LOCAL_PATH and (found is None or found != ("containerd", "")):
            return None
        return Destination("local-path claim", f"{match[2]}/{match[3]}")

    def _of_cut(self, mounted: Mounted) -> Destination:
        # What is left of the root was named by whoever made it so deep: only what holds all of the file system counts.
        for path in self._node_paths(mounted, "/", subpaths=False):
            found = by_path(path, self._directories)
            if found is not None and found.volume is not None:
                return found
        return Destination("volume")

    def _below_kubelet(self, path: str) -> str:
        found = self._directories.find(path)
        return found[1] if found is not None else ""

    def _plain(self, mounted: Mounted) -> Destination:
        if mounted.node:
            if mounted.fstype in _MEMORY:
                return Destination("tmpfs", self._node_path(mounted) or mounted.root)
            return Destination("host")
        if mounted.fstype in _MEMORY and mounted.root == "/":
            return Destination("tmpfs", mounted.point)
        at = self._node_path(mounted)
        # A file system that the node itself does not have mounted, or not yet.
        return Destination("volume") if at is None else Destination("hostPath", at)

    def _node_path(self, mounted: Mounted) -> str | None:
        # Where the node itself has what is mounted: by the mount of the same device whose root is nearest above.
        return next(self._node_paths(mounted, mounted.root, subpaths=False), None)

    def path(self, mounted: Mounted, path: str) -> str:
        """A path inside the file system as who wrote there knows it: in the container, or on the node."""
        if mounted.node:
            return next(self._node_paths(mounted, path, subpaths=False), path)
        if mounted.whole and mounted.fstype != "overlay":
            # where the container has it is not told
            return next(self._node_paths(mounted, path, subpaths=False), path)
        if mounted.fstype == "overlay" and mounted.root == "/":
            return path
        below = path.removeprefix(mounted.root.rstrip("/"))
        return mounted.point.rstrip("/") + below if below != path or mounted.root == "/" else path

    def _node_paths(self, mounted: Mounted, path: str, *, subpaths: bool = True) -> Iterator[str]:
        # Of a path inside a file system those that the node knows it by, through its nearest mount first. A device
        # number is given again, so the time counts.
        device = self._devices.get(mounted.device)
        for shown in device.above(path, mounted.time_ns) if device is not None else ():
            if subpaths or not self._is_subpath(shown.mount_point):
                yield _joined(shown.root, shown.mount_point, path)
        if mounted.fstype == "overlay" and (seen := self._overlay_at(mounted)) is not None:
            yield _joined("/", seen.mount_point, path)

    def _is_subpath(self, mount_point: str) -> bool:
        return _SUBPATH.match(self._below_kubelet(mount_point)) is not None


def _same_mount(one: OverlaySeen, other: OverlaySeen) -> bool:
    return (one.mount_point, one.upperdir, one.container_id, one.since_ns) == (
        other.mount_point,
        other.upperdir,
        other.container_id,
        other.since_ns,
    )


def _joined(root: str, point: str, path: str) -> str:
    rest = path if root == "/" else path[len(root) :]
    return (point.rstrip("/") + "/" + rest.lstrip("/")).rstrip("/") or "/"


def _detached(fstype: str) -> Destination:
    if fstype == "pipefs":
        return Destination("pipe")
    if fstype == "sockfs":
        return Destination("socket")
    return Destination("memory file", medium="memory") if fstype in _MEMORY else Destination("kernel", fstype)
