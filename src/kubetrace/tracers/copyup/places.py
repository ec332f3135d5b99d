"""Where a volume can take what a container writes to files of its image: one directory for what belongs together.

A volume at a part of a program's data breaks it: the writable layer starts again from the image with each container,
and the volume does not, so the two no longer fit (a database loses tables); and a rename or hard link cannot leave a
volume. So all that one container writes below one program's directory is one place: the directory that holds it all.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable
from typing import Final

# Directories that many programs share, by the Filesystem Hierarchy Standard 3.0: what lies in them is one program's.
_SHARED: Final = frozenset(
    {
        *(b"/home", b"/media", b"/mnt", b"/opt", b"/run", b"/srv", b"/usr/local", b"/usr/share", b"/usr/src"),
        *(b"/var/cache", b"/var/lib", b"/var/local", b"/var/log", b"/var/mail", b"/var/opt", b"/var/run"),
        *(b"/var/spool", b"/var/tmp", b"/var/www"),
    }
)
# Of those, where a volume does no harm, as what programs keep there is theirs to make again.
_MOUNTABLE: Final = frozenset(
    {b"/mnt", b"/run", b"/srv", b"/var/cache", b"/var/log", b"/var/mail", b"/var/run", b"/var/spool", b"/var/www"}
)
_WHOLE: Final = frozenset({b"/tmp", b"/var/tmp"})
# Programs, their configuration and the system's own state: to be changed in the image.
_SYSTEM: Final = frozenset(
    {
        *(b"/bin", b"/boot", b"/dev", b"/etc", b"/lib", b"/lib32", b"/lib64", b"/libx32", b"/proc", b"/sbin", b"/sys"),
        *(b"/usr", b"/var/cache/apt", b"/var/cache/ldconfig", b"/var/lib/alternatives", b"/var/lib/apt"),
        *(b"/var/lib/dpkg", b"/var/lib/misc", b"/var/lib/pacman", b"/var/lib/pam", b"/var/lib/rpm"),
        *(b"/var/lib/systemd", b"/var/lib/ucf"),
        *(b"/usr/local/" + name for name in (b"bin", b"etc", b"games", b"include", b"lib", b"lib64", b"libexec")),
        *(b"/usr/local/" + name for name in (b"man", b"sbin", b"share")),
        *(b"/usr/share/" + name for name in (b"doc", b"icons", b"info", b"locale", b"man", b"mime", b"zoneinfo")),
    }
)

# What lies directly in the directory of a database: that directory is one place, whatever of it is written.
_DATA: Final = re.compile(
    rb"/(?:"
    # PostgreSQL: storage-file-layout.html
    rb"PG_VERSION|pg_wal|pg_xact|pg_multixact|pg_control|postmaster\.pid|postgresql\.auto\.conf|base/\d+"
    # Redis and Valkey: redis.conf, dbfilename and appenddirname
    rb"|appendonlydir|appendonly\.aof|dump\.rdb"
    # MySQL and MariaDB: InnoDB's system tablespace and redo log, Aria's log
    rb"|ibdata1|ib_logfile\d|#innodb_redo|mysql\.ibd|aria_log_control"
    # MongoDB: WiredTiger
    rb"|WiredTiger(?:\.\w+)?|mongod\.lock"
    # git's own directory belongs to its work tree
    rb"|\.git"
    rb")(?:/|$)"
)
# PostgreSQL's control file is one directory deeper.
_DEEPER: Final = (b"/global/pg_control",)
_LOGS: Final = re.compile(rb"/logs?(?=/|$)")


_ABOVE_ALL: Final = frozenset({b"", b"/", b"/var"})


def is_system(directory: bytes) -> bool:
    """Whether what lies there is a part of the system that the image has, and not a program's data."""
    return root_of(directory) is None and directory not in _SHARED | _ABOVE_ALL


def root_of(directory: bytes) -> bytes | None:
    """The directory of the program that a directory belongs to; None where no volume can be mounted."""
    parts = directory.split(b"/")
    if directory in _ABOVE_ALL or parts[0]:
        return None
    above = [b"/".join(parts[:depth]) for depth in range(2, min(len(parts), 4) + 1)]
    whole = next((one for one in above if one in _WHOLE), None)
    if whole is not None:
        return whole
    shared = next((one for one in reversed(above) if one in _SHARED), None)
    if shared == directory:
        return directory if directory in _MOUNTABLE else None
    root = above[0] if shared is None else b"/".join(parts[: shared.count(b"/") + 2])
    return None if root in _SYSTEM | _ABOVE_ALL else root


def data_of(path: bytes) -> bytes | None:
    """The directory of the database, or of the work tree, that a path is a part of; None if it is not seen to be."""
    for name in _DEEPER:
        if path.endswith(name):
            return path.removesuffix(name) or b"/"
    found = _DATA.search(path)
    return (path[: found.start()] or b"/") if found else None


def _common(directories: Iterable[bytes]) -> bytes:
    return posixpath.commonpath(list(directories))


def place_for(directory: bytes, written: Collection[bytes]) -> bytes | None:
    """The one directory for a volume that holds `directory` and what belongs to it; None where there is none.

    `written`: the directories of the same container in which anything was written, this one among them.
    """
    root = root_of(directory)
    if root is None:
        return None
    own = {one for one in {*written, directory} if root_of(one) == root}
    logs = {one: found for one in own if (found := _log_of(one, root)) is not None}
    rest = _common(one for one in own if one not in logs) if len(logs) < len(own) else None
    mine = logs.get(directory)
    if mine is None or (rest is not None and (mine + b"/").startswith(rest.rstrip(b"/") + b"/")):
        return rest
    return mine


def _log_of(directory: bytes, root: bytes) -> bytes | None:
    # The directory of logs below a program's own, which it appends to and rotates: nothing else depends on it.
    found = _LOGS.search(directory, len(root))
    return directory[: found.end()] if found else None
