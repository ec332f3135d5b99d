"""From an identity to what rows and JSON objects say about it, the same in every tracer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubetrace.views.columns import Column

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity, Owners
    from kubetrace.views.columns import Value

NAMESPACE = Column("namespace", "NAMESPACE", "name", short="NS", help="Kubernetes namespace of the pod")
POD = Column(
    "pod",
    "POD",
    "name",
    weight=2,
    help="pod; (host) is a process of the node, cgroup:ID one that is in no known cgroup",
)
CONTAINER = Column(
    "container",
    "CONTAINER",
    "name",
    help="container; NAME (host) is a process of the node writing into that container's root",
)
NODE = Column("node", "NODE", "name", help="the node's name")
IMAGE = Column("image", "IMAGE", "name", weight=2, help="image, as the pod's spec names it")
IMAGE_WIDE = replace(IMAGE, wide=True)
QOS = Column("qos_class", "QOS", "text", wide=True, help="quality of service class of the pod")
PID = Column("pid", "PID", "count", help="process id on the node")
COMM = Column("comm", "COMM", "name", help="the thread's name")

SHORT_ID = 12
HOST = "(host)"


def cgroup_id(event: Any, identity: Identity) -> int:
    """The id that answered: the memory controller's where the v2 id was no help (cgroup v1)."""
    if identity.attributed_by == "memory cgroup" or event.cgroup_id <= 1:
        return int(event.memory_cgroup_id or event.cgroup_id)
    return int(event.cgroup_id)


def identity_cells(event: Any, identity: Identity) -> dict[str, Value]:
    """namespace, pod, container, image and qos_class as a table shows them."""
    pod, container = identity.pod, identity.container
    if identity.kind == "unknown":
        pod = f"cgroup:{cgroup_id(event, identity)}"
    elif identity.kind == "host":
        pod, container = HOST, identity.cgroup_path
    else:
        if pod is None and identity.pod_uid:
            pod = f"pod:{identity.pod_uid}"
        if identity.kind == "sandbox":
            container = "(sandbox)"
        elif container is None and identity.container_id:
            container = identity.container_id[:SHORT_ID]
        if identity.host:
            container = f"{container} (host)"
    return {
        "namespace": identity.namespace,
        "pod": pod,
        "container": container,
        "image": identity.image,
        "qos_class": identity.qos_class,
    }


def ended(owners: Owners, namespace: Any, pod: Any, container: Any) -> bool:
    """Whether cells of `identity_cells` are of a pod, or a cgroup of the node, that is not there any more."""
    if pod == HOST:
        return container is not None and container not in owners.paths
    if not isinstance(pod, str):
        return False
    if namespace is None and pod.startswith("pod:"):
        return pod.removeprefix("pod:") not in owners.ids
    # what has no namespace is of no pod: a cgroup's number, or what was folded
    return namespace is not None and (namespace, pod) not in owners.pods


def identity_record(event: Any, identity: Identity, node: str) -> dict[str, Any]:
    """The identity keys that every tracer's JSON objects have."""
    return {
        "node": node,
        "namespace": identity.namespace,
        "pod": identity.pod,
        "container": identity.container,
        "pod_uid": identity.pod_uid,
        "container_id": identity.container_id,
        "image": identity.image,
        "qos_class": identity.qos_class,
        "cgroup_id": cgroup_id(event, identity),
        "cgroup_path": identity.cgroup_path,
        "host": identity.host or identity.kind == "host",
        "attributed_by": identity.attributed_by,
        "names_from": identity.names_from,
    }


def text_of(name: bytes) -> bytes:
    """A fixed-size char array up to its NUL."""
    return name.partition(b"\0")[0]


def path_of(event: Any) -> tuple[bytes, bool]:
    """(path, whether it was cut) of an event's leaf-first names (kt_path in bpf/path.bpf.h).

    A whole path is absolute inside the container's root; one that was cut begins with its first known name.
    """
    names: list[bytes] = event.path[: event.path_bytes].split(b"\0")
    names[-1] = b""  # what is behind the last NUL is not a name; turned round, it is the root
    names.reverse()
    path = b"/".join(names) or b"/"
    return (path[1:], True) if event.path_end else (path, False)
