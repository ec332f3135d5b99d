"""Everything on a node that belongs to one pod: its cgroups, processes, writable layers, volumes and mounts.

The other direction of lookup.py: names are given, numbers and paths are found. From the cgroup trees, the bundles'
config.json (the OCI runtime specification's `mounts`), the node's mountinfo and the kubelet's directory.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubetrace.attribution import cgroup_path, oci
from kubetrace.node import containerd, kubelet_dir
from kubetrace.node.bolt import BoltError
from kubetrace.node.reading import listed, read_regular

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Attributor, Identity
    from kubetrace.attribution.facts import CgroupSeen, OverlaySeen
    from kubetrace.node.host import CgroupMounts, Host

# A pod with more is not a pod; a container's list of mounts is the pod spec's.
_MOST_PIDS = 10_000
_MOST_MOUNTS = 500
_MOST_VOLUMES = 500
_MAX_PROCS_BYTES = 1 << 20
_MOST_REFERENCES = 10_000
_MOUNTED_IMAGE = re.compile(r"/io\.containerd\.grpc\.v1\.cri/image-volumes/[0-9a-f]{64}/([0-9a-f]{64})(?:/|\Z)")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """`hierarchy` 0 is cgroup v2; `path` is the directory, as a node path."""

    hierarchy: int
    cgroup_id: int
    path: str


@dataclass(frozen=True, slots=True)
class Mount:
    """What is mounted where in a container.

    `volume` is the pod's volume that it is, where it is one; `image` the name of an image that is mounted as a volume.
    """

    at: str
    source: str
    volume: str | None
    read_only: bool
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory of the kubelet's for a volume of the pod: `kind` is the plugin, such as empty-dir."""

    name: str
    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Root:
    """A container's root that is no overlay: where it is mounted, its type, and the directory that is bound there."""

    at: str
    fstype: str
    bound: str | None


@dataclass(frozen=True, slots=True)
class ContainerFiles:
    """A container of the pod (or its sandbox).

    `upperdir` is where its writable layer is, None if that is no directory of the node; `lowerdirs` is None for a root
    that is no overlay, which is of type `root_type`.
    """

    identity: Identity
    cgroups: tuple[Cgroup, ...]
    pids: tuple[int, ...]
    root: str | None
    root_type: str | None
    upperdir: str | None
    lowerdirs: int | None
    mounts: tuple[Mount, ...]


