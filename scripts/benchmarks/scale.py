"""Thousands of containers: what start, attribution and memory cost, and that they grow no faster than the node.

The node is made: cgroups as a kubelet makes them (a pod, its sandbox and its container; in the v2 hierarchy, and in
v1's memory one where there is one) and a config.json for each in a host root of its own, given by --host-root, which
otherwise is a view of this machine's. All of it is removed at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Row, cpu
from benchmarks.standin import KUBETRACE, environment_of, stand_in
from benchmarks.terminal import OnTerminal, cpu_seconds, resident
from kubetrace.attribution.attributor import Attributor
from kubetrace.node.host import Host
from kubetrace.node.survey import Node
from tests.vm.cgroup_pods import hierarchies

SIZES = tuple(int(size) for size in os.environ.get("KUBETRACE_BENCH_SIZES", "50,500,5000").split(","))
_TASKS = "run/containerd/io.containerd.runtime.v2.task/k8s.io"
_SPEC_BYTES = 9000  # what containerd writes for a pod of the captured nodes (tests/nodes)


class FakeNode:
    """A host root with bundles, and real cgroups; `grow` makes it larger."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cgroup_ids: list[int] = []
        self._made: list[str] = []
        self._top = f"/kubepods/scale-{os.getpid()}"
        (root / _TASKS).mkdir(parents=True)
        # Of /proc only what is looked at: PID 1's root would lead out of this one.
        for name in ("proc/1/mountinfo", "proc/1/cgroup", "proc/sys/kernel/osrelease"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(f"/{name}")
        (root / "sys/fs/cgroup").mkdir(parents=True)
        subprocess.run(["mount", "--rbind", "/sys/fs/cgroup", root / "sys/fs/cgroup"], check=True)
        subprocess.run(["mount", "--make-rslave", root / "sys/fs/cgroup"], check=True)
        self._hierarchies = list(dict.fromkeys(hierarchies("unified", "memory").values()))
        for hierarchy in self._hierarchies:
            self._mkdir(f"{hierarchy}/kubepods", ours=False)
            self._mkdir(f"{hierarchy}{self._top}")

    def _mkdir(self, path: str, *, ours: bool = True) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
            if ours:
                self._made.append(path)

    def grow(self, containers: int) -> None:
        """Until so many application containers are there, one in a pod."""
        for number in range(len(self.cgroup_ids), containers):
            uid = f"{number:08x}-0000-4000-8000-{os.getpid():012x}"
            pod = f"{self._top}/pod{uid}"
            ids = [hashlib.sha256(f"{uid}{kind}".encode()).hexdigest() for kind in ("sandbox", "app")]
            for hierarchy in self._hierarchies:
                self._mkdir(hierarchy + pod)
                for container_id in ids:
                    self._mkdir(f"{hierarchy}{pod}/{container_id}")
            for kind, container_id in zip(("sandbox", "container"), ids, strict=True):
                self._bundle(number, uid, kind, container_id, f"{pod}/{container_id}")
            self.cgroup_ids.append(os.stat(f"{self._hierarchies[0]}{pod}/{ids[1]}").st_ino)

    def _bundle(self, number: int, uid: str, kind: str, container_id: str, cgroup: str) -> None:
        directory = self.root / _TASKS / container_id
        directory.mkdir()
        annotations = {
            "io.kubernetes.cri.container-type": kind,
            "io.kubernetes.cri.sandbox-namespace": f"team-{number % 37}",
            "io.kubernetes.cri.sandbox-name": f"web-{number}-7d9f8b6c5-x2v9q",
            "io.kubernetes.cri.sandbox-uid": uid,
        }
        if kind == "container":
            annotations["io.kubernetes.cri.container-name"] = "app"
            annotations["io.kubernetes.cri.image-name"] = f"registry.example/team/app:{number % 100}"
        spec = {"annotations": annotations, "linux": {"cgroupsPath": cgroup}, "process": {"env": []}}
        env = "X" * max(0, _SPEC_BYTES - len(json.dumps(spec)))
        spec["process"] = {"env": [env]}
        (directory / "config.json").write_text(json.dumps(spec))

    def remove(self) -> None:
        """Every cgroup that was made, innermost first; then the view of them."""
        for path in reversed(self._made):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        subprocess.run(["umount", "--recursive", "--lazy", self.root / "sys/fs/cgroup"], check=False)


def run(rounds: int) -> list[Row]:
    """A row for each size of node and question; then what the last cost a container beside the one before."""
    rows: list[Row] = []
    per_container: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        objects = stand_in(directory)
        node = FakeNode(directory / "host")
        try:
            for size in SIZES:
                node.grow(size)
                made = [
                    *_attribution(node, size),
                    *_table(node, size, "copyup", objects, directory),
                    *_table(node, size, "cgroups", objects, directory),
                ]
                rows += made
                for row in made:
                    per_container.setdefault(row.what.partition(": ")[2], []).append(row.value / size)
        finally:
            node.remove()
    for what, values in per_container.items():
        if "CPU" in what:
            ratio = values[-1] / values[-2]
            note = f"cost of one container among {SIZES[-1]:,}, over one among {SIZES[-2]:,}: 1 is linear"
            rows.append(Row(f"linear? {what}", ratio, f"{ratio:.2f} x", note))
    return rows


def _attribution(node: FakeNode, size: int) -> list[Row]:
    attributor = Attributor()
    host = Host(node.root)

    def learn() -> None:
        for fact in Node(host).scan():
            attributor.learn(fact)

    learned = cpu(learn)
    named = 0

    def ask() -> None:
        nonlocal named
        named = 0
        for number in node.cgroup_ids:
            found = attributor.identify(
                cgroup_id=number, memory_cgroup_id=0, memory_hierarchy=0, device=None, time_ns=1
            )
            named += found.pod is not None and found.container == "app"

    asked = cpu(ask)
    if named != size:
        raise RuntimeError(f"{named} of {size} containers were named")
    return [
        Row(
            f"{size:,}: scan and learn, CPU",
            learned,
            f"{learned * 1000:.0f} ms",
            f"{size:,} containers in as many pods",
        ),
        Row(f"{size:,}: attribute each once, CPU", asked, f"{asked * 1000:.1f} ms", f"{named:,} of {size:,} named"),
    ]


def _table(node: FakeNode, size: int, tracer: str, objects: Path, directory: Path) -> list[Row]:
    ready = directory / f"ready-{tracer}-{size}"
    command = [*KUBETRACE, tracer, "--host-root", str(node.root), "--ready-file", str(ready)]
    table = OnTerminal(command, environment_of(objects))
    pid = table.process.pid
    try:
        begun = time.perf_counter()
        while not ready.exists():
            if table.process.poll() is not None:
                raise RuntimeError(f"{tracer} ended: {table.screen[-2000:]}")
            time.sleep(0.002)
        started, used = time.perf_counter() - begun, cpu_seconds(pid)
        time.sleep(3)
        then, before = time.monotonic(), cpu_seconds(pid)
        time.sleep(4)
        share = (cpu_seconds(pid) - before) / (time.monotonic() - then)
        memory = resident(pid)
    finally:
        table.end()
    rows = re.findall(r"(\d+) more rows", table.screen)
    shown = f"{rows[-1]} rows below the screen" if rows else "a table"
    return [
        Row(
            f"{size:,}: {tracer}, start to ready, CPU", used, f"{used * 1000:.0f} ms", f"{started * 1000:.0f} ms passed"
        ),
        Row(f"{size:,}: {tracer}, resident", memory, f"{memory / 2**20:.0f} MiB", shown),
        Row(f"{size:,}: {tracer}, table on, share of a core", share, f"{100 * share:.1f} %", "refreshed once a second"),
    ]
