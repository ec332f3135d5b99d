"""Roots of containers that are no overlay, of which the kernel copies nothing up."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from kubetrace.attribution import mountinfo

if TYPE_CHECKING:
    from kubetrace.node.host import Host

# <state>/io.containerd.runtime.v2.task/<namespace>/<id>/rootfs, <graph root>/overlay/<id>/merged of CRI-O and podman
_ROOT = re.compile(r"/[0-9a-f]{64}/(?:rootfs|merged)\Z")
_SNAPSHOTTER = re.compile(r"/io\.containerd\.snapshotter\.v1\.([a-z0-9-]{1,32})/snapshots/")
# Of types that a node can have.
_MOST: Final = 20


def other_roots(host: Host) -> dict[str, int]:
    """What the roots are instead, and how many of each: a snapshotter's name (native) or a file system's (ext4).

    {} where all are overlays, or the mounts cannot be read.
    """
    found: Counter[str] = Counter()
    host.places  # noqa: B018 (whose mount namespaces there are)
    for path in host.mountinfo_paths():
        try:
            with open(path, "rb") as file:
                lines = file.read().split(b"\n")
        except OSError:
            continue
        for line in lines:
            if b"/rootfs " not in line and b"/merged " not in line:
                continue
            mount = mountinfo.parse_line(line)
            if mount is None or mount.fstype == "overlay" or not _ROOT.search(mount.mount_point):
                continue
            made_by = _SNAPSHOTTER.search(mount.root)
            found[made_by[1] if made_by else mount.fstype] += 1
    return dict(found.most_common(_MOST))


def described(roots: dict[str, int]) -> str:
    """Such as: 3 containers' roots are no overlay (native 2, ext4 1)."""
    count = sum(roots.values())
    whose = "container's root is" if count == 1 else "containers' roots are"
    return f"{count} {whose} no overlay ({', '.join(f'{name} {number}' for name, number in roots.items())})"
