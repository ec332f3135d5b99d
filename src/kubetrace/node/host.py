"""Where the node's files are, seen from this process, and how its clocks and names read.

On the node itself the root is ``/``. In a pod made by ``kubectl debug node`` the node's root is mounted at ``/host``,
but that mount is private and made once: what the node mounts later (the roots of new containers, new secret volumes)
never appears in it. The root of the node's own PID 1, ``/host/proc/1/root``, shows them all, so paths go through it
wherever this process has the right to (ptrace, which the sysadmin profile gives).
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubetrace.errors import NodeError

if TYPE_CHECKING:
    from kubetrace.node import installed

# Where kubectl debug mounts the node's root (kubectl pkg/cmd/debug/profiles.go, mountRootPartition).
_DEBUG_ROOT = Path("/host")

# As the kernel's own limit of symbolic links in one lookup (include/linux/namei.h, MAXSYMLINKS).
_MAX_SYMLINKS = 40

# Longer than NAME_MAX: every look-up fails with ENAMETOOLONG.
_NOWHERE = "-" * 256


@dataclass(frozen=True, slots=True)
class CgroupMounts:
    """Where the two cgroup hierarchies that identify a process are mounted, as node paths.

    `unified` is the cgroup v2 mount, None on a pure v1 node. `memory` is the v1 memory controller's mount and
    `memory_hierarchy` its hierarchy id; None and 0 where memory is a v2 controller (or is off).
    """

    unified: str | None
    memory: str | None
    memory_hierarchy: int


class Host:
    """A node's root directory and what is read through it; `root` is an absolute path that exists.

    Nothing is read before it is asked for. NodeError if `root` is not a directory.
    """

    def __init__(self, root: Path) -> None:
        """A host whose root is at `root`."""
        if not root.is_dir():
            raise NodeError(
                f"{str(root)!r} is not a directory, so it cannot be a node's root.",
                why="The root of the node's file system is needed for names of pods and containers.",
                do="--host-root / on the node itself, --host-root /host in a kubectl debug pod.",
            )
        self.root = root
        self.proc = root / "proc"
        self._base = self._base_of(root)
        self._places: installed.Places | None = None

    @property
    def places(self) -> installed.Places:
        """Where runtimes and kubelets of this node keep what; found at the first call (some ms) and by `look_again`."""
        if self._places is None:
            self.look_again()
        assert self._places is not None
        return self._places

    def look_again(self) -> bool:
        """Look for runtimes and kubelets that have come; whether one keeps its files where none did before."""
        from kubetrace.node import installed

        if self._places is None:
            self._places = installed.usual()
        return installed.look(self, self._places)

    def __repr__(self) -> str:
        """The root this host was made with."""
        return f"Host({str(self.root)!r})"

    @classmethod
    def find(cls, override: str | os.PathLike[str] | None = None) -> Host:
        """The host this process runs on or debugs: `override`, else /host, else PID 1's root, else /.

        /host counts when it is another directory than / and has a /proc of its own; PID 1's root when it is another
        directory than ours, that is in a container that shares the node's PID namespace and has the right to look.
        NodeError if `override` is not a directory.
        """
        if override is not None:
            return cls(Path(override))
        own = _directory_key("/")
        if (_DEBUG_ROOT / "proc/sys/kernel/osrelease").exists() and _directory_key(_DEBUG_ROOT) != own:
            return cls(_DEBUG_ROOT)
        first = _directory_key("/proc/1/root/")
        if first is not None and first != own:
            return cls(Path("/proc/1/root"))
        return cls(Path("/"))

    @staticmethod
    def _base_of(root: Path) -> str:
        # The prefix of every path: "" on the node itself, PID 1's root where it can be opened, else the root given.
        if str(root) == "/":
            return ""
        through_pid1 = root / "proc/1/root"
        try:
            os.stat(through_pid1 / ".")
        except OSError:
            return str(root)
        return str(through_pid1)

    def path(self, node_path: str | os.PathLike[str]) -> str:
        """A path that this process can open for `node_path`, an absolute path as the node itself would write it.

        Symbolic links are followed inside the node's root (an absolute link seen under /host would otherwise lead into
        this process's own root). What does not exist is passed on unresolved; a loop of links gives a path that
        nothing can be at, for any part of it could lead outside.
        """
        wanted = os.fspath(node_path)
        if not self._base:
            return wanted
        pending = [part for part in reversed(wanted.split("/")) if part not in ("", ".")]
        resolved: list[str] = []
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                if resolved:
                    resolved.pop()
                continue
            here = "/".join([self._base, *resolved, part])
            try:
                target = os.readlink(here)
            except (OSError, ValueError):
                resolved.append(part)
                continue
            links += 1
            if links > _MAX_SYMLINKS:
                return f"{self._base}/{_NOWHERE}"
            if target.startswith("/"):
                resolved.clear()
            pending.extend(piece for piece in reversed(target.split("/")) if piece not in ("", "."))
        return "/".join([self._base, *resolved])

    def resolved(self, node_path: str | os.PathLike[str]) -> str:
        """The path of the node that all symbolic links in `node_path` lead to."""
        return self.path(node_path)[len(self._base) :] if self._base else os.path.realpath(node_path)

    def node_name(self) -> str:
        """The node's name: $NODE_NAME (the downward API's habit), else its host name in lower case.

        As the kubelet names a node (pkg/util/node/node.go, GetHostname) unless --hostname-override or a cloud provider
        gave another name. A pod with a host name of its own reads the node's /etc/hostname.
        """
        name = os.environ.get("NODE_NAME", "").strip()
        own = _directory_key("/proc/self/ns/uts")
        if not name and self._base and (own is None or own != _directory_key(self.proc / "1/ns/uts")):
            try:
                with open(self.path("/etc/hostname"), encoding="utf-8", errors="surrogateescape") as file:
                    name = file.read(256).strip()
            except OSError:
                pass
        return (name or os.uname().nodename).lower()

    def kernel_release(self) -> str:
        """The running kernel's release, for display only: nothing is ever decided by it (uname -r)."""
        try:
            return (self.proc / "sys/kernel/osrelease").read_text(encoding="utf-8", errors="surrogateescape").strip()
        except OSError:
            return os.uname().release

    @staticmethod
    def boot_to_wall_ns() -> int:
        """Nanoseconds to add to a CLOCK_BOOTTIME value (bpf_ktime_get_boot_ns) to have Unix time.

        The median of five reads, each of the wall clock between two of the boot clock.
        """
        offsets = []
        for _ in range(5):
            before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            wall = time.clock_gettime_ns(time.CLOCK_REALTIME)
            after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            offsets.append(wall - (before + after) // 2)
        return sorted(offsets)[2]

    def mountinfo_path(self) -> str:
        """The mountinfo file of the node's PID 1; this process's own where that cannot be read (proc(5))."""
        first = str(self.proc / "1/mountinfo")
        return first if os.access(first, os.R_OK) else str(self.proc / "self/mountinfo")

    def mountinfo_paths(self) -> list[str]:
        """That file, and those of runtimes and kubelets that have a mount namespace of their own (node/installed.py).

        Containers' roots and volumes are mounted there and nowhere else (OpenShift's option).
        """
        others = self._places.namespaces if self._places is not None else []
        return [self.mountinfo_path(), *(str(self.proc / str(pid) / "mountinfo") for pid in others)]

    def cgroup_mounts(self) -> CgroupMounts:
        """The cgroup mounts of the node, from PID 1's mountinfo and the hierarchy ids in /proc/1/cgroup (cgroups(7)).

        NodeError if no cgroup hierarchy that identifies containers is mounted, or /proc cannot be read.
        """
        from kubetrace.attribution import mountinfo

        unified = memory = None
        try:
            with open(self.mountinfo_path(), "rb") as file:
                text = file.read()
        except OSError as error:
            raise NodeError(
                f"Cannot read the node's mounts: {error.strerror or error}.",
                why=f"{str(self.proc / '1/mountinfo')!r} lists where the node's cgroups and container roots are.",
                do="run as root on the node, or in a pod made by: kubectl debug node/NODE -it --profile=sysadmin",
                check="host PIDs",
            ) from error
        for mount in mountinfo.parse(text):
            # Read from inside another cgroup namespace the root column shows "/../.."; a bind of a subtree its path.
            if mount.root.replace("/..", "").strip("/"):
                continue
            if mount.fstype == "cgroup2" and unified is None:
                unified = mount.mount_point
            elif mount.fstype == "cgroup" and memory is None and "memory" in mount.super_options.split(","):
                memory = mount.mount_point
        if unified is None and memory is None:
            raise NodeError(
                "No cgroup hierarchy is mounted on this node.",
                why="Containers are told apart by their cgroup in the v2 hierarchy or in v1's memory hierarchy.",
                do="mount -t cgroup2 none /sys/fs/cgroup, or give the node's root with --host-root.",
                check="cgroups",
            )
        return CgroupMounts(unified, memory, self._memory_hierarchy() if memory else 0)

    def own_cgroups(self) -> list[tuple[int, int]]:
        """(hierarchy, cgroup id) of this process, if it runs in a container: v2's (0), v1's memory's, or both.

        Empty on the node itself, and where they cannot be found out. In a cgroup namespace of its own (cgroups(7)) a
        container reads "/" as its path, and its own cgroup is the root of what it sees mounted.
        """
        from kubetrace.attribution import cgroup_path

        try:
            lines = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError:
            return []
        paths = {}
        for line in lines:
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if number == "0" or "memory" in controllers.split(","):
                paths[int(number)] = path
        if not any(path == "/" or cgroup_path.parse(path).container_id is not None for path in paths.values()):
            return []
        try:
            mounts = self.cgroup_mounts()
        except NodeError:
            return []
        own = []
        for hierarchy, mount_point in ((0, mounts.unified), (mounts.memory_hierarchy, mounts.memory)):
            if mount_point is None or hierarchy not in paths:
                continue
            path = paths[hierarchy]
            with contextlib.suppress(OSError):
                if cgroup_path.parse(path).container_id is not None:
                    own.append((hierarchy, os.stat(self.path(mount_point + path)).st_ino))
                elif path == "/" and _directory_key(mount_point) != _directory_key(self.path(mount_point)):
                    own.append((hierarchy, os.stat(mount_point).st_ino))
        return own

    def _memory_hierarchy(self) -> int:
        # Lines are "hierarchy-ID:controller,controller:path"; ids are the same in every process's file.
        for process in ("1", "self"):
            try:
                lines = (self.proc / process / "cgroup").read_text(encoding="utf-8", errors="surrogateescape")
            except OSError:
                continue
            for line in lines.splitlines():
                number, _, rest = line.partition(":")
                if "memory" in rest.partition(":")[0].split(",") and number.isdecimal():
                    return int(number)
        return 0


def _directory_key(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    # What makes two paths the same directory; None if it cannot be looked at.
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
