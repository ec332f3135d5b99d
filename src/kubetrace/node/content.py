"""What containerd has of images that are being pulled: leases, blobs, ingests and snapshots, with their times.

The metadata database (containerd metadata/buckets.go) has them by namespace, the snapshotter's own (snapshots/storage/
bolt.go) what is on the disk of each, the content store's directories (content/local/store.go) what is not whole yet:

    v1/NS/leases/ID/{createdat, content/DIGEST, ingests/REF, snapshots/SNAPSHOTTER/KEY}  a pull holds one
    v1/NS/content/blob/DIGEST/{createdat, size, labels}                                  what is whole
    v1/NS/snapshots/SNAPSHOTTER/KEY/name                                                 its key in the snapshotter's
    v1/NS/images/NAME/{createdat, updatedat, target/digest}                              named when all is unpacked
    content/ingest/SHA256(ref)/{ref, startedat, total, data}                             what is downloaded now

Times are nanoseconds since 1970, sizes bytes. Nothing here concludes; a database that cannot be read is BoltError.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from kubetrace.attribution import oci
from kubetrace.node.bolt import Bucket, read
from kubetrace.node.go_values import quantity, time_ns, uvarint
from kubetrace.node.reading import listed, read_regular

BLOBS: Final = "io.containerd.content.v1.content/blobs/sha256"
INGESTS: Final = "io.containerd.content.v1.content/ingest"

# Of an index, manifest or configuration: registries take 4 MiB at most.
_MAX_JSON_BYTES = 4 << 20
_MAX_REF_BYTES = 4096
# What is looked at of one database: more than a node has.
_MOST_LEASES = 1024
_MOST_KEYS = 4096
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_IN_REF = re.compile(r"-(sha256:[0-9a-f]{64})\Z")
_SOURCE = b"containerd.io/distribution.source."


@dataclass(frozen=True, slots=True)
class Lease:
    """What holds a pull's parts together until they are an image."""

    namespace: str
    name: str
    created_ns: int | None
    blobs: Collection[str]
    """Digests."""
    ingests: Collection[str]
    """References: layer-DIGEST, config-DIGEST, manifest-DIGEST."""
    snapshots: Collection[tuple[str, str]]
    """(snapshotter, key): `extract-... CHAIN` while a layer is unpacked, CHAIN behind that."""


@dataclass(frozen=True, slots=True)
class Blob:
    """What is whole in the content store."""

    digest: str
    created_ns: int | None
    size: int
    sources: tuple[str, ...]
    """HOST/REPOSITORY, as the runtime labelled it: the host has no port, the repository no tag."""


@dataclass(frozen=True, slots=True)
class Ingest:
    """What is downloaded now."""

    digest: str | None
    started_ns: int | None
    total: int | None
    size: int


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """One layer on the disk, or what becomes one; `committed_ns` is None while it is unpacked."""

    number: int
    committed_ns: int | None
    prepared_ns: int | None
    size: int | None
    inodes: int | None


@dataclass(frozen=True, slots=True)
class Named:
    """An image's name, and what it points at."""

    name: str
    digest: str
    created_ns: int | None
    updated_ns: int | None


@dataclass(frozen=True, slots=True)
class LayerOf:
    """A layer as the manifest, the configuration and its history have it."""

    digest: str
    size: int
    chain_id: str | None
    line: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image's layers from the bottom up; `config` is the configuration's digest."""

    digest: str
    config: str
    layers: tuple[LayerOf, ...]


@dataclass(frozen=True, slots=True)
class State:
    """One containerd's metadata, all of one moment."""

    leases: Mapping[tuple[str, str], Lease]
    blobs: Mapping[tuple[str, str], Blob]
    """By namespace and digest: those of the leases that are not known, and those asked for."""
    names: Mapping[tuple[str, str], tuple[Named, ...]]
    """By namespace and target: of the targets asked for."""
    keys: Mapping[tuple[str, str, str], str]
    """By namespace, snapshotter and key: the key in the snapshotter's own database, of those asked for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked up beside the leases, by namespace."""

    blobs: Collection[tuple[str, str]] = ()
    targets: Collection[tuple[str, str]] = ()
    keys: Collection[tuple[str, str, str]] = ()
    known: Collection[tuple[str, str]] = ()
    """Blobs that need not be looked up again."""


