"""Which directories of the node are the kubelet's, containerd's and the logs', and what a path below one of them says.

A path is looked at from the node's root on, and the outermost of these directories decides: what is below a volume was
named by whoever writes there, and says nothing.
"""

from __future__ import annotations

import re
from typing import Final

from kubetrace.attribution.facts import DirectorySeen, Fact, MountSeen, OverlaySeen, Role

LOGS: Final = "/var/log/pods"
KUBELET: Final = ("/var/lib/kubelet", "/var/lib/k0s/kubelet", "/var/snap/microk8s/common/var/lib/kubelet")
# containerd's state directory on plain nodes, k3s/RKE2, k0s and microk8s; its root directory, in the same order.
CONTAINERD_STATE: Final = (
    "/run/containerd",
    "/run/k3s/containerd",
    "/run/k0s/containerd",
    "/var/snap/microk8s/common/run/containerd",
)
CONTAINERD: Final = (
    "/var/lib/containerd",
    "/var/lib/rancher/k3s/agent/containerd",
    "/var/lib/k0s/containerd",
    "/var/snap/microk8s/common/var/lib/containerd",
)

_UID = r"(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
# Volumes that are a tmpfs which the kubelet itself mounts, so that its directory is told by where they are.
_KUBELETS_TMPFS = re.compile(
    rf"(/.+?)/pods/{_UID}/volumes/kubernetes\.io~(?:projected|secret|configmap|downward-api|empty-dir)/[^/]+"
)
_SNAPSHOT = re.compile(r"(/.+?)/io\.containerd\.snapshotter\.v1\.[^/]+/snapshots/[0-9]+/fs")
# Roots of a run of months are few: more are made up.
_MOST = 1_000


class Directories:
    """The node's own directories: those that every distribution has, and those that facts tell."""

    def __init__(self) -> None:
        """Knows the usual ones."""
        self._roles: dict[str, Role] = {LOGS: "logs"}
        self._roles |= dict.fromkeys(KUBELET, "kubelet")
        self._roles |= dict.fromkeys((*CONTAINERD, *CONTAINERD_STATE), "containerd")

    def learn(self, fact: Fact) -> bool:
        """Take a fact in; whether that is news. Mounts and overlays must be of the node's own mount namespace."""
        found: tuple[str, Role] | None = None
        if isinstance(fact, DirectorySeen):
            found = fact.path, fact.role
        elif isinstance(fact, MountSeen):
            if fact.fstype == "tmpfs" and (match := _KUBELETS_TMPFS.fullmatch(fact.mount_point)):
                found = match[1], "kubelet"
        elif isinstance(fact, OverlaySeen) and fact.container_id is not None:
            match = _SNAPSHOT.fullmatch(fact.upperdir or "")
            found = (match[1], "containerd") if match else None
        if found is None or found[0] in self._roles or found[0] == "/" or len(self._roles) >= _MOST:
            return False
        self._roles[found[0]] = found[1]
        return True

    def find(self, path: str) -> tuple[Role, str] | None:
        """Whose directory a path of the node is in, and the rest of the path, "" or with a slash in front."""
        end = path.find("/", 1)
        while end != -1:
            if (role := self._roles.get(path[:end])) is not None:
                return role, path[end:]
            end = path.find("/", end + 1)
        return (role, "") if (role := self._roles.get(path)) is not None else None
