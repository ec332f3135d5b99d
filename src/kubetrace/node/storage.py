"""What CRI-O and podman keep of layers, images and containers: containers-storage, by its files alone.

    GRAPHROOT/overlay/ID/{diff,merged,work}         a layer; the writable one of a container has an id of its own
    GRAPHROOT/overlay-layers/layers.json            id, parent, diff-digest
    GRAPHROOT/overlay-images/images.json            id, names, layer (the topmost); ID/=BASE64: its configuration
    GRAPHROOT/overlay-containers/containers.json    id, image, layer, names, and what CRI-O says of it (metadata)

Additional image stores are graph roots that are read only: a layer's parent may be in another one. Formats:
containers/storage layers.go, images.go, containers.go, of which the names have not changed since 2017.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from kubetrace.attribution import oci
from kubetrace.attribution.facts import ContainerSeen
from kubetrace.node.reading import read_regular
from kubetrace.node.walks import Walk

if TYPE_CHECKING:
    from kubetrace.node.host import Host

# 500 images of 20 layers are 5 MB of JSON.
_MAX_LIST_BYTES: Final = 32 << 20
_ID = re.compile(r"[0-9a-f]{64}")
_LAYER = re.compile(r"(/.*)/overlay/([0-9a-f]{64})/(diff|merged)/?", re.DOTALL)
# Of names that no container of Kubernetes has: k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT.
_NAME = re.compile(r"k8s_([^_]+)_([^_]+)_([^_]+)_([^_]+)_[0-9]+")
# A file's name says all of a key but for these (containers/storage images.go, makeBigDataBaseName).
_PLAIN = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """`parent` is the id of the layer below, "" for the lowest; `diff_id` is None for a writable layer.

    `digest` and `compressed` (bytes) are of the blob that was downloaded, which is not kept.
    """

    parent: str
    diff_id: str | None
    digest: str | None = None
    compressed: int | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What something takes on the disk, as du counts it; `unread`: directories that could not be looked into."""

    bytes: int
    inodes: int
    unread: int


@dataclass(frozen=True, slots=True)
class StoredImage:
    """`layer` is the id of its topmost one."""

    image_id: str
    names: tuple[str, ...]
    layer: str


@dataclass(frozen=True, slots=True)
class StoredContainer:
    """`layer` is its writable one."""

    container_id: str
    layer: str
    image_id: str
    names: tuple[str, ...]
    metadata: Mapping[str, Any]


@dataclass(slots=True)
class _List:
    # A file as it was read, and what was in it.
    mark: tuple[int, int, int] | None = None
    entries: list[Mapping[str, Any]] = field(default_factory=list)


