"""Where a write lands: conclusions from mounts, paths and the node's facts, without any I/O.

The kernel tells each mount that is written through with its root inside its file system (bpf/writes_place.bpf.h). A
volume is a bind mount of its own in a container, so that root names it. A volume that is a file system of its own
(tmpfs, CSI) is named by where the node has it mounted. What processes of the node write is named by its place, a
directory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from kubetrace.attribution.facts import Fact, MountGone, MountSeen, OverlayGone, OverlaySeen
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
    "kubelet",
    "host",
    "tmpfs",
    "block device",
    "memory file",
    "kernel",
    "pipe",
    "socket",
    "other",
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
# Shown with --all only: no file is written.
UNSEEN: Final = frozenset({"pipe", "socket", "memory file", "kernel", "other"})

_POD = re.compile(r"/pods/(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:/|\Z)")
_VOLUME = re.compile(r"/pods/([^/]+)/volumes/([^/]+)/([^/]+)")
_SUBPATH = re.compile(r"/pods/([^/]+)/volume-subpaths/([^/]+)")
_LOG = re.compile(r"/pods/([^/_]+)_([^/_]+)_([^/_]+)(?:/([^/]+))?(?:/|\Z)")
_CONTENT = re.compile(r"/io\.containerd\.content\.v1\.content(?:/|\Z)")
_SNAPSHOTS = re.compile(r"/(?:io\.containerd\.snapshotter\.v1\.[^/]+|tmpmounts)(?:/|\Z)")
_CONTAINERD = re.compile(r"/io\.containerd\.[^/]+(?:/|\Z)")
_ROOTFS = re.compile(r"/([0-9a-f]{64})/rootfs\Z")
_KUBELET = re.compile(r"/kubelet(?:/|\Z)")
_SANDBOX = re.compile(r"/sandboxes/[0-9a-f]{64}/shm\Z")


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
        return self.name if self.kind in _PLUGINS.values() or self.kind in ("persistent volume", "volume") else None

    @property
    def text(self) -> str:
        """For a table: emptyDir/cache (memory), configMap settings, hostPath /data, content store (image download)."""
        words = {"content store": "content store (image download)", "snapshotter": "snapshotter (image unpack)"}
        text = words.get(self.kind, self.kind)
        if self.name is not None:
            text += f"{'/' if self.kind == 'emptyDir' else ' '}{self.name}"
        if self.medium == "memory" and self.kind == "emptyDir":
            text += " (memory)"
        return text


UNKNOWN: Final = Destination("other")


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount that is written through, as the kernel told it; `node` is whether it is in the node's own namespace.

    `root` is the path inside the file system that is mounted, `point` that of the mount point inside the one it is on.
    `detached`: in no namespace at all (memfd, pipes, sockets).
    """

    device: int
    fstype: str
    source: str
    root: str
    point: str
    node: bool
    detached: bool
    time_ns: int


def medium_of(fstype: str) -> Medium | None:
    """What a file system keeps its files on."""
    if fstype in KERNEL_FSTYPES:
        return None
    return "memory" if fstype in _MEMORY else "network" if fstype in _NETWORK else "disk"


def by_path(path: str) -> Destination | None:
    """What a path below the kubelet's, containerd's or the log directory says, wherever that is mounted.

    The medium is left open. None if the path is none of those.
    """
    if match := _VOLUME.search(path):
        return Destination(_PLUGINS.get(match[2], "persistent volume"), match[3])
    if match := _SUBPATH.search(path):
        return Destination("volume", match[2])
    if match := _LOG.search(path):
        return Destination("container log", owner=Owner(match[1], match[2], match[3], match[4]))
    if _CONTENT.search(path):
        return Destination("content store")
    if _SNAPSHOTS.search(path):
        return Destination("snapshotter")
    if _CONTAINERD.search(path):
        return Destination("containerd")
    if _POD.search(path) or _KUBELET.search(path):
        return Destination("kubelet")
    return None


@dataclass(slots=True)
class _Shown:
    # A mount of the node and its time.
    fact: MountSeen
    until_ns: int | None = None

    def at(self, time_ns: int) -> bool:
        return self.fact.since_ns <= time_ns and (self.until_ns is None or time_ns < self.until_ns)


