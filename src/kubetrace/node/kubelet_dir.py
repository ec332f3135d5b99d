"""Names and volumes in the kubelet's own directory, the last resort for a pod's name.

<root>/pods/<uid>/etc-hosts ends with the pod's IP and host name, which is the pod's name unless the spec sets another
(kubelet pkg/kubelet/kubelet_pods.go, managedHostsFileContent). It has no namespace, hostNetwork pods have the node's
name in it, and the pod itself can write to it: whatever else is known is better.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from kubetrace.attribution.facts import PodSeen
from kubetrace.node.host import Host
from kubetrace.node.reading import read_regular

_MAX_BYTES = 65_536
# A DNS label, which every host name that the kubelet writes is.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# A static pod's manifest may give any.
_UID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")
_VOLUME = re.compile(r"/pods/([^/]+)/(?:volumes/[^/]+|volume-subpaths)/([^/]+)")


def pods(host: Host, pod_uids: Iterable[str], time_ns: int) -> Iterator[PodSeen]:
    """The pods among these UIDs whose name is in their etc-hosts; what cannot be read is left out."""
    for pod_uid in pod_uids:
        if not _UID.fullmatch(pod_uid):
            continue
        for root in host.places.kubelets:
            name = _host_name(host.path(f"{root}/pods/{pod_uid}/etc-hosts"))
            if name is not None:
                yield PodSeen(pod_uid, None, name, "kubelet", time_ns)
                break


def volume_of(path: str) -> tuple[str, str] | None:
    """Pod UID and volume name of a path below a pod's volumes or volume-subpaths; None if it is not such a path.

    Found anywhere in the path: where the kubelet's directory is a bind mount, mountinfo's root column begins elsewhere.
    """
    match = _VOLUME.search(path)
    return (match[1], match[2]) if match else None


def pod_of(path: str) -> str | None:
    """The pod UID in a path below the kubelet's directory; None if it is not a pod's."""
    match = re.match(rf"/pods/({_UID.pattern})(?:/|\Z)", path)
    return match[1] if match else None


def _host_name(path: str) -> str | None:
    try:
        text = read_regular(path, _MAX_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
    lines = text.splitlines()
    if not lines or not lines[0].startswith("# Kubernetes-managed hosts file") or "host network" in lines[0]:
        return None
    name = None
    for line in lines[1:]:
        if line.startswith("# Entries added by HostAliases"):
            break
        fields = line.split()
        if len(fields) >= 2 and not fields[0].startswith(("127.", "::1", "fe00::", "#")):
            name = fields[-1]
    return name if name is not None and _NAME.fullmatch(name) else None
