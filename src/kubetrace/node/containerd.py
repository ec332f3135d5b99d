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

from kubetrace.attribution.facts import ContainerSeen, Source
from kubetrace.node.bolt import Bucket, read
from kubetrace.node.go_values import uvarint
from kubetrace.node.host import Host
from kubetrace.node.reading import listed, read_regular

_TASKS = ("io.containerd.runtime.v2.task", "io.containerd.runtime.v1.linux")
# CRI-O keeps bundles below the run root of containers-storage.
_STORAGE_BUNDLES = "/overlay-containers"

METADATA = "io.containerd.metadata.v1.bolt/meta.db"
# Directories of snapshotters below containerd's root, and how many of them are looked at.
SNAPSHOTTER = "io.containerd.snapshotter.v1."
_MOST_SNAPSHOTTERS = 64

# A spec is some 15 kB; the kubelet's largest pod (1.5 MiB in etcd) stays below 4.
MAX_CONFIG_BYTES = 4 << 20

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_IMAGE_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
_CHAIN = re.compile(r"sha256:[0-9a-f]{64}")
_SNAPSHOT = re.compile(r"(/.*)/snapshots/([0-9]{1,18})(?:/(?:fs|work))?/?", re.DOTALL)
# Snapshotters that are a process of their own (stargz, nydus) have a root of their own.
_BELOW = re.compile(r"(/io\.containerd\.snapshotter\.v1\.[^/]+|/snapshotter)?/snapshots/([0-9]{1,18})(?:/|\Z)")
# What the metadata puts before a snapshotter's keys: NAMESPACE/SEQUENCE/ (containerd metadata/snapshot.go).
_SEQUENCE = re.compile(r"[^/]+/[0-9]+/")


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle's config.json says; `rootfs` is the container's root as a node path."""

    seen: ContainerSeen
    rootfs: str | None
    cgroups_path: str | None


def bundle_directories(host: Host) -> list[str]:
    """The directories that hold bundles, one per containerd and namespace of it, as node paths; k8s.io first.

    Those of each containerd and CRI-O that is known to be on the node (host.places). Kubernetes' are given even where
    they do not exist yet, so that the first container after a node's start is found.
    """
    places = host.places
    found = [f"{state}/{_TASKS[0]}/k8s.io" for state in places.states]
    for state in places.states:
        for tasks in _TASKS:
            for name in listed(host.path(f"{state}/{tasks}")):
                directory = f"{state}/{tasks}/{name}"
                if directory not in found:
                    found.append(directory)
    return found + [f"{root}{_STORAGE_BUNDLES}" for root in places.runroots]


def bundle_ids(host: Host, directory: str) -> Iterator[str]:
    """The container ids that have a bundle in a directory; ids of other lengths are not Kubernetes'."""
    for name in listed(host.path(directory)):
        if _CONTAINER_ID.fullmatch(name):
            yield name


def config_below(directory: str) -> str:
    """Where config.json is below a container's own directory in one of the bundle directories."""
    return "userdata/config.json" if directory.endswith(_STORAGE_BUNDLES) else "config.json"


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
    family = _CRIO if os.path.dirname(bundle).endswith(_STORAGE_BUNDLES) else _CONTAINERD
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


def crio_labels(path: str) -> tuple[str, ...] | None:
    """The labels of a pod, each as key=value, in the config.json of CRI-O's sandbox; None if it has none of them.

    CRI-O: server/sandbox_run_linux.go. What the kubelet adds itself (io.kubernetes.*) is left out, as in `pod_labels`.
    """
    try:
        spec = json.loads(read_regular(path, MAX_CONFIG_BYTES))
        annotations = spec.get("annotations") if isinstance(spec, dict) else None
        text = annotations.get("io.kubernetes.cri-o.Labels") if isinstance(annotations, dict) else None
        labels = json.loads(text) if isinstance(text, str) else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(labels, dict):
        return None
    found = {
        key: value for key, value in labels.items() if isinstance(value, str) and not key.startswith("io.kubernetes.")
    }
    return tuple(f"{key}={value}" for key, value in found.items())


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
    image: tuple[str, ...]
    sandbox_id: str


