"""Pulls of every kind by a real containerd from a real registry, in namespaces of their own, while kubetrace looks.

    unshare --mount --pid --net --fork --kill-child --mount-proc python -m tests.native.pulls_node RUNTIME DIRECTORY

DIRECTORY holds images.tar and cri_pb2.py; RUNTIME is "containerd 1.6" or "containerd 2.1". What happens:

    first       a small image, with which containerd makes its directories
    cold        an image of five layers, of which none is there; then a pod that begins with it
    warm        another that has the lowest two of them
    together    two that share a layer, at once
    cut         a connection that ends in the middle of a layer
    failed      a layer that the registry does not have
    killed      containerd is killed in the middle of a layer, started, and asked again
    elsewhere   an image of a second registry

DIRECTORY/RUNTIME.json has what the registry sent, what the CRI said, and what is on the disk; DIRECTORY/RUNTIME.ktrace
what kubetrace recorded, RUNTIME.told what it told meanwhile. The registry holds each pull's last layer until kubetrace
has seen the pull: a busy machine promises nobody a look in time. Nothing here asserts.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kubetrace.node.host import Host
from kubetrace.recording.reader import Recording
from kubetrace.tracers.pulls.shape import STATES
from tests.native.registry import Image, Layer, Registry, layer
from tests.vm import cri, guest, images
from tests.vm.stage import cache_directory, program

PORT, SECOND_PORT = 5000, 5100
SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs/snapshots"
LEFT = STATES.index("left")
_MODERN = "containerd 2.1"
_RATE = 8 << 20
_CERTS = "/run/certs.d"


def main(runtime: str, directory: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for path in ("/run", "/var/log"):
        guest.mount("tmpfs", path, "tmpfs")
    # on a disk, as on a node
    disk = directory / "disk" / runtime.replace(" ", "-")
    disk.mkdir(parents=True)
    guest.mount(str(disk), "/var/lib", flags=guest.MS_BIND)
    lab = Lab(runtime, directory)
    node = lab.node
    server = cache_directory() / "registry/usr/bin/docker-registry"
    with (
        Registry(directory / runtime / "first", PORT, server) as registry,
        Registry(directory / runtime / "second", SECOND_PORT, server) as second,
    ):
        made = images_of(registry, second)
        registry.rules.rate = second.rules.rate = _RATE
        lab.pull("first", made["first"], registry)
        lab.pull("cold", made["cold"], registry)
        pod = node.run_pod("shop", "web-0")
        pod.start_container("app", made["cold"].name, ["sh", "-c", "exec sleep 1000"])
        lab.pull("warm", made["warm"], registry)

        threads = [
            threading.Thread(target=lab.pull, args=(name, made[name], registry)) for name in ("together", "beside")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        whole = made["cut"].layers[0]
        registry.rules.cut[whole.digest] = len(whole.blob) // 2
        lab.pull("cut", made["cut"], registry)

        registry.rules.refused.add(made["failed"].layers[1].digest)
        lab.pull("failed", made["failed"], registry)

        lab.kill_in_the_middle_of(made["killed"], registry)
        node.start_containerd()
        lab.wait(lambda: lab.recorded(lambda pull: pull.state == LEFT))
        lab.pull("again", made["killed"], registry)

        lab.pull("elsewhere", made["elsewhere"], second)
        lab.truth["layers"] = on_disk()
        lab.wait(lambda: lab.told() >= len(lab.truth["pulls"]) - 1)
        lab.truth["blobs"] = [asdict(asked) for one in (registry, second) for asked in one.log]
    lab.finish()


class Lab:
    """One node with containerd and what looks at it."""

    def __init__(self, runtime: str, directory: Path) -> None:
        for port in (PORT, SECOND_PORT):
            host = f"http://127.0.0.1:{port}"
            os.makedirs(f"{_CERTS}/127.0.0.1:{port}")
            text = f'server = "{host}"\n[host."{host}"]\n  capabilities = ["pull", "resolve"]\n'
            Path(f"{_CERTS}/127.0.0.1:{port}/hosts.toml").write_text(text)
        path = os.environ["PATH"]
        if runtime == _MODERN:
            tree = cache_directory() / "containerd-2" / "usr"
            path = f"{tree}/bin:{tree}/sbin:{path}"
        else:
            # with unpigz, which it leaves gzip to
            path = f"{cache_directory() / 'registry/usr/bin'}:{path}"
        configured = f'[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "{_CERTS}"\n'
        self.node = cri.Node(path=path, more=configured)
        self.node.start_containerd()
        command = ["ctr", "-n", "k8s.io", "images", "import", f"{directory}/images.tar"]
        environment = {**os.environ, "PATH": path}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        while not self.node.image(images.PAUSE).id:
            time.sleep(0.01)  # the CRI learns of what is imported a moment later
        self._offset_ns = Host.boot_to_wall_ns()
        self.truth: dict[str, Any] = {"pulls": {}, "chains": {}, "layers": {}}
        self._stem = directory / runtime
        ready = Path(f"{self._stem}.ready")
        command = [sys.executable, "-m", "kubetrace", "pulls", "-o", "json", "--record", f"{self._stem}.ktrace"]
        if runtime == _MODERN:
            # which has no unpigz: all the rest is told without a program in the kernel
            command += ["--hook", "none"]
        with open(f"{self._stem}.told", "wb") as out, open(f"{self._stem}.err", "wb") as err:
            self._traced = subprocess.Popen(
                [*command, "--ready-file", str(ready)], stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.wait(ready.exists)

    def pull(self, name: str, image: Image, registry: Registry) -> None:
        """Ask for an image, as the kubelet does; its last layer comes when kubetrace has seen the pull."""
        before, begun = len(registry.log), time.time_ns()
        last = image.layers[-1].digest
        held = registry.rules.held[last] = threading.Event()
        error: list[str] = []

        def ask() -> None:
            try:
                self.node.pull(image.name)
            except cri.NodeError as refused:
                error.append(str(refused))

        asking = threading.Thread(target=ask)
        asking.start()
        self.wait(
            lambda: self.recorded(lambda pull: pull.begun >= begun - self._offset_ns and pull.digest == image.raw)
        )
        registry.rules.held.pop(last, None)
        held.set()
        asking.join()
        self.truth["chains"] |= dict(zip(image.chain_ids, (one.diff_id for one in image.layers), strict=True))
        self.truth["pulls"][name] = {
            "name": image.name,
            "begun": begun,
            "ended": time.time_ns(),
            "error": "".join(error),
            "layers": [
                {"digest": one.digest, "bytes": len(one.blob), "line": one.line, "chain": chain}
                for one, chain in zip(image.layers, image.chain_ids, strict=True)
            ],
            "asked": [asdict(asked) for asked in registry.log[before:]],
        }

    def wait(self, true: Callable[[], Any]) -> None:
        """Until it is so."""
        while not true():
            if self._traced.poll() is not None:
                raise SystemExit(Path(f"{self._stem}.err").read_text())
            time.sleep(0.05)

    def recorded(self, is_it: Callable[[Any], bool]) -> bool:
        """Whether a pull has been recorded that it is true of."""
        with Recording(Path(f"{self._stem}.ktrace")) as recording:
            for step in recording.steps():
                for batch in step.batches:
                    if batch.stream == "pulls/pulls" and any(
                        not one.what and is_it(one) for one in recording.layouts[batch.stream].decode(batch.data)
                    ):
                        return True
        return False

    def told(self) -> int:
        """How many pulls have been told as ended."""
        return Path(f"{self._stem}.told").read_bytes().count(b'"event":"pull"')

    def kill_in_the_middle_of(self, image: Image, registry: Registry) -> None:
        """containerd gets no chance to clean up."""
        layer = image.layers[0]
        held = registry.rules.held[layer.digest] = threading.Event()

        def ask() -> None:
            with contextlib.suppress(cri.NodeError):
                self.node.pull(image.name)

        asking = threading.Thread(target=ask)
        asking.start()
        self.wait(lambda: ingested() >= len(layer.blob) // 4)
        pid = self.node.containerd_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.node.close()
        del registry.rules.held[layer.digest]
        held.set()
        asking.join()

    def finish(self) -> None:
        """End what looks, and write down what was."""
        self._traced.send_signal(signal.SIGINT)
        assert self._traced.wait(240) == 0
        log = Path(cri.CONTAINERD_LOG).read_text()
        self.truth["took"] = {
            name: re.findall(rf'Pulled image \\"{re.escape(name)}\\".* in ([0-9.]+m?s)', log)
            for name in {one["name"] for one in self.truth["pulls"].values()}
        }
        self.node.stop_containerd()
        Path(f"{self._stem}.json").write_text(json.dumps(self.truth))


def ingested() -> int:
    """Bytes of what is downloaded now."""
    found = Path("/var/lib/containerd/io.containerd.content.v1.content/ingest").glob("*/data")
    return max((path.stat().st_size for path in found), default=0)


def on_disk() -> dict[str, Any]:
    """Number of each snapshot -> (bytes by its blocks, names) as du counts them."""
    found = {}
    for path in Path("/var/lib/containerd", SNAPSHOTS).iterdir():
        inodes = {}
        for base, directories, files in os.walk(path / "fs"):
            for name in [".", *directories, *files]:
                status = os.lstat(os.path.join(base, name))
                inodes[status.st_ino] = status.st_blocks * 512
        found[path.name] = [sum(inodes.values()), len(inodes)]
    return found


def images_of(registry: Registry, second: Registry) -> dict[str, Image]:
    """All of them."""
    rng = random.Random(7)

    def some(line: str, size: int, count: int = 1) -> Layer:
        return layer(line, {f"{line.split()[-1]}/{at}": rng.randbytes(size) for at in range(count)})

    # a shell, so that a pod can run
    shell = layer("ADD shell", {"bin/sh": program("busybox").read_bytes()}, mode=0o755, link={"bin/sleep": "sh"})
    base = some("ADD base", 2_000, 1_000)
    big = some("COPY big", 6 << 20)
    zeros = layer("RUN fallocate zeros", {"zeros": bytes(48 << 20)})
    plain = layer("COPY app", {"app": rng.randbytes(5_000)}, compressed=False)
    shared = some("COPY shared", 4 << 20)
    return {
        "first": registry.push("team/first", "1", [some("COPY first", 10_000)]),
        "cold": registry.push("team/app", "1", [shell, base, big, zeros, plain]),
        "warm": registry.push("team/app", "2", [shell, base, some("COPY next", 3 << 20)]),
        "together": registry.push("team/together", "1", [shared, some("COPY one", 1 << 20)]),
        "beside": registry.push("team/beside", "1", [shared, some("COPY two", 1 << 20)]),
        "cut": registry.push("team/cut", "1", [some("COPY cut", 3 << 20)]),
        "failed": registry.push("team/failed", "1", [some("COPY good", 1 << 20), some("COPY bad", 1 << 20)]),
        "killed": registry.push("team/killed", "1", [some("COPY killed", 8 << 20)]),
        "elsewhere": second.push("other/app", "3", [some("COPY other", 1 << 20)]),
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    os._exit(0)  # gRPC's threads have nothing to say any more
