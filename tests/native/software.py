"""Debian's own databases and servers on real overlays of this kernel: a run of a container is a script in a chroot.

Packages are unpacked, never installed, into one directory that serves as the lower layer of all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.vm.stage import cache_directory

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "scripts"))
from debian_packages import Apt, own_codename

PACKAGES = [
    *("bash", "coreutils", "findutils", "grep", "gzip", "hostname", "sed", "util-linux"),
    *(
        "logrotate",
        "mariadb-client-core",
        "mariadb-server-core",
        "nginx-light",
        "postgresql",
        "redis-server",
        "sqlite3",
    ),
]
# Ends a run that hangs; nothing is measured by it.
_LONGEST_S = 300
_PASSWD = "root:x:0:0::/root:/bin/bash\napp:x:1000:1000::/:/bin/bash\n"
# In a mount and a process namespace of its own, which end with the script: no program outlives it.
_RUN = """
set -e
mount --make-rprivate /
mount -t overlay -o lowerdir="$LOWER",upperdir="$UPPER",workdir="$WORK" overlay "$ROOT"
mount -t proc proc "$ROOT/proc"
mount -t tmpfs tmpfs "$ROOT/dev"
mkdir "$ROOT/dev/shm"
for name in null zero random urandom; do touch "$ROOT/dev/$name"; mount --bind "/dev/$name" "$ROOT/dev/$name"; done
mount -t tmpfs tmpfs "$ROOT/run"
chmod 1777 "$ROOT/dev/shm" "$ROOT/run"
while read -r volume point; do
    [ -z "$point" ] || mount --bind "$volume" "$ROOT$point"
done <<< "$VOLUMES"
exec chroot "$ROOT" /bin/bash -euc "$SCRIPT"
"""


def lower_layer() -> Path:
    """The packages, unpacked; kept between runs, by their versions."""
    cache = cache_directory()
    packages = Apt(own_codename(), cache / "apt" / "software").closure(PACKAGES)
    directory = cache / "software"
    made = directory / "made-of"
    names = "\n".join(package.name for package in packages)
    if made.exists() and made.read_text() == names:
        return directory / "root"
    shutil.rmtree(directory, ignore_errors=True)
    root = directory / "root"
    root.mkdir(parents=True)
    for package in packages:
        subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
    for name in ("dev", "etc", "fill", "proc", "run", "tmp"):
        (root / name).mkdir(exist_ok=True)
    if not (root / "bin" / "sh").exists():
        (root / "bin" / "sh").symlink_to("bash")
    (root / "tmp").chmod(0o1777)
    (root / "etc" / "passwd").write_text(_PASSWD)
    (root / "etc" / "group").write_text("root:x:0:\napp:x:1000:\n")
    made.write_text(names)
    return root


@dataclass
class Container:
    """A writable layer over layers of an image, lowest first; a new one is what a restart gives."""

    layers: list[Path]
    directory: Path

    def __post_init__(self) -> None:
        for name in ("upper", "work", "root"):
            (self.directory / name).mkdir(parents=True)

    @property
    def upper(self) -> Path:
        """The writable layer."""
        return self.directory / "upper"

    def run(self, script: str, volumes: Mapping[bytes, Path] | None = None) -> str:
        """What the script prints; a volume is a directory of the node at a path of the container."""
        environment = {
            **os.environ,
            "LOWER": ":".join(str(layer) for layer in reversed(self.layers)),
            "UPPER": str(self.upper),
            "WORK": str(self.directory / "work"),
            "ROOT": str(self.directory / "root"),
            "VOLUMES": "\n".join(f"{place} {os.fsdecode(point)}" for point, place in (volumes or {}).items()),
            "SCRIPT": f"export PATH=/usr/sbin:/usr/bin:/sbin:/bin:$(echo /usr/lib/postgresql/*/bin)\n{script}",
        }
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", _RUN]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=_LONGEST_S)
        assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-4000:])
        return done.stdout

    def below(self, path: bytes) -> Path | None:
        """What the image has at a path; None: nothing."""
        for layer in reversed(self.layers):
            found = Path(os.fsdecode(os.fsencode(layer) + path))
            if os.path.lexists(found):
                return found
        return None

    def copied_up(self) -> dict[bytes, Path]:
        """Path in the container -> in the writable layer, of what the image has too."""
        found = {}
        for directory, names, files in os.walk(self.upper):
            for name in (*names, *files):
                upper = Path(directory, name)
                path = os.fsencode(upper)[len(os.fsencode(self.upper)) :]
                below = self.below(path)
                # a whiteout is a character device
                if below is not None and (upper.is_dir() or upper.is_file()) and upper.is_dir() == below.is_dir():
                    found[path] = upper
        return found

    def changed(self, directory: bytes) -> bool:
        """Whether something was made in a directory, or removed: it was not copied up only for what is further down."""
        upper = Path(os.fsdecode(os.fsencode(self.upper) + directory))
        for entry in upper.iterdir():
            below = self.below(directory + b"/" + os.fsencode(entry.name))
            if below is None or not (entry.is_dir() or entry.is_file() or entry.is_symlink()):
                return True
        return False
