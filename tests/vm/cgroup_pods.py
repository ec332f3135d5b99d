"""Pods made by hand, without a runtime: the cgroups that a kubelet would make and the config.json that containerd would
write. Their containers live as briefly as a test likes, on any machine with cgroups, v1 or v2.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

CGROUPS = "/sys/fs/cgroup"
TASKS = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
CONTROLLERS = ("unified", "memory", "cpu", "cpuacct", "pids", "freezer")


def hierarchies(*wanted: str) -> dict[str, str]:
    """Controller (or "unified") -> where its hierarchy is mounted; on cgroup v2 all are the same directory."""
    if os.path.exists(f"{CGROUPS}/cgroup.procs"):
        return {"unified": CGROUPS}
    return {name: f"{CGROUPS}/{name}" for name in wanted or CONTROLLERS if os.path.isdir(f"{CGROUPS}/{name}")}


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def waited_ns(reader: int | None) -> int:
    """How long a process's first thread has waited for a CPU since it began, which no busy machine bounds."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{reader}/schedstat").read_text().split()[1])
    return 0


def waits(reader: int | None) -> bool:
    """Whether it has a CPU or waits for one: then `waited_ns` is not yet the whole of it."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{reader}/stat").read_text().rpartition(") ")[2].startswith("R")
    return False


class Pod:
    """A pod's cgroup; `only` limits the v1 hierarchies it is made in (each costs a process some ms to enter).

    What `reader`, a process, waits for a CPU does not count as time in which it could have read a bundle.
    """

    _numbers = itertools.count()

    def __init__(
        self,
        namespace: str = "shop",
        name: str = "",
        qos: str = "burstable",
        only: Sequence[str] = (),
        reader: int | None = None,
    ) -> None:
        self.reader = reader
        self.namespace, self.name = namespace, name or f"hand-{os.getpid()}-{next(self._numbers)}"
        self.uid = str(uuid.uuid4())
        self.qos = qos
        self.path = f"/kubepods/{qos}/pod{self.uid}" if qos != "guaranteed" else f"/kubepods/pod{self.uid}"
        self.roots = hierarchies(*only)
        self.containers: list[Container] = []
        for root in self.roots.values():
            self._make(root)

    def _make(self, root: str) -> None:
        made = root
        for part in self.path.strip("/").split("/"):
            if os.path.exists(f"{made}/cgroup.subtree_control"):
                with open(f"{made}/cgroup.controllers") as file:
                    controllers = " ".join("+" + name for name in file.read().split())
                with contextlib.suppress(OSError):
                    Path(made, "cgroup.subtree_control").write_text(controllers)
            made += f"/{part}"
            with contextlib.suppress(FileExistsError):
                os.mkdir(made)
        if os.path.exists(f"{made}/cgroup.subtree_control"):
            with open(f"{made}/cgroup.controllers") as file:
                controllers = " ".join("+" + name for name in file.read().split())
            Path(made, "cgroup.subtree_control").write_text(controllers)

    def container(self, name: str, image: str = "example.org/app:1") -> Container:
        """A container of this pod: its config.json, then its cgroup."""
        made = Container(self, name, image)
        self.containers.append(made)
        return made

    def remove(self) -> None:
        for container in self.containers:
            container.remove()
        for root in self.roots.values():
            remove_cgroup(root + self.path)


class Container:
    """A container's cgroup and bundle; `run` executes processes in it."""

    def __init__(self, pod: Pod, name: str, image: str) -> None:
        self.pod, self.name, self.image = pod, name, image
        self.id = hashlib.sha256(uuid.uuid4().bytes).hexdigest()
        self.path = f"{pod.path}/{self.id}"
        self.bundle = f"{TASKS}/{self.id}"
        os.makedirs(self.bundle)
        spec = {
            "annotations": {
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.sandbox-namespace": pod.namespace,
                "io.kubernetes.cri.sandbox-name": pod.name,
                "io.kubernetes.cri.sandbox-uid": pod.uid,
                "io.kubernetes.cri.container-name": name,
                "io.kubernetes.cri.image-name": image,
            },
            "linux": {"cgroupsPath": self.path},
        }
        config = Path(self.bundle, "config.json")
        config.write_text(json.dumps(spec))
        # a file's own time is as coarse as the kernel's tick: it may be before that of the pod's cgroup
        now = time.time_ns()
        os.utime(config, ns=(now, now))
        self._written_ns, self._waited_ns = boot_ns(), waited_ns(pod.reader)
        self.directories = [root + self.path for root in pod.roots.values()]
        self.made_ns = [boot_ns(), 0]
        for directory in self.directories:
            os.mkdir(directory)
        self.made_ns[1] = boot_ns()

    def file(self, v2: str, v1: tuple[str, str]) -> Path:
        """A control file: `v2`'s name, or (controller, name) where the controller has its own v1 hierarchy."""
        controller, name = v1
        if controller in self.pod.roots:
            return Path(self.pod.roots[controller] + self.path, name)
        return Path(self.pod.roots["unified"] + self.path, v2)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Execute a program in the cgroup, as its runtime would: the process enters, then becomes it."""
        enter = "".join(f"echo 0 > {shlex.quote(directory)}/cgroup.procs; " for directory in self.directories)
        return subprocess.Popen(
            ["/bin/sh", "-c", f'{enter}exec "$@"', "runtime", *command],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def run(self, *command: str) -> tuple[int, int]:
        """(pid, what wait gives: negative for a signal) of a program that has ended."""
        process = self.start(*command)
        return process.pid, process.wait(timeout=240)

    @property
    def cgroup_ids(self) -> list[int]:
        """In every hierarchy it is in."""
        return [os.stat(directory).st_ino for directory in self.directories]

    def remove(self) -> None:
        """The cgroup, then the bundle; that is there for 63 ms at least, the median measured of containerd.

        Of the pod's reader's own time: a busy machine does not promise it a CPU in 63 ms.
        """
        self.gone_ns = [boot_ns(), 0]
        for directory in self.directories:
            remove_cgroup(directory)
        self.gone_ns[1] = boot_ns()
        time.sleep(max(0.008, self._rest_s()))
        while waits(self.pod.reader) or self._rest_s() > 0:
            time.sleep(max(0.001, self._rest_s()))
        shutil.rmtree(self.bundle, ignore_errors=True)

    def _rest_s(self) -> float:
        waited = waited_ns(self.pod.reader) - self._waited_ns
        return 0.063 - (boot_ns() - self._written_ns - waited) / 1e9


def remove_cgroup(directory: str) -> None:
    """Once its last process is gone, which the kernel may tell a little later than wait() does."""
    deadline = time.monotonic() + 240
    while True:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)
        else:
            return


def rows(text: str) -> list[dict[str, str]]:
    """The last block of a table of `kubetrace cgroups` on a pipe: each row by its columns' titles."""
    lines = text[text.rindex("kubetrace cgroups") :].splitlines()
    at = next((i for i, line in enumerate(lines) if "RESTARTS" in line), len(lines))
    found: list[dict[str, str]] = []
    for line in lines[at + 1 :]:
        # cells stand two spaces or more apart; a number and its unit one
        cells = [cell.strip() for cell in line.split("  ") if cell.strip()]
        titles = lines[at].replace("▼", " ").split()
        if len(cells) != len(titles):
            break
        found.append(dict(zip(titles, cells, strict=True)))
    return found


def last_block(text: str) -> str:
    """The last table of a tracer on a pipe, or all lines.

    Without its time, as a pipe gets no table twice, and whatever its columns' widths, which never shrink in a run.
    """
    block = text[max(0, text.rfind("\nkubetrace ") + 1) :]
    return re.sub(r" +", " ", re.sub(r"own CPU \S+| · [0-9]+:[0-9]+$", "", block, flags=re.MULTILINE))
