"""Parts as a layer: one tar, compressed, whose bytes are the same for the same files."""

from __future__ import annotations

import hashlib
import io
import posixpath
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from oci.files import BuildError, Part

# gzip, as every runtime unpacks it (zstd: containerd since 1.5, docker since 23)
_LEVEL, _GZIP = 6, 31
# Directories that have nothing in them.
_EMPTY = {"run", "usr/sbin"}
# Directories that are not 0755.
_MODES = {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700}


@dataclass
class Layer:
    """A layer's compressed tar, its names by digest, and what each part takes."""

    created_by: str
    """As in an image's history."""
    data: bytes = b""
    digest: str = ""
    diff_id: str = ""
    """Digest of the tar before it is compressed."""
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Part -> bytes of its files, and compressed (to within zlib's window of 32 KiB)."""


def make(created_by: str, parts: Iterable[Part], directories: Iterable[str] = ()) -> Layer:
    """A layer of these parts, and of empty directories besides. Raises BuildError for two files of one name."""
    parts = list(parts)
    taken: dict[str, str] = {}
    for part in parts:
        for path in part.files:
            if path in taken:
                raise BuildError(f"{part.name} and {taken[path]} both have {path}.")
            taken[path] = part.name
    above = {str(parent) for path in (*taken, *directories) for parent in PurePosixPath(path).parents}
    layer = Layer(created_by)
    packer, plain, packed = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP), hashlib.sha256(), bytearray()

    def add(data: bytes) -> None:
        plain.update(data)
        packed.extend(packer.compress(data))

    for name in sorted((above | set(directories)) - {"."}):
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, _MODES.get(name, 0o755)
        add(_header(entry))
    for part in parts:
        before = len(packed)
        for path, file in sorted(part.files.items()):
            entry = tarfile.TarInfo(path)
            entry.mode, entry.mtime = file.mode, file.mtime
            if file.link is not None:
                entry.type, entry.linkname = tarfile.SYMTYPE, file.link
                add(_header(entry))
                continue
            entry.size = len(file.data)
            add(_header(entry) + file.data + bytes(-len(file.data) % tarfile.BLOCKSIZE))
        layer.sizes[part.name] = part.bytes, len(packed) - before
    add(bytes(2 * tarfile.BLOCKSIZE))
    packed.extend(packer.flush())
    layer.data = bytes(packed)
    layer.digest = f"sha256:{hashlib.sha256(layer.data).hexdigest()}"
    layer.diff_id = f"sha256:{plain.hexdigest()}"
    return layer


def check_links(parts: Iterable[Part]) -> None:
    """Raises BuildError for a symbolic link of the image that leads nowhere in it."""
    files = {path: file for part in parts for path, file in part.files.items()}
    there = {str(above) for path in files for above in PurePosixPath(path).parents} | set(files)
    for path, file in files.items():
        if file.link is not None:
            target = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), file.link))[1:]
            first = target.partition("/")[0]
            merged = files[first].link if first in files else None
            if merged is not None:
                target = merged + target[len(first) :]
            if target not in there and target not in _EMPTY:
                raise BuildError(f"/{path} leads to {file.link}, which is not in the image.")


def _header(entry: tarfile.TarInfo) -> bytes:
    return entry.tobuf(tarfile.PAX_FORMAT)


def unpack(layer: Layer) -> tarfile.TarFile:
    """The layer's tar, to be read."""
    return tarfile.open(fileobj=io.BytesIO(zlib.decompress(layer.data, _GZIP)))
