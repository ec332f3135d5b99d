"""What an image is made of: files in parts, a part being a Debian package, a wheel, or what is written here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class BuildError(Exception):
    """Why there is no image; one line, or two with what to do."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file, or a symbolic link when `link` is set; it belongs to root, whoever built the image."""

    data: bytes = b""
    mode: int = 0o644
    link: str | None = None
    mtime: int = 0


@dataclass
class Part:
    """Files by their path below /, and what an SBOM says of where they come from."""

    name: str
    version: str
    purl: str = ""
    """Package URL (pkg:deb/..., pkg:pypi/...)."""
    sha256: str = ""
    """Of the package or wheel as it was fetched."""
    license: str = ""
    """An SPDX expression, where the package has one."""
    source: str = ""
    """Name and version of the source package, where they are other ones."""
    supplier: str = ""
    control: Mapping[str, str] = field(default_factory=dict)
    """The fields of a Debian package."""
    files: dict[str, File] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of its files."""
        return sum(len(file.data) for file in self.files.values())
