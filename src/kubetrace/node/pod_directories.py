"""The directories of the node that are some pod's: logs, volumes, what else the kubelet keeps. Names alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kubetrace.node.reading import listed

if TYPE_CHECKING:
    from kubetrace.node.host import Host

_LOGS = re.compile(r"([^_]+)_([^_]+)_([^_]+)", re.DOTALL)
_EMPTY_DIR: Final = "kubernetes.io~empty-dir"
# Where provisioners of local volumes keep them: DIRECTORY/pvc-UUID_NAMESPACE_CLAIM.
_LOCAL: Final = ("/opt/local-path-provisioner", "/var/lib/rancher/k3s/storage", "/var/openebs/local")
_CLAIM = re.compile(r"pvc-[0-9a-f-]{36}(?:_([^_]+)_(.+))?", re.DOTALL)
# Of one node: more are made up.
_MOST_PODS: Final = 2_000
_MOST_OF_POD: Final = 500


@dataclass(frozen=True, slots=True)
class PodDirectory:
    """A directory (a node path) that belongs to a pod, or to a claim of one. `kind`: log, emptyDir, volume, kubelet.

    `name` is a volume's or a claim's; `leave_out` what in it is another one.
    """

    kind: str
    path: str
    pod_uid: str | None
    namespace: str | None = None
    pod: str | None = None
    container: str | None = None
    name: str = ""
    leave_out: tuple[str, ...] = ()


def pod_directories(host: Host) -> Iterator[PodDirectory]:
    """All of them, as they are now."""
    for root in host.places.kubelets:
        for uid in listed(host.path(f"{root}/pods"))[:_MOST_PODS]:
            yield from _of_pod(host, f"{root}/pods/{uid}", uid)
    for logs in host.places.logs:
        for name in listed(host.path(logs))[:_MOST_PODS]:
            match = _LOGS.fullmatch(name)
            for container in listed(host.path(f"{logs}/{name}"))[:_MOST_OF_POD]:
                path = f"{logs}/{name}/{container}"
                if match is not None and os.path.isdir(host.path(path)):
                    yield PodDirectory("log", path, match[3], match[1], match[2], container)
    for directory in _LOCAL:
        for name in listed(host.path(directory))[:_MOST_PODS]:
            if (match := _CLAIM.fullmatch(name)) is not None:
                yield PodDirectory("volume", f"{directory}/{name}", None, match[1], name=match[2] or name)


def _of_pod(host: Host, path: str, uid: str) -> Iterator[PodDirectory]:
    left = _MOST_OF_POD
    for plugin in listed(host.path(f"{path}/volumes")):
        for name in listed(host.path(f"{path}/volumes/{plugin}")):
            left -= 1
            if left < 0:
                return
            kind = "emptyDir" if plugin == _EMPTY_DIR else "volume"
            yield PodDirectory(kind, f"{path}/volumes/{plugin}/{name}", uid, name=name)
    # subpaths are mounts of the same volumes
    yield PodDirectory("kubelet", path, uid, leave_out=("volumes", "volume-subpaths"))
