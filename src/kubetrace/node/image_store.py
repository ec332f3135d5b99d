"""What a containerd has on its disk: images, containers, blobs, snapshots and leases, by its two kinds of database.

    <root>/io.containerd.metadata.v1.bolt/meta.db          v1/<namespace>/{images,containers,content/blob,leases,
                                                           snapshots/<snapshotter>} (core/metadata/buckets.go)
    <root>/io.containerd.snapshotter.v1.<name>/metadata.db  v1/snapshots/<key>/{id,kind,parent,size,inodes}
                                                           (core/snapshots/storage/bolt.go)

Numbers in values are varints: id unsigned, sizes and inodes zig-zag (encoding/binary.PutVarint). The same since 1.0,
read of 1.6, 1.7 and 2.1. What is joined and concluded of it: attribution/reachability.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kubetrace.attribution.reachability import (
    ImageNamespace,
    SnapshotKind,
    StoreBlob,
    StoreContainer,
    StoreImage,
    StoreLease,
    StoreSnapshot,
)
from kubetrace.node import containerd
from kubetrace.node.bolt import BoltError, Bucket, read
from kubetrace.node.go_values import quantity, time_ns, uvarint
from kubetrace.node.reading import listed

if TYPE_CHECKING:
    from kubetrace.node.host import Host

CONTENT: Final = "io.containerd.content.v1.content"
_KINDS: Final[Mapping[int, SnapshotKind]] = {1: "view", 2: "active", 3: "committed"}
# Entries of one database; the kubelet lists 50 images of a node, and lets it run 110 pods.
_MOST: Final = 200_000
_MOST_LABELS: Final = 200
_REF_CONTENT: Final = b"containerd.io/gc.ref.content"
_REF_SNAPSHOT: Final = b"containerd.io/gc.ref.snapshot."
_ROOT: Final = b"containerd.io/gc.root"
_DIFF_ID: Final = b"containerd.io/uncompressed"
_PINNED: Final = b"io.cri-containerd.pinned"
_EXPIRES: Final = b"containerd.io/gc.expire"


@dataclass(frozen=True, slots=True)
class OwnSnapshot:
    """A snapshot as its snapshotter has it, under its own key (NAMESPACE/SEQUENCE/NAME)."""

    key: str
    number: int
    kind: SnapshotKind | None
    parent: str | None
    size: int | None
    inodes: int | None


@dataclass(frozen=True, slots=True)
class ImageStore:
    """One containerd. `root` and the snapshotters' directories (by their names) are node paths."""

    root: str
    namespaces: tuple[ImageNamespace, ...] = ()
    snapshotters: Mapping[str, str] = field(default_factory=dict)
    unnamed: tuple[tuple[str, OwnSnapshot], ...] = ()
    """(snapshotter, snapshot) that no namespace has: it is to be removed."""
    stray: tuple[tuple[str, int], ...] = ()
    """(snapshotter, number) of directories that the snapshotter's database does not have."""
    problem: str | None = None


def marks(host: Host, root: str) -> tuple[object, ...]:
    """What changes with a containerd's databases: the times and sizes of their files."""
    paths = [f"{root}/{containerd.METADATA}", *(f"{base}/metadata.db" for base in _snapshotters(host, root).values())]
    found: list[object] = []
    for path in paths:
        try:
            status = os.stat(host.path(path))
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def read_store(host: Host, root: str) -> ImageStore:
    """One containerd by its databases. What cannot be read is left out, and named in `problem`."""
    bases = _snapshotters(host, root)
    own: dict[str, dict[str, OwnSnapshot]] = {}
    problem: str | None = None
    for name, base in bases.items():
        try:
            own[name] = {one.key: one for one in _own_snapshots(host.path(f"{base}/metadata.db"))}
        except BoltError:
            problem = f"the snapshots of {name} are not known: their database cannot be read"
    try:
        namespaces = read(host.path(f"{root}/{containerd.METADATA}"), lambda top: list(_namespaces(top, own)))
    except BoltError:
        return ImageStore(root, (), bases, problem="containerd's metadata is not known: the database cannot be read")
    named = {(s, key) for _, keys in namespaces for s, key in keys}
    unnamed = [(s, one) for s, snapshots in own.items() for key, one in snapshots.items() if (s, key) not in named]
    stray = [
        (name, number)
        for name, snapshots in own.items()
        for number in _stray(host, bases[name], {one.number for one in snapshots.values()})
    ]
    return ImageStore(root, tuple(one for one, _ in namespaces), bases, tuple(unnamed), tuple(stray), problem)


def _snapshotters(host: Host, root: str) -> dict[str, str]:
    names = [name for name in listed(host.path(root)) if name.startswith(containerd.SNAPSHOTTER)]
    return {
        name.removeprefix(containerd.SNAPSHOTTER): f"{root}/{name}"
        for name in names[:64]
        if containerd.has_snapshots(host, f"{root}/{name}")
    }


def _stray(host: Host, base: str, known: set[int]) -> list[int]:
    names = listed(host.path(f"{base}/snapshots"))
    return [int(name) for name in names if name.isdecimal() and len(name) < 19 and int(name) not in known][:1000]


def _own_snapshots(path: str) -> list[OwnSnapshot]:
    def query(root: Bucket) -> list[OwnSnapshot]:
        found: list[OwnSnapshot] = []
        bucket = root.bucket(b"v1", b"snapshots")
        for key, value in bucket.items() if bucket is not None else ():
            if not isinstance(value, Bucket) or len(found) >= _MOST:
                continue
            fields = {name: item for name, item in value.items() if isinstance(item, bytes)}
            if b"id" not in fields:
                continue
            kind = fields.get(b"kind", b"")
            parent = fields.get(b"parent")
            found.append(
                OwnSnapshot(
                    os.fsdecode(key),
                    uvarint(fields[b"id"]),
                    _KINDS.get(kind[0]) if kind else None,
                    os.fsdecode(parent) if parent else None,
                    quantity(fields.get(b"size")),
                    quantity(fields.get(b"inodes")),
                )
            )
        return found

    return read(path, query)