class Destinations:
    """Learns facts and mounts, and names where a write through a mount lands."""

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._mounts: dict[int, list[_Shown]] = {}
        self._overlays: dict[int, list[OverlaySeen]] = {}

    def learn(self, fact: Fact) -> bool:
        """Take in what the node's mounts are; false for other facts, which are not looked at."""
        if isinstance(fact, MountSeen):
            self._mounts.setdefault(fact.device, []).append(_Shown(fact))
        elif isinstance(fact, MountGone):
            for shown in self._mounts.get(fact.device, ()):
                if shown.until_ns is None and shown.fact.mount_point == fact.mount_point:
                    shown.until_ns = fact.time_ns
        elif isinstance(fact, OverlaySeen):
            self._overlays.setdefault(fact.device, []).append(fact)
        else:
            return isinstance(fact, OverlayGone)
        return True

    def of(self, mounted: Mounted, place: str | None) -> Destination:
        """Where what is written through a mount lands; `place` is the file's directory where the kernel told it."""
        if mounted.detached:
            return _detached(mounted.fstype)
        medium = medium_of(mounted.fstype)
        if medium is None:
            return Destination("kernel", mounted.fstype)
        if mounted.fstype == "overlay":
            found = self._overlay(mounted)
        else:
            found = by_path(place) if mounted.node and place is not None else by_path(mounted.root)
            if found is not None and found.kind == "kubelet" and not mounted.node and not _POD.search(mounted.root):
                # not a pod's: a container has it as a hostPath
                found = None
            if found is None:
                found = self._by_device(mounted)
        if found is None:
            found = self._plain(mounted)
        return replace(found, medium=medium)

    def _overlay(self, mounted: Mounted) -> Destination | None:
        at = [seen for seen in self._overlays.get(mounted.device, ()) if seen.since_ns <= mounted.time_ns]
        if at and at[-1].container_id is not None:
            return Destination("writable layer")
        points = (mounted.point, at[-1].mount_point if at else "")
        if any(_SNAPSHOTS.search(point) for point in points):
            return Destination("snapshotter")
        if any(_ROOTFS.search(point) for point in points):
            return Destination("writable layer")
        # A container whose mount the node's table no longer shows; a bind mount of the node's own overlay has a root.
        if not mounted.node and mounted.root == "/" and not at:
            return Destination("writable layer")
        return None

    def _by_device(self, mounted: Mounted) -> Destination | None:
        # A volume that is a file system of its own, by where the kubelet mounted it.
        for shown in reversed(self._mounts.get(mounted.device, ())):
            fact = shown.fact
            if not shown.at(mounted.time_ns):
                continue
            if not _is_below(mounted.root, fact.root):
                continue
            if _SANDBOX.search(fact.mount_point):
                return Destination("tmpfs", "/dev/shm")
            found = by_path(fact.mount_point)
            # a subPath is a mount too, of a volume that has another one, or of a hostPath
            if found is not None and found.volume is not None and found.kind != "volume":
                return found
        return None

    def _plain(self, mounted: Mounted) -> Destination:
        if mounted.node:
            if mounted.fstype in _MEMORY:
                return Destination("tmpfs", self._node_path(mounted))
            return Destination("host")
        if mounted.fstype in _MEMORY and mounted.root == "/":
            return Destination("tmpfs", mounted.point)
        return Destination("hostPath", self._node_path(mounted))

    def _node_path(self, mounted: Mounted) -> str:
        # Where the node itself has what is mounted: by the mount of the same device whose root is nearest above.
        return self._as_node(mounted, mounted.root) or (mounted.root if mounted.root != "/" else mounted.point)

    def path(self, mounted: Mounted, path: str) -> str:
        """A path inside the file system as who wrote there knows it: in the container, or on the node."""
        if mounted.node:
            return self._as_node(mounted, path) or path
        if mounted.fstype == "overlay" and mounted.root == "/":
            return path
        below = path.removeprefix(mounted.root.rstrip("/"))
        return mounted.point.rstrip("/") + below if below != path or mounted.root == "/" else path

    def _as_node(self, mounted: Mounted, path: str) -> str | None:
        best: tuple[str, str] | None = None
        known = [
            (shown.fact.root, shown.fact.mount_point)
            for shown in self._mounts.get(mounted.device, ())
            # a device number is given again
            if shown.at(mounted.time_ns) and not _SUBPATH.search(shown.fact.mount_point)
        ]
        overlays = [seen for seen in self._overlays.get(mounted.device, ()) if seen.since_ns <= mounted.time_ns]
        known += [("/", seen.mount_point) for seen in overlays[-1:]]
        for root, point in known:
            if _is_below(path, root) and (best is None or len(root) > len(best[0])):
                best = (root, point)
        if best is None:
            return None
        root, point = best
        rest = path if root == "/" else path[len(root) :]
        return (point.rstrip("/") + "/" + rest.lstrip("/")).rstrip("/") or "/"


def _is_below(path: str, directory: str) -> bool:
    return directory == "/" or path == directory or path.startswith(directory + "/")


def _detached(fstype: str) -> Destination:
    if fstype == "pipefs":
        return Destination("pipe")
    if fstype == "sockfs":
        return Destination("socket")
    return Destination("memory file", medium="memory") if fstype in _MEMORY else Destination("kernel", fstype)
