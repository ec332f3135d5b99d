"""The images of a node: what each takes, shares and would free, by its runtimes' databases and its configuration.

names, age, containers, sizes of layers     the metadata (node/image_store.py)
Dockerfile lines, when built, diff ids      manifest and configuration in the content store
waste                                       the layers' own files, where it is asked for (node/layer_files.py)
CRI-O, podman: all but sizes                the lists of containers-storage (node/storage.py)
CRI-O, podman: sizes                        the layers' files, each looked at: nothing else has them
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from kubetrace.attribution import oci, reachability
from kubetrace.attribution.reachability import ImageNamespace, ImageShare
from kubetrace.attribution.waste import LayerFile, Waste, waste
from kubetrace.node import containerd, image_store, storage
from kubetrace.node.image_store import CONTENT
from kubetrace.node.layer_files import LayerFiles, sees_opaque
from kubetrace.node.reading import read_regular

if TYPE_CHECKING:
    from kubetrace.node.host import Host
    from kubetrace.node.image_store import ImageStore

# Registries refuse larger manifests; real configurations are some 10 kB.
_MAX_BLOB_BYTES: Final = 4 << 20
_MAX_NESTING: Final = 3
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm", "armv6l": "arm"}

LayerKey = tuple[str, str, str, str]
"""Root of the runtime, namespace, snapshotter, chain id: what makes a layer on this node."""


@dataclass(slots=True)
class LayerOfNode:
    """A layer that is unpacked: its snapshot's number and directory (a node path), and what it takes in bytes.

    `compressed` is the size of its blob, where that is still there. `images` are those that have it.
    """

    key: LayerKey
    number: int | None
    directory: str
    bytes: int
    inodes: int
    parent: LayerKey | None
    diff_id: str | None = None
    digest: str | None = None
    compressed: int | None = None
    created_by: str | None = None
    images: list[str] = field(default_factory=list)
    twins: tuple[LayerKey, ...] = ()


@dataclass(frozen=True, slots=True)
class User:
    """A container that was made of an image. `writable` is the directory of its writable layer, a node path.

    `layers` are those below it, the lowest first: the image's by the container's own snapshotter, and what the runtime
    put on top (for a user namespace).
    """

    container_id: str
    namespace: str | None
    pod: str | None
    container: str | None
    runs: bool
    writable: str | None = None
    layers: tuple[LayerKey, ...] = ()


@dataclass(slots=True)
class Changed:
    """Files of a layer that containers have of their own now: copied up, or replaced. Bytes are those of the copies."""

    files: int = 0
    bytes: int = 0
    containers: int = 0


@dataclass(slots=True)
class ImageOfNode:
    """An image of one runtime and namespace; bytes are None where nothing tells them.

    `layers` are the lowest first. `own`, `shared` and `frees` are of layers and blobs together. `wasted` is None unless
    it was asked for; `waste_problem` says what it lacks.
    """

    image_id: str
    names: tuple[str, ...]
    runtime: str
    target: str
    pulled_ns: int | None
    built: str | None
    pinned: bool
    users: tuple[User, ...]
    layers: list[LayerKey]
    lines: list[str | None]
    unpacked: int | None = None
    compressed: int | None = None
    own: int | None = None
    shared: int | None = None
    frees: int | None = None
    wasted: Waste | None = None
    changed: dict[int, Changed] = field(default_factory=dict)
    """By the layer, counted from 0; with `wasted`."""
    problem: str | None = None
    lines_problem: str | None = None
    """Why the Dockerfile's lines are not known."""
    waste_problem: str | None = None

    @property
    def name(self) -> str:
        """The one to show."""
        return oci.best_reference(self.names) or self.image_id


@dataclass(slots=True)
class ImagesOfNode:
    """All of them. `problems` is what could not be read, in words."""

    images: list[ImageOfNode] = field(default_factory=list)
    layers: dict[LayerKey, LayerOfNode] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unused_frees: int = 0
    """What the removal of all images without a container would free, taken together."""


@dataclass(frozen=True, slots=True)
class _Detail:
    config_digest: str | None
    config: oci.Config
    built: str | None
    layer_digests: tuple[str, ...]


