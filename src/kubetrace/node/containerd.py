"""What container runtimes leave on the node's disk about their containers: bundles and containerd's databases.

A bundle's config.json (the OCI runtime specification) exists before the container's cgroup does and for 8 ms or more
after it is gone (measured), so it names a container before its first event. containerd's metadata database also knows
exited containers, until the kubelet removes them. Neither needs a running containerd, a socket or the API server.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from kubetrace.attribution.directories import CONTAINERD, CONTAINERD_STATE
from kubetrace.attribution.facts import ContainerSeen, Source
from kubetrace.node.bolt import Bucket, read
from kubetrace.node.host import Host, listed, read_regular

_TASKS = ("io.containerd.runtime.v2.task", "io.containerd.runtime.v1.linux")
# CRI-O keeps bundles with containers/storage; known from its documentation, not tested on a node.
CRIO_BUNDLES = "/run/containers/storage/overlay-containers"

# A spec is some 15 kB; the kubelet's largest pod (1.5 MiB in etcd) stays below 4.
MAX_CONFIG_BYTES = 4 << 20

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_SNAPSHOT = re.compile(r"/snapshots/([0-9]{1,18})(?:/(?:fs|work)(?:/|\Z)|/?\Z)")


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle's config.json says; `rootfs` is the container's root as a node path."""

    seen: ContainerSeen
    rootfs: str | None
    cgroups_path: str | None


def bundle_directories(host: Host) -> list[str]:
    """The directories that hold bundles, one per containerd namespace, as node paths; k8s.io first.

    containerd's is given even where it does not exist yet, so that the first container after a node's start is found.
    """
    found = [f"{CONTAINERD_STATE[0]}/{_TASKS[0]}/k8s.io"]
    for state in CONTAINERD_STATE:
        for tasks in _TASKS:
            for name in listed(host.path(f"{state}/{tasks}")):
                directory = f"{state}/{tasks}/{name}"
                if directory not in found:
                    found.append(directory)
    if os.path.isdir(host.path(CRIO_BUNDLES)):
        found.append(CRIO_BUNDLES)
    return found


def bundle_ids(host: Host, directory: str) -> Iterator[str]:
    """The container ids that have a bundle in a directory; ids of other lengths are not Kubernetes'."""
    for name in listed(host.path(directory)):
        if _CONTAINER_ID.fullmatch(name):
            yield name


def config_below(directory: str) -> str:
    """Where config.json is below a container's own directory in one of the bundle directories."""
    return "userdata/config.json" if directory == CRIO_BUNDLES else "config.json"


def read_bundle(
    path: str, bundle: str, container_id: str, time_ns: int, *, max_bytes: int = MAX_CONFIG_BYTES
) -> Bundle | None:
    """What the config.json at `path` (for this process) says; `bundle` is its directory as a node path.

    None if it is not there, half written, larger than `max_bytes` or no such file at all; nothing is raised.
    """
    try:
        spec = json.loads(read_regular(path, max_bytes))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(spec, dict):
        return None
    annotations = spec.get("annotations")
    family = _CRIO if bundle.startswith(CRIO_BUNDLES + "/") else _CONTAINERD
    linux = spec.get("linux")
    root = spec.get("root")
    cgroups_path = linux.get("cgroupsPath") if isinstance(linux, dict) else None
    rootfs = root.get("path") if isinstance(root, dict) else None
    return Bundle(
        replace(
            _from_annotations(annotations if isinstance(annotations, dict) else {}, family, container_id, time_ns),
            prepared_ns=_written_ns(path),
        ),
        os.path.normpath(os.path.join(bundle, rootfs)) if isinstance(rootfs, str) and "\0" not in rootfs else None,
        cgroups_path if isinstance(cgroups_path, str) else None,
    )


def _written_ns(path: str) -> int | None:
    # When a file was written last, on the clock of the events.
    try:
        written = os.stat(path).st_mtime_ns
    except OSError:
        return None
    return written - Host.boot_to_wall_ns()


@dataclass(frozen=True, slots=True)
class _Family:
    # The annotations by which one runtime tells its containers.
    kind: str
    namespace: str
    pod: str
    container: str
    pod_uid: str
    image: str
    sandbox_id: str


