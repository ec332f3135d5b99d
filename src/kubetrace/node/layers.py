"""From an overlay's directories to layers of images, from the runtime's own files: no socket, no API server.

    upperdir DIR/snapshots/N/fs --DIR/metadata.db--> its parents, which are the layers below it
    lowerdir DIR/snapshots/N/fs --DIR/metadata.db--> the snapshot's key, which ends with its chain id        LayerSeen
    meta.db: reference -> digest --content store--> (index ->) manifest -> configuration: diff ids, history  ImageSeen

The upperdir is the only one that the kernel always tells: lower directories are shown as they were given to it, which
may be temporary ones (user namespaces) or numbers of file descriptors. What joins layers and images is arithmetic
(oci.chain_ids) and left to the Attributor. All of it is private to containerd but old: the snapshotters' directories
and keys, the buckets and the content store have not changed since 1.0. CRI-O has the same in containers-storage, which
storage.py reads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from kubetrace.attribution import oci
from kubetrace.attribution.facts import ContainerSeen, Fact, ImageSeen, LayerSeen
from kubetrace.node import containerd, storage
from kubetrace.node.bolt import BoltError
from kubetrace.node.host import Host
from kubetrace.node.reading import read_regular

# Index, manifest and configuration of one image together: registries refuse manifests above 4 MiB (distribution,
# maxManifestBodySize), real ones have some 10 kB. Made to be slow, that much JSON takes 0.4 s to parse.
MAX_IMAGE_BYTES: Final = 4 << 20
# Names of images that are read from the database; the kubelet lists 50 of them and collects unused images.
MAX_REFERENCES: Final = 10_000
# The tracer's loop waits: what an image needs is read at once, the node's other images only as long as this.
BUDGET_NS: Final = 5_000_000
# For one image: an index in an index is not forbidden; nobody nests them deeper. Large indexes name 20 manifests, but
# only those that were pulled are there.
_MAX_NESTING: Final = 3
_MAX_BLOBS: Final = 64
# Looks at a database that could not be read.
_MAX_TRIES: Final = 5

_BLOBS: Final = "io.containerd.content.v1.content/blobs"
# uname -m -> GOARCH (Go, src/internal/goarch; containerd platforms/database.go).
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm", "armv6l": "arm"}


@dataclass(slots=True)
class _Image:
    # An image by what a reference points at; blobs are immutable, so it is parsed once.
    image_id: str
    config: oci.Config
    chain: frozenset[str]


@dataclass(slots=True)
class _Store:
    # One containerd's metadata and content; `references` as of the last look, `pending` the targets not read yet.
    database: str
    blobs: str
    references: dict[str, tuple[str, ...]] = field(default_factory=dict)
    images: dict[str, _Image] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)
    # The container whose look failed, and how often.
    torn: tuple[str | None, int] | None = None


@dataclass(slots=True)
class _Snapshots:
    # What one snapshotter's database had when it was read.
    by_number: dict[int, containerd.Snapshot] = field(default_factory=dict)
    by_key: dict[str, containerd.Snapshot] = field(default_factory=dict)
    torn: bool = False


# Whose image has been looked for: of so many, the newest. One that comes again is looked for again.
_MOST_CONTAINERS = 4096


class Layers:
    """Looks layers and images up; each is reported once, and again when a look shows a change. For one thread.

    Looks are made for overlays: an image that is pulled but not run is not seen before the next new container.
    """

    def __init__(self, host: Host) -> None:
        """Reads nothing yet."""
        self._host = host
        machine = os.uname().machine
        self._architecture = _ARCHITECTURES.get(machine, machine)
        self._known: dict[str, LayerSeen] = {}
        self._snapshotters: dict[str, _Snapshots] = {}
        self._storages: dict[str, storage.Storage] = {}
        self._unread: dict[str, int] = {}
        self._chains: set[str] = set()
        self._containers: dict[str, None] = {}
        self._stores: dict[str, _Store] = {}
        self._reported: dict[str, ImageSeen] = {}
        self._tried: dict[str, int] = {}
        self._stored_configs: dict[str, oci.Config] = {}
        self._stored_names: dict[str, set[str]] = {}
        self._own: set[str] = set()

    @property
    def pending(self) -> bool:
        """Whether `more` has anything left to do."""
        return bool(self._unread) or any(store.pending or store.torn for store in self._stores.values())

    def instead_of(self, lowerdirs: Sequence[str], upperdir: str | None) -> tuple[str, ...] | None:
        """The directories of the layers below a writable one where the kernel does not name them, topmost first.

        By the runtime's own record of what is below that one. None where the kernel names them, where there is no such
        record, or where it has another number of layers than the mount: they cannot be told apart then. After some
        tries no file is opened any more.
        """
        if upperdir is None or self._tried.get(upperdir, 0) >= _MAX_TRIES or _named_by_mount(lowerdirs, upperdir):
            return None
        below = self._below(upperdir)
        if below is not None and below != tuple(lowerdirs) and len(below) == len(lowerdirs):
            return below
        self._tried[upperdir] = self._tried.get(upperdir, 0) + 1
        if len(self._tried) > _MOST_CONTAINERS:
            del self._tried[next(iter(self._tried))]
        return None

    def _below(self, upperdir: str) -> tuple[str, ...] | None:
        if (snapshot := containerd.split_snapshot(upperdir)) is not None:
            return self._below_snapshot(*snapshot)
        if (layer := storage.split_layer(upperdir)) is not None:
            chain = self._below_layer(*layer)
            return tuple(storage.layer_directory(*one) for one in chain) if chain is not None else None
        return None

    def _below_snapshot(self, base: str, number: int) -> tuple[str, ...] | None:
        known = self._snapshots(base, number)
        snapshot = known.by_number.get(number)
        if snapshot is None:
            return None
        found: list[str] = []
        while snapshot.parent is not None:
            snapshot = known.by_key.get(snapshot.parent)
            if snapshot is None or len(found) >= oci.MAX_LAYERS:
                return None
            found.append(containerd.snapshot_directory(base, snapshot.number))
        return tuple(found)

    def _snapshots(self, base: str, number: int, *, once: bool = False) -> _Snapshots:
        """A snapshotter's; its database is read (again) for a number that is not known, unless it was just read."""
        known = self._snapshotters.get(base)
        if known is not None and (once or number in known.by_number):
            return known
        known = self._snapshotters[base] = known or _Snapshots()
        try:
            snapshots = containerd.snapshots(self._host.path(f"{base}/metadata.db"))
        except BoltError:
            known.torn = True
            return known
        known.torn = False
        known.by_number = {snapshot.number: snapshot for snapshot in snapshots}
        known.by_key = {snapshot.key: snapshot for snapshot in snapshots}
        return known

    def _below_layer(self, root: str, layer: str) -> list[tuple[str, str]] | None:
        # Graph root and id of each layer below one, the topmost first; in whichever store each is.
        chain: list[tuple[str, str]] = []
        at = self._stored(root, layer)
        while at is not None and len(chain) <= oci.MAX_LAYERS:
            where, known = at
            if not known.parent:
                return chain
            layer = known.parent
            at = self._stored(where, layer)
            if at is not None:
                chain.append((at[0], layer))
        return None

    def _stored(self, first: str, layer: str) -> tuple[str, storage.StoredLayer] | None:
        for root in dict.fromkeys((first, *self._host.places.storages)):
            found = self._storage(root).layers().get(layer)
            if found is not None:
                return root, found
        return None

    def _storage(self, root: str) -> storage.Storage:
        if root not in self._storages:
            self._storages[root] = storage.Storage(self._host, root)
        return self._storages[root]

    def look(self, lowerdirs: Sequence[str], container_id: str | None, time_ns: int) -> list[Fact]:
        """The facts of an overlay's lower directories and of the images that have them, as far as they are new.

        No file is opened if all of them and the container are known. Else the container's own image is read, and the
        node's others for 5 ms; the rest is left to `more`. Nothing is raised: what cannot be read is a `problem`.
        """
        new = [lowerdir for lowerdir in dict.fromkeys(lowerdirs) if lowerdir not in self._known]
        if not new and (container_id is None or container_id in self._containers):
            return []
        facts: list[Fact] = list(self._layers(new, time_ns))
        if container_id is not None:
            # Its image may be a new one of known layers.
            self._containers[container_id] = None
            if len(self._containers) > _MOST_CONTAINERS:
                del self._containers[next(iter(self._containers))]
        named: str | None = None
        bases = {one[0] for lowerdir in lowerdirs if (one := containerd.split_snapshot(lowerdir)) is not None}
        stores = {id(store): store for base in sorted(bases) for store in self._stores_of(base)}
        for store in stores.values():
            named = self._read_images(store, container_id) or named
        facts += _named(container_id, named, time_ns)
        facts += self._images(time_ns, BUDGET_NS)
        facts += self._stored_images(lowerdirs, time_ns)
        return facts

    def more(self, time_ns: int, budget_ns: int | None = BUDGET_NS) -> list[Fact]:
        """Go on with what `look` left, for that long (None: to the end): other images, databases that were torn."""
        facts: list[Fact] = []
        if self._unread:
            # Each call is a try.
            facts += self._layers([lowerdir for lowerdir in self._known if lowerdir in self._unread], time_ns)
        for store in self._stores.values():
            if store.torn:
                container_id = store.torn[0]
                facts += _named(container_id, self._read_images(store, container_id), time_ns)
        facts += self._images(time_ns, budget_ns)
        return facts

    # Directories.

    def _layers(self, lowerdirs: Iterable[str], time_ns: int) -> list[LayerSeen]:
        found = []
        looked: set[str] = set()
        for lowerdir in lowerdirs:
            again = False
            if (snapshot := containerd.split_snapshot(lowerdir)) is not None and not lowerdir.endswith("/work"):
                base, number = snapshot
                seen = self._layer_of_snapshot(lowerdir, base, number, time_ns, once=base in looked)
                looked.add(base)
                again = seen.chain_id is None and self._snapshotters[base].torn
            elif (layer := storage.split_layer(lowerdir)) is not None:
                seen = self._layer_of_storage(lowerdir, *layer, time_ns)
            else:
                seen = LayerSeen(lowerdir, None, None, _not_a_layer(lowerdir), time_ns)
            self._count(lowerdir, again=again)
            if seen.chain_id is not None:
                self._chains.add(seen.chain_id)
            old = self._known.get(lowerdir)
            if old is None or (old.chain_id, old.problem) != (seen.chain_id, seen.problem):
                self._known[lowerdir] = seen
                found.append(seen)
        return found

    def _layer_of_snapshot(self, lowerdir: str, base: str, number: int, time_ns: int, *, once: bool) -> LayerSeen:
        known = self._snapshots(base, number, once=once)
        snapshot = known.by_number.get(number)
        chain_id = problem = None
        if snapshot is not None:
            chain_id = snapshot.chain_id
            problem = None if chain_id is not None else "the snapshot is not an image layer by its key"
        elif known.torn:
            problem = "containerd's snapshot database cannot be read"
        else:
            problem = "the snapshot is not in containerd's database"
        return LayerSeen(lowerdir, str(number), chain_id, problem, time_ns)

    def _layer_of_storage(self, lowerdir: str, root: str, layer: str, time_ns: int) -> LayerSeen:
        stored, below = self._stored(root, layer), self._below_layer(root, layer)
        if stored is None or below is None:
            return LayerSeen(lowerdir, layer, None, "the layer is not in containers-storage's list", time_ns)
        layers = [stored[1], *(self._storage(where).layers()[one] for where, one in below)]
        diff_ids = [one.diff_id for one in reversed(layers) if one.diff_id is not None]
        if len(diff_ids) != len(layers):
            return LayerSeen(lowerdir, layer, None, "containers-storage does not say what the layer is of", time_ns)
        return LayerSeen(lowerdir, layer, oci.chain_ids(diff_ids)[-1], None, time_ns)

    def _count(self, lowerdir: str, *, again: bool) -> None:
        tries = self._unread.pop(lowerdir, 0) + 1
        if again and tries < _MAX_TRIES:
            self._unread[lowerdir] = tries

    # Images.

    def _stores_of(self, base: str) -> list[_Store]:
        """The containerd that a snapshotter's directory belongs to.

        That of the same root; a snapshotter that is a process of its own (stargz, nydus) serves any of the node's.
        """
        own = os.path.dirname(base)
        roots = [own] if self._has_metadata(own) else [root for root in self._host.places.roots if root != own]
        return [self._store(root) for root in roots if self._has_metadata(root)]

    def _has_metadata(self, root: str) -> bool:
        return os.path.isfile(self._host.path(f"{root}/{containerd.METADATA}"))

    def _store(self, root: str) -> _Store:
        if root not in self._stores:
            database, blobs = (self._host.path(f"{root}/{name}") for name in (containerd.METADATA, _BLOBS))
            self._stores[root] = _Store(database, blobs)
        return self._stores[root]

    def _read_images(self, store: _Store, container_id: str | None) -> str | None:
        """The names, then the container's own image, which is returned by name; the others are only queued."""
        ids = [container_id] if container_id is not None else []
        try:
            images = containerd.images(store.database, ids, limit=MAX_REFERENCES)
        except BoltError:
            tries = store.torn[1] + 1 if store.torn else 1
            store.torn = (container_id, tries) if tries < _MAX_TRIES else None
            return None
        store.torn = None
        store.references = images.references
        own = images.of_containers.get(container_id) if container_id is not None else None
        targets = [target for target, names in images.references.items() if own is not None and own in names]
        for target in targets:
            if target not in store.images:
                self._read_image(store, target)
            self._own.add(store.images[target].image_id)
        store.pending = [target for target in images.references if target not in store.images]
        return own

    def _read_image(self, store: _Store, target: str) -> None:
        """Follow a target to its configuration: the first that can be read, this platform's before others."""
        problem = "the image's manifest is not in containerd's content store"
        # Digests to read next, the last first: whether it is a configuration, and how deep in indexes it is.
        queue = [(False, target, 0)]
        blobs, left = _MAX_BLOBS, MAX_IMAGE_BYTES
        while queue and blobs:
            is_config, digest, depth = queue.pop()
            blobs -= 1
            what = "configuration" if is_config else "manifest"
            try:
                data = self._blob(store, digest, left)
                left -= len(data)
                if is_config:
                    config = oci.parse_config(data)
                    store.images[target] = _Image(digest, config, frozenset(oci.chain_ids(config.diff_ids)))
                    return
                manifest = oci.load(data)
                below = oci.config_digest(manifest)
                if below is not None:
                    queue.append((True, below, depth))
                elif depth < _MAX_NESTING:
                    found = oci.manifests(manifest, self._architecture)
                    queue.extend((False, one, depth + 1) for one in reversed(found))
            except FileNotFoundError:
                if is_config:
                    problem = f"the image's {what} is not in containerd's content store"
            except OSError:
                problem = f"the image's {what} is too large or cannot be read"
            except ValueError:
                problem = f"the image's {what} is damaged"
        store.images[target] = _Image(target, oci.Config((), (), problem), frozenset())

    def _blob(self, store: _Store, digest: str, limit: int) -> bytes:
        if not oci.is_digest(digest):
            raise ValueError(f"no digest: {digest!r}")
        return read_regular(f"{store.blobs}/{digest.replace(':', '/')}", limit)

    def _images(self, time_ns: int, budget_ns: int | None) -> list[ImageSeen]:
        deadline = None if budget_ns is None else time.monotonic_ns() + budget_ns
        stores = list({id(store): store for store in self._stores.values()}.values())
        for store in stores:
            while store.pending and (deadline is None or time.monotonic_ns() < deadline):
                self._read_image(store, store.pending.pop())
        # Several targets can lead to one image: an index and a manifest, two namespaces.
        names: dict[str, set[str]] = {}
        images: dict[str, _Image] = {}
        for store in stores:
            for target, image in store.images.items():
                images[image.image_id] = image
                names.setdefault(image.image_id, set()).update(store.references.get(target, ()))
        found = []
        for image_id, image in images.items():
            if image_id not in self._own and not image.chain & self._chains:
                continue
            names[image_id] |= self._stored_names.get(image_id, set())
            config = image.config
            references = tuple(sorted(names[image_id]))
            old = self._reported.get(image_id)
            if old is None or old.references != references:
                seen = ImageSeen(image_id, references, config.diff_ids, config.created_by, config.problem, time_ns)
                self._reported[image_id] = seen
                found.append(seen)
        return found

    def _stored_images(self, lowerdirs: Iterable[str], time_ns: int) -> list[ImageSeen]:
        """Images of containers-storage that have one of these layers, in all stores of the node."""
        stored = [one for lowerdir in lowerdirs if (one := storage.split_layer(lowerdir)) is not None]
        if not stored:
            return []
        wanted = {layer for _, layer in stored}
        found: dict[str, oci.Config] = {}
        names: dict[str, set[str]] = {}
        for root in dict.fromkeys((*sorted({root for root, _ in stored}), *self._host.places.storages)):
            store = self._storage(root)
            for image in store.images():
                chain = [(root, image.layer), *(self._below_layer(root, image.layer) or ())]
                if wanted.isdisjoint(layer for _, layer in chain):
                    continue
                image_id = f"sha256:{image.image_id}"
                names.setdefault(image_id, set()).update(image.names)
                if image_id not in found:
                    found[image_id] = self._stored_config(store, image.image_id)
        seen = []
        for image_id, config in found.items():
            references = tuple(sorted(names[image_id]))
            self._stored_names[image_id] = names[image_id]
            old = self._reported.get(image_id)
            if old is None or not set(references) <= set(old.references):
                merged = tuple(sorted({*references, *(old.references if old is not None else ())}))
                fact = ImageSeen(image_id, merged, config.diff_ids, config.created_by, config.problem, time_ns)
                self._reported[image_id] = fact
                seen.append(fact)
        return seen

    def _stored_config(self, store: storage.Storage, image_id: str) -> oci.Config:
        known = self._stored_configs.get(image_id)
        if known is None:
            try:
                known = oci.parse_config(store.config(image_id, MAX_IMAGE_BYTES))
            except OSError:
                known = oci.Config((), (), "the image's configuration is not in containers-storage")
            except ValueError:
                known = oci.Config((), (), "the image's configuration is damaged")
            self._stored_configs[image_id] = known
        return known


def _named(container_id: str | None, image: str | None, time_ns: int) -> list[ContainerSeen]:
    # Where config.json is not found, or names an image that has another name now, the image is known all the same.
    if container_id is None or image is None:
        return []
    nothing = (None, None, None, None)
    return [ContainerSeen(container_id, "container", *nothing, image, None, "containerd metadata", time_ns)]


def _named_by_mount(lowerdirs: Sequence[str], upperdir: str) -> bool:
    # Layers of the writable layer's own snapshotter, or store.
    for split in (containerd.split_snapshot, storage.split_layer):
        upper = split(upperdir)
        if upper is not None:
            found = [split(lowerdir) for lowerdir in lowerdirs]
            return all(one is not None and one[0] == upper[0] for one in found)
    return False


def _not_a_layer(lowerdir: str) -> str:
    if not lowerdir.startswith("/") or lowerdir == "/" or "/fd/" in lowerdir:
        return "the overlay was mounted by file descriptors, and the runtime's metadata does not say of what"
    if "/ovl-idmapped" in lowerdir:
        return "the layer was mounted elsewhere for a user namespace, and containerd's metadata does not say what it is"
    return "not a directory of a container runtime's layers"