def images_of(
    host: Host,
    *,
    wasted: bool = False,
    sized: Collection[str] | None = None,
    between: Callable[[str], None] = lambda _what: None,
) -> ImagesOfNode:
    """The node's images; `wasted`: every layer's files are looked at, too. `between` is told what is being done.

    `sized`: of containers-storage, whose sizes cost a look at every file, only the images of these containers have any
    (and only their layers are told); None: all.
    """
    found = ImagesOfNode()
    running = set(_running(host))
    for root in host.places.roots:
        if not os.path.isfile(host.path(f"{root}/{containerd.METADATA}")):
            continue
        store = image_store.read_store(host, root)
        if store.problem is not None:
            found.problems.append(f"{root}: {store.problem}")
        for namespace in store.namespaces:
            _add_namespace(host, found, store, namespace, running)
    stores = {root: storage.Storage(host, root) for root in host.places.storages}
    _add_storages(found, {root: one for root, one in stores.items() if one.exists}, running, sized, between)
    for key, others in reachability.twins(
        {key[2:]: layer.diff_id for key, layer in found.layers.items() if layer.diff_id is not None}
    ).items():
        for own in [one for one in found.layers if one[2:] == key]:
            found.layers[own].twins = tuple(
                (*own[:2], *other) for other in others if (*own[:2], *other) in found.layers
            )
    if wasted:
        _find_waste(host, found, between)
    found.images.sort(key=lambda image: (image.name, image.image_id))
    return found


def _running(host: Host) -> Iterator[str]:
    for directory in containerd.bundle_directories(host):
        yield from containerd.bundle_ids(host, directory)


def _add_namespace(
    host: Host, found: ImagesOfNode, store: ImageStore, namespace: ImageNamespace, running: set[str]
) -> None:
    now = time.time_ns()
    shares = reachability.shares(namespace, now)
    for share in shares.images:
        detail, problem = _detail(host, store.root, share.target)
        chain = _chain(namespace, share)
        keys = [(store.root, namespace.name, *key) for key in chain]
        image = ImageOfNode(
            image_id=(detail.config_digest if detail is not None else None) or share.target,
            names=share.names,
            runtime=f"containerd {store.root} {namespace.name}",
            target=share.target,
            pulled_ns=share.created_ns,
            built=detail.built if detail is not None else None,
            pinned=share.pinned,
            users=tuple(_user(one, store, namespace, running) for one in share.users),
            layers=keys,
            lines=list(detail.config.created_by) if detail is not None else [None] * len(keys),
            problem=None if share.complete else "not all that its labels name is there",
            lines_problem=problem,
        )
        image.compressed = share.blobs + share.shared_blobs
        if store.problem is None:
            image.unpacked = share.layers + share.shared_layers
            image.own = share.layers + share.blobs
            image.shared = share.shared_layers + share.shared_blobs
            image.frees = share.freed
        if len(image.lines) != len(keys):
            image.lines = [None] * len(keys)
        found.images.append(image)
        for at, key in enumerate(keys):
            layer = _layer(found, store, namespace, key)
            layer.images.append(image.name)
            if detail is not None and len(detail.config.diff_ids) == len(keys):
                layer.diff_id = detail.config.diff_ids[at]
                layer.created_by = layer.created_by or detail.config.created_by[at]
            if detail is not None and len(detail.layer_digests) == len(keys):
                layer.digest = detail.layer_digests[at]
                blob = namespace.blobs.get(layer.digest)
                layer.compressed = blob.size if blob is not None else None
        # the same in another snapshotter than the one that is shown
        alike = {key[3]: found.layers[key] for key in keys}
        for key in dict.fromkeys(key for user in image.users for key in user.layers if key not in keys):
            layer = _layer(found, store, namespace, key)
            if (same := alike.get(key[3])) is not None:
                layer.images.append(image.name)
                layer.diff_id, layer.digest, layer.compressed = same.diff_id, same.digest, same.compressed
                layer.created_by = layer.created_by or same.created_by
    unused = [share.target for share in shares.images if not share.users and not share.pinned]
    if store.problem is not None:
        return
    found.unused_frees += reachability.freed_together(namespace, unused, now)


def _directory(base: str, snapshotter: str, number: int | None) -> str:
    # native has the files there, blockfile and btrfs a file or a subvolume (containerd plugins/snapshots)
    return f"{base}/snapshots/{number}{'' if snapshotter in ('native', 'blockfile', 'btrfs') else '/fs'}"


def _layer(found: ImagesOfNode, store: ImageStore, namespace: ImageNamespace, key: LayerKey) -> LayerOfNode:
    layer = found.layers.get(key)
    if layer is None:
        snapshot = namespace.snapshots[key[2:]]
        parent = (*key[:3], snapshot.parent) if snapshot.parent is not None else None
        directory = _directory(store.snapshotters.get(key[2], ""), key[2], snapshot.number)
        layer = found.layers[key] = LayerOfNode(
            key, snapshot.number, directory, snapshot.disk_bytes, snapshot.inodes or 0, parent
        )
    return layer


