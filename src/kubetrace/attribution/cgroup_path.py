"""What a cgroup's path alone says: container id, pod UID and quality of service.

Read from any runtime and driver: /kubepods/burstable/pod<uid>/<cid> of the cgroupfs driver,
kubepods-burstable-pod<uid>.slice/cri-containerd-<cid>.scope of systemd's, crio-<cid>.scope, docker-<cid>.scope, plain
/docker/<cid>, each below any prefix (kind, nested nodes).
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

QosClass = Literal["Guaranteed", "Burstable", "BestEffort"]

# The pod's UID (a static pod's is a hash without dashes) ends the name of its cgroup: kubelet
# pkg/kubelet/cm/pod_container_manager_linux.go, GetPodContainerName; systemd's form has '_' for '-'
# (cgroup_manager_linux.go, escapeSystemdCgroupName). A static pod's manifest may give it any UID: one of another form
# counts only right below the kubelet's own cgroups, and from 8 characters on.
_POD = re.compile(r"(?:^|-)pod([0-9a-f]{32}|[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?\Z")
_ANY_UID = r"[A-Za-z0-9][A-Za-z0-9_.-]{6,251}[A-Za-z0-9]"
_ANY_POD = re.compile(rf"\Apod({_ANY_UID})\Z")
_ANY_SLICE = re.compile(rf"(?:\A|-)kubepods(?:-burstable|-besteffort)?-pod({_ANY_UID})\.slice\Z")
# Kata's is kata_ID, in the pod's cgroup or below one of its own (virtcontainers/sandbox.go, createResourceController).
_CONTAINER = re.compile(r"(?:^|-|\Akata_)([0-9a-f]{64})(?:\.scope)?\Z")


class CgroupPath(NamedTuple):
    """The owner of a cgroup, as far as its path tells; all None for a cgroup of the host."""

    container_id: str | None
    pod_uid: str | None
    qos_class: QosClass | None


_HOST = CgroupPath(None, None, None)


def parse(path: str) -> CgroupPath:
    """The container (or else the pod) that a cgroup belongs to by its path alone.

    A cgroup below a container's belongs to that container. Below a pod it is the outermost container of the nearest pod
    that has one; where there is no pod, the innermost container. Mount units and CRI-O's monitors are not containers.
    """
    owners = owners_of(path)
    if not owners:
        return _HOST
    nearest = owners[-1]
    if nearest.pod_uid is None:
        return nearest
    for owner in owners:
        if owner.pod_uid == nearest.pod_uid and owner.container_id is not None:
            return owner
    return nearest


def is_own(path: str) -> bool:
    """Whether a cgroup is the pod's or container's own, and not one that was made below it."""
    owner = parse(path)
    if owner == _HOST:
        return False
    return parse(path.rpartition("/")[0]) != owner


def owners_of(path: str) -> tuple[CgroupPath, ...]:
    """Every pod and container on the way down a cgroup path, outermost first; () for a cgroup of the host.

    More than two come from a node inside a container, or from a container that makes cgroups of its own: only what the
    node's files know of them tells which one is this node's.
    """
    owners: list[CgroupPath] = []
    pod_uid: str | None = None
    qos_class: QosClass | None = None
    parent = ""
    # A runtime set to cgroupfs but given systemd's "slice:prefix:id" makes one directory of that name.
    for part in path.replace(":", "/").split("/"):
        if "pod" in part and (pod := _POD.search(part) or _any_pod(part, parent)):
            pod_uid = pod[1].replace("_", "-") if part.endswith(".slice") else pod[1]
            qos_class = _qos_class(parent, part[: pod.start(1) - len("pod")])
            owners.append(CgroupPath(None, pod_uid, qos_class))
        elif len(part) >= 64 and "conmon-" not in part and (container := _CONTAINER.search(part)):
            owners.append(CgroupPath(container[1], pod_uid, qos_class))
        parent = part
    return tuple(owners)


def _any_pod(part: str, parent: str) -> re.Match[str] | None:
    if parent in ("kubepods", "burstable", "besteffort"):
        return _ANY_POD.match(part)
    return _ANY_SLICE.search(part) if parent.endswith(".slice") and "kubepods" in parent else None


def _qos_class(parent: str, prefix: str) -> QosClass | None:
    # cgroupfs: the parent is "burstable", "besteffort" or the root "kubepods"; systemd: the slice's name repeats it.
    names = f"{parent.removesuffix('.slice')}-{prefix}".rstrip("-").split("-")
    if "burstable" in names:
        return "Burstable"
    if "besteffort" in names:
        return "BestEffort"
    return "Guaranteed" if "kubepods" in names else None
