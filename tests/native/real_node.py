"""Real containerd and runc on this machine's kernel, in namespaces of their own.

    unshare --mount --pid --fork --kill-child --mount-proc python -m tests.native.real_node COUNT DIRECTORY

DIRECTORY holds images.tar and cri_pb2.py. COUNT containers of one pod run /bin/true, one after the other, and one
more sleeps, while `kubetrace cgroups -o json` writes to DIRECTORY/cgroups and starts to DIRECTORY/starts;
DIRECTORY/truth.json is what the runtime and /proc say of them. The cgroups are made in the machine's own hierarchies,
as tests.vm.cgroup_pods does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.vm import cri, guest, images

NAMESPACES = ("pid", "mnt", "net", "uts", "ipc", "user")


def main(count: int, directory: Path) -> None:
    for path in ("/run", "/var/lib", "/var/log"):
        guest.mount("tmpfs", path, "tmpfs")
    node = cri.Node()
    node.start_containerd()
    command = ["ctr", "-n", "k8s.io", "images", "import", f"{directory}/images.tar"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    traced = [start(name, directory) for name in ("cgroups", "starts")]
    pod = node.run_pod("shop", "brief-0")
    ended = {}
    for number in range(count):
        container = pod.start_container(f"brief-{number}", images.BATCH, ["/bin/true"])
        while not (status := container.status()).finished_at:
            time.sleep(0.002)
        ended[container.container_id] = {"name": container.name, "exit_code": status.exit_code}
        container.remove()
    kept = pod.start_container("kept", images.BATCH, ["sh", "-c", "echo hello; exec sleep 1000"])
    pause = int(Path(f"{cri.TASKS}/{pod.sandbox_id}/init.pid").read_text())
    truth = {
        "pod_uid": pod.uid,
        "cgroup": pod.cgroup_path,
        "ended": ended,
        "kept": kept.container_id,
        "sandbox": pod.sandbox_id,
        "namespaces": {"kept": inodes(kept.pid), "sandbox": inodes(pause)},
    }
    while not kept.log():
        time.sleep(0.01)
    time.sleep(0.3)  # for what its first write is told by
    pod.remove()
    for process in traced:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    node.stop_containerd()
    (directory / "truth.json").write_text(json.dumps(truth))


def start(name: str, directory: Path) -> subprocess.Popen[bytes]:
    ready, errors = directory / f"{name}.ready", directory / f"{name}.err"
    with open(directory / name, "wb") as out, open(errors, "wb") as err:
        command = [sys.executable, "-m", "kubetrace", name, "-o", "json", "--ready-file", str(ready)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    while not ready.exists():
        assert process.poll() is None, errors.read_text()
        time.sleep(0.01)
    return process


def inodes(pid: int) -> dict[str, int]:
    return {name: os.stat(f"/proc/{pid}/ns/{name}").st_ino for name in NAMESPACES}


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # gRPC's threads have nothing to say any more