def _chain(namespace: ImageNamespace, share: ImageShare) -> Sequence[tuple[str, str]]:
    # The topmost of its snapshots is the one that is no other's parent.
    parents = {(key[0], namespace.snapshots[key].parent) for key in share.reached.snapshots}
    tops = [key for key in share.reached.snapshots if key not in parents]
    return max((reachability.chain_of(namespace, top) for top in tops), key=len, default=())


def _user(container_id: str, store: ImageStore, namespace: ImageNamespace, running: set[str]) -> User:
    container = namespace.containers[container_id]
    labels, sandbox = container.labels, container.is_sandbox
    snapshot = namespace.snapshots.get((container.snapshotter, container.snapshot))
    base = store.snapshotters.get(container.snapshotter)
    known = base is not None and snapshot is not None and snapshot.number is not None
    return User(
        container_id,
        labels.get("io.kubernetes.pod.namespace"),
        labels.get("io.kubernetes.pod.name"),
        "(sandbox)" if sandbox else labels.get("io.kubernetes.container.name"),
        container_id in running,
        _directory(base, container.snapshotter, snapshot.number) if known and snapshot and base else None,
        tuple(
            (store.root, namespace.name, *key)
            for key in (
                reachability.chain_of(namespace, (container.snapshotter, snapshot.parent))
                if snapshot is not None and snapshot.parent is not None
                else ()
            )
        ),
    )


def _detail(host: Host, root: str, target: str) -> tuple[_Detail | None, str | None]:
    """By the image's own blobs; None and why, where they are not there or no image's."""
    machine = os.uname().machine
    architecture = _ARCHITECTURES.get(machine, machine)
    blobs = host.path(f"{root}/{CONTENT}/blobs")
    pending, why = [(target, 0)], "its blobs are not on the node"
    looked = 0
    while pending and looked < 64:
        digest, depth = pending.pop(0)
        looked += 1
        try:
            blob = oci.load(_blob(blobs, digest))
        except (OSError, ValueError):
            continue
        config = oci.config_digest(blob)
        if config is None:
            if depth < _MAX_NESTING:
                pending += [(one, depth + 1) for one in oci.manifests(blob, architecture)]
            continue
        try:
            data = _blob(blobs, config)
            parsed = oci.parse_config(data)
        except OSError:
            why = "its configuration is not on the node"
            continue
        except ValueError as error:
            why = f"its configuration cannot be read: {error}"
            continue
        built = oci.load(data).get("created")
        layers = blob.get("layers")
        digests = [
            one["digest"]
            for one in (layers if isinstance(layers, list) else ())
            if isinstance(one, dict) and oci.is_digest(one.get("digest"))
        ]
        return _Detail(config, parsed, built if isinstance(built, str) else None, tuple(digests)), parsed.problem
    return None, why


def _blob(directory: str, digest: str) -> bytes:
    if not oci.is_digest(digest):
        raise ValueError("no digest")
    algorithm, _, encoded = digest.partition(":")
    return read_regular(f"{directory}/{algorithm}/{encoded}", _MAX_BLOB_BYTES)