# containerd: pkg/cri/annotations/annotations.go. A pod's own annotations are passed on where the runtime class says so
# (pod_annotations), so each runtime's bundles are read by its own names alone.
_CONTAINERD = _Family(
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.cri.container-name",
    "io.kubernetes.cri.sandbox-uid",
    "io.kubernetes.cri.image-name",
    "io.kubernetes.cri.sandbox-id",
)
# CRI-O: pkg/annotations, and the kubelet's own labels, which it writes over a pod's annotations of the same name.
_CRIO = _Family(
    "io.kubernetes.cri-o.ContainerType",
    "io.kubernetes.pod.namespace",
    "io.kubernetes.pod.name",
    "io.kubernetes.container.name",
    "io.kubernetes.pod.uid",
    "io.kubernetes.cri-o.ImageName",
    "io.kubernetes.cri-o.SandboxID",
)


def _from_annotations(
    annotations: dict[object, object], family: _Family, container_id: str, time_ns: int
) -> ContainerSeen:
    def text(name: str) -> str | None:
        value = annotations.get(name)
        return value if isinstance(value, str) and value else None

    kind: Literal["container", "sandbox"] = "sandbox" if text(family.kind) == "sandbox" else "container"
    return ContainerSeen(
        container_id=container_id,
        kind=kind,
        namespace=text(family.namespace),
        pod=text(family.pod),
        container=None if kind == "sandbox" else text(family.container),
        pod_uid=text(family.pod_uid),
        image=text(family.image),
        sandbox_id=text(family.sandbox_id),
        source="config.json",
        time_ns=time_ns,
    )


def metadata_path(host: Host) -> str | None:
    """containerd's metadata database, as a path for this process; None where there is none."""
    return _database(host, "io.containerd.metadata.v1.bolt/meta.db")


def metadata(path: str, container_ids: Iterable[str] | None, time_ns: int) -> list[ContainerSeen]:
    """What containerd's metadata knows of these containers (None: of all), with the names in their labels.

    Buckets v1/<namespace>/containers/<id>/{labels,image} (containerd metadata/buckets.go); containers that the kubelet
    did not label are left out. BoltError if the database cannot be read.
    """

    def query(root: Bucket) -> list[ContainerSeen]:
        containers = root.bucket(b"v1", b"k8s.io", b"containers")
        if containers is None:
            return []
        ids = (
            [key for key, _ in containers.items()] if container_ids is None else [os.fsencode(i) for i in container_ids]
        )
        seen = []
        for container_id in ids:
            record = containers.bucket(container_id)
            labels = record.bucket(b"labels") if record is not None else None
            if record is not None and labels is not None and labels.get(b"io.kubernetes.pod.name") is not None:
                image = record.get(b"image")
                names = {key: os.fsdecode(value) for key, value in labels.items() if isinstance(value, bytes)}
                seen.append(from_labels(names, os.fsdecode(container_id), image, "containerd metadata", time_ns))
        return seen

    return read(path, query)


