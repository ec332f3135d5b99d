"""The node as a whole: its disks and what is on which, its runtimes' stores, its kubelet's settings, what is unusual.

Read once, off the node's files: statvfs(2) of each disk, the runtimes' databases, the kubelet's arguments and
configuration, /proc and /sys. What cannot be read is None, or named in `problem`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kubetrace.attribution.eviction import thresholds
from kubetrace.node import containerd, image_store, installed, kubelet_settings, storage
from kubetrace.node.filesystems import FileSystems, each_once
from kubetrace.node.reading import listed, read_regular

if TYPE_CHECKING:
    from kubetrace.attribution.eviction import Thresholds
    from kubetrace.node.filesystems import Place, Room
    from kubetrace.node.host import Host

_MAX_BYTES: Final = 64 << 10
# A disk is nearly full, and nearly without inodes, from here on: the kubelet collects images at 85 %.
_FULL: Final = 0.85
_FEW_INODES: Final = 0.10


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system with what of a node's is on it, in words ("kubelet", "images of containerd", "logs")."""

    place: Place
    room: Room | None
    holds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What one snapshotter has: committed layers and their bytes (with their directories), and writable layers."""

    snapshotter: str
    layers: int
    bytes: int
    writable: int


@dataclass(frozen=True, slots=True)
class Store:
    """Where a runtime keeps images. `bytes` of blobs; None for containers-storage, which keeps none."""

    kind: str
    root: str
    images: int
    containers: int
    blobs: int | None
    blob_bytes: int | None
    unpacked: tuple[Unpacked, ...]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class KubeletOfNode:
    """A kubelet that runs: what it is part of, its files, and the settings that are read, each with its source."""

    name: str
    config: str | None
    config_directory: str | None
    settings: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class NodePage:
    """All of a node. Paths are the node's own; `pods` are directories that the kubelet has for one."""

    name: str
    system: str | None
    kernel: str
    machine: str
    memory: int | None
    swap: int | None
    pressure: bool
    disks: tuple[Disk, ...]
    stores: tuple[Store, ...]
    kubelets: tuple[KubeletOfNode, ...]
    thresholds: Thresholds
    roots: tuple[str, ...]
    logs: tuple[str, ...]
    pods: int
    unusual: tuple[str, ...]


def node_page(host: Host) -> NodePage:
    """Look at all of it. OSError where the mounts cannot be read."""
    systems = FileSystems(host)
    stores = tuple(_stores(host))
    roots = tuple(root for root in host.places.kubelets if os.path.isdir(host.path(root)))
    logs = tuple(path for path in host.places.logs if os.path.isdir(host.path(path)))
    disks = _disks(systems, stores, roots, logs)
    settings = kubelet_settings.settings(host)
    memory, swap = _memory(host)
    page = NodePage(
        name=host.node_name(),
        system=_system(host),
        kernel=host.kernel_release(),
        machine=os.uname().machine,
        memory=memory,
        swap=swap,
        pressure=os.path.exists(f"{host.proc}/pressure/io"),
        disks=disks,
        stores=stores,
        kubelets=tuple(_kubelets(host, settings)),
        thresholds=thresholds(
            settings.values if settings is not None else None, settings.problem if settings is not None else None
        ),
        roots=roots,
        logs=logs,
        pods=sum(len(listed(host.path(f"{root}/pods"))) for root in roots),
        unusual=(),
    )
    return _with_unusual(page)


def _with_unusual(page: NodePage) -> NodePage:
    import dataclasses

    return dataclasses.replace(page, unusual=tuple(_unusual(page)))


