"""A node whose disk is known to the byte: real containerd and runc on an ext4 of their own, in namespaces of their own.

    unshare --mount --pid --fork --kill-child --mount-proc python -m tests.native.disk_node DIRECTORY

DIRECTORY holds images.tar, store.tar and cri_pb2.py. What kubetrace says of it goes to DIRECTORY/*.jsonl and *.txt,
what du, df and ctr say to DIRECTORY/truth.json. Nothing here asserts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.vm import guest, images

ROOT = "/var/lib/containerd"
SNAPSHOTS = f"{ROOT}/io.containerd.snapshotter.v1.overlayfs/snapshots"
CONTENT = f"{ROOT}/io.containerd.content.v1.content"
KUBELET = "/var/lib/kubelet"
APP, OTHER, SMALL = (f"registry.example/team/{name}:1" for name in ("app", "other", "small"))
HISTORY: list[dict[str, object]] = [
    {"created_by": "ADD base / # buildkit"},
    {"created_by": "RUN /bin/sh -c make-big # buildkit"},
    {"created_by": "RUN /bin/sh -c update-all # buildkit"},
]
CONFIG = """kind: KubeletConfiguration
evictionHard: {nodefs.available: "10%", 'imagefs.available': 15%, nodefs.inodesFree: "5%"}
evictionSoft:
  nodefs.available: 300Mi
evictionSoftGracePeriod:
  nodefs.available: 1m30s
