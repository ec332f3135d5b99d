"""Real containerd and runc on this machine's kernel, in namespaces of their own.

    unshare --mount --pid --fork --kill-child --mount-proc python -m tests.native.real_node COUNT DIRECTORY

DIRECTORY holds images.tar and cri_pb2.py. COUNT containers of one pod run /bin/true, one after the other, and one
more sleeps, while `kubetrace cgroups -o json` writes to DIRECTORY/cgroups and starts to DIRECTORY/starts, at the end
those with -l to files of their own; DIRECTORY/truth.json is what the runtime and /proc say of them. The cgroups are
made in the machine's own hierarchies, as tests.vm.cgroup_pods does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.vm import cri, guest, images
from tests.vm.cgroup_pods import waited_ns, waits

KEPT = "mkdir -p /tmp/a/b; echo 1 > /tmp/a/b/x; echo 2 > /cache/y; ln /tmp/a/b/x /tmp/z; echo hello; exec sleep 1000"
NAMESPACES = ("pid", "mnt", "net", "uts", "ipc", "user")


def main(count: int, directory: Path) -> None:
    for path in ("/run", "/var/lib", "/var/log"):
        guest.mount("tmpfs", path, "tmpfs")
    node = cri.Node()
    node.start_containerd()
    command = ["ctr", "-n", "k8s.io", "images", "import", f"{directory}/images.tar"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    traced = [start(name, directory) for name in ("cgroups", "starts")]
    volumes = [cri.Volume("empty-dir", "cache", "/cache"), cri.Volume("memory", "scratch", "/scratch")]
    pod = node.run_pod("shop", "brief-0", labels={"app": "brief", "tier": "front"}, volumes=volumes)
    ended = {}
    reader = traced[0].pid
    for number in range(count):
        before_ns = waited_ns(reader)
        container = pod.start_container(f"brief-{number}", images.BATCH, ["/bin/true"])
        while not (status := container.status()).finished_at:
            time.sleep(0.002)
        container.remove()
        while waits(reader):
            time.sleep(0.001)
        ended[container.container_id] = {
            "name": container.name,
            "exit_code": status.exit_code,
            # how long kubetrace wanted a CPU meanwhile and had none
            "waited_ns": waited_ns(reader) - before_ns,
        }
    # one pod began before those who ask for labels, one begins after
    traced += [start("cgroups", directory, "-l", f"app={app}") for app in ("brief", "plain")]
    plain = node.run_pod("jobs", "plain-0", labels={"app": "plain"})
    plain.start_container("late", images.BATCH, ["sh", "-c", "exec sleep 1000"])
    kept = pod.start_container("kept", images.BATCH, ["sh", "-c", KEPT])
    pause = int(Path(f"{cri.TASKS}/{pod.sandbox_id}/init.pid").read_text())
    truth = {
        "pod_uid": pod.uid,
        "cgroup": pod.cgroup_path,
        "ended": ended,
        "kept": kept.container_id,
        "sandbox": pod.sandbox_id,
        "namespaces": {"kept": inodes(kept.pid), "sandbox": inodes(pause)},
    }
    # the write can be read before the kernel tells of it (sys_exit)
    while not has_written(directory / "starts", kept.container_id):
        time.sleep(0.05)
    truth["page"] = page(pod, kept)
    truth["watched"] = watched(pod, directory)
    plain.remove()
    pod.remove()
    for process in traced:
        process.send_signal(signal.SIGINT)
        assert process.wait(240) == 0
    node.stop_containerd()
    (directory / "truth.json").write_text(json.dumps(truth))


def page(pod: cri.Pod, kept: cri.Container) -> dict[str, Any]:
    """What kubetrace pod says, by name and by process, and what du, stat and the cgroup's files say."""
    command = [sys.executable, "-m", "kubetrace", "pod", "-o", "json"]
    asked = ["shop/brief-0", f"pid:{kept.pid}"]
    told = [json.loads(subprocess.run([*command, one], stdout=subprocess.PIPE, check=True).stdout) for one in asked]
    shown = subprocess.run([*command[:-2], asked[0]], stdout=subprocess.PIPE, check=True, text=True).stdout
    cache = f"{pod.directory}/volumes/kubernetes.io~empty-dir/cache"
    return {
        "told": told,
        "shown": shown,
        "du": {path: du(path) for path in (kept.upperdir, cache, f"{pod.log_directory}/kept")},
        "layers": [du(f"{layer}") for layer in reversed(lowerdirs(kept.rootfs))],
        "node": inodes(1),
        "pid": kept.pid,
    }


def watched(pod: cri.Pod, directory: Path) -> list[str]:
    """The lines of kubetrace pod -w while 3 MiB come to a volume, and until these are told."""
    told = directory / "watched"
    with open(told, "wb") as out:
        command = [sys.executable, "-m", "kubetrace", "pod", "shop/brief-0", "-w", "-i", "200ms"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out)
    # the page, whole, is what the first change is to
    while "tmpfs: memory" not in told.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    Path(f"{pod.directory}/volumes/kubernetes.io~empty-dir/cache/grown").write_bytes(bytes(3 << 20))
    while "  shop/brief-0  volume cache  " not in told.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(240) == 0
    return told.read_text().splitlines()


def du(path: str) -> list[int]:
    """Bytes and inodes, by du."""
    found = []
    for options in (["--block-size=1"], ["--inodes"]):
        done = subprocess.run(["du", "-s", "-x", *options, path], stdout=subprocess.PIPE, check=True, text=True)
        found.append(int(done.stdout.split()[0]))
    return found


def lowerdirs(rootfs: str) -> list[str]:
    """Of the overlay that is mounted there."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == rootfs:
            (lower,) = [option for option in fields[-1].split(",") if option.startswith("lowerdir=")]
            return lower.removeprefix("lowerdir=").split(":")
    raise AssertionError(rootfs)


def start(name: str, directory: Path, *options: str) -> subprocess.Popen[bytes]:
    told = "".join([name, *options])
    ready, errors = directory / f"{told}.ready", directory / f"{told}.err"
    with open(directory / told, "wb") as out, open(errors, "wb") as err:
        command = [sys.executable, "-m", "kubetrace", name, "-o", "json", "--ready-file", str(ready), *options]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    while not ready.exists():
        assert process.poll() is None, errors.read_text()
        time.sleep(0.01)
    return process


def has_written(told: Path, container_id: str) -> bool:
    lines = told.read_text().splitlines(keepends=True)
    found = (json.loads(line) for line in lines if line.endswith("\n"))
    return any(o.get("container_id") == container_id and o["phase"] == "first_write" for o in found)


def inodes(pid: int) -> dict[str, int]:
    return {name: os.stat(f"/proc/{pid}/ns/{name}").st_ino for name in NAMESPACES}


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # gRPC's threads have nothing to say any more
