"""The matrix of what runs names, layers and destinations are tried on: a cell each, and why some cells can't be.

`python -m tests.native.support` writes it into docs/support.md; a unit test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.vm import images

RUNTIMES = ("containerd 1.6", "containerd 2.1", "CRI-O")
SNAPSHOTTERS = ("overlayfs", "native", "erofs", "blockfile", "fuse-overlayfs")
PLACES = ("default", "k3s", "rke2", "custom")

# What each layer of tests.vm.images has that no lower one has: the file, the layer's number and its line.
MARKS = (
    ("app/big", 3, images.TOP_LINE),
    ("app/config.ini", 2, images.APP_LINE),
    ("bin/busybox", 1, str(images.HISTORY[0]["created_by"])),
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "support.md"
_TABLE = re.compile(r"(<!-- matrix -->\n).*(?=<!-- end of matrix -->)", re.DOTALL)


@dataclass(frozen=True)
class Cell:
    """One combination; `user` is whether the pod has a user namespace of its own (hostUsers: false)."""

    runtime: str
    snapshotter: str
    place: str
    user: bool

    @property
    def name(self) -> str:
        """As pods and tests are called."""
        parts = (self.runtime.replace(" ", "-").replace(".", "-").lower(), self.snapshotter, self.place)
        return "-".join([*parts, *(["userns"] if self.user else [])])

    @property
    def why_not(self) -> str | None:
        """Why there is no such node; None for one that is tried."""
        if self.runtime == "CRI-O":
            if self.place in ("k3s", "rke2"):
                return "k3s and RKE2 run containerd"
            if self.snapshotter not in ("overlayfs", "fuse-overlayfs"):
                return "containers-storage has no such driver"
            if self.user and self.snapshotter == "fuse-overlayfs":
                return "crun of Debian 12 does not start such a container: create device /dev/null: Permission denied"
            return None
        if self.snapshotter == "fuse-overlayfs":
            return "containerd's is a program of its own that no Debian release has; CRI-O's is tried"
        if self.runtime == "containerd 1.6" and self.snapshotter in ("erofs", "blockfile"):
            return f"containerd has {self.snapshotter} since {'2.1' if self.snapshotter == 'erofs' else '1.7'}"
        if self.user and self.runtime == "containerd 1.6":
            return "containerd has user namespaces for pods since 2.0"
        if self.user and self.snapshotter in ("native", "blockfile"):
            return "containerd 2.1 does not start such a pod: container ID cannot be mapped to a host ID"
        return None


def cells() -> Iterator[Cell]:
    """All of them."""
    for runtime in RUNTIMES:
        for snapshotter in SNAPSHOTTERS:
            for place in PLACES:
                for user in (False, True):
                    yield Cell(runtime, snapshotter, place, user)


def tried() -> list[Cell]:
    """Those that are."""
    return [cell for cell in cells() if cell.why_not is None]


def table() -> str:
    """The matrix in Markdown: places and user namespaces side by side."""
    reasons: dict[str, str] = {}
    lines = ["| runtime | snapshotter | " + " | ".join(PLACES) + " |", "|---|---|" + "---|" * len(PLACES)]
    for runtime in RUNTIMES:
        for snapshotter in SNAPSHOTTERS:
            shown = []
            for place in PLACES:
                parts = []
                for user in (False, True):
                    why = Cell(runtime, snapshotter, place, user).why_not
                    note = "yes" if why is None else reasons.setdefault(why, f"[{len(reasons) + 1}]")
                    parts.append(note)
                shown.append(parts[0] if parts[0] == parts[1] else f"{parts[0]}; userns {parts[1]}")
            lines.append(f"| {runtime} | {snapshotter} | " + " | ".join(shown) + " |")
    lines += ["", *(f"{note} {why}.  " for why, note in reasons.items())]
    return "\n".join(lines) + "\n"


def written(document: str) -> str:
    """The document with the table of now."""
    return _TABLE.sub(lambda match: match[1] + table(), document)


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
