"""From an overlay's lower directories to layers of images, from containerd's own files: no socket, no API server.

    lowerdir DIR/snapshots/N/fs --DIR/metadata.db--> the snapshot's key, which ends with its chain id        LayerSeen
    meta.db: reference -> digest --content store--> (index ->) manifest -> configuration: diff ids, history  ImageSeen

What joins the two is arithmetic (oci.chain_ids) and left to the Attributor. All of it is private to containerd but old:
the overlayfs snapshotter's directories and keys, the buckets and the content store have not changed since 1.0.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from kubetrace.attribution import directories, oci
from kubetrace.attribution.facts import Fact, ImageSeen, LayerSeen
from kubetrace.node import containerd
from kubetrace.node.bolt import BoltError
from kubetrace.node.host import Host, read_regular

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

_SNAPSHOT = re.compile(r"(/.*)/snapshots/([0-9]{1,18})/fs/?", re.DOTALL)
_CHAIN = re.compile(r"sha256:[0-9a-f]{64}")
_DATABASE: Final = "io.containerd.metadata.v1.bolt/meta.db"
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
        self._keys: dict[str, dict[int, str]] = {}
        self._unread: dict[str, int] = {}
        self._chains: set[str] = set()
        self._containers: dict[str, None] = {}
        self._stores: dict[str, _Store] = {}
        self._reported: dict[str, ImageSeen] = {}
        self._own: set[str] = set()

    @property
    def pending(self) -> bool:
        """Whether `more` has anything left to do."""
        return bool(self._unread) or any(store.pending or store.torn for store in self._stores.values())

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
        for base in sorted({base for lowerdir in lowerdirs if (base := _split(lowerdir)[0]) is not None}):
            self._read_images(self._store(base), container_id)
        facts += self._images(time_ns, BUDGET_NS)
        return facts

    def more(self, time_ns: int, budget_ns: int | None = BUDGET_NS) -> list[Fact]:
        """Go on with what `look` left, for that long (None: to the end): other images, databases that were torn."""
        facts: list[Fact] = []
        if self._unread:
            # Each call is a try.
            facts += self._layers([lowerdir for lowerdir in self._known if lowerdir in self._unread], time_ns)
        for store in self._stores.values():
            if store.torn:
                self._read_images(store, store.torn[0])
        facts += self._images(time_ns, budget_ns)
        return facts

    # Directories.

    def _layers(self, lowerdirs: Iterable[str], time_ns: int) -> list[LayerSeen]:
        found = []
        failed: dict[str, str] = {}
        looked: set[str] = set()
        for lowerdir in lowerdirs:
            base, number = _split(lowerdir)
            if base is None or number is None:
                seen = LayerSeen(lowerdir, None, None, "not a directory of containerd's overlayfs snapshotter", time_ns)
            else:
                if number not in self._keys.get(base, ()) and base not in looked:
                    looked.add(base)
                    try:
                        snapshots = containerd.snapshots(self._host.path(f"{base}/metadata.db"))
                        self._keys[base] = {snapshot.number: snapshot.key for snapshot in snapshots}
                    except BoltError:
                        failed[base] = "containerd's snapshot database cannot be read"
                key = self._keys.get(base, {}).get(number)
                chain_id = key.rsplit("/", 1)[-1] if key is not None else None
                problem = None
                if key is None:
                    problem = failed.get(base, "the snapshot is not in containerd's database")
                elif chain_id is None or not _CHAIN.fullmatch(chain_id):
                    chain_id, problem = None, "the snapshot is not an image layer by its key"
                seen = LayerSeen(lowerdir, str(number), chain_id, problem, time_ns)
                if chain_id is not None:
                    self._chains.add(chain_id)
                self._count(lowerdir, again=base in failed and key is None)
            old = self._known.get(lowerdir)
            if old is None or (old.chain_id, old.problem) != (seen.chain_id, seen.problem):
                self._known[lowerdir] = seen
                found.append(seen)
        return found

    def _count(self, lowerdir: str, *, again: bool) -> None:
        tries = self._unread.pop(lowerdir, 0) + 1
        if again and tries < _MAX_TRIES:
            self._unread[lowerdir] = tries

    # Images.

    def _store(self, base: str) -> _Store:
        """The containerd that a snapshotter's directory belongs to: of the same root, else the node's own."""
        store = self._stores.get(base)
        if store is None:
            roots = (os.path.dirname(base), *directories.CONTAINERD)
            root = next((one for one in roots if os.path.isfile(self._host.path(f"{one}/{_DATABASE}"))), roots[0])
            database = self._host.path(f"{root}/{_DATABASE}")
            same = (one for one in self._stores.values() if one.database == database)
            store = next(same, None) or _Store(database, self._host.path(f"{root}/{_BLOBS}"))
            self._stores[base] = store
        return store

    def _read_images(self, store: _Store, container_id: str | None) -> None:
        # The names, then the container's own image; the others are only queued.
        ids = [container_id] if container_id is not None else []
        try:
            images = containerd.images(store.database, ids, limit=MAX_REFERENCES)
        except BoltError:
            tries = store.torn[1] + 1 if store.torn else 1
            store.torn = (container_id, tries) if tries < _MAX_TRIES else None
            return
        store.torn = None
        store.references = images.references
        own = images.of_containers.get(container_id) if container_id is not None else None
        targets = [target for target, names in images.references.items() if own is not None and own in names]
        for target in targets:
            if target not in store.images:
                self._read_image(store, target)
            self._own.add(store.images[target].image_id)
        store.pending = [target for target in images.references if target not in store.images]

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
            config = image.config
            references = tuple(sorted(names[image_id]))
            old = self._reported.get(image_id)
            if old is None or old.references != references:
                seen = ImageSeen(image_id, references, config.diff_ids, config.created_by, config.problem, time_ns)
                self._reported[image_id] = seen
                found.append(seen)
        return found


def _split(lowerdir: str) -> tuple[str | None, int | None]:
    # The snapshotter's directory and the snapshot's number.
    match = _SNAPSHOT.fullmatch(lowerdir)
    return (match[1], int(match[2])) if match else (None, None)
