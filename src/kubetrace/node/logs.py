"""Names of pods and containers in the kubelet's log directories, for when the runtime's own records are gone.

The links /var/log/containers/<pod>_<namespace>_<container>-<container id>.log appear 0.6 s or more after the first
event of the container and outlive it by tens of seconds (kubelet pkg/kubelet/kuberuntime/legacy.go, logSymlink). The
directories /var/log/pods/<namespace>_<pod>_<uid> (or below the kubelet's podLogsDir) are there from before the sandbox
until the pod is garbage collected (pkg/kubelet/kuberuntime/helpers.go, BuildPodLogsDirectory). Other runtimes than
containerd have them too.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import TYPE_CHECKING

from kubetrace.attribution.facts import ContainerSeen, PodSeen
from kubetrace.node.reading import listed

if TYPE_CHECKING:
    from kubetrace.node.host import Host

LINKS = "/var/log/containers"

# DNS names hold no underscore, so the parts are certain. A name is cut at 255 bytes (NAME_MAX), the id first: a cut id
# does not match. A static pod's uid is 32 hex digits.
_LINK = re.compile(r"([^_]+)_([^_]+)_([^_]+)-([0-9a-f]{64})\.log", re.DOTALL)
_DIRECTORY = re.compile(r"([^_]+)_([^_]+)_([^_]+)", re.DOTALL)


def containers(host: Host, wanted: Container[str], time_ns: int) -> Iterator[ContainerSeen]:
    """The containers among `wanted` ids that have a log link; nothing if the directory cannot be read."""
    for name in listed(host.path(LINKS)):
        # Thousands on a large node, and cgroup_created() waits: the id before ".log" decides first.
        if name[-68:-4] in wanted and (match := _LINK.fullmatch(name)):
            pod, namespace, container, container_id = match.groups()
            yield ContainerSeen(
                container_id, "container", namespace, pod, container, None, None, None, "log links", time_ns
            )


def pods(host: Host, time_ns: int, wanted: Container[str] | None = None) -> Iterator[PodSeen]:
    """The pods (among `wanted` UIDs, or all) that have a log directory; nothing if there is no such directory."""
    for name in (name for directory in host.places.logs for name in listed(host.path(directory))):
        if (wanted is None or name.rpartition("_")[2] in wanted) and (match := _DIRECTORY.fullmatch(name)):
            yield PodSeen(match[3], match[1], match[2], "log directories", time_ns)