def _add_storages(
    found: ImagesOfNode,
    stores: Mapping[str, storage.Storage],
    running: set[str],
    sized: Collection[str] | None,
    between: Callable[[str], None],
) -> None:
    """Images of containers-storage. A layer may be in another store than its image (additional image stores)."""
    own: dict[str, LayerKey] = {}
    users: dict[tuple[str, str], list[User]] = {}
    held: set[LayerKey] = set()
    names: dict[LayerKey, list[str]] = {}
    for root, store in stores.items():
        for identifier in store.layers():
            own.setdefault(identifier, (root, "", "overlay", identifier))
    for root, store in stores.items():
        for one in store.containers():
            seen = storage.seen(one, 0)
            whose = (seen.namespace, seen.pod, seen.container) if seen is not None else (None, None, None)
            writable = storage.layer_directory(root, one.layer) if one.layer in store.layers() else None
            chain = tuple(_chain_of(stores, own, root, one.layer))
            users.setdefault((root, one.image_id), []).append(
                User(one.container_id, *whose, one.container_id in running, writable, chain[:-1])
            )
            held.update(chain)
    images: list[tuple[ImageOfNode, int]] = []
    for root, store in stores.items():
        for stored in store.images():
            keys = _chain_of(stores, own, root, stored.layer)
            image = _stored_image(store, stored, keys, tuple(users.get((root, stored.image_id), ())))
            if sized is None or any(user.container_id in sized for user in image.users):
                images.append((image, store.image_takes(stored.image_id).bytes))
            else:
                found.images.append(image)
            for key in keys:
                names.setdefault(key, []).append(image.name)
    for image, _ in images:
        for at, key in enumerate(image.layers):
            layer = found.layers.get(key)
            if layer is None:
                parent = image.layers[at - 1] if at else None
                layer = found.layers[key] = _stored_layer(stores[key[0]], key, parent, between)
                layer.images = names[key]
            layer.created_by = layer.created_by or image.lines[at]
        for key in dict.fromkeys(key for user in image.users for key in user.layers if key not in found.layers):
            # what was made of a layer for other users (a mapped top layer)
            found.layers[key] = _stored_layer(stores[key[0]], key, None, between)
    unused: dict[LayerKey, int] = {}
    for image, listed in images:
        sizes = {key: found.layers[key].bytes for key in image.layers}
        alone = [key for key in image.layers if len(names[key]) == 1]
        blobs = [found.layers[key].compressed for key in image.layers]
        image.compressed = sum(blob for blob in blobs if blob is not None) if None not in blobs else None
        image.unpacked = sum(sizes.values())
        image.own = listed + sum(sizes[key] for key in alone)
        image.shared = image.unpacked + listed - image.own
        # what a container was made of is not removed
        image.frees = 0 if image.users else listed + sum(sizes[key] for key in alone if key not in held)
        if not image.users:
            found.unused_frees += listed
            for key in image.layers:
                unused[key] = unused.get(key, 0) + 1
        found.images.append(image)
    found.unused_frees += sum(
        found.layers[key].bytes for key, count in unused.items() if count == len(names[key]) and key not in held
    )


def _chain_of(
    stores: Mapping[str, storage.Storage], own: Mapping[str, LayerKey], root: str, top: str
) -> list[LayerKey]:
    """A layer and those below it, the lowest first; each in the same store where that has it."""
    chain: list[LayerKey] = []
    at = top
    while len(chain) < oci.MAX_LAYERS:
        key: LayerKey | None = (root, "", "overlay", at) if at in stores[root].layers() else own.get(at)
        if key is None or key in chain:
            break
        chain.append(key)
        at = stores[key[0]].layers()[at].parent
    return chain[::-1]


def _stored_image(
    store: storage.Storage, stored: storage.StoredImage, keys: list[LayerKey], users: tuple[User, ...]
) -> ImageOfNode:
    lines: list[str | None] = [None] * len(keys)
    built = problem = None
    try:
        data = store.config(stored.image_id, _MAX_BLOB_BYTES)
        config = oci.parse_config(data)
        if len(config.created_by) == len(keys):
            lines = list(config.created_by)
        created = oci.load(data).get("created")
        built = created if isinstance(created, str) else None
    except (OSError, ValueError):
        problem = "its configuration cannot be read"
    return ImageOfNode(
        image_id=f"sha256:{stored.image_id}",
        names=stored.names,
        runtime=f"containers-storage {store.root}",
        target=stored.image_id,
        pulled_ns=None,
        built=built,
        pinned=False,
        users=users,
        layers=keys,
        lines=lines,
        lines_problem=problem,
    )


def _stored_layer(
    store: storage.Storage, key: LayerKey, parent: LayerKey | None, between: Callable[[str], None]
) -> LayerOfNode:
    said = store.layers()[key[3]]
    directory = storage.layer_directory(store.root, key[3])
    taken = store.layer_takes(key[3], lambda: between(directory))
    return LayerOfNode(
        key, None, directory, taken.bytes, taken.inodes, parent, said.diff_id, said.digest, said.compressed
    )


# Waste.


def _find_waste(host: Host, found: ImagesOfNode, between: Callable[[str], None]) -> None:
    opaque = None if sees_opaque() else "opaque directories are not seen without CAP_SYS_ADMIN: it may be more"
    known: dict[LayerKey, tuple[list[LayerFile], str | None]] = {}
    uses: dict[LayerKey, int] = {}
    for image in found.images:
        for key in image.layers:
            uses[key] = uses.get(key, 0) + 1
    for image in found.images:
        problems = dict.fromkeys([opaque] if opaque else [])
        lists: list[list[LayerFile]] = []
        for key in image.layers:
            layer = found.layers.get(key)
            if layer is None:
                problems["its layers' directories are not known"] = None
                continue
            if key not in known:
                known[key] = _read(host, layer, lambda name=layer.directory: between(name))  # type: ignore[misc]
            files, problem = known[key]
            lists.append(files)
            if problem is not None:
                problems[problem] = None
            uses[key] -= 1
        if len(lists) == len(image.layers):
            image.wasted = waste(lists)
            if not image.wasted.complete:
                problems["it has more files than are looked at"] = None
            for user in image.users:
                if user.writable is not None and (problem := _find_changed(host, image, user.writable, between)):
                    problems[problem] = None
            image.wasted.seen.clear()
        for key in image.layers:
            # what no other image has is not needed again
            if not uses[key]:
                known.pop(key, None)
        image.waste_problem = "; ".join(problems) or None


