"""A node with as much on its disk as a large one has, and what kubetrace disk and images take to tell of it.

    unshare --mount --pid --fork --kill-child --mount-proc python -m benchmarks.disk_guest WHAT ROUNDS DIRECTORY

DIRECTORY holds images.tar and cri_pb2.py; the samples go to DIRECTORY/samples.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import cpu_of
from benchmarks.terminal import OnTerminal
from tests.native.disk_node import KUBELET, ROOT, SNAPSHOTS, disk_of, start_kubelet
from tests.vm import guest

IMAGES, LAYERS = 100, 10
CONTAINERS, FILES = 500, 200
MANY = 1_000_000
BUDGET_S = 30.0
KUBETRACE = [sys.executable, "-m", "kubetrace"]


def main(what: str, rounds: int, directory: Path) -> None:
    """Build the node, and measure."""
    from tests.vm import cri  # needs cri_pb2

    guest.mount("tmpfs", "/run", "tmpfs")
    # inodes for a million files and more
    disk = disk_of(directory / "disk.ext4", 12 << 30, inodes=1_600_000)
    guest.mount("tmpfs", "/var/lib", "tmpfs")
    guest.mount("tmpfs", "/var/log", "tmpfs")
    for path, at in (("containerd", ROOT), ("kubelet", KUBELET), ("logs", "/var/log/pods")):
        os.makedirs(f"{disk}/{path}")
        os.makedirs(at)
        guest.mount(f"{disk}/{path}", at, flags=guest.MS_BIND)
    start_kubelet()
    node = cri.Node()
    node.start_containerd()
    ctr("images", "import", f"{directory}/images.tar")
    containers()
    samples = images(rounds) if what == "images" else walks(rounds)
    node.stop_containerd()
    (directory / "samples.json").write_text(json.dumps(samples))


def ctr(*words: str) -> str:
    """What ctr answers."""
    done = subprocess.run(["ctr", "-n", "k8s.io", *words], capture_output=True, text=True, check=True)
    return done.stdout


def containers() -> None:
    """500 of them with 200 files each in their writable layers, as long-lived ones have."""
    before = set(os.listdir(SNAPSHOTS))
    for number in range(CONTAINERS):
        names = {
            "pod.namespace": "bench",
            "pod.name": f"pod-{number}",
            "pod.uid": f"uid-{number}",
            "container.name": "app",
        }
        labels = [part for key, value in names.items() for part in ("--label", f"io.kubernetes.{key}={value}")]
        ctr("containers", "create", *labels, f"registry.example/bench/{number % IMAGES}:1", f"{number:064x}")
    for snapshot in set(os.listdir(SNAPSHOTS)) - before:
        top = f"{SNAPSHOTS}/{snapshot}/fs"
        for number in range(FILES):
            below = f"{top}/{number % 10}"
            os.makedirs(below, exist_ok=True)
            with open(f"{below}/{number}", "wb") as file:
                file.write(b"x" * 5000)
    os.sync()


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds of wall time, and of CPU with its children."""
    begun = time.perf_counter()
    used = cpu_of(command)
    return time.perf_counter() - begun, used


def images(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """The command, with and without looking at files."""
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, options in (("images", []), ("layers", ["--by", "layer"]), ("wasted", ["--wasted"])):
            found.setdefault(name, []).append(timed([*KUBETRACE, "images", *options]))
        found.setdefault("python", []).append(timed([sys.executable, "-c", "pass"]))
    return found


def walks(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """The tracer: its first row, everything once, and what a budget leaves of a core."""
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        terminal = OnTerminal([*KUBETRACE, "disk"], os.environ, wanted=b"nodefs.available")
        found.setdefault("first", []).append((terminal.wait_for_row(), 0.0))
        terminal.end()
        found.setdefault("once", []).append(timed([*KUBETRACE, "disk", "--once", "--budget", "100%"]))
        directories = [f"{SNAPSHOTS}/{name}" for name in os.listdir(SNAPSHOTS)]
        found.setdefault("du", []).append(timed(["du", "-s", *directories]))
    many = f"{KUBELET}/pods/uid-0/volumes/kubernetes.io~empty-dir/many"
    for number in range(MANY):
        if not number % 10_000:
            os.makedirs(f"{many}/{number // 10_000}")
        os.close(os.open(f"{many}/{number // 10_000}/{number}", os.O_CREAT | os.O_WRONLY))
    begun = time.perf_counter()
    used = cpu_of([*KUBETRACE, "disk", "-d", str(BUDGET_S), "-o", "json"])
    found["budget"] = [(time.perf_counter() - begun, used)]
    found["million"] = [timed([*KUBETRACE, "disk", "--once", "--budget", "100%"])]
    return found


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    os._exit(0)  # gRPC's threads have nothing to say any more
