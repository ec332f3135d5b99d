"""Where the running kernel's types come from when bcc compiles: its BTF, or its headers.

BTF is the kernel's own word, has what packages of headers leave out (fs/mount.h, fs/overlayfs), and is read in a tenth
of the time: it is taken wherever it is. Without it, bcc compiles bpf/headers.bpf.h against the kernel's headers, and
the types are read out of the BTF that comes with the result. BCC_KERNEL_SOURCE, where it is set, names the headers to
take whatever else there is, as it does for bcc's own tools.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kubetrace.engines import support
from kubetrace.engines.kernel_types import KernelTypes
from kubetrace.errors import LibraryMissing

_BTF = Path("/sys/kernel/btf")
_ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}
_MAX_SYMLINKS = 10


class Compile(Protocol):
    """engines.bcc.compile_text."""

    def __call__(self, text: str, flags: Sequence[str], directory: Path) -> Compiled:
        """What bcc made of a text."""


class Compiled(Protocol):
    """What is needed of it."""

    @property
    def btf(self) -> bytes:
        """The types."""


@dataclass(frozen=True)
class Headers:
    """A kernel's headers; Debian has what it shares between configurations (`source`) apart from the rest (`build`)."""

    source: Path
    build: Path

    def flags(self) -> list[str]:
        """For what is not below `source`."""
        if self.build == self.source:
            return []
        arch = f"{self.build}/arch/{architecture()}/include/generated"
        return [
            f"-I{path}"
            for path in (arch, f"{self.build}/include", f"{arch}/uapi", f"{self.build}/include/generated/uapi")
        ]


def architecture() -> str:
    """This machine's, as the kernel's directories are named."""
    return _ARCHITECTURES[platform.machine()]


def triplet() -> str:
    """The directory of this machine's own among those of several architectures (Debian's multiarch)."""
    return f"{platform.machine()}-linux-gnu"


def kernel_types(wanted: set[str], sources: Path, compile_text: Compile, host_root: str | None) -> KernelTypes:
    """The types of these names. Raises EngineError; LibraryMissing where the kernel has neither BTF nor headers."""
    given = os.environ.get("BCC_KERNEL_SOURCE")
    if given is None and support.has_btf():
        return KernelTypes.of_kernel(_BTF, wanted)
    headers = find(given, host_root)
    text = (sources / "headers.bpf.h").read_text()
    # by a name of its own: a pointer that is a member elsewhere, too, does not bring its struct into the BTF
    text += "".join(
        f"typedef {name} kt_type_{index};\nkt_type_{index} *kt_asked_{index};\n"
        for index, name in enumerate(sorted(wanted))
    )
    return KernelTypes.of_blob(compile_text(text, headers.flags(), headers.source).btf, wanted)


def find(given: str | None, host_root: str | None) -> Headers:
    """The running kernel's headers: those given, else the node's, else this container's. Raises LibraryMissing."""
    if given is not None:
        return _split(Path("/"), Path(given)) or _missing(given)
    release = os.uname().release
    for root in _roots(host_root):
        for place in (f"lib/modules/{release}/build", f"usr/src/linux-headers-{release}"):
            if found := _split(root, root / place):
                return found
    return _missing(None)


def _roots(host_root: str | None) -> Iterable[Path]:
    return [Path(root) for root in dict.fromkeys((host_root or "/host", "/host", "/"))]


def _missing(given: str | None) -> Headers:
    release = os.uname().release
    raise LibraryMissing(
        f"there are no kernel headers in {given}."
        if given
        else f"this kernel ({release}) has no BTF, and its headers are not installed.",
        why="bcc needs to know the kernel's structs to compile a tracer."
        if given is None
        else "BCC_KERNEL_SOURCE names a directory with include/linux/kconfig.h.",
        do=f"apt-get install linux-headers-{release}",
    )


def _split(root: Path, place: Path) -> Headers | None:
    build = _inside(root, place)
    # what Debian's linux-headers-*-amd64 leave to linux-headers-*-common; beside `build` in lib/modules
    for source in (build, _inside(root, place.parent / "source"), *_included(root, build)):
        if (source / "include" / "linux" / "kconfig.h").exists():
            return Headers(source, build)
    return None


def _included(root: Path, build: Path) -> list[Path]:
    """The one directory that Debian's Makefile hands over to; it is beside this one, also in a copy of both."""
    try:
        words = (build / "Makefile").read_text(errors="replace").split()
    except OSError:
        return []
    found = [word.removesuffix("/Makefile") for word in words if word.endswith("/Makefile")]
    return [place for path in found for place in (root / path.lstrip("/"), build.parent / Path(path).name)]


def _inside(root: Path, path: Path) -> Path:
    """Symbolic links followed as the node would: an absolute one stays below its root."""
    for _ in range(_MAX_SYMLINKS):
        try:
            target = os.readlink(path)
        except OSError:
            return path
        path = root / target.lstrip("/") if target.startswith("/") else path.parent / target
    return path