def state(path: str, wanted: Wanted) -> State:
    """What the metadata database at `path` says now. BoltError."""

    def query(root: Bucket) -> State:
        leases: dict[tuple[str, str], Lease] = {}
        blobs: dict[tuple[str, str], Blob] = {}
        names: dict[tuple[str, str], tuple[Named, ...]] = {}
        keys: dict[tuple[str, str, str], str] = {}
        top = root.bucket(b"v1")
        for key, inner in top.items() if top is not None else ():
            if not isinstance(inner, Bucket):
                continue
            namespace = os.fsdecode(key)
            for lease in _leases(inner, namespace):
                leases[namespace, lease.name] = lease
            held = {digest for lease in leases.values() if lease.namespace == namespace for digest in lease.blobs}
            store = inner.bucket(b"content", b"blob")
            known = {digest for at, digest in wanted.known if at == namespace}
            for digest in held - known | {digest for at, digest in wanted.blobs if at == namespace}:
                if store is not None and (found := store.bucket(digest.encode())) is not None:
                    blobs[namespace, digest] = _blob(digest, found)
            for at, snapshotter, name in wanted.keys:
                if at == namespace:
                    bucket = inner.bucket(b"snapshots", os.fsencode(snapshotter), os.fsencode(name))
                    backend = bucket.get(b"name") if bucket is not None else None
                    if backend:
                        keys[namespace, snapshotter, name] = os.fsdecode(backend)
            targets = {digest for at, digest in wanted.targets if at == namespace}
            if targets:
                for named in _images(inner):
                    if named.digest in targets:
                        names[namespace, named.digest] = (*names.get((namespace, named.digest), ()), named)
        return State(leases, blobs, names, keys)

    return read(path, query)


def _leases(namespace: Bucket, name: str) -> Iterator[Lease]:
    bucket = namespace.bucket(b"leases")
    for at, (key, lease) in enumerate(bucket.items() if bucket is not None else ()):
        if at >= _MOST_LEASES or not isinstance(lease, Bucket):
            return
        held: list[tuple[str, str]] = []
        by_snapshotter = lease.bucket(b"snapshots")
        for snapshotter, keys in by_snapshotter.items() if by_snapshotter is not None else ():
            if isinstance(keys, Bucket):
                held += [(os.fsdecode(snapshotter), found) for found in _names(keys)]
        yield Lease(
            name,
            os.fsdecode(key),
            time_ns(lease.get(b"createdat")),
            frozenset(digest for digest in _names(lease.bucket(b"content")) if _DIGEST.match(digest)),
            frozenset(_names(lease.bucket(b"ingests"))),
            frozenset(held),
        )


def _names(bucket: Bucket | None) -> list[str]:
    found = []
    for key, _ in bucket.items() if bucket is not None else ():
        found.append(os.fsdecode(key))
        if len(found) >= _MOST_KEYS:
            break
    return found


def _blob(digest: str, bucket: Bucket) -> Blob:
    labels = bucket.bucket(b"labels")
    sources = []
    for key, value in labels.items() if labels is not None else ():
        if key.startswith(_SOURCE) and isinstance(value, bytes):
            host = os.fsdecode(key[len(_SOURCE) :])
            sources += [f"{host}/{repository}" for repository in os.fsdecode(value).split(",")]
    size = bucket.get(b"size")
    return Blob(digest, time_ns(bucket.get(b"createdat")), quantity(size) or 0, tuple(sources[:64]))


def _images(namespace: Bucket) -> Iterator[Named]:
    bucket = namespace.bucket(b"images")
    for key, image in bucket.items() if bucket is not None else ():
        target = image.bucket(b"target") if isinstance(image, Bucket) else None
        digest = target.get(b"digest") if target is not None else None
        if digest and isinstance(image, Bucket):
            created, updated = time_ns(image.get(b"createdat")), time_ns(image.get(b"updatedat"))
            yield Named(os.fsdecode(key), os.fsdecode(digest), created, updated)


def snapshot_states(path: str, keys: Iterable[str]) -> dict[str, SnapshotState]:
    """Of these keys those that the snapshotter whose directory is `path` has, by its own database. BoltError."""
    wanted = list(keys)

    def query(root: Bucket) -> dict[str, SnapshotState]:
        found = {}
        bucket = root.bucket(b"v1", b"snapshots")
        for key in wanted if bucket is not None else ():
            one = bucket.bucket(os.fsencode(key)) if bucket is not None else None
            number = one.get(b"id") if one is not None else None
            if one is None or not number:
                continue
            kind, size, inodes = one.get(b"kind"), one.get(b"size"), one.get(b"inodes")
            committed = kind == _COMMITTED
            found[key] = SnapshotState(
                uvarint(number),
                time_ns(one.get(b"createdat")) if committed else None,
                None,
                quantity(size) if committed else None,
                quantity(inodes) if committed else None,
            )
        return found

    return {
        key: SnapshotState(one.number, one.committed_ns, _prepared_ns(path, one.number), one.size, one.inodes)
        for key, one in read(f"{path}/metadata.db", query).items()
    }