class Storage:
    """One graph root, a node path. Files are read when they have changed; what is missing is empty."""

    def __init__(self, host: Host, root: str) -> None:
        """Reads nothing yet."""
        self._host = host
        self.root = root
        self._lists: dict[str, _List] = {}
        self._layers: tuple[tuple[object, ...], dict[str, StoredLayer]] = ((), {})

    @property
    def exists(self) -> bool:
        """Whether there are layers at all."""
        return os.path.isfile(self._host.path(f"{self.root}/overlay-layers/layers.json"))

    def layers(self) -> Mapping[str, StoredLayer]:
        """By their ids."""
        found = {}
        lists = [self._read(f"overlay-layers/{name}") for name in ("layers.json", "volatile-layers.json")]
        marks = tuple(one.mark for one in lists)
        if marks == self._layers[0]:
            return self._layers[1]
        for one in lists:
            for entry in one.entries:
                identifier, digest = _text(entry, "id"), entry.get("diff-digest")
                if _ID.fullmatch(identifier):
                    diff_id = digest if isinstance(digest, str) and oci.is_digest(digest) else None
                    blob, size = entry.get("compressed-diff-digest"), entry.get("compressed-size")
                    found[identifier] = StoredLayer(
                        _text(entry, "parent"),
                        diff_id,
                        blob if isinstance(blob, str) and oci.is_digest(blob) else None,
                        size if isinstance(size, int) and 0 < size < 1 << 62 else None,
                    )
        self._layers = marks, found
        return found

    def images(self) -> Iterator[StoredImage]:
        """All of them."""
        for entry in self._read("overlay-images/images.json").entries:
            if _ID.fullmatch(identifier := _text(entry, "id")):
                yield StoredImage(identifier, _texts(entry, "names"), _text(entry, "layer"))

    def config(self, image_id: str, limit: int) -> bytes:
        """An image's configuration. OSError as for host.read_regular."""
        key = f"sha256:{image_id}"
        name = key if _PLAIN.fullmatch(key) else "=" + base64.b64encode(key.encode()).decode()
        return read_regular(self._host.path(f"{self.root}/overlay-images/{image_id}/{name}"), limit)

    def layer_takes(self, layer: str, between: Callable[[], None] = lambda: None) -> Taken:
        """A layer's directory, its short name in overlay/l, and the list of what its tar had (tar-split).

        There is no other way to know than to look at every file: the lists have the sizes of tar archives alone.
        """
        found = self._takes(f"overlay/{layer}", between)
        paths = [f"overlay-layers/{layer}.tar-split.gz"]
        try:
            name = read_regular(self._host.path(f"{self.root}/overlay/{layer}/link"), 256).decode("ascii").strip()
        except (OSError, ValueError):
            name = ""
        if name.isalnum():
            paths.append(f"overlay/l/{name}")
        total, inodes = found.bytes, found.inodes
        for path in paths:
            try:
                status = os.lstat(self._host.path(f"{self.root}/{path}"))
            except OSError:
                continue
            total, inodes = total + status.st_blocks * 512, inodes + 1
        return Taken(total, inodes, found.unread)

    def image_takes(self, image_id: str) -> Taken:
        """An image's manifest, configuration and signatures."""
        return self._takes(f"overlay-images/{image_id}", lambda: None)

    def _takes(self, directory: str, between: Callable[[], None]) -> Taken:
        walk = Walk(self._host.path(f"{self.root}/{directory}"))
        for _ in walk.pieces():
            between()
        return Taken(walk.bytes, walk.inodes, walk.unread + walk.gone)

    def containers(self) -> Iterator[StoredContainer]:
        """All of them, exited ones too, and those of podman."""
        for name in ("containers.json", "volatile-containers.json"):
            for entry in self._read(f"overlay-containers/{name}").entries:
                if not _ID.fullmatch(identifier := _text(entry, "id")):
                    continue
                yield StoredContainer(
                    identifier,
                    _text(entry, "layer"),
                    _text(entry, "image"),
                    _texts(entry, "names"),
                    _object(_text(entry, "metadata")),
                )

    def _read(self, name: str) -> _List:
        known = self._lists.setdefault(name, _List())
        path = self._host.path(f"{self.root}/{name}")
        try:
            status = os.stat(path)
            mark = (status.st_mtime_ns, status.st_size, status.st_ino)
            if known.mark == mark:
                return known
            values = json.loads(read_regular(path, _MAX_LIST_BYTES))
        except (OSError, ValueError, RecursionError):
            # half written, perhaps: what was known stands
            return known
        known.mark = mark
        known.entries = [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []
        return known


def split_layer(directory: str, name: str = "diff") -> tuple[str, str] | None:
    """The graph root and the layer's id of GRAPHROOT/overlay/ID/NAME; None if it is not such a directory."""
    match = _LAYER.fullmatch(directory)
    return (match[1], match[2]) if match and match[3] == name else None


def layer_directory(root: str, layer: str) -> str:
    """Where a layer's files are."""
    return f"{root}/overlay/{layer}/diff"


def seen(container: StoredContainer, time_ns: int) -> ContainerSeen | None:
    """What a store says of a container of CRI-O's; None if it is not one (podman's).

    Names are those by which CRI-O finds its containers again (storage/runtime.go, RuntimeContainerMetadata; the names
    are k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT, the sandbox's with POD as CONTAINER).
    """
    for name in container.names:
        if match := _NAME.fullmatch(name):
            image = container.metadata.get("image-name")
            sandbox = match[1] == "POD"
            pod_id = container.metadata.get("pod-id")
            return ContainerSeen(
                container_id=container.container_id,
                kind="sandbox" if sandbox else "container",
                namespace=match[3],
                pod=match[2],
                container=None if sandbox else match[1],
                pod_uid=match[4],
                image=image if isinstance(image, str) and image and not sandbox else None,
                sandbox_id=pod_id if isinstance(pod_id, str) else None,
                source="containers-storage",
                time_ns=time_ns,
            )
    return None


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    return value if isinstance(value, str) else ""


def _texts(entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = entry.get(name)
    return tuple(one for one in values if isinstance(one, str)) if isinstance(values, list) else ()


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
