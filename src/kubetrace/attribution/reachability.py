"""What keeps what in a runtime's image store, and what would be freed without an image. Pure.

The rules are containerd's garbage collector's (core/metadata/gc.go): an image keeps the blob that it points at, a blob
those that its labels name (containerd.io/gc.ref.content*) and a snapshot (containerd.io/gc.ref.snapshot.*), a snapshot
its parent. Containers keep their snapshots, leases whatever they name until they expire, and what has a label
containerd.io/gc.root stays. Namespaces keep nothing of one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

SnapshotKind = Literal["committed", "active", "view"]
# A snapshot's directory and its `work`, which are no part of its size (one block each on ext4).
SNAPSHOT_DIRECTORIES: Final = 2
BLOCK_BYTES: Final = 4096
# Names of blobs in blobs, and of snapshots in snapshots: more are made up.
_MOST_STEPS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class StoreBlob:
    """A blob of the content store: its size in bytes, what its labels name, and when it came (Unix time)."""

    size: int
    content: tuple[str, ...] = ()
    snapshots: tuple[tuple[str, str], ...] = ()
    """(snapshotter, name)."""
    diff_id: str | None = None
    """Of a layer: what it is unpacked."""
    created_ns: int | None = None
    root: bool = False


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """A snapshot under its name in one namespace. `size` (st_blocks of its files) and `inodes` are those of its commit.

    Where it is not committed they are None. `number` is its directory, None where the snapshotter does not know it.
    """

    number: int | None
    parent: str | None
    kind: SnapshotKind | None
    size: int | None
    inodes: int | None
    created_ns: int | None = None
    root: bool = False

    @property
    def disk_bytes(self) -> int:
        """Of a committed one, with its own two directories."""
        return (self.size or 0) + SNAPSHOT_DIRECTORIES * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class StoreImage:
    """A name of an image: what it points at, since when on this node (Unix time), and whether it is never collected."""

    target: str
    created_ns: int | None
    pinned: bool


@dataclass(frozen=True, slots=True)
class StoreContainer:
    """A container, running or not: the name of its image, its writable snapshot, and its names in Kubernetes."""

    image: str | None
    snapshotter: str
    snapshot: str
    labels: Mapping[str, str]
    created_ns: int | None

    @property
    def is_sandbox(self) -> bool:
        """Whether it is a pod's pause container."""
        return self.labels.get("io.cri-containerd.kind") == "sandbox"


@dataclass(frozen=True, slots=True)
class StoreLease:
    """What a lease holds, until when (Unix time; None: for ever)."""

    expires_ns: int | None
    content: tuple[str, ...]
    snapshots: tuple[tuple[str, str], ...]
    ingests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageNamespace:
    """One namespace of a containerd. Snapshots by (snapshotter, name)."""

    name: str
    images: Mapping[str, StoreImage] = field(default_factory=dict)
    containers: Mapping[str, StoreContainer] = field(default_factory=dict)
    blobs: Mapping[str, StoreBlob] = field(default_factory=dict)
    snapshots: Mapping[tuple[str, str], StoreSnapshot] = field(default_factory=dict)
    leases: Mapping[str, StoreLease] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reached:
    """Blobs and snapshots of one namespace."""

    blobs: frozenset[str] = frozenset()
    snapshots: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class ImageShare:
    """What an image (all names of one target) takes of the disk, in bytes.

    `layers` and `blobs` are only its own: no other image has them. `shared_*` others have too. `freed`: what a removal
    of all its names would free now, which is less than its own where a container or a lease still holds a part.
    """

    target: str
    names: tuple[str, ...]
    created_ns: int | None
    pinned: bool
    layers: int
    layer_inodes: int
    blobs: int
    blob_count: int
    shared_layers: int
    shared_blobs: int
    freed: int
    users: tuple[str, ...]
    """The containers (ids) that were made of it, running or not."""
    reached: Reached
    complete: bool
    """Whether all that its labels name is there."""


