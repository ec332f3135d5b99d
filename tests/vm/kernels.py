"""Debian's own kernels, fetched once with the machine's own package sources and kept in the cache.

Each version is taken from the release that carries it, through an apt configuration of its own in the cache.
"""

import contextlib
import fcntl
import io
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from debian_packages import Apt, AptError

# Version -> the Debian releases that carry it, likeliest first.
SUITES = {
    "5.10": ("bullseye",),
    "6.1": ("bookworm",),
    "6.12": ("trixie",),
    "7.2": ("sid", "forky"),
}

# Those whose headers are fetched too: there, tracers are also compiled by them (tests/native/test_headers_native.py).
WITH_HEADERS = ("6.1",)

# What the guest loads before it has its own module loader, and what that loader is asked for often.
_EARLY_MODULES = ("fs", "net/9p", "drivers/virtio", "drivers/block", "drivers/char", "crypto", "lib", "arch/x86/crypto")

Progress = Callable[[str], None]


class KernelError(Exception):
    """A kernel that cannot be had, with what the user can do about it."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that can be booted: its release as uname says it, its image, and the tree of its modules."""

    release: str
    image: Path
    modules: Path


@contextlib.contextmanager
def _fetching(cache: Path) -> Iterator[None]:
    """One process at a time fetches kernels; it is waited for."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "kernels.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def find(name: str, cache: Path, progress: Progress) -> Kernel:
    """The kernel called `name`: a version of SUITES, or a directory that holds boot/vmlinuz-* and lib/modules."""
    if name in SUITES:
        tree = cache / "kernels" / name
        with _fetching(cache):
            if not (tree / "complete").exists():
                _fetch(name, tree, cache, progress)
        return _kernel_in(tree)
    if os.path.isdir(name):
        return _kernel_in(Path(name).resolve())
    known = ", ".join(SUITES)
    raise KernelError(
        f"there is no kernel called {name!r}. Give one of {known}, or a directory with boot/vmlinuz-* and lib/modules."
    )


def headers(name: str, kernel: Kernel, cache: Path, progress: Progress) -> Path | None:
    """The tree of a kernel's headers, as their packages have it; None for a kernel that is not tested by them."""
    if name not in WITH_HEADERS:
        return None
    tree = cache / "kernels" / f"{name}-headers-{kernel.release}"
    with _fetching(cache):
        if not tree.exists():
            _fetch_headers(name, kernel, tree, cache, progress)
    return tree


def _fetch_headers(name: str, kernel: Kernel, tree: Path, cache: Path, progress: Progress) -> None:
    progress(f"fetching the headers of Linux {kernel.release} ...")
    suite = SUITES[name][0]
    work = tree.with_name(tree.name + ".new")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        apt = Apt(suite, cache / "apt" / suite)
        own = f"linux-headers-{kernel.release}"
        common = [part for part in apt.depends(own) if re.match(r"linux-headers-.*-common$", part)]
        for package in apt.download([own, *common]):
            subprocess.run(["dpkg-deb", "-x", package, work], check=True)
            package.unlink()
    except AptError as error:
        raise KernelError(f"the headers of Linux {kernel.release} cannot be fetched: {error}") from error
    work.rename(tree)


def write_btf(kernel: Kernel, modules: Sequence[str], directory: Path) -> None:
    """Write what /sys/kernel/btf has where this kernel runs: vmlinux, and these modules of it.

    The image is taken apart as Documentation/arch/x86/boot.rst says: payload_offset and payload_length are counted from
    the end of the real-mode code. KernelError for an image that is not compressed by xz, as Debian's 6.1 is.
    """
    image = kernel.image.read_bytes()
    real_mode = (image[0x1F1] or 4) + 1
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[real_mode * 512 + offset :][:length]
    try:
        vmlinux = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
    except lzma.LZMAError as error:
        raise KernelError(f"{kernel.image} is not compressed by xz: {error}") from error
    files = {path.stem: path.read_bytes() for path in kernel.modules.rglob("*.ko") if path.stem in modules}
    for name, elf in {"vmlinux": vmlinux, **files}.items():
        section = ELFFile(io.BytesIO(elf)).get_section_by_name(".BTF")
        if section is None:
            raise KernelError(f"{name} of Linux {kernel.release} has no BTF.")
        (directory / name).write_bytes(section.data())


def _kernel_in(tree: Path) -> Kernel:
    images = sorted(tree.glob("boot/vmlinuz-*"))
    if not images:
        raise KernelError(f"{tree} holds no boot/vmlinuz-*.")
    image = images[-1]
    release = image.name.removeprefix("vmlinuz-")
    modules = tree / "lib" / "modules" / release
    if not modules.is_dir():
        raise KernelError(f"{tree} holds {image.name}, but not its modules (lib/modules/{release}).")
    return Kernel(release, image, modules)


def _fetch(name: str, tree: Path, cache: Path, progress: Progress) -> None:
    failures = []
    for suite in SUITES[name]:
        try:
            progress(f"fetching Linux {name} from Debian {suite} ...")
            apt = Apt(suite, cache / "apt" / suite)
            packages = _kernel_packages(apt, suite, name)
            shutil.rmtree(tree, ignore_errors=True)
            work = tree.with_name(tree.name + ".new")
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            for package in apt.download(packages):
                subprocess.run(["dpkg-deb", "-x", package, work], check=True)
                package.unlink()
            _arrange(work)
            (work / "complete").write_text("\n".join(packages) + "\n")
            work.rename(tree)
            return
        except (AptError, KernelError) as error:
            failures.append(str(error))
    raise KernelError(f"Linux {name} cannot be fetched: " + " ".join(failures))


# Bring the shapes of the releases' packages to that of the oldest: an image in boot, modules in lib, none of the early
# ones compressed (the initramfs loads them with a plain insmod, and vng unpacks only .zst).
def _arrange(tree: Path) -> None:
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")
    (tree / "boot").mkdir(exist_ok=True)
    for image in tree.glob("usr/lib/modules/*/vmlinuz"):
        shutil.copy(image, tree / "boot" / f"vmlinuz-{image.parent.name}")
    for modules in (tree / "lib" / "modules").iterdir():
        early = [path for part in _EARLY_MODULES for path in (modules / "kernel" / part).rglob("*.ko.xz")]
        with ThreadPoolExecutor() as pool:
            list(pool.map(_unxz, early))
        depmod = shutil.which("depmod", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if depmod is None:
            raise KernelError("depmod is missing: install the package kmod.")
        subprocess.run([depmod, "-b", tree, modules.name], check=True)


def _unxz(path: Path) -> None:
    with lzma.open(path) as packed, open(path.with_suffix(""), "wb") as plain:
        shutil.copyfileobj(packed, plain)
    path.unlink()


def _kernel_packages(apt: Apt, suite: str, version: str) -> list[str]:
    """Names of the packages that hold the image and the modules of this version's newest kernel."""
    names = apt.names(f"linux-image-{version}.")
    plain = [name for name in names if re.fullmatch(rf"linux-image-{re.escape(version)}\.[\w.+~-]*amd64", name)]
    images = [name for name in plain if not re.search(r"-(rt|cloud|dbg|unsigned)\b", name)]
    if not images:
        raise KernelError(f"Debian {suite} on this machine's mirror carries no Linux {version}.")
    image = max(images, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    # From 7.0 on the image package is empty and depends on the parts.
    parts = [name for name in apt.depends(image) if re.match(r"linux-(binary|modules|base)-\d", name)]
    return [image, *parts]