@dataclass(frozen=True, slots=True)
class PodFiles:
    """One pod; `identity` has its names and UID, `labels` are key=value each (None: not known)."""

    identity: Identity
    labels: tuple[str, ...] | None
    cgroups: tuple[Cgroup, ...]
    directory: str | None
    volumes: tuple[Volume, ...]
    containers: tuple[ContainerFiles, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """What one look at the node has found."""

    host: Host
    attributor: Attributor
    cgroups: Iterable[CgroupSeen]
    overlays: Iterable[OverlaySeen]
    mounts: CgroupMounts
    memory_hierarchy: int
    roots: Mapping[str, Root]


def pod_files(scan: Scan, identity: Identity, labels: tuple[str, ...] | None = None) -> PodFiles:
    """Of a pod whose `identity` has a UID. What cannot be read, or is gone meanwhile, is left out."""
    assert identity.pod_uid is not None
    own: list[Cgroup] = []
    of_containers: dict[str, list[Cgroup]] = {}
    for seen in scan.cgroups:
        parsed = cgroup_path.parse(seen.path)
        if parsed.pod_uid != identity.pod_uid:
            continue
        mount = scan.mounts.unified if seen.hierarchy == 0 else scan.mounts.memory
        cgroup = Cgroup(seen.hierarchy, seen.cgroup_id, f"{(mount or '').rstrip('/')}{seen.path}")
        (of_containers.setdefault(parsed.container_id, []) if parsed.container_id else own).append(cgroup)
    known = [seen.container_id for seen in scan.attributor.containers_of(identity.pod_uid)]
    overlays = {overlay.container_id: overlay for overlay in scan.overlays}
    containers = [
        _container(scan, container_id, of_containers.get(container_id, []), overlays.get(container_id))
        for container_id in dict.fromkeys([*known, *of_containers])
    ]
    directory = next(
        (
            path
            for root in scan.host.places.kubelets
            if os.path.isdir(scan.host.path(path := f"{root}/pods/{identity.pod_uid}"))
        ),
        None,
    )
    return PodFiles(
        identity,
        labels,
        tuple(sorted(own, key=lambda one: (one.hierarchy, one.path))),
        directory,
        tuple(_volumes(scan.host, directory)) if directory is not None else (),
        tuple(sorted(containers, key=lambda one: (one.identity.kind != "sandbox", one.identity.container or ""))),
    )


def _container(scan: Scan, container_id: str, cgroups: list[Cgroup], overlay: OverlaySeen | None) -> ContainerFiles:
    from kubetrace.attribution.attributor import Identity

    identity = scan.attributor.container(container_id) or Identity(kind="container", container_id=container_id)
    pids: dict[int, None] = {}
    for cgroup in cgroups:
        for pid in _pids(scan.host.path(f"{cgroup.path}/cgroup.procs")):
            if len(pids) < _MOST_PIDS:
                pids[pid] = None
    other = scan.roots.get(container_id)
    return ContainerFiles(
        identity,
        tuple(sorted(cgroups, key=lambda one: (one.hierarchy, one.path))),
        tuple(sorted(pids)),
        overlay.mount_point if overlay is not None else other.at if other is not None else None,
        "overlay" if overlay is not None else other.fstype if other is not None else None,
        overlay.upperdir if overlay is not None else other.bound if other is not None else None,
        len(overlay.lowerdirs) if overlay is not None else None,
        tuple(_mounts(scan.host, container_id)),
    )


def _pids(path: str) -> list[int]:
    # A cgroup's file has no size: it is read to a limit.
    try:
        with open(path, "rb") as file:
            lines = file.read(_MAX_PROCS_BYTES).split()
    except (OSError, ValueError):
        return []
    return [int(line) for line in lines if line.isdigit() and len(line) < 11]


def _mounts(host: Host, container_id: str) -> list[Mount]:
    """The bind mounts of a container's config.json: what is not part of every container."""
    for directory in containerd.bundle_directories(host):
        path = host.path(f"{directory}/{container_id}/{containerd.config_below(directory)}")
        try:
            spec = json.loads(read_regular(path, containerd.MAX_CONFIG_BYTES))
        except (OSError, ValueError, RecursionError):
            continue
        listed = spec.get("mounts") if isinstance(spec, dict) else None
        found = []
        for mount in listed[:_MOST_MOUNTS] if isinstance(listed, list) else ():
            if isinstance(mount, Mapping) and (made := _mount(mount)) is not None:
                found.append(made)
        digests = {match[1] for mount in found if (match := _MOUNTED_IMAGE.search(mount.source))}
        names = _image_names(host, digests) if digests else {}
        return [
            replace(mount, image=names.get(match[1], f"sha256:{match[1]}"))
            if (match := _MOUNTED_IMAGE.search(mount.source))
            else mount
            for mount in found
        ]
    return []


def is_everywhere(mount: Mount, pod: PodFiles) -> bool:
    """Whether it is a file that the kubelet or the runtime gives each container."""
    own = f"{pod.directory}/" if pod.directory is not None else "/var/lib/kubelet/pods/"
    if mount.volume is not None or mount.image is not None:
        return False
    return mount.source.startswith(own) or "/io.containerd.grpc.v1.cri/sandboxes/" in mount.source


def _image_names(host: Host, digests: Collection[str]) -> dict[str, str]:
    # What a reference points at is a manifest or an index: an image's id is neither.
    found: dict[str, str] = {}
    for database in containerd.metadata_paths(host):
        try:
            references = containerd.images(database, (), limit=_MOST_REFERENCES).references
        except BoltError:
            continue
        for digest in digests:
            if (name := oci.best_reference(references.get(f"sha256:{digest}", ()))) is not None:
                found.setdefault(digest, name)
    return found


def _mount(mount: Mapping[str, object]) -> Mount | None:
    at, source, options = mount.get("destination"), mount.get("source"), mount.get("options")
    if mount.get("type") != "bind" or not isinstance(at, str) or not isinstance(source, str):
        return None
    volume = kubelet_dir.volume_of(source)
    return Mount(at, source, volume[1] if volume else None, isinstance(options, list) and "ro" in options)


def _volumes(host: Host, directory: str) -> list[Volume]:
    found = []
    for plugin in listed(host.path(f"{directory}/volumes")):
        for name in listed(host.path(f"{directory}/volumes/{plugin}")):
            # kubernetes.io~empty-dir: the plugin's name with '/' written as '~'
            found.append(Volume(name, plugin.rpartition("~")[2], f"{directory}/volumes/{plugin}/{name}"))
    return found[:_MOST_VOLUMES]
