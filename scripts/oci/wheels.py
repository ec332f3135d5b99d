"""Files from wheels: kubetrace's own, built from this checkout, and those of what it depends on, fetched by pip."""

from __future__ import annotations

import email
import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from oci.files import BuildError, File, Part

# kubetrace draws with rich's console and segments; these are imported for Markdown, syntax and tracebacks only.
_UNUSED = {
    "markdown-it-py": "rich.markdown",
    "mdurl": "markdown-it-py",
    "pygments": "rich.syntax and rich.traceback",
}
# Extras that go into the image, where the project has them: the DaemonSet's.
_EXTRAS = "agent"
# Debian's architecture -> the wheels' platforms, newest first.
_PLATFORMS = {
    "amd64": ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
    "arm64": ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def build(checkout: Path, target: Path) -> Path:
    """kubetrace's wheel. Raises BuildError with the builder's own words."""
    shutil.rmtree(target, ignore_errors=True)
    _pip(["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(checkout)])
    (wheel,) = target.glob("kubetrace-*.whl")
    return wheel


def fetch(wheel: Path, python: str, architecture: str, target: Path) -> list[Path]:
    """The wheels that this one and its agent depend on, for a Python and an architecture. Raises BuildError."""
    shutil.rmtree(target, ignore_errors=True)
    platforms = [option for platform in _PLATFORMS[architecture] for option in ("--platform", platform)]
    which = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:", *platforms]
    _pip(["download", "--dest", str(target), *which, f"{wheel}[{_EXTRAS}]"])
    found = {_normal(path.name.split("-")[0]): path for path in target.glob("*.whl")}
    return [path for name, path in sorted(found.items()) if name not in (*_UNUSED, "kubetrace")]


def read(path: Path, directory: str, architecture: str) -> Part:
    """The files of a wheel as they are below `directory` (site-packages); of kubetrace one architecture's objects."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        (metadata,) = (name for name in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        fields = email.message_from_bytes(archive.read(metadata))
        own = f"kubetrace/objects/{MACHINES[architecture]}/"
        part = Part(
            _normal(fields["Name"]),
            fields["Version"],
            purl=f"pkg:pypi/{_normal(fields['Name'])}@{fields['Version']}",
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            license=fields.get("License-Expression", ""),
        )
        for name in sorted(names):
            if name.endswith(".bpf.o") and not name.startswith(own):
                continue
            if ".data/" in name:  # man pages and shells' scripts: there is neither man nor bash
                continue
            if ".dist-info/" in name and not re.search(r"/(METADATA|licenses/.*|LICEN[CS]E.*|COPYING.*)$", name):
                continue
            data = archive.read(name)
            if name == metadata:
                data = _short(data)
            part.files[f"{directory}/{name}"] = File(data)
    return part


# What importlib.metadata is asked for; not the description, which is a web page of its own.
def _short(metadata: bytes) -> bytes:
    head = metadata.partition(b"\n\n")[0].decode().splitlines()
    kept = ("Metadata-Version", "Name", "Version", "License", "License-Expression", "Requires-Dist", "Requires-Python")
    return "".join(f"{line}\n" for line in head if line.split(":")[0] in kept).encode()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pip(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"pip {arguments[0]} failed:\n{done.stderr.strip()}")
