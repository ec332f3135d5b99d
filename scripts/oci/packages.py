"""Files from Debian's packages: those that are asked for by name, and the libraries that these need.

apt says which packages belong together; which of them are needed is asked of the files. A library stays when a file
that stays is linked to it, so nothing comes along for the sake of scripts that never run (dpkg, tar, perl), or of
modules of Python's library that are left out (Kerberos for nis, Berkeley DB for dbm).
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import re
import subprocess
import tarfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from oci.files import BuildError, File, Part

# Package -> what of it goes into the image, besides its copyright. A {} stands for Python's version.
WANTED = {
    "base-files": ["usr/lib/os-release", "etc/os-release", "etc/debian_version", "usr/share/common-licenses/*"],
    # a shell with what is missed most during an incident (ls, ps, vi, nsenter, chroot)
    "busybox": ["usr/bin/busybox"],
    "python3-minimal": ["usr/bin/python3"],
    "python{}-minimal": ["usr/bin/python{}"],
    "libpython{}-minimal": ["usr/lib/python{}/*"],
    "libpython{}-stdlib": ["usr/lib/python{}/*"],
    # loaded at run time, so that no file is linked to it: by the engine, and by glibc in pthread_exit
    "libbpf1": ["usr/lib/*/libbpf.so.1*"],
    "libgcc-s1": ["usr/lib/*/libgcc_s.so.1"],
}
BCC_WANTED = {
    "python3-bpfcc": ["usr/lib/python3/dist-packages/bcc/*"],
    "libbpfcc": ["usr/lib/*/libbcc.so.*"],
}
# Of any library that is needed.
_LIBRARIES = [
    *("usr/lib/*/lib*.so*", "usr/lib/llvm-*/lib/lib*.so*"),
    *("usr/lib/*/ld-linux-*.so.*", "usr/lib/ld-linux-*.so.*", "usr/lib64/ld-linux-*.so.*"),
]

# Parts of Python's library that nothing in the image imports, with the libraries behind them.
_UNUSED_PYTHON = {
    *("__pycache__", "config-*", "ctypes/macholib", "curses", "dbm", "distutils", "ensurepip", "idlelib", "lib2to3"),
    *("pydoc.py", "pydoc_data", "sitecustomize.py", "sqlite3", "test", "tkinter", "turtle.py", "turtledemo"),
    *(
        "unittest",
        "venv",
        "xmlrpc",
        "LICENSE.txt",
        "_aix_support.py",
        "_bootsubprocess.py",
        "_osx_support.py",
    ),
    *(f"lib-dynload/{name}.*" for name in ("_curses*", "_dbm", "_gdbm", "_lsprof", "_sqlite3", "_tkinter", "_uuid")),
    *(f"lib-dynload/{name}.*" for name in ("_test*", "_x*", "audioop", "nis", "ossaudiodev", "readline", "xx*")),
}

# Debian's packages still have files in / that live in /usr (dpkg, usrmerge).
_MERGED = re.compile(r"(bin|sbin|lib|lib32|lib64|libx32)/")


def read(archive: Path) -> Part:
    """All files of a package. Raises BuildError for one that is none."""
    try:
        control = subprocess.run(["dpkg-deb", "--field", archive], check=True, capture_output=True, text=True).stdout
        content = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{archive.name} cannot be unpacked: {error}.") from error
    fields: dict[str, str] = dict(re.findall(r"^([\w-]+): (.*)$", control, re.MULTILINE))
    name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
    source, _, source_version = fields.get("Source", name).partition(" ")
    part = Part(
        name,
        version,
        purl=f"pkg:deb/debian/{name}@{version.replace(':', '%3A').replace('+', '%2B')}?arch={architecture}",
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        source=f"{source} {source_version.strip('()') or version}",
        supplier=fields.get("Maintainer", ""),
        control=fields,
    )
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            if _MERGED.match(path):
                path = f"usr/{path}"
            if member.issym():
                part.files[path] = File(link=member.linkname, mode=0o777, mtime=int(member.mtime))
            elif member.isreg() or member.islnk():
                # the target of a hard link comes before it, and is a file of the same package
                taken = tar.extractfile(member)
                assert taken is not None
                part.files[path] = File(taken.read(), member.mode & 0o755, mtime=int(member.mtime))
    return part


def python_version(parts: Iterable[Part]) -> str:
    """Python's, such as 3.11, by its package's name."""
    for part in parts:
        if found := re.fullmatch(r"libpython(\d\.\d+)-minimal", part.name):
            return found[1]
    raise BuildError("apt gave no package of Python.")


def select(parts: Sequence[Part], python: str, wanted: dict[str, list[str]], known: Collection[str] = ()) -> list[Part]:
    """The parts that are wanted and those that they need, each with only the files that are kept, sorted by name.

    `python` is its version, `known` are libraries that are there without them. Raises BuildError for what is missing.
    """
    by_name = {part.name: part for part in parts}
    providers = {Path(path).name: part for part in parts for path in part.files if _matches(path, _LIBRARIES)}
    kept: dict[str, Part] = {}
    there, linked = set(known), set[str]()

    def keep(part: Part, patterns: list[str]) -> None:
        if part.name in kept:
            return
        documents = f"usr/share/doc/{part.name}"
        kept[part.name] = chosen = Part(**{**vars(part), "files": {}})
        for path, file in sorted(part.files.items()):
            if path in (documents, f"{documents}/copyright") or (
                _matches(path, patterns) and not _unused(path, python)
            ):
                chosen.files[path] = file
        there.update(Path(path).name for path in chosen.files)
        linked.update(name for file in chosen.files.values() for name in needed(file))
        # packages of one source share their copyright
        shared = part.files.get(documents, File()).link
        if shared is not None and shared in by_name:
            keep(by_name[shared], [])

    for name, patterns in wanted.items():
        package = name.format(python)
        if package not in by_name:
            raise BuildError(f"apt did not fetch {package}, which the image is made of.")
        keep(by_name[package], [pattern.format(python) for pattern in patterns])
    while missing := sorted(linked - there):
        if missing[0] not in providers:
            raise BuildError(f"no package has {missing[0]}, which a file of the image needs.")
        provider = providers[missing[0]]
        if provider.name in kept:
            raise BuildError(f"{provider.name} is in the image without its {missing[0]}.")
        keep(provider, _LIBRARIES)
    return [kept[name] for name in sorted(kept)]


def needed(file: File) -> list[str]:
    """The libraries that a file is linked to, and its loader; none for what is not an ELF file."""
    if not file.data.startswith(b"\x7fELF"):
        return []
    try:
        elf: Any = ELFFile(io.BytesIO(file.data))
        dynamic = elf.get_section_by_name(".dynamic")
        loaders = [Path(part.get_interp_name()).name for part in elf.iter_segments("PT_INTERP")]
    except ELFError:
        return []
    return loaders + ([tag.needed for tag in dynamic.iter_tags("DT_NEEDED")] if dynamic is not None else [])


def _matches(path: str, patterns: Iterable[str]) -> bool:
    for pattern in patterns:
        # '*' at the end is all below a directory, elsewhere one name
        if pattern.endswith("/*"):
            if path.startswith(pattern[:-1]):
                return True
        elif pattern.count("/") == path.count("/") and fnmatch.fnmatchcase(path, pattern):
            return True
    return False


def _unused(path: str, version: str) -> bool:
    below = path.removeprefix(f"usr/lib/python{version}/")
    if below == path:
        return False
    parts = below.split("/")
    heads = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return "__pycache__" in parts or any(fnmatch.fnmatchcase(head, name) for head in heads for name in _UNUSED_PYTHON)
