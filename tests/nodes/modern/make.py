"""Makes this directory's trees: nodes of containerd 1.6 and 2.1, and of CRI-O's store, cut to what is read.

    python -m tests.nodes.modern.make DIRECTORY

DIRECTORY is one of tests/native/test_many_runtimes.py's (images.tar, oci/, cri_pb2.py); see there for PATH. Each tree
is NAME.tar.xz: mountinfo, cgroups, bundles, databases, what the content store and containers-storage have in JSON, and
truth.json: what was made, and what the node's mouths say of it (many_runtimes.py). Data of layers is left out.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TREES = {"containerd-1.6": "containerd 1.6", "containerd-2.1": "containerd 2.1", "crio": "CRI-O"}
_NAMES = {"config.json", "metadata.db", "meta.db", "config.toml", "crio.conf", "custom.conf", "default.conf"}
_LISTS = {"layers.json", "images.json", "containers.json", "volatile-layers.json", "volatile-containers.json"}
_ROOTS = ("/var/lib", "/run", "/srv", "/opt", "/etc/crio")


def main(directory: str) -> None:
    """Make each in namespaces of its own."""
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    for name in TREES:
        subprocess.run([*alone, sys.executable, "-m", "tests.nodes.modern.make", directory, name], check=True)


def capture(name: str, directory: str) -> None:
    """Bring one node up, and write it down instead of asking it."""
    from tests.native import many_runtimes, support

    # one or two pods of each kind say all that differs
    wanted = [cell for cell in support.tried() if cell.place in ("default", "custom")]
    support.tried = lambda: wanted

    def asked(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
        truth = many_runtimes_asked(made)
        keep = [
            *("name", "pod", "pod_uid", "container_id", "sandbox_id", "image", "pid", "root", "root_type", "writable"),
            *("snapshot", "queries", "runtime", "snapshotter", "place", "user", "volume", "log"),
        ]
        write(name, [{key: one[key] for key in keep} for one in truth])
        return []

    many_runtimes_asked = many_runtimes.asked
    many_runtimes.asked = asked
    many_runtimes.main(TREES[name], Path(directory))


def write(name: str, truth: list[dict[str, Any]]) -> None:
    """The tree, with the same times and owners whenever it is made."""
    with tarfile.open(HERE / f"{name}.tar.xz", "w:xz", preset=9) as tar:

        def add(path: str, data: bytes) -> None:
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mtime = len(data), 1_700_000_000
            tar.addfile(entry, io.BytesIO(data))

        add("truth.json", json.dumps(truth, indent=1).encode())
        add("proc/1/mountinfo", Path("/proc/self/mountinfo").read_bytes())
        add("proc/1/cgroup", b"0::/\n")
        for pid in os.listdir("/proc"):
            if pid.isdecimal() and Path(f"/proc/{pid}/comm").read_text().strip() in ("containerd", "kubelet"):
                for file in ("comm", "cmdline"):
                    add(f"proc/{pid}/{file}", Path(f"/proc/{pid}/{file}").read_bytes())
        for one in truth:
            add(f"proc/{one['pid']}/cgroup", Path(f"/proc/{one['pid']}/cgroup").read_bytes())
        for root in _ROOTS:
            for path, directories, files in os.walk(root):
                directories[:] = [
                    d for d in directories if d not in ("rootfs", "merged", "diff", "fs", "libpod", "cni")
                ]
                for file in sorted(files):
                    where = f"{path}/{file}"
                    if wanted(where):
                        add(where, Path(where).read_bytes())


def wanted(path: str) -> bool:
    """Whether a file says anything of names."""
    name = os.path.basename(path)
    if name in _NAMES or name in _LISTS or path.endswith("kubelet-config.yaml"):
        return "/tmp/" not in path
    if "/blobs/sha256/" in path or "/overlay-images/" in path:
        with open(path, "rb") as file:
            return file.read(1) == b"{" and os.path.getsize(path) < 100_000
    return False


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        capture(sys.argv[2], sys.argv[1])
        os._exit(0)