def pod_labels(path: str, sandbox_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Sandbox -> the labels of its pod, each as key=value, as containerd's CRI keeps them with the sandbox's container.

    What the kubelet and containerd add themselves (io.kubernetes.*, io.cri-containerd.*) is left out; labels of the
    pause image are among them (containerd pkg/cri/server/helpers.go, buildLabels). BoltError if it cannot be read.
    """

    def query(root: Bucket) -> dict[str, tuple[str, ...]]:
        containers = root.bucket(b"v1", b"k8s.io", b"containers")
        found = {}
        for sandbox_id in sandbox_ids if containers is not None else ():
            labels = containers.bucket(os.fsencode(sandbox_id), b"labels") if containers is not None else None
            if labels is not None:
                found[sandbox_id] = tuple(
                    f"{os.fsdecode(key)}={os.fsdecode(value)}"
                    for key, value in labels.items()
                    if isinstance(value, bytes) and not key.startswith((b"io.kubernetes.", b"io.cri-containerd."))
                )
        return found

    return read(path, query)


def from_labels(
    labels: dict[bytes, str], container_id: str, image: bytes | None, source: Source, time_ns: int
) -> ContainerSeen:
    """A container by the kubelet's labels (pkg/kubelet/types/labels.go); a sandbox if no container's name is there."""
    container = labels.get(b"io.kubernetes.container.name")
    sandbox = labels.get(b"io.cri-containerd.kind") == "sandbox" or container is None
    return ContainerSeen(
        container_id=container_id,
        kind="sandbox" if sandbox else "container",
        namespace=labels.get(b"io.kubernetes.pod.namespace"),
        pod=labels.get(b"io.kubernetes.pod.name"),
        container=None if sandbox else container,
        pod_uid=labels.get(b"io.kubernetes.pod.uid"),
        image=os.fsdecode(image) if image else None,
        sandbox_id=container_id if sandbox else None,
        source=source,
        time_ns=time_ns,
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One of containerd's overlayfs snapshots: its directory's number and key; `parent` is a key too.

    The key of a container's writable layer ends with the container's id, an image layer's with its chain id.
    """

    number: int
    key: str
    parent: str | None

    @property
    def container_id(self) -> str | None:
        """The container whose writable layer this is; None for a layer of an image."""
        name = self.key.rsplit("/", 1)[-1]
        return name if _CONTAINER_ID.fullmatch(name) else None


def snapshots_path(host: Host) -> str | None:
    """The overlayfs snapshotter's database, as a path for this process; None where there is none."""
    return _database(host, "io.containerd.snapshotter.v1.overlayfs/metadata.db")


def snapshots(path: str) -> list[Snapshot]:
    """Every snapshot in the snapshotter's database (containerd snapshots/storage/bolt.go).

    Buckets v1/snapshots/<key>/{id,parent}, where id is an unsigned varint. BoltError if it cannot be read.
    """

    def query(root: Bucket) -> list[Snapshot]:
        bucket = root.bucket(b"v1", b"snapshots")
        found = []
        for key, value in bucket.items() if bucket is not None else ():
            if isinstance(value, Bucket):
                number, parent = value.get(b"id"), value.get(b"parent")
                if number:
                    found.append(Snapshot(_uvarint(number), os.fsdecode(key), os.fsdecode(parent) if parent else None))
        return found

    return read(path, query)


def snapshot_number(path: str) -> int | None:
    """N of a path in snapshots/N/fs or snapshots/N/work of any snapshotter directory; None if it is not such a path."""
    match = _SNAPSHOT.search(path)
    return int(match[1]) if match else None


def layer_directory(path: str) -> str | None:
    """The directory of an image layer that a path in snapshots/N is in: .../snapshots/N/fs; None if it is not one."""
    match = _SNAPSHOT.search(path)
    return f"{path[: match.end(1)]}/fs" if match else None


def layer_directories(host: Host, number: int) -> list[str]:
    """Where a snapshot of that number may be: a node path for each containerd that is known to be here."""
    bases = [f"{root}/io.containerd.snapshotter.v1.overlayfs" for root in CONTAINERD]
    return [f"{base}/snapshots/{number}/fs" for base in bases if os.path.isfile(host.path(f"{base}/metadata.db"))]


@dataclass(frozen=True, slots=True)
class Images:
    """containerd's images by the digest of what they point at, and the names that containers have for theirs."""

    references: dict[str, tuple[str, ...]]
    of_containers: dict[str, str]


def images(path: str, container_ids: Iterable[str], *, limit: int) -> Images:
    """The images of all namespaces in containerd's metadata, `limit` names at most, and those of these containers.

    Buckets v1/<namespace>/images/<reference>/target/digest and v1/<namespace>/containers/<id>/image (containerd
    metadata/buckets.go). BoltError if the database cannot be read.
    """
    wanted = list(container_ids)

    def query(root: Bucket) -> Images:
        references: dict[str, set[str]] = {}
        of_containers: dict[str, str] = {}
        left = limit
        top = root.bucket(b"v1")
        for _, namespace in top.items() if top is not None else ():
            if not isinstance(namespace, Bucket):
                continue
            named = namespace.bucket(b"images")
            for reference, record in named.items() if named is not None else ():
                target = record.bucket(b"target") if isinstance(record, Bucket) else None
                digest = target.get(b"digest") if target is not None else None
                if digest:
                    references.setdefault(os.fsdecode(digest), set()).add(os.fsdecode(reference))
                    left -= 1
                if left <= 0:
                    break
            for container_id in wanted:
                container = namespace.bucket(b"containers", os.fsencode(container_id))
                image = container.get(b"image") if container is not None else None
                if image:
                    of_containers[container_id] = os.fsdecode(image)
        return Images({digest: tuple(sorted(names)) for digest, names in references.items()}, of_containers)

    return read(path, query)


def _uvarint(data: bytes) -> int:
    # encoding/binary.PutUvarint: seven bits a byte, the lowest first.
    value = 0
    for shift, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << (7 * shift)
        if not byte & 0x80:
            break
    return value


def _database(host: Host, name: str) -> str | None:
    for root in CONTAINERD:
        path = host.path(f"{root}/{name}")
        if os.path.isfile(path):
            return path
    return None
