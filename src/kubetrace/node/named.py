"""The names of a node's pods, for who types one: read off the kubelet's log directories, or else containerd's bundles.

/var/log/pods/<namespace>_<pod>_<uid>/<container>/ is there for every pod and container from before they start, whatever
the runtime is (logs.py), and anybody may list it. Where no kubelet made it, the bundles' config.json tell.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kubetrace.node.reading import listed

if TYPE_CHECKING:
    from kubetrace.node.host import Host

# As in logs.py, which knows of facts, and takes longer to import than to list a directory.
_LOGS = "/var/log/pods"
# RFC 1123 (k8s.io/apimachinery/pkg/util/validation): nothing that a shell would have to quote.
_NAME = r"[a-z0-9][a-z0-9.-]{0,252}"
_DIRECTORY = re.compile(rf"({_NAME})_({_NAME})_[0-9a-zA-Z-]+")
_CONTAINER = re.compile(_NAME)

Names = dict[tuple[str, str], list[str]]
"""(namespace, pod) -> the names of its containers."""


def names(host: Host) -> Names:
    """The pods that the node's files name, and their containers; what is not a Kubernetes name is left out."""
    return _of_logs(host) or _of_bundles(host)


def _of_logs(host: Host) -> Names:
    found: Names = {}
    directory = host.path(_LOGS)
    for name in listed(directory):
        if match := _DIRECTORY.fullmatch(name):
            found[match[1], match[2]] = [one for one in listed(f"{directory}/{name}") if _CONTAINER.fullmatch(one)]
    return found


def _of_bundles(host: Host) -> Names:
    from kubetrace.node import containerd

    found: Names = {}
    for directory in containerd.bundle_directories(host):
        for container_id in containerd.bundle_ids(host, directory):
            bundle = f"{directory}/{container_id}"
            path = host.path(f"{bundle}/{containerd.config_below(directory)}")
            read = containerd.read_bundle(path, bundle, container_id, 0)
            if read is None or read.seen.namespace is None or read.seen.pod is None:
                continue
            seen = read.seen
            if all(_CONTAINER.fullmatch(name) for name in (seen.namespace, seen.pod, seen.container) if name):
                containers = found.setdefault((str(seen.namespace), str(seen.pod)), [])
                if seen.container:
                    containers.append(seen.container)
    return found
