"""What a kubelet asks of a real containerd, in namespaces of their own, while kubetrace looks.

    unshare --mount --pid --net --fork --kill-child --mount-proc python -m tests.native.kubelet_node RUNTIME DIRECTORY

DIRECTORY holds images.tar and cri_pb2.py; RUNTIME is "containerd 1.6" or "containerd 2.1". Probes, stops, restarts and
an OOM kill are asked for over CRI; connections are made by a process of the kubelet's name. DIRECTORY/RUNTIME.json has
what was asked and what was answered, and the times; RUNTIME.ktrace what kubetrace recorded, RUNTIME.told what it told
meanwhile. Nothing here asserts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.native.kubelet_asked import BURN, CLOSED_PORT, HOSTILE, PORT
from tests.vm import cri, guest, images
from tests.vm.stage import cache_directory

_MODERN = "containerd 2.1"
_CONNECT = """
import ctypes, json, os, socket, sys, time
ctypes.CDLL(None).prctl(15, b"kubelet")  # PR_SET_NAME
procs = sys.argv[1].split(",")
for path in procs:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
print("ready", flush=True)
for line in sys.stdin:
    host, port, count, send, wait = json.loads(line)
    said = []
    for _ in range(count):
        begun = time.monotonic_ns()
        try:
            with socket.create_connection((host, port), timeout=5) as made:
                took = time.monotonic_ns() - begun
                received = 0
                if send:
                    made.sendall(send.encode())
                    while part := made.recv(65536):
                        received += len(part)
                time.sleep(wait)
                said.append({"connect_ns": took, "received": received, "local": made.getsockname()[1]})
        except OSError as error:
            said.append({"errno": error.errno})
        said[-1]["took_ns"] = time.monotonic_ns() - begun
    print(json.dumps(said), flush=True)
