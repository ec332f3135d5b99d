"""What --version says: which kubetrace, of which commit, with which libbpf, and for which machines it has objects."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from kubetrace import __version__

_PACKAGE = Path(__file__).parent.parent


def lines() -> Iterator[str]:
    """The version, and a line for each part that a report of a fault should name."""
    yield f"kubetrace, version {__version__}"
    yield f"commit   {commit() or 'unknown'}"
    yield f"libbpf   {_libbpf() or 'cannot be loaded: kubetrace doctor'}"
    yield f"objects  {_objects() or 'none: the package was built without them'}"
    yield f"Python   {platform.python_version()} on {platform.machine()}"


def commit() -> str:
    """Of the wheel, as its build noted it (scripts/compile_objects.py), or of this checkout; empty if neither is known.

    -dirty: there were changes that are in no commit.
    """
    try:
        return (_PACKAGE / "commit").read_text("ascii").strip()
    except (OSError, ValueError):
        pass
    checkout = _PACKAGE.parent.parent
    if not (checkout / ".git").exists():
        return ""
    import subprocess

    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _libbpf() -> str:
    from kubetrace.engines.library import library
    from kubetrace.errors import LibraryMissing

    try:
        return str(library().libbpf_version_string().decode()).removeprefix("v")
    except (LibraryMissing, OSError):
        return ""


def _objects() -> str:
    found: dict[tuple[str, ...], list[str]] = {}
    try:
        architectures = sorted(os.listdir(_PACKAGE / "objects"), reverse=True)
    except OSError:
        return ""
    for architecture in architectures:
        compiled = (_PACKAGE / "objects" / architecture).glob("*.bpf.o")
        tracers = tuple(sorted(path.name.removesuffix(".bpf.o") for path in compiled))
        if tracers:
            found.setdefault(tracers, []).append(architecture)
    return "; ".join(f"{', '.join(machines)} ({', '.join(tracers)})" for tracers, machines in found.items())
