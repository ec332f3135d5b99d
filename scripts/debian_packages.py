"""Debian's packages, fetched with the machine's own package sources and nothing changed on the machine.

An apt configuration of its own: the machine's sources, for the release and architecture asked for, with lists, archives
and state in a directory of the caller's. Needs no root.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path


class AptError(Exception):
    """A package that cannot be had; apt's own last word."""


class Apt:
    """apt for one Debian release and architecture, beside the machine's own; `root` is kept between runs."""

    def __init__(self, suite: str, root: Path, architecture: str = "amd64") -> None:
        self._suite = suite
        self._root = root
        for part in ("sources", "lists/partial", "archives/partial"):
            (self._root / part).mkdir(parents=True, exist_ok=True)
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
            *("-o", f"APT::Architecture={architecture}"),
            *("-o", f"APT::Architectures={architecture}"),
        ]
        # A release's update and security suites may be gone from the mirror while the release is still there (or the
        # other way about), so the indexes decide and not this status.
        with self._alone():
            self._copy_sources()
            self._run(["apt-get", "update"], check=False)

    # Another checkout may do the same with the same directory at the same time; apt's own locks make it give up.
    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with open(self._root / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _run(self, command: list[str], check: bool = True, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [command[0], *self._options, *command[1:]], cwd=cwd, text=True, capture_output=True, check=False
        )
        if check and done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise AptError(f"apt for {self._suite} failed: {reason[0]}")
        return done.stdout

    # The machine's entries for its own release, with the suite replaced. Entries of other publishers are left out.
    def _copy_sources(self) -> None:
        codename = own_codename()
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
            raise AptError(f"the machine's package sources name no Debian release {codename} to take after.")
        rolling = self._suite == "sid"
        stanzas = []
        for uri, pocket, signed_by in entries:
            if rolling and pocket:
                continue
            stanza = f"Types: deb\nURIs: {uri}\nSuites: {self._suite}{pocket}\nComponents: main\n"
            stanzas.append(stanza + (f"Signed-By: {signed_by}\n" if signed_by else ""))
        (self._root / "sources" / "debian.sources").write_text("\n".join(stanzas))

    def depends(self, package: str) -> list[str]:
        """Names of the packages that it depends on."""
        return re.findall(r"^\s*Depends: (\S+)$", self._run(["apt-cache", "depends", package]), re.MULTILINE)

    def names(self, prefix: str) -> list[str]:
        """Names of all packages that begin so."""
        return self._run(["apt-cache", "pkgnames", prefix], check=False).split()

    def closure(self, packages: list[str]) -> list[Path]:
        """Fetch these packages and all that they depend on, if they are not there yet; the paths of their files."""
        install = ["apt-get", "-y", "--no-install-recommends", "-o", "Debug::NoLocking=1", "install"]
        with self._alone():
            planned = self._run([*install, "--simulate", *packages])
            self._run([*install, "--download-only", *packages])
        # Inst libbpf1 (1:1.1.2-0+deb12u1 Debian:12.11/stable [amd64])
        found = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) .*\[(\w+)\]\)", planned, re.MULTILINE)
        names = [f"{name}_{version.replace(':', '%3a')}_{architecture}.deb" for name, version, architecture in found]
        return sorted(self._root / "archives" / name for name in names)

    def download(self, packages: list[str]) -> list[Path]:
        """Fetch these packages; the paths of their files."""
        target = self._root / "archives"
        with self._alone():
            for old in target.glob("*.deb"):
                old.unlink()
            self._run(["apt-get", "download", *packages], cwd=target)
        return sorted(target.glob("*.deb"))


def own_codename() -> str:
    """The name of the Debian release that this machine runs."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise AptError("this machine is not a Debian release (no VERSION_CODENAME in /etc/os-release).")
