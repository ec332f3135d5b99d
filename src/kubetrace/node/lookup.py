"""Who owns a cgroup, process, container, path or snapshot, from the node's files alone."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubetrace.attribution import mountinfo
from kubetrace.attribution.attributor import Attributor, Identity
from kubetrace.attribution.directories import Directories
from kubetrace.attribution.facts import (
    CgroupSeen,
    ContainerSeen,
    LabelsSeen,
    MountSeen,
    OverlayGone,
    OverlaySeen,
    PodSeen,
)
from kubetrace.errors import UsageError
from kubetrace.node import containerd, kubelet_dir, storage
from kubetrace.node.bolt import BoltError
from kubetrace.node.survey import Node

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Layer
    from kubetrace.node.host import Host
    from kubetrace.node.pod_files import PodFiles, Root

# Of a container id.
ID_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
# A container's own directories in those of containerd and containers-storage.
_RUNTIMES = re.compile(
    r"/(?:io\.containerd\.runtime\.v2\.task/[^/]+|io\.containerd\.grpc\.v1\.cri/(?:containers|sandboxes)|"
    r"runc/[^/]+|overlay-containers)/([0-9a-f]{64})(?:/|\Z)"
)
_ROOTFS = re.compile(r"/([0-9a-f]{64})/rootfs\Z")
_STORED_LAYER = re.compile(r"/overlay/([0-9a-f]{64})(?:/|\Z)")
_POD_LOGS = re.compile(r"/([^_/]+)_([^_/]+)_([^_/]+)(?:/([^/]+))?")


@dataclass(frozen=True, slots=True)
class Answer:
    """One thing that a query means, and who owns it; `query` is written so that it asks for just this one.

    `how` is the identity's attributed_by, its names_from where it has no cgroup, or "snapshot" or "path" where the file
    system's names tell. A layer of an image is nobody's: `layer` is set, and of the identity only the image.
    `directory` is that of the snapshot or layer, where the query is of one: its number alone does not tell it.
    """

    query: str
    identity: Identity
    cgroup_id: int | None
    how: str
    layer: Layer | None = None
    directory: str | None = None

    @property
    def kind(self) -> str:
        """The identity's kind, or "layer"."""
        return self.identity.kind if self.layer is None else "layer"