def _namespaces(
    top: Bucket, own: Mapping[str, Mapping[str, OwnSnapshot]]
) -> Iterator[tuple[ImageNamespace, list[tuple[str, str]]]]:
    """Each with the snapshotters' keys of its snapshots."""
    version = top.bucket(b"v1")
    for name, bucket in version.items() if version is not None else ():
        if not isinstance(bucket, Bucket):
            continue
        snapshots: dict[tuple[str, str], StoreSnapshot] = {}
        keys: list[tuple[str, str]] = []
        for snapshotter, named in _buckets(bucket.bucket(b"snapshots")):
            known = own.get(snapshotter, {})
            for snapshot, record in _buckets(named):
                key = record.get(b"name")
                one = known.get(os.fsdecode(key)) if key else None
                if key:
                    keys.append((snapshotter, os.fsdecode(key)))
                parent = record.get(b"parent")
                snapshots[snapshotter, snapshot] = StoreSnapshot(
                    one.number if one is not None else None,
                    os.fsdecode(parent) if parent else None,
                    one.kind if one is not None else None,
                    one.size if one is not None else None,
                    one.inodes if one is not None else None,
                    time_ns(record.get(b"createdat")),
                    _ROOT in _labels(record),
                )
        yield (
            ImageNamespace(
                os.fsdecode(name),
                dict(_images(bucket)),
                dict(_containers(bucket)),
                dict(_blobs(bucket)),
                snapshots,
                dict(_leases(bucket)),
            ),
            keys,
        )


def _images(namespace: Bucket) -> Iterator[tuple[str, StoreImage]]:
    for name, record in _buckets(namespace.bucket(b"images")):
        target = record.bucket(b"target")
        digest = target.get(b"digest") if target is not None else None
        if digest:
            pinned = _labels(record).get(_PINNED) == b"pinned"
            yield name, StoreImage(os.fsdecode(digest), time_ns(record.get(b"createdat")), pinned)


def _containers(namespace: Bucket) -> Iterator[tuple[str, StoreContainer]]:
    for container_id, record in _buckets(namespace.bucket(b"containers")):
        image = record.get(b"image")
        labels = {os.fsdecode(key): os.fsdecode(value) for key, value in _labels(record).items()}
        yield (
            container_id,
            StoreContainer(
                os.fsdecode(image) if image else None,
                os.fsdecode(record.get(b"snapshotter") or b""),
                os.fsdecode(record.get(b"snapshotKey") or b""),
                labels,
                time_ns(record.get(b"createdat")),
            ),
        )


def _blobs(namespace: Bucket) -> Iterator[tuple[str, StoreBlob]]:
    for digest, record in _buckets(namespace.bucket(b"content", b"blob")):
        size = quantity(record.get(b"size"))
        labels = _labels(record)
        content, snapshots = [], []
        for key, value in labels.items():
            if key == _REF_CONTENT or key.startswith((_REF_CONTENT + b".", _REF_CONTENT + b"/")):
                content.append(os.fsdecode(value))
            elif key.startswith(_REF_SNAPSHOT):
                # a further one has a suffix: SNAPSHOTTER/NAME
                snapshotter = os.fsdecode(key[len(_REF_SNAPSHOT) :]).partition("/")[0]
                snapshots.append((snapshotter, os.fsdecode(value)))
        diff_id = labels.get(_DIFF_ID)
        yield (
            digest,
            StoreBlob(
                max(0, size or 0),
                tuple(content),
                tuple(snapshots),
                os.fsdecode(diff_id) if diff_id else None,
                time_ns(record.get(b"createdat")),
                _ROOT in labels,
            ),
        )


def _leases(namespace: Bucket) -> Iterator[tuple[str, StoreLease]]:
    for name, record in _buckets(namespace.bucket(b"leases")):
        expires = _labels(record).get(_EXPIRES)
        snapshots = [
            (snapshotter, key) for snapshotter, bucket in _buckets(record.bucket(b"snapshots")) for key in _keys(bucket)
        ]
        yield (
            name,
            StoreLease(
                _rfc3339_ns(expires) if expires else None,
                tuple(_keys(record.bucket(b"content"))),
                tuple(snapshots),
                tuple(_keys(record.bucket(b"ingests"))),
            ),
        )


def _buckets(bucket: Bucket | None) -> Iterator[tuple[str, Bucket]]:
    left = _MOST
    for name, value in bucket.items() if bucket is not None else ():
        if isinstance(value, Bucket):
            left -= 1
            if left < 0:
                return
            yield os.fsdecode(name), value


def _keys(bucket: Bucket | None) -> Iterator[str]:
    left = _MOST
    for name, _ in bucket.items() if bucket is not None else ():
        left -= 1
        if left < 0:
            return
        yield os.fsdecode(name)


def _labels(record: Bucket) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    labels = record.bucket(b"labels")
    for key, value in labels.items() if labels is not None else ():
        if isinstance(value, bytes) and len(found) < _MOST_LABELS:
            found[key] = value
    return found


def _rfc3339_ns(text: bytes) -> int | None:
    import datetime

    try:
        found = datetime.datetime.fromisoformat(text.decode("ascii"))
    except (ValueError, OverflowError):
        return None
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.UTC)
    return int(found.timestamp()) * 1_000_000_000
