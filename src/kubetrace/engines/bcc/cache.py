"""What bcc made of a text, kept for the next start: a few files of this user alone, named by all that went into them.

They are loaded into the kernel, so they are read only from a directory and a file that belong to this user and that
nobody else may write. Whatever is wrong with one, or with the directory, the text is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

# A text has this run's options in it, and the largest result (writes) takes 220 KB.
_MOST_FILES = 32
_MOST_BYTES = 16 << 20


def directory() -> Path:
    """$XDG_CACHE_HOME/kubetrace/bcc, or that below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "kubetrace" / "bcc"


def key(parts: Iterable[str]) -> str:
    """The name of what is made of these, and of nothing else."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape")
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()


def load(name: str) -> str | None:
    """What was stored under this name; None where nothing was, or somebody else may have written it."""
    path = directory() / name
    try:
        if not _is_ours(os.lstat(path.parent)):
            return None
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="ascii") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or not _is_ours(about) or about.st_size > _MOST_BYTES:
                return None
            return file.read()
    except (OSError, UnicodeDecodeError):
        return None


def store(name: str, text: str) -> None:
    """As a whole or not at all; a disk that is full or read-only is not a reason to fail. The oldest make room."""
    place = directory()
    with contextlib.suppress(OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(os.lstat(place)):
            return
        fd, made = tempfile.mkstemp(dir=place, prefix="new-")
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(text)
            os.replace(made, place / name)
        except BaseException:
            os.unlink(made)
            raise
        old = sorted(place.iterdir(), key=lambda path: path.lstat().st_mtime, reverse=True)[_MOST_FILES:]
        for path in old:
            path.unlink()


def _is_ours(about: os.stat_result) -> bool:
    return about.st_uid == os.geteuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
