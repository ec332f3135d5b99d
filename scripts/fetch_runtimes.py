"""Fetch what tests run beside the release's own runtimes: containerd 2 and runc of a newer Debian, podman, a registry.

    fetch_runtimes.py DIRECTORY

Nothing is installed: containerd 2.1, runc 1.3 and mkfs.erofs are unpacked into DIRECTORY/containerd-2 with the C
library that they ask for, and made to load it (patchelf: runc executes itself again, so a wrapper that names the loader
would not do). podman, whose store is the one that CRI-O has, is unpacked into DIRECTORY/podman, and the registry that
images are pulled from (docker-registry, the distribution project's) into DIRECTORY/registry. The suite is pinned and
not the version: versions are printed, and kept in DIRECTORY/NAME/versions.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from debian_packages import Apt, own_codename

# The Debian release that carries containerd 2.1 and runc 1.3.
SUITE = "forky"
MODERN = ("containerd", "runc", "erofs-utils")
# Of this machine's own release, so its C library serves; what podman loads beside it.
PODMAN = (
    *("podman", "golang-github-containers-common", "golang-github-containers-image", "conmon", "crun"),
    *("fuse-overlayfs", "libfuse3-3", "libgpgme11", "libassuan0", "libsubid4", "libdevmapper1.02.1", "libyajl2"),
)
# Of this machine's own release too; and what runtimes unpack gzip with, where it is there.
REGISTRY = ("docker-registry", "pigz")
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_PATCHED = ("usr/bin/runc", "usr/sbin/runc", "usr/bin/mkfs.erofs")


def main(directory: Path) -> None:
    """Fetch what is not there yet, or is there in an older version."""
    apt = Apt(SUITE, directory / "apt" / SUITE)
    if _unpack(apt.closure(list(MODERN)), MODERN, directory / "containerd-2"):
        _patch(directory / "containerd-2")
    own = Apt(own_codename(), directory / "apt" / own_codename())
    _unpack(own.download(list(PODMAN)), PODMAN, directory / "podman")
    _unpack(own.download(list(REGISTRY)), REGISTRY, directory / "registry")


def _unpack(packages: Sequence[Path], named: Sequence[str], target: Path) -> bool:
    """Whether it had to be done; the whole of it is there or nothing."""
    versions = {package.name.split("_")[0]: package.name.split("_")[1] for package in packages}
    told = "".join(f"{name} {versions[name].replace('%3a', ':')}\n" for name in named)
    kept = target / "versions"
    print(f"{target.name}: {', '.join(told.splitlines())}", flush=True)
    if kept.exists() and kept.read_text() == told:
        return False
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for package in packages:
        subprocess.run(["dpkg-deb", "-x", package, fresh], check=True)
    shutil.rmtree(fresh / "usr/share/doc", ignore_errors=True)
    (fresh / "versions").write_text(told)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return True


def _patch(tree: Path) -> None:
    libraries = tree / _LIBRARIES
    loader = next(libraries.glob("ld-linux-x86-64.so.2"))
    for name in _PATCHED:
        program = tree / name
        if program.is_file() and not program.is_symlink():
            options = ["--set-interpreter", str(loader), "--force-rpath", "--set-rpath", str(libraries)]
            subprocess.run(["patchelf", *options, str(program)], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not re.match("/", sys.argv[1]):
        raise SystemExit("usage: fetch_runtimes.py DIRECTORY (absolute)")
    main(Path(sys.argv[1]))