def _find_changed(host: Host, image: ImageOfNode, writable: str, between: Callable[[str], None]) -> str | None:
    """Add what one container has changed; what could not be read, in words."""
    assert image.wasted is not None
    reading = LayerFiles(host.path(writable), lambda: between(writable))
    touched: set[int] = set()
    try:
        for file in reading.names():
            layer = image.wasted.layer_at(file.path) if file.kind == "file" else None
            if layer is not None:
                changed = image.changed.setdefault(layer, Changed())
                changed.files += 1
                changed.bytes += file.bytes
                touched.add(layer)
    except OSError as error:
        return f"{writable} cannot be read: {error.strerror}"
    for layer in touched:
        image.changed[layer].containers += 1
    return f"{reading.unread} names in {writable} could not be looked at" if reading.unread else None


def _read(host: Host, layer: LayerOfNode, between: Callable[[], None]) -> tuple[list[LayerFile], str | None]:
    reading = LayerFiles(host.path(layer.directory), between)
    try:
        files = list(reading.names())
    except OSError as error:
        return [], f"{layer.directory} cannot be read: {error.strerror}"
    return files, f"{reading.unread} names in {layer.directory} could not be looked at" if reading.unread else None


# What two have in common.


@dataclass(frozen=True, slots=True)
class Difference:
    """Layers (bytes) that two images share, that both have on disk for themselves, and that only one has."""

    shared: tuple[LayerKey, ...]
    twice: tuple[tuple[LayerKey, LayerKey], ...]
    only_first: tuple[LayerKey, ...]
    only_second: tuple[LayerKey, ...]


def difference(found: ImagesOfNode, first: ImageOfNode, second: ImageOfNode) -> Difference:
    """Of two images of the node."""
    shared = [key for key in first.layers if key in second.layers]
    diff_ids: Mapping[str | None, LayerKey] = {
        layer.diff_id: key
        for key in second.layers
        if (layer := found.layers.get(key)) is not None and key not in shared
    }
    twice = []
    for key in first.layers:
        layer = found.layers.get(key)
        if key not in shared and layer is not None and layer.diff_id is not None and layer.diff_id in diff_ids:
            twice.append((key, diff_ids[layer.diff_id]))
    both = {key for pair in twice for key in pair}
    return Difference(
        tuple(shared),
        tuple(twice),
        tuple(key for key in first.layers if key not in shared and key not in both),
        tuple(key for key in second.layers if key not in shared and key not in both),
    )


def named(found: ImagesOfNode, query: str) -> list[ImageOfNode]:
    """The images that a user means: by a name, with or without registry and tag, or the beginning of an id."""
    full = oci.full_name(query)
    exact = [image for image in found.images if query in image.names or full in image.names]
    if exact:
        return exact
    wanted = query.removeprefix("sha256:")
    by_id = [
        image
        for image in found.images
        if len(wanted) >= 6
        and any(one.removeprefix("sha256:").startswith(wanted) for one in (image.image_id, image.target))
    ]
    return by_id or [image for image in found.images if any(_ends(name, query) for name in image.names)]


def _ends(name: str, query: str) -> bool:
    # team/app:1 of registry.example/team/app:1
    return (
        name == query or name.endswith(f"/{query}") or name.partition("@")[0].rpartition(":")[0].endswith(f"/{query}")
    )


def record_of(layer: LayerOfNode) -> dict[str, Any]:
    """A layer as an object of JSON; its keys are a contract."""
    return {
        "type": "layer",
        "chain_id": layer.key[3],
        "diff_id": layer.diff_id,
        "digest": layer.digest,
        "snapshotter": layer.key[2],
        "snapshot": layer.number,
        "directory": layer.directory,
        "unpacked_bytes": layer.bytes,
        "inodes": layer.inodes,
        "compressed_bytes": layer.compressed,
        "created_by": layer.created_by,
        "images": layer.images,
        "twins": [key[3] for key in layer.twins],
    }
