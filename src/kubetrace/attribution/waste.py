"""Bytes of an image that nobody sees: files of a layer that an upper layer writes again or deletes. Pure.

As overlayfs has it (Documentation/filesystems/overlayfs.rst): a whiteout hides one name and all below it, an opaque
directory all that lower layers have in it, a file in the place of a directory all below that, and the same path the
file itself. A file with several names is hidden with its last one. Directories merge: they are no waste.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal["file", "directory", "opaque", "whiteout"]
# Of one image: more than any has.
MOST_FILES: Final = 5_000_000


@dataclass(frozen=True, slots=True)
class LayerFile:
    """One name in a layer. `path` has no slash in front; `bytes` are whole blocks."""

    path: bytes
    kind: Kind
    inode: int = 0
    links: int = 1
    bytes: int = 0
    size: int = 0
    mtime_ns: int = 0


@dataclass(slots=True)
class Hidden:
    """What one layer hides of another: files (inodes) and their bytes, and the largest of them.

    `alike`: of these the ones that were written again with the same size and time: likely only their owner or mode.
    """

    largest: bytes = b""
    largest_bytes: int = 0
    files: int = 0
    bytes: int = 0
    deleted: int = 0
    alike: int = 0


@dataclass(slots=True)
class _Leaf:
    # A name that is still seen.
    layer: int
    file: LayerFile


# A directory as all layers so far show it.
_Tree = dict[bytes, "_Leaf | _Tree"]


@dataclass(slots=True)
class Waste:
    """By (layer that has it, layer that hides it), both counted from 0, the lowest."""

    hidden: dict[tuple[int, int], Hidden] = field(default_factory=dict)
    complete: bool = True
    """Whether there were not more files than are looked at."""
    seen: _Tree = field(default_factory=dict)
    """All layers as they are seen together."""

    def layer_at(self, path: bytes) -> int | None:
        """The layer whose file is seen under a path; None for a directory, and for nothing."""
        directory, name = _parent(self.seen, path)
        found = directory.get(name) if directory is not None else None
        return found.layer if isinstance(found, _Leaf) else None

    def of(self, layer: int) -> int:
        """Bytes of one layer that those above it hide."""
        return sum(one.bytes for (below, _), one in self.hidden.items() if below == layer)

    @property
    def total(self) -> int:
        """Of all layers."""
        return sum(one.bytes for one in self.hidden.values())


def waste(layers: Sequence[Iterable[LayerFile]]) -> Waste:
    """What is hidden in these layers, the lowest first; of one directory's files each name comes once, in any order."""
    found = Waste()
    tree = found.seen
    # (layer, inode) -> names of it that are still seen
    names: dict[tuple[int, int], int] = {}
    left = MOST_FILES
    for number, files in enumerate(layers):
        # directories first: what is opaque hides what was there before this layer
        entries = sorted(files, key=lambda one: one.path)
        left -= len(entries)
        if left < 0:
            found.complete = False
            break
        for file in entries:
            if file.kind in ("opaque", "whiteout"):
                _clear(tree, file, number, names, found)
        for file in entries:
            if file.kind in ("file", "directory", "opaque"):
                _put(tree, file, number, names, found)
    return found


def _clear(tree: _Tree, file: LayerFile, layer: int, names: dict[tuple[int, int], int], found: Waste) -> None:
    directory, name = _parent(tree, file.path)
    if directory is None:
        return
    gone = directory.get(name)
    if gone is None:
        return
    _hide(gone, layer, names, found, by=None)
    if file.kind == "whiteout":
        del directory[name]
    elif isinstance(gone, dict):
        gone.clear()


def _put(tree: _Tree, file: LayerFile, layer: int, names: dict[tuple[int, int], int], found: Waste) -> None:
    directory = tree
    *above, name = file.path.split(b"/")
    for part in above:
        below = directory.get(part)
        if not isinstance(below, dict):
            if below is not None:
                _hide(below, layer, names, found, by=None)
            below = directory[part] = {}
        directory = below
    before = directory.get(name)
    if file.kind == "file":
        if before is not None:
            _hide(before, layer, names, found, by=file)
        directory[name] = _Leaf(layer, file)
        key = layer, file.inode
        names[key] = names.get(key, 0) + 1
    elif not isinstance(before, dict):
        if before is not None:
            _hide(before, layer, names, found, by=None)
        directory[name] = {}


def _parent(tree: _Tree, path: bytes) -> tuple[_Tree | None, bytes]:
    *above, name = path.split(b"/")
    for part in above:
        below = tree.get(part)
        if not isinstance(below, dict):
            return None, name
        tree = below
    return tree, name


def _hide(
    gone: _Leaf | _Tree, layer: int, names: dict[tuple[int, int], int], found: Waste, by: LayerFile | None
) -> None:
    for leaf in _leaves(gone):
        if leaf.layer == layer:
            continue  # a layer does not hide its own
        file = leaf.file
        key = leaf.layer, file.inode
        names[key] = names.get(key, 1) - 1
        if names[key] > 0:
            continue
        one = found.hidden.setdefault((leaf.layer, layer), Hidden())
        one.files += 1
        one.bytes += file.bytes
        if by is None:
            one.deleted += 1
        elif (by.size, by.mtime_ns) == (file.size, file.mtime_ns):
            one.alike += 1
        if file.bytes > one.largest_bytes or not one.largest:
            one.largest, one.largest_bytes = file.path, file.bytes


def _leaves(top: _Leaf | _Tree) -> Iterator[_Leaf]:
    ahead = [top]
    while ahead:
        one = ahead.pop()
        if isinstance(one, _Leaf):
            yield one
        else:
            ahead += one.values()
