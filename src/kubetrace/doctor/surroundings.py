"""What there is of a Kubernetes node around this process: its root, cgroups, runtime, kubelet and disk."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kubetrace.attribution import directories
from kubetrace.errors import NodeError
from kubetrace.node.host import Host

# Inode of the first PID namespace (include/linux/proc_ns.h, PROC_PID_INIT_INO).
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
# Below a cgroup mount, by the kubelet's --cgroup-driver; kind and others put them one level down.
_PODS = {"systemd": ("kubepods.slice", "kubelet.slice"), "cgroupfs": ("kubepods", "kubelet")}
_OTHER_RUNTIMES = {"/run/crio/crio.sock": "CRI-O", "/run/cri-dockerd.sock": "docker (cri-dockerd)"}
_TASKS = "io.containerd.runtime.v2.task/k8s.io"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What was found; paths are the node's own."""

    name: str
    root: str
    """Where this process sees the node's root."""
    first_root: bool
    """Whether PID 1's root can be looked into: mounts that came later are seen only there."""
    first_pids: bool
    """Whether this process is in the node's first PID namespace."""
    cgroups: str | None
    """v2, v1 or hybrid; None where no hierarchy identifies containers."""
    cgroup_trouble: str
    driver: str | None
    """systemd or cgroupfs, by the pods' cgroups; None where there are none."""
    runtime: str | None
    state: str | None
    """containerd's state directory."""
    store: str | None
    """Its root directory."""
    containers: int
    """Container directories there, sandboxes included."""
    kubelet_root: str | None
    disk_path: str
    disk_bytes: int
    disk_free_bytes: int


def node_facts(host: Host) -> NodeFacts:
    """Look at everything; nothing is raised for what is not there."""

    def first(paths: tuple[str, ...]) -> str | None:
        return next((path for path in paths if os.path.isdir(host.path(path))), None)

    mode, mounts, trouble = None, [], ""
    try:
        found = host.cgroup_mounts()
        mounts = [mount for mount in (found.unified, found.memory) if mount is not None]
        mode = "v2" if found.memory is None else "v1" if found.unified is None else "hybrid"
    except NodeError as error:
        trouble = error.what
    state, store = first(directories.CONTAINERD_STATE), first(directories.CONTAINERD)
    runtime = "containerd" if state is not None else None
    if state is None or not os.path.isdir(host.path(f"{state}/{_TASKS}")):
        others = (name for path, name in _OTHER_RUNTIMES.items() if os.path.exists(host.path(path)))
        runtime = next(others, runtime)
    kubelet_root = first(directories.KUBELET)
    disk_path = store or kubelet_root or "/"
    disk = os.statvfs(host.path(disk_path))
    return NodeFacts(
        name=host.node_name(),
        root=str(host.root),
        first_root=_can_enter(f"{host.proc}/1/root"),
        first_pids=_link(f"{host.proc}/self/ns/pid") == _FIRST_PID_NAMESPACE,
        cgroups=mode,
        cgroup_trouble=trouble,
        driver=_driver(host, mounts),
        runtime=runtime,
        state=state,
        store=store,
        containers=_count(host.path(f"{state}/{_TASKS}")) if state is not None else 0,
        kubelet_root=kubelet_root,
        disk_path=disk_path,
        disk_bytes=disk.f_blocks * disk.f_frsize,
        disk_free_bytes=disk.f_bavail * disk.f_frsize,
    )


def _driver(host: Host, mounts: list[str]) -> str | None:
    for mount in mounts:
        for driver, names in _PODS.items():
            if any(os.path.isdir(host.path(f"{mount}/{name}")) for name in names):
                return driver
    return None


def _can_enter(path: str) -> bool:
    try:
        os.stat(f"{path}/.")
    except OSError:
        return False
    return True


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _count(path: str) -> int:
    try:
        return len(os.listdir(path))
    except OSError:
        return 0
