"""Where one pod's data lives, with its own numbers: layers, writable layers, volumes, logs, namespaces, cgroups.

Read once, off the node's files alone: what pod_files.py finds for a name, each with its sizes (st_blocks, as du counts
them), the runtimes' databases for image layers, /proc/PID/ns and /proc/PID/uid_map for namespaces, the cgroups' files.
What cannot be read, or is gone meanwhile, is None.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kubetrace.attribution import mountinfo, oci
from kubetrace.node import cgroup_files
from kubetrace.node.image_list import images_of
from kubetrace.node.walks import Walk

if TYPE_CHECKING:
    from kubetrace.node.host import Host
    from kubetrace.node.image_list import ImageOfNode, ImagesOfNode, LayerOfNode
    from kubetrace.node.pod_files import Cgroup, ContainerFiles, PodFiles, Volume

NAMESPACES: Final = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user")
# Directories that are named of a writable layer, and how long one directory is looked through.
_LARGEST: Final = 5
_MOST_S: Final = 10.0
_MOST_PROCESSES: Final = 200


@dataclass(frozen=True, slots=True)
class Space:
    """What a directory takes: bytes and inodes as du(1) counts them. `whole`: all of it was looked at.

    `largest` are the directories with most bytes in files of their own, by their path in it.
    """

    bytes: int
    inodes: int
    whole: bool
    largest: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the container's image, counted from 1 at the bottom; `images` have it, this one among them."""

    position: int
    directory: str
    bytes: int
    inodes: int
    images: int
    line: str | None


@dataclass(frozen=True, slots=True)
class Namespace:
    """One of a process's namespaces; `whose` is "node", "pod" (the sandbox has it too) or "container"."""

    kind: str
    inode: int
    whose: str


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the container, by its number on the node."""

    pid: int
    comm: str


@dataclass(frozen=True, slots=True)
class Use:
    """What the files of its cgroup say: bytes, nanoseconds, thousandths of a CPU; None where no file tells.

    `oom_kills` and the pressures (hundredths of a percent of the last 10 s) as tracers/cgroups has them.
    """

    memory: int | None
    memory_limit: int | None
    swap: int | None
    cpu: int | None
    cpu_limit: int | None
    throttled: int | None
    oom_kills: int | None
    processes: int | None
    processes_limit: int | None
    memory_pressure: int | None
    io_pressure: int | None


@dataclass(frozen=True, slots=True)
class ContainerPage:
    """One container; `layers` is None where its image is not known."""

    files: ContainerFiles
    image: str | None
    layers: tuple[Layer, ...] | None
    writable: Space | None
    log: str | None
    logged: Space | None
    namespaces: tuple[Namespace, ...]
    mapped: tuple[tuple[int, int, int], ...]
    """Of its user namespace: (first id inside, first id on the node, how many); the node's own has one of all."""
    processes: tuple[Process, ...]
    use: Use | None


@dataclass(frozen=True, slots=True)
class VolumePage:
    """One volume; `fstype` is that of a file system of its own (tmpfs: its bytes are memory), None where it is on the
    node's disk."""

    volume: Volume
    fstype: str | None
    space: Space | None


@dataclass(frozen=True, slots=True)
class PodPage:
    """All of a pod. `problems` is what could not be read, in words."""

    files: PodFiles
    volumes: tuple[VolumePage, ...]
    containers: tuple[ContainerPage, ...]
    use: Use | None
    problems: tuple[str, ...]


def pod_page(host: Host, files: PodFiles, *, between: Callable[[str], None] = lambda _what: None) -> PodPage:
    """Look at all that `files` names; `between` is told what is looked at."""
    own = {one.identity.container_id for one in files.containers if one.identity.container_id is not None}
    images = images_of(host, sized=own, between=between)
    mounted = _mounted(host)
    sandbox = next((one for one in files.containers if one.identity.kind == "sandbox"), None)
    shared = _namespaces(host, sandbox.pids) if sandbox is not None else {}
    of_node = _namespaces(host, (1,))
    logs = _log_directories(host, files)
    containers = []
    for one in files.containers:
        between(one.identity.container or "the sandbox")
        log = logs.get(one.identity.container or "")
        image = _image_of(images, one.identity.container_id)
        containers.append(
            ContainerPage(
                one,
                one.identity.image or (image.name if image is not None else None),
                _layers(images, image, one.identity.container_id),
                space(host.path(one.upperdir)) if one.upperdir is not None else None,
                log,
                space(host.path(log)) if log is not None else None,
                _whose(_namespaces(host, one.pids), shared if one is not sandbox else {}, of_node),
                _id_map(host, one.pids),
                tuple(_processes(host, one.pids)),
                _use(host, one.cgroups),
            )
        )
    volumes = []
    for volume in files.volumes:
        between(volume.path)
        volumes.append(VolumePage(volume, mounted.get(volume.path), space(host.path(volume.path))))
    return PodPage(files, tuple(volumes), tuple(containers), _use(host, files.cgroups), tuple(images.problems))


