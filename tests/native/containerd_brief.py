"""Run in a mount namespace of its own: real containerd and runc, one pod, and as many containers as asked for that end
at once. Prints each container's id, name and exit code, then the sandbox's, as JSON lines.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.vm import guest, images, stage


def main(count: int, tracer: list[str], ready: str) -> None:
    work = Path(tempfile.mkdtemp())
    for directory in ("/run", "/var/lib/containerd", "/var/lib/kubelet", "/var/log"):
        Path(directory).mkdir(parents=True, exist_ok=True)
        guest.mount("tmpfs", directory, "tmpfs")
    from grpc_tools import protoc

    proto = Path(stage.__file__).parent
    protoc.main(["protoc", f"-I{proto}", f"--python_out={work}", str(proto / "cri.proto")])
    sys.path.insert(0, str(work))
    from tests.vm import cri

    images.write(work / "images.tar", busybox=stage.program("busybox"), pause=images.build_pause(work))
    node = cri.Node()
    node.start_containerd()
    try:
        subprocess.run(
            ["ctr", "-n", "k8s.io", "images", "import", str(work / "images.tar")], check=True, stdout=subprocess.DEVNULL
        )
        running = subprocess.Popen(tracer)
        while not Path(ready).exists():
            assert running.poll() is None
            time.sleep(0.01)
        pod = node.run_pod("shop", "brief-0", qos="besteffort")
        for number in range(count):
            container = pod.start_container(f"brief-{number}", images.BATCH, ["/bin/true"])
            code = container.wait()
            print(json.dumps({"id": container.container_id, "name": container.name, "code": code}))
            container.remove()
        print(json.dumps({"id": pod.sandbox_id, "name": None, "uid": pod.uid}))
        pod.remove()
        running.send_signal(2)
        running.wait(30)
    finally:
        node.stop_containerd()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[4:], sys.argv[2])
