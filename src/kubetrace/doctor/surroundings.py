"""What there is of a Kubernetes node around this process: its root, cgroups, runtime, kubelet and disk."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kubetrace.errors import NodeError
from kubetrace.node.host import Host

# Inode of the first PID namespace (include/linux/proc_ns.h, PROC_PID_INIT_INO).
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
# Below a cgroup mount, by the kubelet's --cgroup-driver; kind and others put them one level down.
_PODS = {"systemd": ("kubepods.slice", "kubelet.slice"), "cgroupfs": ("kubepods", "kubelet")}
_CRIO = ("/run/crio/crio.sock", "/var/run/crio/crio.sock", "/etc/crio/crio.conf", "/etc/crio/crio.conf.d")
_DOCKER = "/run/cri-dockerd.sock"
_BUNDLES, _LAYERS = "overlay-containers", "overlay-layers/layers.json"
_TASKS = "io.containerd.runtime.v2.task/k8s.io"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A container runtime by its state directory; `containers` are the bundles there, sandboxes included."""

    name: str
    state: str
    containers: int


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system, by one of the directories that are on it."""

    path: str
    size_bytes: int
    free_bytes: int


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
    runtimes: tuple[Runtime, ...] = ()
    """All of them: a node can have several."""
    stores: tuple[str, ...] = ()
    """The root directories of all of them."""
    disks: tuple[Disk, ...] = ()
    """Those that runtimes, kubelets and logs are on, each once."""


def node_facts(host: Host) -> NodeFacts:
    """Look at everything; nothing is raised for what is not there."""

    def there(paths: list[str]) -> list[str]:
        return [path for path in paths if os.path.isdir(host.path(path))]

    mode, mounts, trouble = None, [], ""
    try:
        found = host.cgroup_mounts()
        mounts = [mount for mount in (found.unified, found.memory) if mount is not None]
        mode = "v2" if found.memory is None else "v1" if found.unified is None else "hybrid"
    except NodeError as error:
        trouble = error.what
    places = host.places
    states, kubelets = there(places.states), there(places.kubelets)
    runtimes = [Runtime("containerd", state, _count(host.path(f"{state}/{_TASKS}"))) for state in states]
    # one that Kubernetes does not use has no tasks there (docker's)
    runtimes = [one for one in runtimes if one.containers or os.path.isdir(host.path(f"{one.state}/{_TASKS}"))]
    stores = there(places.roots)
    if any(os.path.exists(host.path(path)) for path in _CRIO):
        runtimes += [Runtime("CRI-O", root, _count(host.path(f"{root}/{_BUNDLES}"))) for root in there(places.runroots)]
        stores += [root for root in places.storages if os.path.isfile(host.path(f"{root}/{_LAYERS}"))]
    runtime = runtimes[0].name if runtimes else "containerd" if states else None
    if not runtimes and os.path.exists(host.path(_DOCKER)):
        runtime = "docker (cri-dockerd)"
    state = runtimes[0].state if runtimes else states[0] if states else None
    store = stores[0] if stores else None
    kubelet_root = kubelets[0] if kubelets else None
    disks = _disks(host, [*stores, *kubelets, *there(places.logs), "/"])
    disk = disks[0] if disks else Disk("/", 0, 0)
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
        containers=sum(one.containers for one in runtimes),
        kubelet_root=kubelet_root,
        disk_path=disk.path,
        disk_bytes=disk.size_bytes,
        disk_free_bytes=disk.free_bytes,
        runtimes=tuple(runtimes),
        stores=tuple(stores),
        disks=tuple(disks),
    )


def _disks(host: Host, paths: list[str]) -> list[Disk]:
    # The first directory of each file system; "/" too where nothing else is on it.
    found: dict[int, Disk] = {}
    for path in paths:
        try:
            device, disk = os.stat(host.path(path)).st_dev, os.statvfs(host.path(path))
        except OSError:
            continue
        if path != "/" or not found:
            found.setdefault(device, Disk(path, disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize))
    return list(found.values())


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
