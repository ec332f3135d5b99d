"""Files that kubetrace makes: their owner's alone, and never written through a link that somebody else left there."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from kubetrace.errors import OutputError, UsageError

STDOUT = Path("-")
"""The file that is written to stdout, which is open already."""


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raises UsageError if there is something at the path and it is not to be replaced."""
    if not force and path != STDOUT and os.path.lexists(path):
        raise UsageError(f"{path} exists.", do="another name, or --force to replace it")


def part_before(path: Path) -> Path:
    """Where a recording's part is put that a new one follows."""
    return path.with_name(path.name + ".1")


def refuse_parts(path: Path, *, rotated: bool, force: bool) -> None:
    """As `refuse_existing`, for a recording and, if it is `rotated`, the part that will be put beside it."""
    refuse_existing(path, force=force)
    if rotated:
        refuse_existing(part_before(path), force=force)


def create(path: Path, *, force: bool, append: bool = False) -> int:
    """A descriptor of a new file, readable by its owner only: names of pods and files are nobody else's business.

    Raises UsageError if something is there, OutputError if it cannot be created. `force` replaces a regular file by the
    new one, and refuses anything else.
    """
    if path == STDOUT:
        return os.dup(1)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | (os.O_APPEND if append else 0)
    try:
        if force:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(os.lstat(path).st_mode):
                    raise OutputError(f"{path} is not a regular file.", do="write to another name")
                os.unlink(path)
        return os.open(path, flags, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists.", do="another name, or --force to replace it") from None
    except OSError as error:
        raise OutputError(f"cannot create {path}: {error.strerror or error}.") from error


def touch(path: Path) -> None:
    """Create an empty file, or renew the one that is there. Raises OutputError; a symbolic link is not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OutputError(f"{path} is not a regular file.", do="another --ready-file")
            os.utime(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(f"cannot create the ready file {path}: {error.strerror or error}.") from error