_COMMITTED: Final = b"\x03"  # snapshots.KindCommitted


def _prepared_ns(directory: str, number: int) -> int | None:
    # Prepare makes fs and work in it, and nothing else is ever made there (snapshots/overlay/overlay.go).
    try:
        return os.stat(f"{directory}/snapshots/{number}").st_mtime_ns
    except OSError:
        return None


def ingests(root: str) -> dict[str, Ingest]:
    """Name of an ingest's directory -> what is downloaded into it; `root` is containerd's."""
    found = {}
    for name in listed(f"{root}/{INGESTS}")[:_MOST_KEYS]:
        base = f"{root}/{INGESTS}/{name}"
        ref = _text(f"{base}/ref")
        match = _IN_REF.search(ref)
        try:
            size = os.stat(f"{base}/data").st_size
        except OSError:
            size = 0
        total = _text(f"{base}/total")
        found[name] = Ingest(
            match[1] if match else None,
            _written_moment(_text(f"{base}/startedat")),
            int(total) if total.isdecimal() and len(total) < 19 else None,
            size,
        )
    return found


def ingest_name(namespace: str, ref: str) -> str:
    """The directory that a reference is downloaded into (content/local/store.go, metadata/content.go: createKey)."""
    return hashlib.sha256(os.fsencode(f"{namespace}/1/{ref}")).hexdigest()


def first_read_ns(root: str, digest: str) -> int | None:
    """When a blob was first read after it was written: its unpacking began. None where the file system does not tell.

    With relatime the first access after a change is noted (mount(8)); with noatime none is.
    """
    try:
        status = os.stat(f"{root}/{BLOBS}/{digest.removeprefix('sha256:')}")
    except OSError:
        return None
    return status.st_atime_ns if status.st_atime_ns > status.st_mtime_ns else None


def manifest(root: str, digests: Iterable[tuple[str, int]]) -> Manifest | None:
    """The image manifest among these blobs (digest, size), with what its configuration says if that is there.

    An index points at the manifests of several platforms, of which a runtime fetches one.
    """
    for digest, size in digests:
        document = _json(root, digest, size)
        layers, config = document.get("layers"), oci.config_digest(document)
        if config is None or not isinstance(layers, list) or len(layers) > oci.MAX_LAYERS:
            continue
        described = [(one.get("digest"), one.get("size")) for one in layers if isinstance(one, dict)]
        if len(described) != len(layers) or not all(oci.is_digest(name) for name, _ in described):
            continue
        chains, lines = _configured(root, config, len(layers))
        return Manifest(
            digest,
            config,
            tuple(
                LayerOf(
                    str(name), size if isinstance(size, int) and 0 <= size < 1 << 62 else 0, chains[at], lines[at] or ""
                )
                for at, (name, size) in enumerate(described)
            ),
        )
    return None


def _configured(root: str, digest: str, count: int) -> tuple[Sequence[str | None], Sequence[str | None]]:
    # (chain ids, Dockerfile lines); None of each where the configuration is not there yet or says nothing of them
    nothing = (None,) * count
    try:
        config = oci.parse_config(read_regular(f"{root}/{BLOBS}/{digest.removeprefix('sha256:')}", _MAX_JSON_BYTES))
    except (OSError, ValueError):
        return nothing, nothing
    if len(config.diff_ids) != count:
        return nothing, nothing
    return oci.chain_ids(config.diff_ids), [oci.dockerfile_line(line) if line else "" for line in config.created_by]


def _json(root: str, digest: str, size: int) -> dict[str, Any]:
    if not 0 < size <= _MAX_JSON_BYTES:
        return {}
    try:
        return oci.load(read_regular(f"{root}/{BLOBS}/{digest.removeprefix('sha256:')}", _MAX_JSON_BYTES))
    except (OSError, ValueError):
        return {}


def _text(path: str) -> str:
    try:
        return read_regular(path, _MAX_REF_BYTES).decode("utf-8", "surrogateescape").strip()
    except (OSError, ValueError):
        return ""


def _written_moment(text: str) -> int | None:
    # RFC 3339 with nanoseconds, of which fromisoformat takes six digits
    match = re.fullmatch(r"([0-9-]{10}T[0-9:]{8})(?:\.([0-9]{1,9}))?(Z|[+-][0-9:]{5})", text)
    if match is None:
        return None
    try:
        whole = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
    except ValueError:
        return None
    return int(whole.timestamp()) * 1_000_000_000 + int((match[2] or "0").ljust(9, "0"))