class Lookup:
    """Answers queries from one scan of the node. NodeError if the node cannot be scanned."""

    def __init__(self, host: Host, *, cri_socket: str | None = None) -> None:
        """Scan the node at once."""
        self.host = host
        self._attributor = Attributor()
        self._overlays: dict[int, OverlaySeen] = {}
        self._directories = Directories()
        self._others: list[MountSeen] = []
        self._cgroups: list[CgroupSeen] = []
        self._pods: dict[tuple[str, str], dict[str, None]] = {}
        self._labels: dict[str, tuple[str, ...]] = {}
        self._node = Node(host, cri_socket=cri_socket, labels=True)
        self._memory_hierarchy = self._node.memory_hierarchy
        self._mounts = host.cgroup_mounts()
        for fact in self._node.scan():
            self._attributor.learn(fact)
            self._directories.learn(fact)
            if isinstance(fact, OverlaySeen):
                self._overlays[fact.device] = fact
            elif isinstance(fact, OverlayGone):
                self._overlays.pop(fact.device, None)
            elif isinstance(fact, MountSeen):
                self._others.append(fact)
            elif isinstance(fact, CgroupSeen):
                self._cgroups.append(fact)
            elif isinstance(fact, LabelsSeen):
                self._labels[fact.pod_uid] = fact.labels
            elif isinstance(fact, PodSeen | ContainerSeen) and fact.namespace and fact.pod and fact.pod_uid:
                self._pods.setdefault((fact.namespace, fact.pod), {})[fact.pod_uid] = None

    def pods(self, namespace: str, pod: str) -> list[PodFiles]:
        """What belongs to the pod of that name; several where one of before has left files. [] if none is known."""
        from kubetrace.node.pod_files import Scan, pod_files

        uids = self._pods.get((namespace, pod)) or {}
        roots = {self._node.container_at(mount.mount_point): mount for mount in self._others}
        scan = Scan(
            self.host,
            self._attributor,
            self._cgroups,
            self._overlays.values(),
            self._mounts,
            self._memory_hierarchy,
            {name: self._root(mount) for name, mount in roots.items() if name is not None},
        )
        identities = [self._attributor.pod(uid) or Identity(kind="pod", pod_uid=uid) for uid in uids]
        return [
            pod_files(scan, replace(identity, namespace=namespace, pod=pod, pod_uid=uid), self._labels.get(uid))
            for uid, identity in zip(uids, identities, strict=True)
        ]

    def _root(self, mount: MountSeen) -> Root:
        from kubetrace.node.pod_files import Root

        # what is bound there: by the mount of its file system that holds it, other than itself
        above = [
            other
            for other in self._others
            if other.device == mount.device
            and other.mount_point != mount.mount_point
            and f"{mount.root}/".startswith(f"{other.root.rstrip('/')}/")
        ]
        nearest = max(above, key=lambda other: len(other.root), default=None)
        bound = None
        if nearest is not None and mount.root != "/":
            bound = nearest.mount_point.rstrip("/") + "/" + mount.root[len(nearest.root.rstrip("/")) :].lstrip("/")
        return Root(mount.mount_point, mount.fstype, bound)

    def pod_names(self) -> list[str]:
        """NAMESPACE/POD of every pod that is known."""
        return sorted("/".join(names) for names in self._pods)

    def answers(self, query: str) -> list[Answer]:
        """Everything that `query` can mean on this node; [] if nothing. UsageError if it is not a query at all."""
        kind, colon, value = query.partition(":")
        forced: dict[str, Callable[[int], list[Answer]]] = {
            "pid": self._pid,
            "cgroup": self._cgroup,
            "snapshot": self._snapshot,
        }
        if colon and kind in forced:
            if not value.isascii() or not value.isdecimal() or len(value) > 20:
                raise UsageError(f"{query!r} needs a decimal number after the colon.", do=f"kubetrace who {kind}:123")
            return forced[kind](int(value))
        if query.startswith("/") and "\0" not in query:
            return self._path(query)
        found: list[Answer] = []
        if query.isascii() and query.isdecimal() and len(query) <= 20:
            found += self._pid(int(query)) + self._cgroup(int(query))
        # As kubectl prints it: containerd://<id>.
        container = query.rpartition("://")[2].lower()
        if ID_PREFIX.fullmatch(container):
            found += self._containers(container)
        elif not found and not query.isdecimal():
            raise UsageError(
                f"{query!r} is not a cgroup id, pid, container id, absolute path or snapshot.",
                why="A container id may be cut to 8 hex digits or more.",
                do="kubetrace who 8123 pid:123 cgroup:8123 snapshot:18 0a1b2c3d4e5f /var/log/pods/... shop/web-0",
            )
        return found

    def _pid(self, pid: int) -> list[Answer]:
        try:
            with open(self.host.proc / str(pid) / "cgroup", "rb") as file:
                lines = os.fsdecode(file.read(1 << 20)).splitlines()
        except OSError:
            return []
        ids = {0: 0, self._memory_hierarchy: 0}
        for line in lines:
            number, _, rest = line.partition(":")
            if number.isdecimal() and int(number) in ids:
                # After the controllers; the kernel marks the path of a removed cgroup.
                path = rest.partition(":")[2].removesuffix(" (deleted)")
                found = self._attributor.cgroups_at(int(number), path)
                ids[int(number)] = found[0] if len(found) == 1 else 0
        memory = ids[self._memory_hierarchy] if self._memory_hierarchy else 0
        return self._identified(f"pid:{pid}", ids[0], memory)

    def _identified(self, query: str, v2_id: int, memory_id: int) -> list[Answer]:
        identity = self._attributor.identify(
            cgroup_id=v2_id,
            memory_cgroup_id=memory_id,
            memory_hierarchy=self._memory_hierarchy if memory_id else 0,
            device=None,
            time_ns=0,
        )
        if identity.kind == "unknown":
            return []
        # The number of the cgroup whose path is shown.
        by_memory = memory_id and identity.cgroup_path != self._attributor.cgroup_path(0, v2_id)
        return [Answer(query, identity, memory_id if by_memory else v2_id, identity.attributed_by)]

    def _cgroup(self, number: int) -> list[Answer]:
        found = []
        if self._attributor.cgroup_path(0, number) is not None:
            found += self._identified(f"cgroup:{number}", number, 0)
        if self._memory_hierarchy and self._attributor.cgroup_path(self._memory_hierarchy, number) is not None:
            # 0 is not a cgroup's id: only the memory hierarchy answers.
            found += self._identified(f"cgroup:{number}", 0, number)
        # the roots of both hierarchies have one number
        return list(dict.fromkeys(found))

    def _containers(self, prefix: str) -> list[Answer]:
        return [self._container(container_id, container_id) for container_id in self._ids(prefix)]

    def _ids(self, prefix: str) -> list[str]:
        found = self._attributor.container_ids(prefix)
        if not found:
            # Exited containers have no cgroup and no bundle any more.
            for seen in self._node.recorded(None, 0):
                if seen.container_id.startswith(prefix):
                    self._attributor.learn(seen)
                    found.append(seen.container_id)
        return found

    def _container(self, container_id: str, query: str, how: str | None = None) -> Answer:
        identity = self._attributor.container(container_id)
        if identity is None and self._ids(container_id):
            identity = self._attributor.container(container_id)
        if identity is None:
            identity = Identity(kind="container", container_id=container_id)
        number = self._attributor.cgroup_id(container_id)
        if number is None and self._memory_hierarchy:
            number = self._attributor.cgroup_id(container_id, self._memory_hierarchy)
        if how is None and identity.attributed_by == "none" and identity.names_from is not None:
            # an exited container has no cgroup: what the names are from has found it
            how = identity.names_from
        return Answer(query, identity, number, how or identity.attributed_by)

    def _snapshot(self, number: int) -> list[Answer]:
        """Every snapshot of that number: each snapshotter of each containerd counts its own."""
        bases = dict.fromkeys(containerd.snapshotters(self.host))
        for overlay in self._overlays.values():
            for directory in (overlay.upperdir, *overlay.lowerdirs):
                if directory is not None and (found := containerd.split_snapshot(directory)) is not None:
                    bases.setdefault(found[0])
        answers = {base: self._in_snapshot(f"snapshot:{number}", base, number) for base in bases}
        answers = {base: found for base, found in answers.items() if found}
        if len(answers) > 1:
            # each asks for just this one
            return [
                replace(answer, query=answer.query.replace(f"snapshot:{number}", f"{base}/snapshots/{number}", 1))
                for base, found in answers.items()
                for answer in found
            ]
        return [answer for found in answers.values() for answer in found]

    def _in_snapshot(self, query: str, base: str, number: int) -> list[Answer]:
        # As mounted now; the writable layer first, then the layer's images and the containers of any of them.
        directory = containerd.snapshot_directory(base, number)
        found = self._in_layer(query, directory)
        if not found:
            try:
                known = containerd.snapshots(self.host.path(f"{base}/metadata.db"))
            except BoltError:
                known = []
            for snapshot in known:
                if snapshot.number != number:
                    continue
                if snapshot.container_id is not None:
                    found = [self._container(snapshot.container_id, query, "snapshot")]
                elif snapshot.volume_of is not None:
                    sandbox = self._container(snapshot.volume_of, f"{query} (image volume)", "snapshot")
                    found = [replace(sandbox, identity=replace(sandbox.identity, kind="pod", container_id=None))]
        return [replace(answer, directory=f"{base}/snapshots/{number}") for answer in found]

    def _in_layer(self, query: str, directory: str) -> list[Answer]:
        """Of a layer's directory, as runtimes write it: whose writable layer it is, or which images' layer."""
        running = []
        for overlay in self._overlays.values():
            if overlay.container_id is None:
                continue
            if overlay.upperdir == directory:
                return [self._container(overlay.container_id, query, "overlay")]
            if directory in self._node.lowerdirs(overlay):
                running.append(self._container(overlay.container_id, f"{query} (image layer)", "overlay"))
        return self._layer(query, directory) + running

    def _layer(self, query: str, directory: str) -> list[Answer]:
        for fact in self._node.layer(directory):
            self._attributor.learn(fact)
        layers = [layer for layer in self._attributor.layers_in(directory) if layer.chain_id is not None]
        return [Answer(query, Identity(image=layer.image), None, "snapshot", layer) for layer in layers]

    def _path(self, query: str) -> list[Answer]:
        # The outermost of the node's own directories decides: what is below a volume or a container's root was named
        # by whoever writes there.
        path = self._as_node_path(query)
        role, rest = self._directories.find(path) or (None, "")
        snapshot = containerd.snapshot_above(path.removesuffix(rest), rest) if role == "containerd" else None
        if snapshot is not None:
            return [replace(answer, query=query) for answer in self._in_snapshot(query, *snapshot)]
        if role == "storage" and (layer := _STORED_LAYER.match(rest)):
            found = self._in_stored_layer(query, path.removesuffix(rest), layer[1])
            return [replace(answer, query=query) for answer in found]
        if role in ("containerd", "storage") and (of_runtime := _RUNTIMES.match(rest)):
            return [self._container(of_runtime[1], query, "path")] if self._ids(of_runtime[1]) else []
        for mount_point, hierarchy in (
            (self._mounts.unified, 0),
            (self._mounts.memory, self._memory_hierarchy),
        ):
            if mount_point is not None and (path + "/").startswith(mount_point.rstrip("/") + "/"):
                below = path[len(mount_point.rstrip("/")) :] or "/"
                found = self._cgroup_directory(query, hierarchy, below)
                if found:
                    return found
        if role == "logs" and (logs := _POD_LOGS.match(rest)):
            return self._pod(query, logs[3], logs[4], (logs[1], logs[2]))
        if path.startswith(("/run/", "/var/log/containers/")) or "/containers/" in path:
            # the outermost that is known: what is inside a container's root, it has named itself
            for container_id in _ID.findall(path):
                if self._ids(container_id):
                    return [self._container(container_id, query, "path")]
        pod_uid = self._pod_of(path)
        if pod_uid is not None:
            return self._pod(query, pod_uid, None, None)
        return self._by_device(query, path)

    def _in_stored_layer(self, query: str, root: str, layer: str) -> list[Answer]:
        directory = storage.layer_directory(root, layer)
        found = self._in_layer(query, directory)
        if not found:
            # a container that has exited
            for one in storage.Storage(self.host, root).containers():
                if one.layer == layer and self._ids(one.container_id):
                    found = [self._container(one.container_id, query, "snapshot")]
        return [replace(answer, directory=directory) for answer in found]

    def _pod_of(self, path: str) -> str | None:
        role, rest = self._directories.find(path) or (None, "")
        return kubelet_dir.pod_of(rest) if role == "kubelet" else None

    def _as_node_path(self, query: str) -> str:
        # A path is given as the node writes it, or as this shell sees it below the node's root.
        path = os.path.normpath(query)
        root = str(self.host.root).rstrip("/")
        if root and path.startswith(root + "/"):
            path = path[len(root) :]
        # "//x" stays "//x" in normpath (POSIX leaves its meaning open).
        return "/" + path.lstrip("/")

    def _cgroup_directory(self, query: str, hierarchy: int, path: str) -> list[Answer]:
        # The longest known cgroup at or above the path: a control file belongs to its directory.
        while True:
            numbers = self._attributor.cgroups_at(hierarchy, path)
            if numbers:
                found = self._identified(query, *((numbers[0], 0) if hierarchy == 0 else (0, numbers[0])))
                return [replace(answer, query=query) for answer in found]
            if path == "/":
                return []
            path = os.path.dirname(path)

    def _pod(self, query: str, pod_uid: str, container: str | None, names: tuple[str, str] | None) -> list[Answer]:
        if container is not None:
            same = [seen for seen in self._attributor.containers_of(pod_uid) if seen.container == container]
            if same:
                # Attempts of one container share the directory: each is an answer.
                return [self._container(seen.container_id, query, "path") for seen in same]
        identity = self._attributor.pod(pod_uid)
        if identity is None:
            if names is None:
                return []
            identity = Identity(kind="pod", namespace=names[0], pod=names[1], pod_uid=pod_uid)
        return [Answer(query, replace(identity, container=container), None, "path")]

    def _by_device(self, query: str, path: str) -> list[Answer]:
        # A directory's st_dev is its mount's; a lower layer's file may have a device number of its own (overlayfs.rst,
        # "Inode properties"), so a file is asked for by its directory.
        opened = self.host.path(path)
        try:
            status = os.stat(opened)
            if not stat.S_ISDIR(status.st_mode):
                status = os.stat(os.path.dirname(opened))
        except (OSError, ValueError):
            return []
        device = mountinfo.device_number(os.major(status.st_dev), os.minor(status.st_dev))
        overlay = self._overlays.get(device)
        if overlay is not None:
            if overlay.container_id is None:
                return []
            return [self._container(overlay.container_id, query, "overlay")]
        return self._by_volume(query, device)

    def _by_volume(self, query: str, device: int) -> list[Answer]:
        # A secret or memory volume is a file system of its own; the node's disk is mounted elsewhere too.
        try:
            points = []
            for mounts in self.host.mountinfo_paths():
                with open(mounts, "rb") as file:
                    points += [mount.mount_point for mount in mountinfo.parse(file.read()) if mount.device == device]
        except OSError:
            return []
        roots = {match[1] for point in points if (match := _ROOTFS.search(point))}
        if len(roots) == 1:
            # a root that is no overlay: a file system of its own
            return [self._container(roots.pop(), query, "mount")]
        pods = {self._pod_of(point) if kubelet_dir.volume_of(point) else None for point in points}
        pod_uid = pods.pop() if len(pods) == 1 else None
        return self._pod(query, pod_uid, None, None) if pod_uid is not None else []
