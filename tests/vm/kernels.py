"""Debian's own kernels, fetched once with the machine's own package sources and kept in the cache.

Each version is taken from the release that carries it, through an apt configuration of its own in the cache: the
machine's sources with the suite replaced, with lists and state beside them, so that nothing on the machine changes.
"""

import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# Version -> the Debian releases that carry it, likeliest first.
SUITES = {
    "5.10": ("bullseye",),
    "6.1": ("bookworm",),
    "6.12": ("trixie",),
    "7.2": ("sid", "forky"),
}

# Those whose headers are fetched too: there, tracers are also compiled by them (tests/kernel/test_bcc.py).
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


def find(name: str, cache: Path, progress: Progress) -> Kernel:
    """The kernel called `name`: a version of SUITES, or a directory that holds boot/vmlinuz-* and lib/modules."""
    if name in SUITES:
        tree = cache / "kernels" / name
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
    if not tree.exists():
        progress(f"fetching the headers of Linux {kernel.release} ...")
        apt = _Apt(SUITES[name][0], cache)
        work = tree.with_name(tree.name + ".new")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        for package in apt.download(apt.headers_packages(kernel.release)):
            subprocess.run(["dpkg-deb", "-x", package, work], check=True)
            package.unlink()
        work.rename(tree)
    return tree


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
            apt = _Apt(suite, cache)
            packages = apt.kernel_packages(name)
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
        except KernelError as error:
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


class _Apt:
    """apt for one Debian release, beside the machine's own."""

    def __init__(self, suite: str, cache: Path) -> None:
        self._suite = suite
        self._root = cache / "apt" / suite
        for part in ("sources", "lists/partial", "archives/partial"):
            (self._root / part).mkdir(parents=True, exist_ok=True)
        self._copy_sources()
        self._options = [
            *("-o", "Dir::Etc::SourceList=/dev/null"),
            *("-o", f"Dir::Etc::SourceParts={self._root}/sources"),
            *("-o", "Dir::Etc::Preferences=/dev/null"),
            *("-o", "Dir::Etc::PreferencesParts=/dev/null"),
            *("-o", f"Dir::State::Lists={self._root}/lists"),
            *("-o", f"Dir::Cache::Archives={self._root}/archives"),
            *("-o", f"Dir::Cache::PkgCache={self._root}/pkgcache.bin"),
            *("-o", f"Dir::Cache::SrcPkgCache={self._root}/srcpkgcache.bin"),
            *("-o", "Dir::State::Status=/dev/null"),
            *("-o", "Acquire::Languages=none"),
            *("-o", "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false"),
            *("-o", "APT::Sandbox::User=root"),
            *("-o", "APT::Architecture=amd64"),
        ]
        # A release's update and security suites may be gone from the mirror while the release is still there (or the
        # other way about), so the indexes decide and not this status.
        self._run(["apt-get", "update"], check=False)

    def _run(self, command: list[str], check: bool = True, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [command[0], *self._options, *command[1:]], cwd=cwd, text=True, capture_output=True, check=False
        )
        if check and done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise KernelError(f"apt for {self._suite} failed: {reason[0]}")
        return done.stdout

    # The machine's entries for its own release, with the suite replaced. Entries of other publishers are left out.
    def _copy_sources(self) -> None:
        codename = _own_codename()
        entries = []
        sources = Path("/etc/apt")
        for path in [sources / "sources.list", *sorted((sources / "sources.list.d").glob("*.list"))]:
            lines = path.read_text().splitlines() if path.exists() else []
            for line in lines:
                match = re.match(rf"deb\s+(\[[^]]*\]\s+)?(\S+)\s+{codename}(-updates|-security)?/?\s", line)
                if match:
                    options = {
                        key.lower(): value
                        for key, value in re.findall(r"([\w-]+)=(\S+)", (match[1] or "").strip("[] "))
                    }
                    entries.append((match[2], match[3] or "", options.get("signed-by", "")))
        for path in sorted((sources / "sources.list.d").glob("*.sources")):
            for stanza in re.split(r"\n\s*\n", path.read_text()):
                fields = dict(re.findall(r"^([\w-]+):\s*(.*)$", stanza, re.MULTILINE))
                fields = {key.lower(): value for key, value in fields.items()}
                if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes") == "no":
                    continue
                for suite in fields.get("suites", "").split():
                    base, dash, rest = suite.partition("-")
                    if base == codename and rest in ("", "updates", "security"):
                        for uri in fields.get("uris", "").split():
                            entries.append((uri, dash + rest, fields.get("signed-by", "")))
        if not entries:
            raise KernelError(f"the machine's package sources name no Debian release {codename} to take after.")
        rolling = self._suite == "sid"
        stanzas = []
        for uri, pocket, signed_by in entries:
            if rolling and pocket:
                continue
            stanza = f"Types: deb\nURIs: {uri}\nSuites: {self._suite}{pocket}\nComponents: main\n"
            stanzas.append(stanza + (f"Signed-By: {signed_by}\n" if signed_by else ""))
        (self._root / "sources" / "debian.sources").write_text("\n".join(stanzas))

    def _depends(self, package: str) -> list[str]:
        return re.findall(r"^\s*Depends: (\S+)$", self._run(["apt-cache", "depends", package]), re.MULTILINE)

    def kernel_packages(self, version: str) -> list[str]:
        """Names of the packages that hold the image and the modules of this version's newest kernel."""
        names = self._run(["apt-cache", "pkgnames", f"linux-image-{version}."], check=False).split()
        plain = [name for name in names if re.fullmatch(rf"linux-image-{re.escape(version)}\.[\w.+~-]*amd64", name)]
        images = [name for name in plain if not re.search(r"-(rt|cloud|dbg|unsigned)\b", name)]
        if not images:
            raise KernelError(f"Debian {self._suite} on this machine's mirror carries no Linux {version}.")
        image = max(images, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
        # From 7.0 on the image package is empty and depends on the parts.
        parts = [name for name in self._depends(image) if re.match(r"linux-(binary|modules|base)-\d", name)]
        return [image, *parts]

    def headers_packages(self, release: str) -> list[str]:
        """Names of the packages that hold the headers of this very kernel."""
        own = f"linux-headers-{release}"
        return [own, *(name for name in self._depends(own) if re.match(r"linux-headers-.*-common$", name))]

    def download(self, packages: list[str]) -> list[Path]:
        """Fetch these packages; the paths of their files."""
        target = self._root / "archives"
        for old in target.glob("*.deb"):
            old.unlink()
        self._run(["apt-get", "download", *packages], cwd=target)
        return sorted(target.glob("*.deb"))


def _own_codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise KernelError("this machine is no Debian release (no VERSION_CODENAME in /etc/os-release).")
