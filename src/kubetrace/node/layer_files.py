"""The names in one image layer, as overlayfs would take them: files, directories, whiteouts, opaque directories.

A whiteout is a character device of number 0, or (newer kernels, in a directory that says so) an empty file with an
extended attribute. trusted.* attributes are only shown to who has CAP_SYS_ADMIN: without it opaque directories look
like others. Directories alone are opened, no link is followed, no other device entered.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

from kubetrace.attribution.waste import LayerFile

_OPAQUE: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
_WHITEOUT: Final = ("trusted.overlay.whiteout", "user.overlay.whiteout")
_CAP_SYS_ADMIN: Final = 21
_MOST: Final = 5_000_000
_MOST_DEEP: Final = 200
_BETWEEN: Final = 1024


def sees_opaque() -> bool:
    """Whether this process is shown which directories are opaque."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("CapEff:"):
                    return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    except (OSError, ValueError, IndexError):
        pass
    return False


class LayerFiles:
    """Those below one directory, a path that this process can open."""

    def __init__(self, directory: str, between: Callable[[], None] = lambda: None) -> None:
        """`between` is called every thousand names."""
        self._directory, self._between = directory, between
        self._device = -1
        self._count = 0
        self.unread = 0
        """Names that could not be looked at: too many, too deep, or not to be read."""

    def names(self) -> Iterator[LayerFile]:
        """Each once. OSError where the directory cannot be opened; what vanishes meanwhile is left out."""
        top = _open(self._directory, None)
        self._device = os.fstat(top).st_dev
        yield from self._below(top, b"", 0)

    def _below(self, directory: int, path: bytes, depth: int) -> Iterator[LayerFile]:
        # `directory` is closed here
        below: list[bytes] = []
        try:
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        name = os.fsencode(entry.name)
                        found = self._of(directory, entry, name, path + b"/" + name if path else name)
                        if found is not None and found.kind == "directory":
                            below.append(name)
                        elif found is not None:
                            yield found
            except OSError:
                self.unread += 1
            for name in below:
                at = path + b"/" + name if path else name
                try:
                    inner = _open(os.fsdecode(name), directory)
                except FileNotFoundError:
                    continue
                except OSError:
                    self.unread += 1
                    continue
                opaque = any(_attribute(inner, one) == b"y" for one in _OPAQUE)
                yield LayerFile(at, "opaque" if opaque else "directory")
                if depth < _MOST_DEEP:
                    yield from self._below(inner, at, depth + 1)
                else:
                    os.close(inner)
                    self.unread += 1
        finally:
            os.close(directory)

    def _of(self, directory: int, entry: os.DirEntry[str], name: bytes, path: bytes) -> LayerFile | None:
        self._count += 1
        if not self._count % _BETWEEN:
            self._between()
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError:
            self.unread += 1
            return None
        if self._count > _MOST or status.st_dev != self._device:
            self.unread += 1
            return None
        if stat.S_ISDIR(status.st_mode):
            return LayerFile(path, "directory")
        if (stat.S_ISCHR(status.st_mode) and not status.st_rdev) or _is_whiteout(directory, name, status):
            return LayerFile(path, "whiteout")
        blocks = status.st_blocks * 512
        return LayerFile(path, "file", status.st_ino, status.st_nlink, blocks, status.st_size, status.st_mtime_ns)


def _is_whiteout(directory: int, name: bytes, status: os.stat_result) -> bool:
    # fs/overlayfs/util.c, ovl_path_check_xwhiteout_xattr (6.7): asked only of empty files in a directory of opaque "x"
    if status.st_size or not stat.S_ISREG(status.st_mode):
        return False
    if not any(_attribute(directory, one) == b"x" for one in _OPAQUE):
        return False
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return False
    try:
        return any(_attribute(file, one) is not None for one in _WHITEOUT)
    finally:
        os.close(file)


def _attribute(descriptor: int, name: str) -> bytes | None:
    try:
        return os.getxattr(descriptor, name)
    except OSError:
        return None


def _open(name: str, directory: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=directory)
    except PermissionError:
        return os.open(name, flags, dir_fd=directory)
