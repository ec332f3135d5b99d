"""In which container a container runs whose cgroup does not say it: by what its processes descend from.

Docker in a pod puts its containers' cgroups beside the pods', or below them under names that no file of the node has.
But their processes are children of the pod's own: of a process in a container's PID namespace every ancestor up to that
container's first one is in it, and who loses its parent there is given to that first one (pid_namespaces(7)).
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Final

from kubetrace.attribution.cgroup_path import owners_of

if TYPE_CHECKING:
    from kubetrace.node.host import Host

# PID namespaces nest 32 deep; between two of them are a runtime's shim and a shell or two.
_MOST_STEPS: Final = 64
_MOST_BYTES: Final = 64 << 10


def outer_container(host: Host, cgroup: str, container_id: str, named: Container[str]) -> str | None:
    """The nearest container around one, among those that are `named`; None if there is none, or nothing runs in it.

    `cgroup` is the directory of its cgroup, as a node path.
    """
    pids = _read(host.path(f"{cgroup}/cgroup.procs")).split()
    pid = next((int(one) for one in pids if one.isdigit() and len(one) < 11 and one != b"0"), 0)
    for _ in range(_MOST_STEPS):
        pid = _parent(host, pid)
        if pid <= 1:
            return None
        for path in _cgroups(host, pid):
            for owner in owners_of(path):
                if owner.container_id not in (None, container_id) and owner.container_id in named:
                    return owner.container_id
    return None


def _parent(host: Host, pid: int) -> int:
    for line in _read(f"{host.proc}/{pid}/status").split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"PPid":
            return int(value) if value.strip().isdigit() else 0
    return 0


def _cgroups(host: Host, pid: int) -> list[str]:
    lines = _read(f"{host.proc}/{pid}/cgroup").decode("utf-8", "surrogateescape").splitlines()
    return list(dict.fromkeys(line.split(":", 2)[2] for line in lines if line.count(":") >= 2))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_BYTES)
    except (OSError, ValueError):
        return b""