# containerd: pkg/cri/annotations/annotations.go. A pod's own annotations are passed on where the runtime class says so
# (pod_annotations), so each runtime's bundles are read by its own names alone.
_CONTAINERD = _Family(
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.cri.container-name",
    "io.kubernetes.cri.sandbox-uid",
    ("io.kubernetes.cri.image-name",),
    "io.kubernetes.cri.sandbox-id",
)
# CRI-O: pkg/annotations, and the kubelet's own labels, which it writes over a pod's annotations of the same name.
_CRIO = _Family(
    "io.kubernetes.cri-o.ContainerType",
    "io.kubernetes.pod.namespace",
    "io.kubernetes.pod.name",
    "io.kubernetes.container.name",
    "io.kubernetes.pod.uid",
    # the one that the pod asks for, then any name of the image that this was
    ("io.kubernetes.cri-o.Image", "io.kubernetes.cri-o.ImageName"),
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
        image=next((name for one in family.image if (name := text(one)) and not _IMAGE_ID.fullmatch(name)), None),
        sandbox_id=text(family.sandbox_id),
        source="config.json",
        time_ns=time_ns,
    )


def metadata_paths(host: Host) -> list[str]:
    """The metadata database of each containerd on the node, as paths for this process."""
    return [path for root in host.places.roots if os.path.isfile(path := host.path(f"{root}/{METADATA}"))]


def have_labels(host: Host) -> bool:
    """Whether there is a runtime of whose pods the labels can be known."""
    bundles = (f"{root}{_STORAGE_BUNDLES}" for root in host.places.runroots)
    return bool(metadata_paths(host)) or any(os.path.isdir(host.path(directory)) for directory in bundles)


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
    """One of a snapshotter's snapshots: its directory's number and key; `parent` is a key too.

    The key of a container's writable layer is the container's id, an image layer's its chain id, that of an image that
    is mounted as a volume ends with image-volumes/SANDBOX/DIGEST; before each is what the metadata adds.
    """

    number: int
    key: str
    parent: str | None

    @property
    def container_id(self) -> str | None:
        """The container whose writable layer this is; None for a layer of an image."""
        return self._name if _CONTAINER_ID.fullmatch(self._name) else None

    @property
    def chain_id(self) -> str | None:
        """The layer of images that was unpacked there, with all those below it; None if it is none."""
        return self._name if _CHAIN.fullmatch(self._name) else None

    @property
    def volume_of(self) -> str | None:
        """The sandbox whose containers have it mounted as an image volume; None if it is none."""
        parts = self._name.split("/")
        at = parts.index("image-volumes") + 1 if "image-volumes" in parts else len(parts)
        return parts[at] if at < len(parts) and _CONTAINER_ID.fullmatch(parts[at]) else None

    @property
    def _name(self) -> str:
        return _SEQUENCE.sub("", self.key, count=1)


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
                    found.append(Snapshot(uvarint(number), os.fsdecode(key), os.fsdecode(parent) if parent else None))
        return found

    return read(path, query)


def split_snapshot(directory: str) -> tuple[str, int] | None:
    """The snapshotter's directory and the snapshot's number of DIR/snapshots/N, DIR/snapshots/N/fs and /work.

    None if it is not such a directory. Numbers are each snapshotter's own: what is N in another one is another layer.
    """
    match = _SNAPSHOT.fullmatch(directory)
    return (match[1], int(match[2])) if match else None


def snapshot_above(root: str, rest: str) -> tuple[str, int] | None:
    """The same of a path in a containerd's directory, `root` and what is below it; None if it is in no snapshot.

    The outermost snapshot counts: what is below it was named by whoever writes there.
    """
    match = _BELOW.match(rest)
    return (root + (match[1] or ""), int(match[2])) if match else None


def snapshot_directory(base: str, number: int) -> str:
    """Where a snapshot's files are: DIR/snapshots/N/fs, as the kernel names it in an overlay."""
    return f"{base}/snapshots/{number}/fs"


def snapshotters(host: Host) -> list[str]:
    """The directory of each snapshotter of each containerd on the node, as node paths.

    One that is a process of its own and was learned by its mounts is its own root.
    """
    found = []
    for root in host.places.roots:
        names = [name for name in listed(host.path(root)) if name.startswith(SNAPSHOTTER)]
        found += [f"{root}/{name}" for name in names]
        found += [base for base in (root, f"{root}/snapshotter") if has_snapshots(host, base)]
    return found[:_MOST_SNAPSHOTTERS]


def has_snapshots(host: Host, base: str) -> bool:
    """Whether a snapshotter's directory has its database."""
    return os.path.isfile(host.path(f"{base}/metadata.db"))


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
