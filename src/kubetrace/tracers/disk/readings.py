"""What fills the node's disks, read off its files at each interval; told where it is new or has changed.

every interval   statvfs(2) of each file system
15 s             the kubelet's settings, directories of pods, containerd's databases where they changed
15 s             files that are deleted and open: by the kernel's iterator, else a part of /proc at each interval
always           walks of what only a walk tells, by a process that takes a small share of a core (node/walks.py)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from kubetrace.attribution import eviction, reachability
from kubetrace.attribution.cgroup_path import is_own, parse
from kubetrace.attribution.facts import CgroupGone, CgroupSeen, OverlaySeen
from kubetrace.node import containerd, image_store, kubelet_settings, storage
from kubetrace.node.filesystems import FileSystems, Place, Room
from kubetrace.node.image_store import CONTENT, ImageStore
from kubetrace.node.open_files import all_open, held_files
from kubetrace.node.pod_directories import pod_directories
from kubetrace.node.reading import listed
from kubetrace.node.walks import Walked, Walks
from kubetrace.stream.layout import Batch
from kubetrace.tracers.disk import entry
from kubetrace.tracers.disk.entry import LAYOUT, STREAM, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubetrace.attribution.facts import Fact
    from kubetrace.node.host import Host
    from kubetrace.node.open_files import HeldFile
    from kubetrace.stream.layout import Layout
    from kubetrace.stream.live import Kernel

_LOOK_AGAIN_S: Final = 15.0
_SETTINGS_AGAIN_S: Final = 60.0
# A directory is walked again after so many times the time that it took, and so many seconds at least.
_WALK_AGAIN: Final = 20.0
_WALK_AGAIN_S: Final = 10.0
# A figure that has not changed is told again so that it is seen to be no older than this.
_TELL_AGAIN_NS: Final = 60_000_000_000
# What /proc may take of an interval, where there is no iterator; and what metadata may take of a core.
_PROC_S: Final = 0.02
_READ_SHARE: Final = 0.02
_CORE_DUMPS: Final = ("/var/lib/systemd/coredump", "/var/crash", "/var/lib/apport/coredump")
_NODE_LOGS: Final = "/var/log"
_VOLUMES: Final = "io.containerd.grpc.v1.cri/containers"
_MAX_REF: Final = 4096
_MEMORY: Final = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class _Part:
    # Something that takes room. `disk` is the device of its file system.
    kind: str
    disk: int
    path: str
    name: str = ""
    bytes: int = UNKNOWN
    inodes: int = UNKNOWN
    how: str = ""
    state: str = ""
    as_of: int = 0
    shared: int = UNKNOWN
    frees: int = UNKNOWN
    users: int = 0
    pid: int = 0
    namespace: str | None = None
    pod: str | None = None
    container: str | None = None
    pod_uid: str | None = None
    container_id: str | None = None
    namespace_of_images: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        return (self.kind, self.disk, self.path, self.name, self.namespace_of_images)


@dataclass(slots=True)
class _Target:
    # A directory that is walked, and what was found last. `part` has neither bytes nor inodes.
    part: _Part
    leave_out: tuple[str, ...] = ()
    asked: float = 0.0
    due: float = 0.0
    walking: bool = False
    found: Walked | None = None
    whole: Walked | None = None
    as_of: int = 0
    told: _Part | None = None

    def measured(self) -> _Part | None:
        """The part with what was found; None while nothing is."""
        if self.told is None and (found := self.whole or self.found) is not None and found.state != "gone":
            state = "walking" if self.whole is None else "part" if found.unread else "whole"
            self.told = replace(
                self.part, bytes=found.bytes, inodes=found.inodes, how="walk", state=state, as_of=self.as_of
            )
        return self.told


@dataclass(slots=True)
class _Told:
    number: int
    value: object
    at_ns: int


@dataclass(slots=True)
class _Turn:
    # A job that is due again after some seconds.
    every_s: float
    next: float = 0.0

    def due(self, now: float) -> bool:
        if now < self.next:
            return False
        self.next = now + self.every_s
        return True


@dataclass(slots=True)
class _Found:
    # What the last looks gave, by where it is from.
    parts: dict[str, list[_Part]] = field(default_factory=dict)


class Readings:
    """Reads the node's disks (stream.live.Gauges). For one thread; `close` ends the process that walks."""

    layouts: Mapping[str, Layout] = {STREAM: LAYOUT}
    fds: Sequence[int] = ()

    def stir(self) -> bool:
        """Nothing happens between two readings that cannot wait for the next."""
        return False

    def __init__(self, host: Host, kernel: Kernel | None, *, share: float, whole_node: bool = False) -> None:
        """`share` of a core for walks; `whole_node`: also what is neither a pod's nor a runtime's nor the kubelet's."""
        self._host, self._kernel = host, kernel
        self._whole_node = whole_node
        self._walks = Walks(share)
        self._targets: dict[tuple[object, ...], _Target] = {}
        self._parts = _Found()
        self._told: dict[tuple[object, ...], _Told] = {}
        self._numbers = 0
        self._cgroups: dict[tuple[int, int], str] = {}
        self._containers: dict[str, dict[int, int]] = {}
        self._node: dict[int, int] = {}
        self._overlays: dict[int, tuple[str | None, str | None]] = {}
        self._systems: FileSystems | None = None
        self._places: dict[int, Place] = {}
        self._roles: dict[int, int] = {}
        self._rooms: dict[int, Room] = {}
        self._thresholds = eviction.Thresholds((), {})
        self._stores: dict[str, tuple[tuple[object, ...], ImageStore]] = {}
        self._freeable: dict[int, int] = {}
        self._settings_turn, self._look_turn = _Turn(_SETTINGS_AGAIN_S), _Turn(_LOOK_AGAIN_S)
        self._held_turn, self._store_turn = _Turn(_LOOK_AGAIN_S), _Turn(_LOOK_AGAIN_S)
        self._scan: Iterator[HeldFile | None] | None = None
        self._scanned: dict[tuple[int, int], HeldFile] = {}
        self._looked_once = False

    def close(self) -> None:
        """End the process that walks."""
        self._walks.close()

    @property
    def complete(self) -> bool:
        """Whether every directory has been walked once, or cannot be, and all else has been read."""
        if not self._looked_once or self._scan is not None:
            return False
        return self._walks.problem is not None or all(
            target.whole is not None or (target.found is not None and target.found.state == "gone")
            for target in self._targets.values()
        )

    def learn(self, fact: Fact) -> None:
        """Which cgroup a container has, and which overlay is whose."""
        if isinstance(fact, CgroupSeen):
            if fact.path == "/":
                self._node[fact.hierarchy] = fact.cgroup_id
            elif is_own(fact.path) and (container_id := parse(fact.path).container_id) is not None:
                self._cgroups[fact.hierarchy, fact.cgroup_id] = container_id
                self._containers.setdefault(container_id, {})[fact.hierarchy] = fact.cgroup_id
        elif isinstance(fact, CgroupGone):
            gone = self._cgroups.pop((fact.hierarchy, fact.cgroup_id), None)
            if gone is not None and (ids := self._containers.get(gone)) is not None:
                ids.pop(fact.hierarchy, None)
                if not ids:
                    del self._containers[gone]
        elif isinstance(fact, OverlaySeen):
            self._overlays[fact.device] = fact.container_id, fact.upperdir

    def read(self, between: Callable[[], None] = lambda: None, *, whole: bool = False) -> list[Batch]:
        """What is new, in one batch; [] for nothing."""
        now = time.monotonic()
        records: list[bytes] = []
        if self._look_turn.due(now):
            self._look_at_mounts()
            between()
        if self._settings_turn.due(now):
            self._look_at_settings()
        self._look_at_rooms()
        if self._store_turn.due(now):
            begun = time.monotonic()
            for root in self._host.places.roots:
                self._look_at_store(root)
                between()
            self._look_at_directories()
            self._look_at_storages()
            took = time.monotonic() - begun
            self._store_turn.next = max(self._store_turn.next, now + took / _READ_SHARE)
            between()
        self._look_at_held(now, between)
        self._walk(now)
        self._looked_once = True
        keys: set[tuple[object, ...]] = set()
        records += self._filesystem_records(keys)
        records += self._threshold_records(keys)
        records += self._part_records(keys)
        records += self._gone_records(keys)
        return [Batch(STREAM, b"".join(records))] if records else []

    # File systems and thresholds.

    def _look_at_mounts(self) -> None:
        try:
            self._systems = FileSystems(self._host)
        except OSError:
            return
        host_places = self._host.places
        roles: dict[int, int] = {}
        places: dict[int, Place] = {}
        bits = dict(entry.ROLES)
        named = [("nodefs", path) for path in host_places.kubelets]
        named += [("logs", path) for path in host_places.logs]
        for root in host_places.roots:
            bases = [base for base in containerd.snapshotters(self._host) if base.startswith(f"{root}/")]
            named += [(role, path) for path in bases for role in ("imagefs", "containerfs")]
        for root in host_places.storages:
            if storage.Storage(self._host, root).exists:
                named += [(role, root) for role in ("imagefs", "containerfs")]
        for role, path in named:
            place = self._systems.of(path)
            if place is not None:
                places.setdefault(place.device, place)
                roles[place.device] = roles.get(place.device, 0) | bits[role]
        for place in self._systems.local():
            # by the mount that shows most of it
            places[place.device] = place
            roles.setdefault(place.device, 0)
        self._places, self._roles = places, roles

    def _look_at_settings(self) -> None:
        found = kubelet_settings.settings(self._host)
        if found is None:
            self._thresholds = eviction.thresholds(None, None)
        else:
            self._thresholds = eviction.thresholds(found.values, found.problem)

    def _look_at_rooms(self) -> None:
        if self._systems is None:
            return
        rooms = {device: self._systems.room(place) for device, place in self._places.items()}
        self._rooms = {device: room for device, room in rooms.items() if room is not None and room.capacity}

    def _filesystem_records(self, keys: set[tuple[object, ...]]) -> Iterator[bytes]:
        now = _boot_ns()
        for device, room in self._rooms.items():
            place = self._places[device]
            key = ("filesystem", device)
            keys.add(key)
            yield self._record(
                key,
                None,
                what="filesystem",
                disk=device,
                roles=self._roles.get(device, 0),
                how="statvfs",
                as_of=now,
                bytes=room.used,
                inodes=room.inodes - room.inodes_free if room.inodes else UNKNOWN,
                capacity=room.capacity,
                available=room.available,
                inodes_total=room.inodes,
                inodes_free=room.inodes_free,
                frees=self._freeable.get(device, UNKNOWN),
                name=f"{place.fstype} {place.source}",
                path=place.mount_point,
            )

    def _threshold_records(self, keys: set[tuple[object, ...]]) -> Iterator[bytes]:
        for device, room in self._rooms.items():
            bits = self._roles.get(device, 0)
            roles = {name for name, bit in entry.ROLES if bits & bit}
            told = 0
            for threshold in self._thresholds.known:
                if threshold.filesystem not in roles or (threshold.of_inodes and not room.inodes):
                    continue
                told += 1
                yield from self._threshold(
                    keys,
                    device,
                    action=threshold.action,
                    name=threshold.signal + (" soft" if threshold.action == "evicts after" else ""),
                    path=threshold.source,
                    least=threshold.least(room.inodes if threshold.of_inodes else room.capacity),
                    percent=UNKNOWN if threshold.percent is None else round(threshold.percent * 100),
                    grace=round(threshold.grace_s * 1e9),
                )
            for signal, why in self._thresholds.unknown.items():
                if signal.partition(".")[0] in roles:
                    told += 1
                    yield from self._threshold(keys, device, action="not known", name=signal, path=why)
            if not told:
                yield from self._threshold(keys, device, action="full", name="available", least=0)

    def _threshold(self, keys: set[tuple[object, ...]], device: int, **values: Any) -> Iterator[bytes]:
        key = ("threshold", device, values["name"], values["action"])
        keys.add(key)
        value = tuple(values.values())
        if self._is_news(key, value, 0):
            yield self._record(key, value, what="threshold", disk=device, **values)

    # Image stores.

    def _look_at_store(self, root: str) -> None:
        mark = image_store.marks(self._host, root)
        known = self._stores.get(root)
        if not any(mark):
            self._stores.pop(root, None)
            self._parts.parts.pop(root, None)
            return
        if known is None or known[0] != mark or known[1].problem is not None:
            self._stores[root] = known = mark, image_store.read_store(self._host, root)
        self._parts.parts[root] = list(self._of_store(known[1]))

    def _of_store(self, store: ImageStore) -> Iterator[_Part]:
        content = self._disk_of(f"{store.root}/{CONTENT}") or self._disk_of(store.root)
        disks = {name: self._disk_of(base) for name, base in store.snapshotters.items()}
        now, wall = _boot_ns(), time.time_ns()
        freeable: dict[int, int] = {}
        if store.problem is not None and content is not None:
            # what is missing below, said where it would be
            yield _Part(
                "image layers", content, store.root, name=store.problem, how="metadata", state="part", as_of=now
            )

        def sized(number: int) -> int:
            return number if store.problem is None else UNKNOWN

        for namespace in store.namespaces:
            shares = reachability.shares(namespace, wall)
            disk = next((disks[s] for s, _ in namespace.snapshots if disks.get(s) is not None), content)
            if disk is None or content is None:
                continue
            base = next((path for name, path in store.snapshotters.items() if disks.get(name) == disk), store.root)
            made = _Part("image layers", disk, base, how="metadata", as_of=now, namespace_of_images=namespace.name)
            blobs_of = replace(made, kind="image blobs", disk=content, path=f"{store.root}/{CONTENT}")
            for image in shares.images:
                name = reference(image.names)
                yield replace(
                    made,
                    name=name,
                    bytes=sized(image.layers),
                    inodes=sized(image.layer_inodes),
                    frees=sized(image.freed),
                    state="whole" if image.complete else "part",
                    shared=sized(image.shared_layers),
                    users=len(image.users),
                )
                yield replace(
                    blobs_of, name=name, bytes=image.blobs, inodes=image.blob_count, shared=image.shared_blobs
                )
            yield replace(
                made,
                name="(shared by images)",
                bytes=sized(shares.shared_layers),
                inodes=sized(shares.shared_layer_inodes),
            )
            yield replace(
                blobs_of, name="(shared by images)", bytes=shares.shared_blobs, inodes=shares.shared_blob_count
            )
            if store.problem is not None:
                continue
            unused = [image.target for image in shares.images if not image.users and not image.pinned]
            freeable[disk] = freeable.get(disk, 0) + reachability.freed_together(namespace, unused, wall)
            yield from self._of_snapshots(store, namespace, shares, disks, now)
            blobs = [namespace.blobs[digest] for digest in shares.orphan_blobs]
            if blobs:
                size = sum(reachability.rounded(blob.size) for blob in blobs)
                yield replace(
                    blobs_of,
                    kind="orphan",
                    name=f"{len(blobs)} blobs of no image",
                    bytes=size,
                    inodes=len(blobs),
                )
        for device, size in freeable.items():
            self._freeable[device] = size
        yield from self._of_ingests(store, content, now)
        self._walk_store(store, disks)

    def _of_snapshots(
        self,
        store: ImageStore,
        namespace: reachability.ImageNamespace,
        shares: reachability.StoreShares,
        disks: Mapping[str, int | None],
        now: int,
    ) -> Iterator[_Part]:
        writable = {(c.snapshotter, c.snapshot): (i, c) for i, c in namespace.containers.items()}
        for key, snapshot in namespace.snapshots.items():
            disk = disks.get(key[0])
            if disk is None or snapshot.number is None or snapshot.kind == "committed":
                continue
            base = store.snapshotters[key[0]]
            path = f"{base}/snapshots/{snapshot.number}"
            owner = writable.get(key)
            if owner is not None:
                container_id, container = owner
                part = _Part(
                    "writable layer",
                    disk,
                    path,
                    namespace=container.labels.get("io.kubernetes.pod.namespace"),
                    pod=container.labels.get("io.kubernetes.pod.name"),
                    container=container.labels.get("io.kubernetes.container.name"),
                    pod_uid=container.labels.get("io.kubernetes.pod.uid"),
                    container_id=container_id,
                )
                self._walk_later(part)
            elif key in shares.orphan_snapshots:
                held = "held by a lease" if key in shares.leased_snapshots else "of no container"
                self._walk_later(_Part("orphan", disk, path, name=f"snapshot {snapshot.number}, {held}"))
            else:
                self._walk_later(_Part("image volume", disk, path, name=key[1].rpartition("/")[2]))
        committed = [
            (key, namespace.snapshots[key])
            for key in shares.orphan_snapshots
            if namespace.snapshots[key].kind == "committed"
        ]
        for key, snapshot in committed:
            disk = disks.get(key[0])
            if disk is not None:
                held = "held by a lease" if key in shares.leased_snapshots else "of no image"
                yield _Part(
                    "orphan",
                    disk,
                    f"{store.snapshotters[key[0]]}/snapshots/{snapshot.number}",
                    name=f"layer {snapshot.number}, {held}",
                    bytes=snapshot.disk_bytes,
                    inodes=(snapshot.inodes or 0) + reachability.SNAPSHOT_DIRECTORIES,
                    how="metadata",
                    as_of=now,
                )

    def _walk_store(self, store: ImageStore, disks: Mapping[str, int | None]) -> None:
        for snapshotter, number in store.stray:
            disk = disks.get(snapshotter)
            if disk is not None:
                path = f"{store.snapshotters[snapshotter]}/snapshots/{number}"
                self._walk_later(_Part("orphan", disk, path, name=f"snapshot {number}, not in the metadata"))
        for snapshotter, one in store.unnamed:
            disk = disks.get(snapshotter)
            if disk is not None:
                path = f"{store.snapshotters[snapshotter]}/snapshots/{one.number}"
                self._walk_later(_Part("orphan", disk, path, name=f"snapshot {one.number}, being removed"))
        disk = self._disk_of(store.root)
        if disk is None:
            return
        base = f"{store.root}/{_VOLUMES}"
        labels = {i: c for namespace in store.namespaces for i, c in namespace.containers.items()}
        for container_id in listed(self._host.path(base)):
            for volume in listed(self._host.path(f"{base}/{container_id}/volumes")):
                known = labels.get(container_id)
                names = known.labels if known is not None else {}
                self._walk_later(
                    _Part(
                        "image volume",
                        disk,
                        f"{base}/{container_id}/volumes/{volume}",
                        name="VOLUME of the Dockerfile",
                        namespace=names.get("io.kubernetes.pod.namespace"),
                        pod=names.get("io.kubernetes.pod.name"),
                        container=names.get("io.kubernetes.container.name"),
                        pod_uid=names.get("io.kubernetes.pod.uid"),
                        container_id=container_id,
                    )
                )
        leave_out = [f"{os.path.basename(path)}/snapshots" for path in store.snapshotters.values()]
        volumes = [f"{_VOLUMES}/{container_id}/volumes" for container_id in listed(self._host.path(base))]
        left = (*leave_out, f"{CONTENT}/blobs", f"{CONTENT}/ingest", *volumes)
        self._walk_later(_Part("runtime", disk, store.root), left)

    def _of_ingests(self, store: ImageStore, disk: int | None, now: int) -> Iterator[_Part]:
        leased = {ref for one in store.namespaces for lease in one.leases.values() for ref in lease.ingests}
        directory = f"{store.root}/{CONTENT}/ingest"
        if disk is None:
            return
        for name in listed(self._host.path(directory))[:1000]:
            path = f"{directory}/{name}"
            try:
                status = os.stat(self._host.path(f"{path}/data"), follow_symlinks=False)
                with open(self._host.path(f"{path}/ref"), "rb") as file:
                    ref = os.fsdecode(file.read(_MAX_REF))
            except OSError:
                continue
            # NAMESPACE/SEQUENCE/REF
            own = ref.split("/", 2)[-1]
            yield _Part(
                "pull" if own in leased else "orphan",
                disk,
                path,
                name=own if own in leased else f"begun pull of {own}",
                bytes=status.st_blocks * 512,
                inodes=1,
                how="stat",
                as_of=now,
            )

    # CRI-O's.

    def _look_at_storages(self) -> None:
        for root in self._host.places.storages:
            store = storage.Storage(self._host, root)
            disk = self._disk_of(root) if store.exists else None
            if disk is None:
                continue
            containers = {one.layer: one for one in store.containers()}
            for identifier, layer in store.layers().items():
                path = f"{root}/overlay/{identifier}"
                if layer.diff_id is not None:
                    self._walk_later(_Part("image layers", disk, path, name=layer.diff_id))
                    continue
                container = containers.get(identifier)
                seen = storage.seen(container, 0) if container is not None else None
                if container is None:
                    self._walk_later(_Part("orphan", disk, path, name="layer of no container"))
                elif seen is None:
                    self._walk_later(_Part("writable layer", disk, path, container_id=container.container_id))
                else:
                    self._walk_later(
                        _Part(
                            "writable layer",
                            disk,
                            path,
                            namespace=seen.namespace,
                            pod=seen.pod,
                            container=seen.container,
                            pod_uid=seen.pod_uid,
                            container_id=container.container_id,
                        )
                    )
            self._walk_later(_Part("runtime", disk, root), ("overlay",))

    # Directories.

    def _look_at_directories(self) -> None:
        if self._systems is None:
            return
        mounted: dict[str, Place] = {}
        roots = [*self._host.places.kubelets, *self._host.places.logs, _NODE_LOGS]
        for root in roots:
            mounted.update(self._systems.devices_below(root))
        seen: set[str] = set()
        for one in pod_directories(self._host):
            place = mounted.get(one.path)
            if place is not None and place.fstype in _MEMORY:
                continue  # memory
            disk = place.device if place is not None else self._disk_of(os.path.dirname(one.path))
            if disk is not None:
                seen.add(one.path)
                self._walk_later(
                    _Part(
                        one.kind,
                        disk,
                        one.path,
                        name=one.name,
                        namespace=one.namespace,
                        pod=one.pod,
                        container=one.container,
                        pod_uid=one.pod_uid,
                    ),
                    one.leave_out,
                )
        for root in self._host.places.kubelets:
            disk = self._disk_of(root)
            if disk is not None:
                self._walk_later(_Part("kubelet", disk, root), ("pods",))
        for path in _CORE_DUMPS:
            disk = self._disk_of(path)
            if disk is not None:
                self._walk_later(_Part("core dumps", disk, path))
        disk = self._disk_of(_NODE_LOGS)
        if disk is not None:
            below = [path.removeprefix(f"{_NODE_LOGS}/") for path in self._host.places.logs]
            self._walk_later(_Part("node logs", disk, _NODE_LOGS), tuple(below))
        if self._whole_node:
            self._walk_node()

    def _walk_node(self) -> None:
        # The first level of each file system that the kubelet looks at, without what is walked already: by the paths
        # inside the file system, as directories of one are often mounted elsewhere too.
        if self._systems is None:
            return
        places = self._host.places
        others = [*places.kubelets, *places.logs, *places.roots, *places.storages, _NODE_LOGS, *_CORE_DUMPS]
        inside = [within for path in others if (within := self._systems.within(path)) is not None]
        for device, bits in self._roles.items():
            if not bits:
                continue
            top = self._places[device].mount_point.rstrip("/")
            for name in listed(self._host.path(top or "/")):
                path = f"{top}/{name}"
                own = self._systems.within(path)
                if own is None or own[0] != device or own in inside or self._disk_of(path) != device:
                    continue
                left = [one[1].removeprefix(f"{own[1]}/") for one in inside if _is_below(one, own)]
                self._walk_later(_Part("node", device, path), tuple(left))

    def _disk_of(self, path: str) -> int | None:
        place = self._systems.of(path) if self._systems is not None else None
        # what is in memory takes no disk, and of what is not looked at nothing is told
        if place is None or place.fstype in _MEMORY or place.device not in self._places:
            return None
        return place.device

    def _walk_later(self, part: _Part, leave_out: tuple[str, ...] = ()) -> None:
        target = self._targets.get(part.key)
        if target is None:
            self._targets[part.key] = _Target(part, leave_out, asked=time.monotonic())
        else:
            if target.part != part:
                target.part, target.told = part, None
            target.leave_out, target.asked = leave_out, time.monotonic()

    def _walk(self, now: float) -> None:
        for walked in self._walks.results():
            target = self._targets.get(walked.key)
            if target is None:
                continue
            target.found, target.told = walked, None
            if walked.state == "walking":
                if target.whole is None:
                    target.as_of = _boot_ns()
                continue
            target.walking = False
            took = now - target.due
            target.due = now + max(_WALK_AGAIN_S, _WALK_AGAIN * took)
            if walked.state == "done":
                target.whole, target.as_of = walked, _boot_ns()
        # what the last two looks did not find is not there any more
        limit = now - 2.5 * max(_LOOK_AGAIN_S, self._store_turn.next - now)
        for key in [key for key, target in self._targets.items() if target.asked < limit and not target.walking]:
            del self._targets[key]
        due = [target for target in self._targets.values() if not target.walking and target.due <= now]
        # what was never walked first
        for target in sorted(due, key=lambda one: (one.whole is not None, one.due))[: self._walks.room]:
            target.walking, target.due = True, now
            self._walks.ask(target.part.key, self._host.path(target.part.path), target.leave_out)

    # Deleted files.

    def _look_at_held(self, now: float, between: Callable[[], None]) -> None:
        if self._scan is None:
            if not self._held_turn.due(now):
                return
            found = self._kernel.iterate("held", "disk_held") if self._kernel is not None else None
            self._held_how = "iterator" if found is not None else "/proc"
            candidates = ((one.pid, one.fd) for one in found) if found is not None else all_open(self._host)
            self._scan, self._scanned = held_files(self._host, candidates), {}
        end = time.monotonic() + _PROC_S
        for count, held in enumerate(self._scan):
            if held is not None:
                self._scanned[held.device, held.inode] = held
            if not count % 256:
                between()
            if time.monotonic() > end:
                return
        self._scan = None
        self._parts.parts["held"] = list(self._of_held(self._scanned.values()))

    def _of_held(self, found: Any) -> Iterator[_Part]:
        now = _boot_ns()
        for held in found:
            container_id, upperdir = self._overlays.get(held.device, (None, None))
            disk: int | None = held.device
            if upperdir is not None:
                disk = self._disk_of(upperdir)
            if disk is None or disk not in self._places:
                continue  # memory
            yield _Part(
                "deleted, open",
                disk,
                held.path,
                name=f"inode {held.inode} held by {held.comm}[{held.pid}] fd {held.fd}",
                bytes=held.bytes,
                inodes=1,
                how=self._held_how,
                as_of=now,
                users=held.holders,
                pid=held.pid,
                container_id=held.container_id or container_id,
            )

    # Telling.

    def _all_parts(self) -> Iterator[_Part]:
        for parts in self._parts.parts.values():
            yield from parts
        for target in self._targets.values():
            if (part := target.measured()) is not None:
                yield part

    def _part_records(self, keys: set[tuple[object, ...]]) -> Iterator[bytes]:
        sums: dict[int, int] = {}
        inodes: dict[int, int] = {}
        for part in self._all_parts():
            key = ("part", *part.key)
            keys.add(key)
            sums[part.disk] = sums.get(part.disk, 0) + max(0, part.bytes)
            inodes[part.disk] = inodes.get(part.disk, 0) + max(0, part.inodes)
            value = replace(part, as_of=0)
            if self._is_news(key, value, part.as_of):
                yield self._part_record(key, value, part)
        done = self.complete
        for device, room in self._rooms.items():
            if not self._roles.get(device):
                continue
            rest = _Part(
                "the rest",
                device,
                self._places[device].mount_point,
                # what could not be walked is part of it
                name=self._walks.problem or "",
                # what is shared between files (reflinks) is counted for each of them
                bytes=max(0, room.used - sums.get(device, 0)),
                inodes=max(0, room.inodes - room.inodes_free - inodes.get(device, 0)) if room.inodes else UNKNOWN,
                how="difference",
                state="whole" if done else "walking",
                as_of=_boot_ns(),
            )
            key = ("part", *rest.key)
            keys.add(key)
            value = replace(rest, as_of=0)
            if self._is_news(key, value, rest.as_of):
                yield self._part_record(key, value, rest)

    def _part_record(self, key: tuple[object, ...], value: object, part: _Part) -> bytes:
        ids = self._containers.get(part.container_id or "", self._node)
        memory = next(((hierarchy, number) for hierarchy, number in ids.items() if hierarchy), (0, 0))
        return self._record(
            key,
            value,
            cgroup_id=ids.get(0, 0),
            memory_cgroup_id=memory[1],
            memory_hierarchy=memory[0],
            what="part",
            kind=part.kind,
            how=part.how,
            state=part.state,
            disk=part.disk,
            users=part.users,
            pid=part.pid,
            as_of=part.as_of,
            bytes=part.bytes,
            inodes=part.inodes,
            shared=part.shared,
            frees=part.frees,
            namespace=part.namespace,
            pod=part.pod,
            container=part.container,
            pod_uid=part.pod_uid,
            container_id=part.container_id,
            name=part.name,
            path=part.path,
        )

    def _gone_records(self, keys: set[tuple[object, ...]]) -> Iterator[bytes]:
        for key in [key for key in self._told if key not in keys]:
            number = self._told.pop(key).number
            yield entry.pack(**self._now(), what="gone", entry=number)

    def _is_news(self, key: tuple[object, ...], value: object, as_of: int) -> bool:
        told = self._told.get(key)
        return told is None or told.value != value or as_of - told.at_ns > _TELL_AGAIN_NS

    def _record(self, key: tuple[object, ...], value: object, **values: Any) -> bytes:
        told = self._told.get(key)
        if told is None:
            self._numbers += 1
            told = self._told[key] = _Told(self._numbers, None, 0)
        told.value, told.at_ns = value, values.get("as_of", 0)
        return entry.pack(**{**self._now(), **values}, entry=told.number)

    def _now(self) -> dict[str, int]:
        memory = next(((hierarchy, number) for hierarchy, number in self._node.items() if hierarchy), (0, 0))
        return {
            "time": _boot_ns(),
            "cgroup_id": self._node.get(0, 0),
            "memory_cgroup_id": memory[1],
            "memory_hierarchy": memory[0],
        }


def _is_below(one: tuple[int, str], other: tuple[int, str]) -> bool:
    return one[0] == other[0] and one[1].startswith(f"{other[1].rstrip('/')}/")


def reference(names: Sequence[str]) -> str:
    """The name of an image that is shown, of all that it has."""
    from kubetrace.attribution import oci

    return oci.best_reference(names) or ""


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
