"""The node's file systems: which there are, how full each is, and which one a directory is on.

Numbers are statvfs(2)'s, as the kubelet takes them: available is f_bavail, which leaves out what is reserved for root.
They are asked for at the root of a mount: of a directory with a project quota, statvfs(2) tells the quota instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kubetrace.attribution import mountinfo

if TYPE_CHECKING:
    from kubetrace.attribution.mountinfo import Mount
    from kubetrace.node.host import Host

# Of local disks. Others are asked only where a directory of the kubelet's or a runtime's is on one: a server that does
# not answer would hold us up for ever.
_LOCAL: Final = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "jfs", "vfat"))
_NEVER: Final = frozenset(("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse", "fuse.sshfs", "afs"))
_MOST: Final = 64


@dataclass(frozen=True, slots=True)
class Place:
    """A mounted file system: its device number, where it is mounted (a node path), its type and what is mounted."""

    device: int
    mount_point: str
    fstype: str
    source: str


@dataclass(frozen=True, slots=True)
class Room:
    """How full a file system is, in bytes and inodes; `inodes` is 0 where it has no limit of them (btrfs)."""

    capacity: int
    free: int
    available: int
    inodes: int
    inodes_free: int

    @property
    def used(self) -> int:
        """Bytes that are not free: df's."""
        return self.capacity - self.free


class FileSystems:
    """Those of the node as they are mounted now. OSError where the mounts cannot be read."""

    def __init__(self, host: Host) -> None:
        """Reads the mounts."""
        self._host = host
        self._mounts: dict[str, Mount] = {}
        for path in host.mountinfo_paths()[:1]:
            with open(path, "rb") as file:
                for mount in mountinfo.parse(file.read()):
                    # the last one is on top
                    self._mounts[mount.mount_point] = mount

    def of(self, node_path: str) -> Place | None:
        """The file system that a directory is on; None if there is no such directory."""
        if not os.path.isdir(self._host.path(node_path)):
            return None
        above = self._host.resolved(node_path)
        while above not in self._mounts and above != "/":
            above = os.path.dirname(above)
        mount = self._mounts.get(above)
        return _place(mount) if mount is not None else None

    def within(self, node_path: str) -> tuple[int, str] | None:
        """(device, the path from the file system's own root) of a directory: the same however it is mounted.

        None if there is no such directory.
        """
        if not os.path.isdir(self._host.path(node_path)):
            return None
        path = self._host.resolved(node_path)
        above = path
        while above not in self._mounts and above != "/":
            above = os.path.dirname(above)
        mount = self._mounts.get(above)
        if mount is None:
            return None
        below = path[len(above) :].strip("/")
        return mount.device, f"{mount.root.rstrip('/')}/{below}".rstrip("/") or "/"

    def local(self) -> list[Place]:
        """Those of local disks, each device once, by the mount that shows most of it."""
        found: dict[int, Mount] = {}
        for mount in self._mounts.values():
            if mount.fstype in _LOCAL and os.path.isdir(self._host.path(mount.mount_point)):
                known = found.get(mount.device)
                if known is None or _shows_more(mount, known):
                    found[mount.device] = mount
        return [_place(mount) for mount in list(found.values())[:_MOST]]

    def devices_below(self, node_path: str) -> Mapping[str, Place]:
        """What is mounted below a directory, by its path."""
        above = self._host.resolved(node_path).rstrip("/") + "/"
        return {path: _place(mount) for path, mount in self._mounts.items() if path.startswith(above)}

    def room(self, place: Place) -> Room | None:
        """How full it is now; None if it is not to be asked, or is gone."""
        if place.fstype in _NEVER or place.fstype.startswith("fuse"):
            return None
        try:
            status = os.statvfs(self._host.path(place.mount_point))
        except OSError:
            return None
        unit = status.f_frsize or status.f_bsize
        return Room(
            status.f_blocks * unit,
            status.f_bfree * unit,
            status.f_bavail * unit,
            status.f_files,
            status.f_ffree,
        )


def _place(mount: Mount) -> Place:
    return Place(mount.device, mount.mount_point, mount.fstype, mount.source)


def _shows_more(mount: Mount, known: Mount) -> bool:
    # the whole file system rather than a directory of it, and then the shorter path
    return (len(mount.root), len(mount.mount_point)) < (len(known.root), len(known.mount_point))


def each_once(places: Iterable[Place]) -> list[Place]:
    """By their devices; the first of each counts."""
    found: dict[int, Place] = {}
    for place in places:
        found.setdefault(place.device, place)
    return list(found.values())