"""


def main(runtime: str, directory: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for path in ("/run", "/var/lib", "/var/log"):
        guest.mount("tmpfs", path, "tmpfs")
    lab = Lab(runtime, directory)
    try:
        lab.probe()
        lab.connect()
        lab.stop()
        lab.restart()
        lab.files()
    finally:
        lab.finish()


class Lab:
    """One node with containerd and what looks at it."""

    def __init__(self, runtime: str, directory: Path) -> None:
        path = os.environ["PATH"]
        if runtime == _MODERN:
            tree = cache_directory() / "containerd-2" / "usr"
            path = f"{tree}/bin:{tree}/sbin:{path}"
        self._path = path
        self.node = cri.Node(path=path)
        self.node.start_containerd()
        command = ["ctr", "-n", "k8s.io", "images", "import", f"{directory}/images.tar"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PATH": path})
        while not self.node.image(images.PAUSE).id:
            time.sleep(0.01)  # the CRI learns of what is imported a moment later
        self.truth: dict[str, Any] = {"acts": []}
        self._stem = directory / runtime
        # one container that was there before
        self.pod = self.node.run_pod("shop", "web-0")
        self.truth["pods"] = [self.pod.uid]
        self.before = self.pod.start_container("before", images.BATCH, ["sleep", "1000"])
        ready = Path(f"{self._stem}.ready")
        command = [sys.executable, "-m", "kubetrace", "kubelet", "-o", "json", "--record", f"{self._stem}.ktrace"]
        with open(f"{self._stem}.told", "wb") as out, open(f"{self._stem}.err", "wb") as err:
            self._traced = subprocess.Popen(
                [*command, "-i", "100ms", "--ready-file", str(ready)], stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.wait(ready.exists)

    def wait(self, true: Callable[[], Any]) -> None:
        """Until it is so."""
        while not true():
            if self._traced.poll() is not None:
                raise SystemExit(Path(f"{self._stem}.err").read_text())
            time.sleep(0.02)

    def told(self) -> list[dict[str, Any]]:
        """What has been told so far."""
        lines = Path(f"{self._stem}.told").read_bytes().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def wait_for(self, **wanted: Any) -> None:
        """Until an act has been told that has all of this."""
        self.wait(lambda: any(wanted.items() <= one.items() for one in self.told()))

    def ask(self, kind: str, container: cri.Container, act: Callable[[], Any], **more: Any) -> None:
        """Do it, and note when, what was answered and what was refused."""
        begun, answer, error = time.time_ns(), None, ""
        try:
            answer = act()
        except cri.NodeError as refused:
            error = str(refused)
        noted = {"kind": kind, "container": container.name, "id": container.container_id, **more}
        noted |= {"begun": begun, "ended": time.time_ns(), "answer": answer, "error": error}
        self.truth["acts"].append(noted)

    def probe(self) -> None:
        """Exec probes of every kind."""
        app = self.pod.start_container("app", images.BATCH, ["sh", "-c", "trap 'exit 7' TERM; sleep 1000 & wait"])
        for command in (["sh", "-c", "exit 3"], ["true"], HOSTILE, ["sh", "-c", BURN], ["sh", "-c", "kill -9 $$"]):
            self.ask("exec", app, lambda command=command: app.exec(command), command=command)  # type: ignore[misc]
        # of one that began before kubetrace did
        self.ask("exec", self.before, lambda: self.before.exec(["true"]), command=["true"])
        slow = ["sleep", "600"]
        self.ask("exec", app, lambda: app.exec(slow, timeout_s=1), command=slow)
        missing = ["/no/such/program"]
        self.ask("exec", app, lambda: app.exec(missing), command=missing)
        regular = ["cat", "/proc/version"]
        begun = time.monotonic()
        for number in range(6):
            time.sleep(max(0.0, begun + number - time.monotonic()))
            self.ask("exec", app, lambda: app.exec(regular), command=regular)
        self.app = app

    def connect(self) -> None:
        """Connections of a kubelet to a server in a container."""
        serve = "mkdir -p /tmp/www; echo hello > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"
        web = self.pod.start_container("web", images.BATCH, ["sh", "-c", serve])
        groups = [f"{path}/cgroup.procs" for path in guest.make_cgroup("system.slice/kubelet.service")]
        kubelet = subprocess.Popen(
            [sys.executable, "-S", "-c", _CONNECT, ",".join(groups)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert kubelet.stdin is not None and kubelet.stdout is not None
        kubelet.stdout.readline()
        self.truth["kubelet"] = kubelet.pid

        def made(host: str, port: int, count: int, send: str = "", wait: float = 0) -> Any:
            assert kubelet.stdin is not None and kubelet.stdout is not None
            kubelet.stdin.write(json.dumps([host, port, count, send, wait]) + "\n")
            kubelet.stdin.flush()
            return json.loads(kubelet.stdout.readline())

        while "errno" in made("127.0.0.1", PORT, 1)[0]:
            time.sleep(0.05)
        self.wait_for(event="connect", connected=True)
        self.truth["before_connections"] = sum(one.get("event") == "connect" for one in self.told())
        http = f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{PORT}\r\n\r\n"
        connections = {
            "tcp": made("127.0.0.1", PORT, 23),
            "http": made("127.0.0.1", PORT, 13, http),
            "held": made("127.0.0.1", PORT, 1, "", 0.5),
            "refused": made("127.0.0.1", CLOSED_PORT, 7),
        }
        self.truth["connections"], self.truth["http_bytes"] = connections, len(http)
        self.truth["web"] = web.container_id
        self.wait(lambda: sum(one.get("port") == CLOSED_PORT for one in self.told()) >= 7)
        kubelet.stdin.close()
        kubelet.wait()

    def stop(self) -> None:
        """Containers that have a handler for SIGTERM, and that have none."""
        stubborn = self.pod.start_container("stubborn", images.BATCH, ["sleep", "1000"])
        self.ask("stop", stubborn, lambda: stubborn.stop(2), grace=2)
        self.ask("stop", self.app, lambda: self.app.stop(20), grace=20)
        self.ask("stop", self.before, lambda: self.before.stop(1), grace=1)
        for container in (stubborn, self.app, self.before):
            self.truth["acts"][-1].setdefault("codes", {})[container.name] = container.wait()

    def restart(self) -> None:
        """A container that ends by itself, and its next one; one that wants too much memory."""
        first = self.pod.start_container("crash", images.BATCH, ["sh", "-c", "exit 9"])
        self.truth["crashed"] = [first.wait()]
        self.wait_for(event="exit", container_id=first.container_id)
        again = self.pod.start_container("crash", images.BATCH, ["sh", "-c", "sleep 0.1; exit 0"], attempt=1)
        self.truth["crashed"].append(again.wait())
        self.wait_for(event="exit", container_id=again.container_id)
        self.truth["crash_ids"] = [first.container_id, again.container_id]
        hungry = ["sh", "-c", "x=1; while :; do x=$x$x; done"]
        greedy = self.pod.start_container("greedy", images.BATCH, hungry, memory_limit_bytes=16 << 20)
        self.truth["greedy"] = [greedy.container_id, greedy.wait()]
        self.wait_for(event="exit", container_id=greedy.container_id)

    def files(self) -> None:
        """New contents of a volume, a log that is rotated, volumes that come and go, layers that are removed."""
        secret = cri.Volume("secret", "token", "/etc/token", files={"password": "hunter2"})
        pod = self.node.run_pod("jobs", "files-0", volumes=[secret])
        self.truth["files"] = {"uid": pod.uid, "refreshed": []}
        self.truth["pods"].append(pod.uid)
        # what is told of a mount is watched
        self.wait_for(event="mount", pod_uid=pod.uid)
        app = pod.start_container("app", images.BATCH, ["sh", "-c", "echo hello; exec sleep 1000"])
        directory = secret.directory(pod.uid)
        for number in range(3):
            version = f"..2026_11_30_02_43_0{number}.456339893"
            begun = time.time_ns()
            os.mkdir(f"{directory}/{version}")
            time.sleep(0.02)
            os.symlink(version, f"{directory}/..data_tmp")
            os.rename(f"{directory}/..data_tmp", f"{directory}/..data")
            self.truth["files"]["refreshed"].append([begun, time.time_ns()])
            self.wait(lambda at=number: sum(one.get("event") == "refresh" for one in self.told()) > at)  # type: ignore[misc]
        log = f"{pod.log_directory}/app/0.log"
        while not (size := os.path.getsize(log)):
            time.sleep(0.01)
        self.truth["files"]["log"] = size
        os.rename(log, f"{log}.20261130-024300")
        self.wait_for(event="rotate", pod_uid=pod.uid)
        app.stop()
        store = Path("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots")
        before, told = {path.name for path in store.iterdir()}, self._collected()
        pod.remove()
        self.wait_for(event="umount", pod_uid=pod.uid)
        # the sandbox's and the container's: containerd 2 collects them later
        self.wait(lambda: len(before - {path.name for path in store.iterdir()}) >= 2)
        gone = before - {path.name for path in store.iterdir()}
        self.truth["files"]["collected"] = len(gone)
        self.wait(lambda: self._collected() >= told + len(gone))
        self.truth["files"]["collected_before"] = told

    def _collected(self) -> int:
        return sum(one.get("snapshots", 0) for one in self.told())

    def finish(self) -> None:
        """End what looks, and write down what was."""
        if self._traced.poll() is None:
            self._traced.send_signal(signal.SIGINT)
            assert self._traced.wait(240) == 0
        self.pod.remove()
        self.node.stop_containerd()
        Path(f"{self._stem}.json").write_text(json.dumps(self.truth))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    os._exit(0)  # gRPC's threads have nothing to say any more
