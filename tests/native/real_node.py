"""Real containerd and runc on this machine's kernel, in namespaces of their own.

    unshare --mount --pid --fork --kill-child --mount-proc python -m tests.native.real_node COUNT DIRECTORY

DIRECTORY holds images.tar and cri_pb2.py. COUNT containers of one pod run /bin/true, one after the other, while
`kubetrace cgroups -o json` writes to DIRECTORY/out; DIRECTORY/truth.json is what the runtime says of them. The cgroups
are made in the machine's own hierarchies, as tests.vm.cgroup_pods does.
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


def main(count: int, directory: Path) -> None:
    for path in ("/run", "/var/lib", "/var/log"):
        guest.mount("tmpfs", path, "tmpfs")
    node = cri.Node()
    node.start_containerd()
    command = ["ctr", "-n", "k8s.io", "images", "import", f"{directory}/images.tar"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ready, errors = directory / "ready", directory / "err"
    with open(directory / "out", "wb") as out, open(errors, "wb") as err:
        command = [sys.executable, "-m", "kubetrace", "cgroups", "-o", "json", "--ready-file", str(ready)]
        tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    while not ready.exists():
        assert tracer.poll() is None, errors.read_text()
        time.sleep(0.01)
    pod = node.run_pod("shop", "brief-0")
    ended = {}
    for number in range(count):
        container = pod.start_container(f"brief-{number}", images.BATCH, ["/bin/true"])
        while not (status := container.status()).finished_at:
            time.sleep(0.002)
        ended[container.container_id] = {"name": container.name, "exit_code": status.exit_code}
        container.remove()
    pod.remove()
    tracer.send_signal(signal.SIGINT)
    assert tracer.wait(30) == 0, errors.read_text()
    node.stop_containerd()
    (directory / "truth.json").write_text(json.dumps({"pod_uid": pod.uid, "cgroup": pod.cgroup_path, "ended": ended}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # gRPC's threads have nothing to say any more
