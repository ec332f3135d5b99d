"""Bring the guest up as a node: containerd, images, pods in the kubelet's shape, and a file that says what is there.

Run by the agent in the guest as `python3 -m tests.vm.node MODE`; its lines are shown to the caller. In the mode 'busy'
the containers run a steady gentle workload, about one copy-up a second, so that a live table has something to show for
minutes. In the mode 'quiet' they only sleep, so that a test sees its own events and no others. The mode 'prepare'
imports the images into a disk that later machines start from, as this takes a third of a minute under emulation.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.vm import guest, images

TRUTH = "/run/kubetrace-node.json"

# One copy-up for each of the small files, of a different kind each time; then a few of the larger ones. $PAUSE is the
# time between two, $FIRST where in the files this container starts (their sizes differ).
_BUSY = r"""
cd /app/data
step=0
for file in $(ls | tail -n +$FIRST) $(ls | head -n $((FIRST - 1))); do
    case $((step % 8)) in
    0) echo "another line" >> $file ;;
    1) chmod 600 $file ;;
    2) : > $file ;;
    3) mv $file $file.old ;;
    4) truncate -s 100 $file ;;
    5) touch $file ;;
    6) chown 1000:1000 $file ;;
    7) ln $file $file.link ;;
    esac
    case $step in
    5) echo "level = 4" >> /app/config.ini ;;
    15) chmod 640 /app/a/b/c/deep/deep.txt ;;
    25) mv /app/rename-me /app/renamed ;;
    35) echo x >> /app/links/second ;;
    45) echo x >> /app/hundred-kib ;;
    55) : > /app/empty; chmod 600 /app/empty ;;
    65) touch /app/one-mib ;;
    75) echo x >> /app/sparse ;;
    85) echo x >> /app/big ;;
    95) rm -r /app/a/b/c ;;
    esac
    [ -d /cache ] && echo "$step $file" >> /cache/work
    [ $((step % 10)) = 0 ] && echo "step $step: $file"
    step=$((step + 1))
    sleep $PAUSE
done
exec sleep infinity
"""

_QUIET = "exec sleep infinity"


def progress(line: str) -> None:
    """Tell the person who waits."""
    print(line, flush=True)


def import_images() -> None:
    """Import the node's images, and give the sparse file of the top layer its holes."""
    command = ["ctr", "-n", "k8s.io", "images", "import", f"{guest.TOOLS}/images.tar"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the images cannot be imported: {done.stderr.strip()}")
    snapshots = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
    for snapshot in os.listdir(snapshots):
        sparse = f"{snapshots}/{snapshot}/fs/app/sparse"
        if os.path.exists(sparse):
            subprocess.run(["fallocate", "--dig-holes", sparse], check=True)


def describe(pods: list[Any]) -> dict[str, Any]:
    """What is on the node, for a test or a person to compare with."""
    return {
        "node": os.uname().nodename,
        "pods": [
            {
                "namespace": pod.namespace,
                "name": pod.name,
                "uid": pod.uid,
                "qos": pod.qos,
                "labels": pod.labels,
                "sandbox_id": pod.sandbox_id,
                "cgroup_path": pod.cgroup_path,
                "volumes": [
                    {"kind": volume.kind, "name": volume.name, "directory": volume.directory(pod.uid)}
                    for volume in pod.volumes
                ],
                "containers": [
                    {
                        "name": container.name,
                        "image": container.image,
                        "container_id": container.container_id,
                        "attempt": container.attempt,
                        "pid": container.pid,
                        "cgroup_path": container.cgroup_path,
                        "cgroup_id": container.cgroup_id,
                        "rootfs": container.rootfs,
                        "upperdir": container.upperdir,
                    }
                    for container in sorted(pod.containers, key=lambda container: container.name)
                ],
            }
            for pod in pods
        ],
    }


def main(mode: str) -> None:
    """Bring the node up."""
    started = time.monotonic()
    os.makedirs("/var/lib/node-data", exist_ok=True)
    # gRPC takes seconds to import under emulation: containerd starts meanwhile, and wants no gRPC to be started.
    from tests.vm import cri

    node = cri.Node()
    node.spawn_containerd()
    version = node.wait_ready()
    progress(f"containerd {version} up in {time.monotonic() - started:.0f} s")
    if mode == "prepare":
        import_images()
        node.stop_containerd()
        os.unlink(cri.CONTAINERD_LOG)
        return

    Volume = cri.Volume
    script = _BUSY if mode == "busy" else _QUIET

    def container(pod: Any, name: str, image: str, pause_s: float, first: int) -> None:
        pod.start_container(name, image, ["sh", "-c", script], env={"PAUSE": str(pause_s), "FIRST": str(first)})

    def web() -> Any:
        pod = node.run_pod(
            "shop",
            "web-0",
            qos="burstable",
            labels={"app": "web", "statefulset.kubernetes.io/pod-name": "web-0"},
            volumes=[
                Volume("empty-dir", "cache", "/cache"),
                Volume("memory", "scratch", "/scratch"),
                Volume("host-path", "data", "/data", host_path="/var/lib/node-data"),
                Volume("configmap", "settings", "/etc/settings", files={"color": "blue\n", "size": "12\n"}),
                Volume("secret", "token", "/etc/token", files={"password": "hunter2\n"}),
            ],
        )
        with ThreadPoolExecutor(2) as two:
            list(
                two.map(
                    lambda args: container(pod, *args), [("app", images.WEB, 1, 1), ("sidecar", images.WEB, 3, 100)]
                )
            )
        return pod

    def batch() -> Any:
        pod = node.run_pod("jobs", "batch-0", qos="besteffort", labels={"job-name": "batch"})
        container(pod, "worker", images.BATCH, 2, 200)
        return pod

    with ThreadPoolExecutor(2) as two:
        pods = [future.result() for future in [two.submit(web), two.submit(batch)]]
    with open(TRUTH + ".new", "w") as file:
        json.dump(describe(pods), file, indent=1)
    os.rename(TRUTH + ".new", TRUTH)
    running = sum(len(pod.containers) for pod in pods)
    progress(f"{len(pods)} pods, {running} containers running after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1])
