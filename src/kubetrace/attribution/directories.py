"""Which directories of the node are the kubelet's, a container runtime's and the logs', and what a path in one says.

A path is looked at from the node's root on, and the outermost of these directories decides: what is below a volume was
named by whoever writes there, and says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from kubetrace.attribution.facts import DirectorySeen, Fact, MountSeen, OverlaySeen, Role

LOGS: Final = "/var/log/pods"
KUBELET: Final = ("/var/lib/kubelet", "/var/lib/k0s/kubelet", "/var/snap/microk8s/common/var/lib/kubelet")
# containerd's state directory on plain nodes, k3s and RKE2, k0s and microk8s; its root directory there.
CONTAINERD_STATE: Final = (
    "/run/containerd",
    "/run/k3s/containerd",
    "/run/k0s/containerd",
    "/var/snap/microk8s/common/run/containerd",
)
CONTAINERD: Final = (
    "/var/lib/containerd",
    "/var/lib/rancher/k3s/agent/containerd",
    "/var/lib/rancher/rke2/agent/containerd",
    "/var/lib/k0s/containerd",
    "/var/snap/microk8s/common/var/lib/containerd",
)
# containers-storage, which CRI-O and podman have: images, layers and what is stored of containers; what runs.
STORAGE: Final = ("/var/lib/containers/storage",)
STORAGE_RUN: Final = ("/run/containers/storage",)
USUAL: Final = frozenset((LOGS, *KUBELET, *CONTAINERD, *CONTAINERD_STATE, *STORAGE, *STORAGE_RUN))

_UID = r"(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
# Volumes that are a tmpfs which the kubelet itself mounts, so that its directory is told by where they are.
KUBELETS_TMPFS: Final = re.compile(
    rf"(/.+?)/pods/{_UID}/volumes/kubernetes\.io~(?:projected|secret|configmap|downward-api|empty-dir)/[^/]+"
)
_SNAPSHOT = re.compile(r"(/.+?)/io\.containerd\.snapshotter\.v1\.[^/]+/snapshots/[0-9]+/fs")
# Roots of containers, as the node has them mounted whatever they are made of.
_TASK = re.compile(r"(/.+?)/io\.containerd\.runtime\.v2\.task/[^/]+/[0-9a-f]{64}/rootfs")
_LAYER = re.compile(r"(/.+?)/overlay/[0-9a-f]{64}/diff")
# Roots of a run of months are few: more are made up.
_MOST = 1_000


class Directories:
    """The node's own directories: those that every distribution has, and those that facts tell."""

    def __init__(self) -> None:
        """Knows the usual ones."""
        self._roles: dict[str, Role] = {LOGS: "logs"}
        self._roles |= dict.fromkeys(KUBELET, "kubelet")
        self._roles |= dict.fromkeys((*CONTAINERD, *CONTAINERD_STATE), "containerd")
        self._roles |= dict.fromkeys((*STORAGE, *STORAGE_RUN), "storage")

    def learn(self, fact: Fact) -> bool:
        """Take a fact in; whether that is news. Mounts and overlays must be of the node's own mount namespace."""
        news = False
        for path, role in _told(fact):
            if path not in self._roles and path != "/" and len(self._roles) < _MOST:
                self._roles[path] = role
                news = True
        return news

    def find(self, path: str) -> tuple[Role, str] | None:
        """Whose directory a path of the node is in, and the rest of the path, "" or with a slash in front."""
        end = path.find("/", 1)
        while end != -1:
            if (role := self._roles.get(path[:end])) is not None:
                return role, path[end:]
            end = path.find("/", end + 1)
        return (role, "") if (role := self._roles.get(path)) is not None else None


def _told(fact: Fact) -> Iterator[tuple[str, Role]]:
    """The directories that a fact tells."""
    if isinstance(fact, DirectorySeen):
        yield fact.path, fact.role
    elif isinstance(fact, MountSeen):
        if fact.fstype == "tmpfs" and (match := KUBELETS_TMPFS.fullmatch(fact.mount_point)):
            yield match[1], "kubelet"
        elif match := _TASK.fullmatch(fact.mount_point):
            yield match[1], "containerd"
    elif isinstance(fact, OverlaySeen) and fact.container_id is not None:
        if match := _TASK.fullmatch(fact.mount_point):
            yield match[1], "containerd"
        if match := _SNAPSHOT.fullmatch(fact.upperdir or ""):
            yield match[1], "containerd"
        if match := _LAYER.fullmatch(fact.upperdir or ""):
            yield match[1], "storage"