@dataclass(frozen=True, slots=True)
class StoreShares:
    """A namespace, divided: what each image has of its own, what several share, and what no image has."""

    images: tuple[ImageShare, ...]
    shared_layers: int
    shared_layer_inodes: int
    shared_blobs: int
    shared_blob_count: int
    orphan_snapshots: tuple[tuple[str, str], ...]
    """Committed or not, which no image, container or lease reaches; or only a lease."""
    orphan_blobs: tuple[str, ...]
    leased_snapshots: frozenset[tuple[str, str]]
    """Of those, what a lease still holds."""


def rounded(size: int, block: int = BLOCK_BYTES) -> int:
    """What a file of that size takes of a disk, in whole blocks."""
    return -(-size // block) * block


def reach(
    namespace: ImageNamespace, blobs: Iterable[str] = (), snapshots: Iterable[tuple[str, str]] = ()
) -> tuple[Reached, bool]:
    """All that these keep, and whether all that is named is there."""
    found_blobs: set[str] = set()
    found: set[tuple[str, str]] = set()
    ahead, ahead_snapshots = list(blobs), list(snapshots)
    complete, steps = True, 0
    while ahead and steps < _MOST_STEPS:
        steps += 1
        digest = ahead.pop()
        if digest in found_blobs:
            continue
        blob = namespace.blobs.get(digest)
        if blob is None:
            complete = False
            continue
        found_blobs.add(digest)
        ahead += blob.content
        ahead_snapshots += blob.snapshots
    while ahead_snapshots and steps < _MOST_STEPS:
        steps += 1
        key = ahead_snapshots.pop()
        if key in found:
            continue
        snapshot = namespace.snapshots.get(key)
        if snapshot is None:
            complete = False
            continue
        found.add(key)
        if snapshot.parent is not None:
            ahead_snapshots.append((key[0], snapshot.parent))
    return Reached(frozenset(found_blobs), frozenset(found)), complete and steps < _MOST_STEPS


def shares(namespace: ImageNamespace, now_ns: int, block: int = BLOCK_BYTES) -> StoreShares:
    """Divide a namespace among its images. `now_ns` is Unix time: leases expire."""
    names: dict[str, list[str]] = {}
    for name, image in namespace.images.items():
        names.setdefault(image.target, []).append(name)
    reached = {target: reach(namespace, [target]) for target in names}
    blob_users: dict[str, int] = {}
    snapshot_users: dict[tuple[str, str], int] = {}
    for found, _ in reached.values():
        for digest in found.blobs:
            blob_users[digest] = blob_users.get(digest, 0) + 1
        for key in found.snapshots:
            snapshot_users[key] = snapshot_users.get(key, 0) + 1
    held = _held(namespace, now_ns)
    leased, _ = _leased(namespace, now_ns)
    users: dict[str, list[str]] = {}
    for container_id, container in namespace.containers.items():
        named = namespace.images.get(container.image or "")
        if named is not None:
            users.setdefault(named.target, []).append(container_id)
    found_shares = []
    for target, (found, complete) in reached.items():
        own_blobs = [digest for digest in found.blobs if blob_users[digest] == 1]
        own = [key for key in found.snapshots if snapshot_users[key] == 1]
        free_blobs = [digest for digest in own_blobs if digest not in held.blobs]
        free = [key for key in own if key not in held.snapshots]
        images = [namespace.images[name] for name in names[target]]
        created = [image.created_ns for image in images if image.created_ns is not None]
        found_shares.append(
            ImageShare(
                target=target,
                names=tuple(sorted(names[target])),
                created_ns=min(created, default=None),
                pinned=any(image.pinned for image in images),
                layers=_layers(namespace, own),
                layer_inodes=_inodes(namespace, own),
                blobs=_blobs(namespace, own_blobs, block),
                blob_count=len(own_blobs),
                shared_layers=_layers(namespace, [key for key in found.snapshots if snapshot_users[key] > 1]),
                shared_blobs=_blobs(namespace, [digest for digest in found.blobs if blob_users[digest] > 1], block),
                freed=_layers(namespace, free) + _blobs(namespace, free_blobs, block),
                users=tuple(sorted(users.get(target, ()))),
                reached=found,
                complete=complete,
            )
        )
    shared = [key for key, count in snapshot_users.items() if count > 1]
    shared_blobs = [digest for digest, count in blob_users.items() if count > 1]
    in_use = _used(namespace)
    orphans = [key for key in namespace.snapshots if key not in snapshot_users and key not in in_use]
    orphan_blobs = [digest for digest in namespace.blobs if digest not in blob_users]
    return StoreShares(
        images=tuple(sorted(found_shares, key=lambda share: share.names)),
        shared_layers=_layers(namespace, shared),
        shared_layer_inodes=_inodes(namespace, shared),
        shared_blobs=_blobs(namespace, shared_blobs, block),
        shared_blob_count=len(shared_blobs),
        orphan_snapshots=tuple(sorted(orphans)),
        orphan_blobs=tuple(sorted(orphan_blobs)),
        leased_snapshots=leased.snapshots,
    )


def freed_together(namespace: ImageNamespace, targets: Iterable[str], now_ns: int, block: int = BLOCK_BYTES) -> int:
    """Bytes that a removal of all these images would free: more than the sum, where only they share something."""
    gone = set(targets)
    kept, _ = reach(namespace, {image.target for image in namespace.images.values()} - gone)
    held = _held(namespace, now_ns)
    lost, _ = reach(namespace, gone)
    snapshots = lost.snapshots - kept.snapshots - held.snapshots
    blobs = lost.blobs - kept.blobs - held.blobs
    return _layers(namespace, snapshots) + _blobs(namespace, blobs, block)


def twins(layers: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], tuple[tuple[str, str], ...]]:
    """Snapshots of one content on different parents: snapshot -> the others that were unpacked of the same diff id.

    `layers`: snapshot -> diff id.
    """
    by_diff: dict[str, list[tuple[str, str]]] = {}
    for key, diff_id in layers.items():
        by_diff.setdefault(diff_id, []).append(key)
    return {
        key: tuple(other for other in sorted(keys) if other != key)
        for keys in by_diff.values()
        if len(keys) > 1
        for key in keys
    }


