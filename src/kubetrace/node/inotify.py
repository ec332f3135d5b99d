"""What changes in directories and files, as the kernel tells it: inotify(7)."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from typing import Final

MODIFY: Final = 0x2
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
OVERFLOW: Final = 0x4000
IGNORED: Final = 0x8000

_EVENT: Final = struct.Struct("=iIII")  # watch, mask, cookie, bytes of the name with its padding
_READ_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Change:
    """One change: `mask` says which, `name` is the entry's in the directory at `path`; "" for a file itself."""

    path: str
    mask: int
    name: str


class Inotify:
    """Watches of one process. Its descriptor can be waited for; nothing blocks."""

    def __init__(self) -> None:
        """OSError where the process has too many instances (EMFILE: fs.inotify.max_user_instances)."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._paths: dict[int, str] = {}

    def watch(self, path: str, mask: int) -> bool:
        """Whether it is watched from now on; one that is already watched gets this mask. Nothing is raised."""
        number = self._libc.inotify_add_watch(self.fd, os.fsencode(path), ctypes.c_uint32(mask))
        if number < 0:
            return False
        self._paths[number] = path
        return True

    @property
    def watched(self) -> frozenset[str]:
        """The paths that are watched: one that is removed is not any more."""
        return frozenset(self._paths.values())

    def read(self) -> list[Change]:
        """What changed since the last call, in this order; an overflow is a change of "" with OVERFLOW."""
        found: list[Change] = []
        while True:
            try:
                data = os.read(self.fd, _READ_BYTES)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                number, mask, _, size = _EVENT.unpack_from(data, at)
                name = os.fsdecode(data[at + _EVENT.size : at + _EVENT.size + size].rstrip(b"\0"))
                at += _EVENT.size + size
                if mask & IGNORED:
                    self._paths.pop(number, None)
                elif mask & OVERFLOW or number in self._paths:
                    found.append(Change(self._paths.get(number, ""), mask, name))

    def close(self) -> None:
        """Harmless when called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
