"""Build dist/kubectl-kubetrace.tar.gz, a single file that any python3 (3.11+) runs, and its krew manifest.

The file is a zip of this package, without BPF objects, and of the libraries that the plugin uses, as they are in this
environment. The same tree and libraries give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import io
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
# What kubetrace.plugin imports, and what that imports.
_LIBRARIES = ("click", "rich", "markdown-it-py", "mdurl", "pygments", "pyyaml")
_MAIN = b"from kubetrace.commands.plugin import main\nmain()\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def _contents() -> Iterator[tuple[str, bytes]]:
    package = ROOT / "src" / "kubetrace"
    for path in sorted(package.rglob("*.py")):
        yield f"kubetrace/{path.relative_to(package)}", path.read_bytes()
    for library in _LIBRARIES:
        for file in sorted(importlib.metadata.files(library) or (), key=str):
            name = str(file)
            wanted = name.endswith(".py") or (".dist-info/" in name and "LICEN" in name.upper())
            if wanted and ".." not in file.parts:
                yield name, Path(str(file.locate())).read_bytes()
    yield "__main__.py", _MAIN


def executable() -> bytes:
    """The plugin as one file."""
    packed = io.BytesIO()
    packed.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in _contents():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o100644 << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def archive(plugin: bytes) -> bytes:
    """What krew unpacks."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, data, mode in (
            ("LICENSE", (ROOT / "LICENSE").read_bytes(), 0o644),
            ("kubectl-kubetrace", plugin, 0o755),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def main() -> None:
    """Write both files, and say where and how large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uri", required=True, help="where the archive will be downloaded from")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="directory to write to (default: dist)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    packed = archive(executable())
    manifest = (ROOT / "deploy" / "krew" / "kubetrace.yaml.in").read_text()
    for name, value in (
        ("VERSION", importlib.metadata.version("kubetrace")),
        ("URI", given.uri),
        ("SHA256", hashlib.sha256(packed).hexdigest()),
    ):
        manifest = manifest.replace(f"@{name}@", value)
    (given.out / "kubectl-kubetrace.tar.gz").write_bytes(packed)
    (given.out / "kubetrace.yaml").write_text(manifest)
    print(f"{given.out}/kubectl-kubetrace.tar.gz: {len(packed) / 1e6:.1f} MB", file=sys.stderr)
    print(f"{given.out}/kubetrace.yaml: kubectl krew install --manifest={given.out}/kubetrace.yaml", file=sys.stderr)


if __name__ == "__main__":
    main()