imageGCHighThresholdPercent: 80
"""


def write_images(path: Path) -> None:
    """Three images of known sizes: app = base, big, top; other = base, big, last; small = base, last (unpacked twice).

    In app's top layer 20 files of base are written again, one of big is hidden, and a directory is.
    """
    layout = images.Layout()
    base = images.Layer()
    for number in range(500):
        base.file(f"usr/share/{number % 25:02}/{number:04}", images.pattern(3000 + number * 7, number))
    base.file("usr/links/one", images.pattern(9000, 3))
    base.hard_link("usr/links/two", "usr/links/one")
    big = images.Layer()
    big.file("opt/big", images.pattern(12 << 20, 11))
    big.file("opt/tool", images.pattern(2 << 20, 12))
    for number in range(50):
        big.file(f"opt/cache/{number:02}", images.pattern(10_000, number))
    top = images.Layer()
    for number in range(20):
        top.file(f"usr/share/{number % 25:02}/{number:04}", images.pattern(3000 + number * 7, number + 1))
    top.hide("opt/tool")
    top.hide("opt/cache")
    last = images.Layer()
    last.file("srv/last", images.pattern(5 << 20, 13))
    made = [layer.tar() for layer in (base, big, top, last)]
    layout.add(APP, made[:3], ["/bin/sh"], [], HISTORY)
    layout.add(OTHER, [made[0], made[1], made[3]], ["/bin/sh"], [], HISTORY)
    layout.add(SMALL, [made[0], made[3]], ["/bin/sh"], [])
    layout.write(path)


def main(directory: Path) -> None:
    from tests.vm import cri  # needs cri_pb2

    guest.mount("tmpfs", "/run", "tmpfs")
    disk = disk_of(directory / "disk.ext4", 600 << 20)
    for path in ("containerd", "kubelet"):
        os.makedirs(f"{disk}/{path}")
    os.makedirs(f"{disk}/logs")
    stray(f"{disk}/usr/lib", 30_000)
    guest.mount("tmpfs", "/var/lib", "tmpfs")
    guest.mount("tmpfs", "/var/log", "tmpfs")
    for path, at in (("containerd", ROOT), ("kubelet", KUBELET), ("logs", "/var/log/pods")):
        os.makedirs(at)
        guest.mount(f"{disk}/{path}", at, flags=guest.MS_BIND)
    kubelet = start_kubelet()
    node = cri.Node()
    node.start_containerd()
    for archive in ("images.tar", "store.tar"):
        run("ctr", "-n", "k8s.io", "images", "import", f"{directory}/{archive}")
    while not node.image(SMALL).id:
        time.sleep(0.01)
    pod = node.run_pod("shop", "ledger-0", volumes=[cri.Volume("empty-dir", "cache", "/cache")])
    fill = (
        "echo x >> /app/one-mib; chmod 600 /app/data/001.dat; "
        "for n in 1 2 3; do dd if=/dev/urandom of=/app/new-$n bs=64k count=10 2>/dev/null; done; "
        "dd if=/dev/urandom of=/cache/one bs=64k count=23 2>/dev/null; ln /cache/one /cache/two; "
        "truncate -s 100M /cache/sparse; "
        "exec 7>/cache/gone 8>/tmp/hidden; dd if=/dev/urandom bs=64k count=31 >&7 2>/dev/null; "
        "dd if=/dev/urandom bs=64k count=17 >&8 2>/dev/null; rm /cache/gone /tmp/hidden; sync; "
        "yes line | head -n 2000; touch /cache/ready; exec sleep 1000"
    )
    container = pod.start_container("app", images.WEB, ["sh", "-c", fill])
    cache = f"{KUBELET}/pods/{pod.uid}/volumes/kubernetes.io~empty-dir/cache"
    while not os.path.exists(f"{cache}/ready"):
        time.sleep(0.02)
    ended = pod.start_container("once", images.BATCH, ["sh", "-c", "head -c 300000 /dev/zero > /left"])
    while not ended.status().finished_at:
        time.sleep(0.02)
    database = node.run_pod("shop", "database-0")
    database.start_container("db", images.DATABASE, ["sh", "-c", "exec sleep 1000"])
    # what is in no metadata: a snapshot's directory, and a pull that was killed
    stray(f"{SNAPSHOTS}/999/fs", 40_000)
    ingest = f"{CONTENT}/ingest/{'0' * 63}a"
    stray(ingest, 70_000, "data")
    Path(f"{ingest}/ref").write_text("k8s.io/1/layer-sha256:" + "b" * 64)
    os.sync()
    truth: dict[str, Any] = {
        "uid": pod.uid,
        "container_id": container.container_id,
        "ended_id": ended.container_id,
        "pid": container.pid,
        "writable": of(os.path.dirname(container.upperdir)),
        "cache": of(cache),
        "log": of(f"{pod.log_directory}/app"),
        "snapshots": {name: of(f"{SNAPSHOTS}/{name}") for name in sorted(os.listdir(SNAPSHOTS), key=int)},
        "blobs": of(f"{CONTENT}/blobs/sha256"),
        "usage": run("ctr", "-n", "k8s.io", "snapshots", "usage", "-b"),
        "images": run("ctr", "-n", "k8s.io", "images", "ls"),
        "df": df(disk),
        "device": device(disk),
    }
    said(directory, "once")
    recorded = directory / "disk.ktrace"
    said(directory, "recorded", "--record", str(recorded))
    said(directory, "unhooked", "--hook", "none")
    said(directory, "whole", "--whole-node")
    said(directory, "by-kind", "--by", "kind", "-o", "wide", "--top", "all")
    for name, options in (
        ("images", ("-o", "json", "--wasted")),
        ("layers", ("-o", "json", "--wasted", "--by", "layer")),
        ("unused", ("-o", "json", "--unused")),
        (
            "images.txt",
            (
                "-o",
                "wide",
            ),
        ),
        ("layers.txt", ("--by", "layer")),
        ("waste.txt", ("--by", "waste", APP)),
        ("tree.txt", ("--tree",)),
        ("diff.txt", ("diff", "team/app:1", "team/other:1")),
        ("diff", ("-o", "json", "diff", OTHER, SMALL)),
    ):
        (directory / name).write_text(run(sys.executable, "-m", "kubetrace", "images", *options))
    (directory / "page").write_text(run(sys.executable, "-m", "kubetrace", "node", "-o", "json"))
    (directory / "page.txt").write_text(run(sys.executable, "-m", "kubetrace", "node"))
    truth["page"] = {
        "blobs": len(os.listdir(f"{CONTENT}/blobs/sha256")),
        "blob bytes": sum(entry.stat().st_size for entry in os.scandir(f"{CONTENT}/blobs/sha256")),
        "containers": len(run("ctr", "-n", "k8s.io", "containers", "ls", "-q").split()),
        "snapshots": [line.split()[-1] for line in run("ctr", "-n", "k8s.io", "snapshots", "ls").splitlines()[1:]],
        "targets": len({line.split()[2] for line in images_listed()}),
        "pods": len(os.listdir(f"{KUBELET}/pods")),
    }
    truth["after"] = df(disk)
    truth["replayed"] = run(sys.executable, "-m", "kubetrace", "replay", str(recorded), "-o", "json")
    # a disk without a block that is left, and metadata that cannot be read
    with open(f"{disk}/filler", "wb", buffering=0) as filler:
        os.posix_fallocate(filler.fileno(), 0, df(disk)["avail"] - (1 << 20))
        with contextlib.suppress(OSError):
            while True:
                filler.seek(0, os.SEEK_END)
                filler.write(bytes(1 << 12))
    truth["full"] = df(disk)
    said(directory, "full")
    truth["full after"] = df(disk)
    os.unlink(f"{disk}/filler")
    metadata = f"{os.path.dirname(SNAPSHOTS)}/metadata.db"
    run("mount", "--bind", f"{directory}/store.tar", metadata)
    said(directory, "torn")
    run("umount", metadata)
    # each image is taken away, and what that frees is seen in the free space of the disk; with the first removal
    # containerd would take what it does not know away, too
    shutil.rmtree(f"{SNAPSHOTS}/999")
    truth["removed"] = {}
    for name in (SMALL, OTHER, APP):
        said(directory, f"before-{name.rpartition('/')[2]}")
        os.sync()
        before = df(disk)
        names = [line.split()[0] for line in run("ctr", "-n", "k8s.io", "images", "ls", "-q").splitlines()]
        targets = {line.split()[0]: line.split()[2] for line in images_listed()}
        run("ctr", "-n", "k8s.io", "images", "rm", "--sync", *(n for n in names if targets[n] == targets[name]))
        os.sync()
        truth["removed"][name] = df(disk)["free"] - before["free"]
    (directory / "truth.json").write_text(json.dumps(truth))
    database.remove()
    pod.remove()
    node.stop_containerd()
    kubelet.kill()


def images_listed() -> list[str]:
    return run("ctr", "-n", "k8s.io", "images", "ls").splitlines()[1:]


def disk_of(file: Path, size: int, *, inodes: int = 38_400) -> str:
    """An ext4 of so many bytes, mounted."""
    with open(file, "wb") as made:
        made.truncate(size)
    run(
        "mke2fs", "-q", "-F", "-t", "ext4", "-N", str(inodes), "-E", "lazy_itable_init=0,lazy_journal_init=0", str(file)
    )
    os.makedirs("/run/disk")
    run("mount", "-o", "loop", str(file), "/run/disk")
    return "/run/disk"


def start_kubelet() -> subprocess.Popen[bytes]:
    """What stands for a kubelet: a process of its name, with its arguments and its configuration."""
    Path(f"{KUBELET}/config.yaml").write_text(CONFIG)
    os.makedirs("/run/bin")
    script = Path("/run/bin/kubelet")
    script.write_text("#!/bin/sh\nwhile :; do sleep 1000; done\n")
    script.chmod(0o755)
    return subprocess.Popen(
        [str(script), f"--config={KUBELET}/config.yaml", "--image-gc-high-threshold=90"], start_new_session=True
    )


def stray(directory: str, size: int, name: str = "file") -> None:
    os.makedirs(directory)
    Path(f"{directory}/{name}").write_bytes(os.urandom(size))


def of(path: str) -> dict[str, int]:
    """What du says of a directory."""
    return {
        "bytes": int(run("du", "-xs", "--block-size=1", path).split()[0]),
        "inodes": int(run("du", "-xs", "--inodes", path).split()[0]),
    }


def df(path: str) -> dict[str, int]:
    """What df says of a file system."""
    fields = "size,used,avail,itotal,iused,iavail"
    lines = run("df", "-B1", f"--output={fields}", path).splitlines()
    found = dict(zip(fields.split(","), map(int, lines[1].split()), strict=True))
    status = os.statvfs(path)
    return found | {"free": status.f_bfree * status.f_frsize}


def device(path: str) -> str:
    number = os.stat(path).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def said(directory: Path, name: str, *options: str) -> None:
    """What kubetrace disk says of the node, once."""
    shown = () if any(option == "-o" for option in options) else ("-o", "json")
    command = [sys.executable, "-m", "kubetrace", "disk", "--once", "--budget", "80%", *shown, *options]
    with open(directory / name, "wb") as out, open(directory / f"{name}.err", "wb") as errors:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, check=True, timeout=240)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # gRPC's threads have nothing to say any more