def _used(namespace: ImageNamespace) -> frozenset[tuple[str, str]]:
    keys = [(container.snapshotter, container.snapshot) for container in namespace.containers.values()]
    return reach(namespace, (), keys)[0].snapshots


def _leased(namespace: ImageNamespace, now_ns: int) -> tuple[Reached, bool]:
    live = [lease for lease in namespace.leases.values() if lease.expires_ns is None or lease.expires_ns > now_ns]
    return reach(
        namespace,
        [digest for lease in live for digest in lease.content],
        [key for lease in live for key in lease.snapshots],
    )


def _held(namespace: ImageNamespace, now_ns: int) -> Reached:
    """What stays whatever becomes of the images."""
    leased, _ = _leased(namespace, now_ns)
    rooted, _ = reach(
        namespace,
        [digest for digest, blob in namespace.blobs.items() if blob.root],
        [key for key, snapshot in namespace.snapshots.items() if snapshot.root],
    )
    return Reached(
        leased.blobs | rooted.blobs,
        leased.snapshots | rooted.snapshots | _used(namespace),
    )


def _layers(namespace: ImageNamespace, keys: Iterable[tuple[str, str]]) -> int:
    found = (namespace.snapshots[key] for key in keys)
    return sum(snapshot.disk_bytes for snapshot in found if snapshot.kind == "committed")


def _inodes(namespace: ImageNamespace, keys: Iterable[tuple[str, str]]) -> int:
    found = (namespace.snapshots[key] for key in keys)
    return sum((one.inodes or 0) + SNAPSHOT_DIRECTORIES for one in found if one.kind == "committed")


def _blobs(namespace: ImageNamespace, digests: Iterable[str], block: int) -> int:
    return sum(rounded(namespace.blobs[digest].size, block) for digest in digests)


def chain_of(namespace: ImageNamespace, key: tuple[str, str]) -> Sequence[tuple[str, str]]:
    """A snapshot and those below it, the lowest first."""
    found: list[tuple[str, str]] = []
    at: tuple[str, str] | None = key
    while at is not None and at in namespace.snapshots and at not in found and len(found) < 1024:
        found.append(at)
        parent = namespace.snapshots[at].parent
        at = (key[0], parent) if parent is not None else None
    return found[::-1]