def space(path: str) -> Space | None:
    """What a directory (a path that this process can open) takes; None where there is none.

    No other device is entered, no link followed, an inode with several names counts once. After ten seconds it ends,
    and says that it is not the whole.
    """
    end = time.monotonic() + _MOST_S
    walk = Walk(path, largest=_LARGEST)
    pieces = walk.pieces()
    whole = all(time.monotonic() < end for _ in pieces)
    pieces.close()
    if walk.gone:
        return None
    return Space(walk.bytes, walk.inodes, whole and not walk.unread, tuple(walk.largest))


def _layers(images: ImagesOfNode, image: ImageOfNode | None, container_id: str | None) -> tuple[Layer, ...] | None:
    # those that the container has below it: of several snapshotters, its own
    user = (
        next((user for user in image.users if user.container_id == container_id), None) if image is not None else None
    )
    if image is None or user is None or not user.layers:
        return None
    found: list[LayerOfNode | None] = [images.layers.get(key) for key in user.layers]
    if None in found:
        return None
    return tuple(
        Layer(
            at + 1,
            layer.directory,
            layer.bytes,
            layer.inodes,
            len(layer.images),
            oci.dockerfile_line(layer.created_by) if layer.created_by else None,
        )
        for at, layer in enumerate(found)
        if layer is not None
    )


def _image_of(images: ImagesOfNode, container_id: str | None) -> ImageOfNode | None:
    for image in images.images:
        if any(user.container_id == container_id for user in image.users):
            return image
    return None


def _log_directories(host: Host, files: PodFiles) -> dict[str, str]:
    who = files.identity
    found = {}
    for logs in host.places.logs:
        base = f"{logs}/{who.namespace}_{who.pod}_{who.pod_uid}"
        for one in files.containers:
            name = one.identity.container
            if name and os.path.isdir(host.path(f"{base}/{name}")):
                found[name] = f"{base}/{name}"
    return found


def _mounted(host: Host) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in host.mountinfo_paths():
        try:
            with open(path, "rb") as file:
                found |= {mount.mount_point: mount.fstype for mount in mountinfo.parse(file.read())}
        except OSError:
            continue
    return found


def _namespaces(host: Host, pids: Sequence[int]) -> dict[str, int]:
    # of the first of these processes that is there
    for pid in pids[:_MOST_PROCESSES]:
        found: dict[str, int] = {}
        for kind in NAMESPACES:
            try:
                found[kind] = os.stat(f"{host.proc}/{pid}/ns/{kind}").st_ino
            except OSError:
                continue
        if found:
            return found
    return {}


def _whose(own: dict[str, int], pod: dict[str, int], node: dict[str, int]) -> tuple[Namespace, ...]:
    return tuple(
        Namespace(
            kind,
            inode,
            "node" if node.get(kind) == inode else "pod" if pod.get(kind, inode) == inode else "container",
        )
        for kind, inode in own.items()
    )


def _id_map(host: Host, pids: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    for pid in pids[:_MOST_PROCESSES]:
        lines = [line.split() for line in cgroup_files.read(f"{host.proc}/{pid}/uid_map").splitlines()]
        found = [tuple(map(int, line)) for line in lines if len(line) == 3 and all(part.isdigit() for part in line)]
        if found:
            return tuple((inside, outside, count) for inside, outside, count in found)
    return ()


def _processes(host: Host, pids: Sequence[int]) -> list[Process]:
    found = []
    for pid in pids[:_MOST_PROCESSES]:
        comm = cgroup_files.read(f"{host.proc}/{pid}/comm")
        if comm:
            found.append(Process(pid, os.fsdecode(comm.rstrip(b"\n"))))
    return found


def _use(host: Host, cgroups: Sequence[Cgroup]) -> Use | None:
    mounts = host.cgroup_mounts()
    paths = [
        cgroup.path.removeprefix((mounts.unified if not cgroup.hierarchy else mounts.memory) or "")
        for cgroup in cgroups
    ]
    if not paths:
        return None
    hierarchies = cgroup_files.Hierarchies.of(host)
    numbers: dict[str, int] = {}
    hierarchies.read(paths[0], numbers)
    directories = hierarchies.directories(paths[0])
    limit = cgroup_files.UNKNOWN
    pids = hierarchies.controllers.get("pids", hierarchies.unified)
    if pids is not None:
        limit = cgroup_files.number(f"{pids}{paths[0]}/pids.max")

    def known(number: int) -> int | None:
        return None if number == cgroup_files.UNKNOWN else number

    def of(name: str) -> int | None:
        return known(numbers.get(name, cgroup_files.UNKNOWN))

    return Use(
        memory=of("memory"),
        memory_limit=of("memory_limit"),
        swap=of("swap"),
        cpu=of("cpu"),
        cpu_limit=of("cpu_limit"),
        throttled=of("throttled"),
        oom_kills=of("oom_kills"),
        processes=known(max((cgroup_files.processes(directory) for directory in directories), default=-1)),
        processes_limit=known(limit),
        memory_pressure=of("memory_pressure"),
        io_pressure=of("io_pressure"),
    )