def _unusual(page: NodePage) -> Iterator[str]:
    for disk in page.disks:
        room = disk.room
        if room is None:
            continue
        at = disk.place.mount_point
        # of what is not reserved for root, as the kubelet and df have it
        usable = room.used + room.available
        if usable and room.used > _FULL * usable:
            yield f"{at} is {100 * room.used / usable:.0f}% full: kubetrace disk"
        if room.inodes and room.inodes_free < _FEW_INODES * room.inodes:
            yield f"{at} has {100 * room.inodes_free / room.inodes:.0f}% of its inodes left: kubetrace files"
    if not page.pressure:
        yield "the kernel has no pressure files (CONFIG_PSI, psi=1): who waits for memory or disk is not told"
    if page.swap:
        yield "the node has swap: a container may have memory in it"
    if len(page.kubelets) > 1:
        yield f"{len(page.kubelets)} kubelets run"
    if not page.kubelets:
        yield "no kubelet is seen to run"
    if len(page.roots) > 1:
        yield f"{len(page.roots)} kubelet directories: {', '.join(page.roots)}"
    used = [store for store in page.stores if store.images or store.containers]
    if len(used) > 1:
        yield f"{len(used)} stores of images: {', '.join(store.root for store in used)}"
    for store in used:
        names = [one.snapshotter for one in store.unpacked if one.layers or one.writable]
        if len(names) > 1:
            yield f"{store.root} unpacks by {' and '.join(names)}: an image may be on disk several times"
        if store.problem is not None:
            yield f"{store.root}: {store.problem}"


def _disks(
    systems: FileSystems, stores: Sequence[Store], roots: Sequence[str], logs: Sequence[str]
) -> tuple[Disk, ...]:
    holds: dict[int, list[str]] = {}
    places: list[Place] = []
    named = [("/", "the node's root"), *((root, "kubelet") for root in roots), *((path, "logs") for path in logs)]
    named += [(store.root, f"images of {store.kind}") for store in stores]
    for path, what in named:
        place = systems.of(path)
        if place is not None:
            places.append(place)
            words = holds.setdefault(place.device, [])
            if what not in words:
                words.append(what)
    found = each_once([*places, *systems.local()])
    return tuple(Disk(place, systems.room(place), tuple(holds.get(place.device, ()))) for place in found)


def _stores(host: Host) -> Iterator[Store]:
    for root in host.places.roots:
        if not os.path.isfile(host.path(f"{root}/{containerd.METADATA}")):
            continue
        store = image_store.read_store(host, root)
        unpacked = {name: [0, 0, 0] for name in store.snapshotters}
        for namespace in store.namespaces:
            for (name, _), snapshot in namespace.snapshots.items():
                counts = unpacked.setdefault(name, [0, 0, 0])
                if snapshot.kind == "committed":
                    counts[0] += 1
                    counts[1] += snapshot.disk_bytes
                elif snapshot.kind == "active":
                    counts[2] += 1
        blobs = [blob for namespace in store.namespaces for blob in namespace.blobs.values()]
        yield Store(
            "containerd",
            root,
            len({one.target for namespace in store.namespaces for one in namespace.images.values()}),
            sum(len(namespace.containers) for namespace in store.namespaces),
            len(blobs),
            sum(blob.size for blob in blobs),
            tuple(Unpacked(name, *counts) for name, counts in sorted(unpacked.items())),
            store.problem,
        )
    for root in host.places.storages:
        stored = storage.Storage(host, root)
        if not stored.exists:
            continue
        containers = list(stored.containers())
        layers = len(stored.layers()) - len({one.layer for one in containers} & set(stored.layers()))
        yield Store(
            "containers-storage",
            root,
            len(list(stored.images())),
            len(containers),
            None,
            None,
            (Unpacked("overlay", layers, 0, len(containers)),),
        )


def _kubelets(host: Host, settings: kubelet_settings.Settings | None) -> Iterator[KubeletOfNode]:
    for number, one in enumerate(installed.kubelets(host)):
        told = []
        # what is read is the first one's
        for name, (value, source) in settings.values.items() if settings is not None and not number else ():
            text = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
            told.append((name, text, source))
        yield KubeletOfNode(one.name, one.config, one.config_directory, tuple(told))


def _system(host: Host) -> str | None:
    # os-release(5): in /etc, or else in /usr/lib
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = read_regular(host.path(path), _MAX_BYTES).decode("utf-8", "replace")
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition("=")
            if name == "PRETTY_NAME":
                try:
                    return " ".join(shlex.split(value)) or None
                except ValueError:
                    return value or None
    return None


def _memory(host: Host) -> tuple[int | None, int | None]:
    """MemTotal and SwapTotal of /proc/meminfo, in bytes."""
    found: dict[str, int] = {}
    try:
        with open(f"{host.proc}/meminfo", encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, rest = line.partition(":")
                words = rest.split()
                if words and words[0].isdigit():
                    found[name] = int(words[0]) * 1024
    except OSError:
        pass
    return found.get("MemTotal"), found.get("SwapTotal")
