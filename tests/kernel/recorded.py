"""Every tracer live with --record, as lines and as a table, over the life of one pod: what each printed and kept."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from kubetrace import tracers
from tests.vm import cri, images

OUTPUTS = (["-o", "json"], ["-o", "wide"])
# It copies up two files, writes to a volume, reads a secret, is refused memory, and ends.
WORK = """
cat /etc/creds/password > /dev/null
echo x >> /app/hundred-kib
chmod 600 /app/data/007.dat
dd if=/dev/zero of=/cache/ledger bs=4096 count=7
dd if=/dev/zero of=/dev/null bs=200M count=1
exit 3
"""
_READY_S = 240


class Run(NamedTuple):
    """One tracer; `name` and `options` as a replay is given them too."""

    name: str
    options: list[str]
    file: Path
    out: Path


def run_pod(node: cri.Node, name: str) -> cri.Pod:
    """Start the pod and let its container do its work."""
    volumes = [
        cri.Volume("empty-dir", "cache", "/cache"),
        cri.Volume("secret", "creds", "/etc/creds", files={"password": "swordfish"}),
    ]
    pod = node.run_pod("shop", name, qos="burstable", volumes=volumes)
    container = pod.start_container("app", images.WEB, ["sh", "-c", WORK], memory_limit_bytes=48 << 20)
    assert container.wait() == 3
    return pod


def record(directory: Path, node: cri.Node, pod_name: str) -> list[Run]:
    """Run them all at once; they have ended when this returns, and the pod is gone."""
    started: list[tuple[Run, subprocess.Popen[bytes]]] = []
    for name in tracers.names():
        for options in OUTPUTS:
            file = directory / f"{name}-{options[1]}.ktrace"
            run = Run(name, options, file, file.with_suffix(".out"))
            command = ["kubetrace", name, *options, "--record", str(file), "--ready-file", str(file) + ".ready"]
            with open(run.out, "wb") as out, open(str(file) + ".err", "wb") as err:
                started.append((run, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)))
    deadline = time.monotonic() + _READY_S
    for run, process in started:
        while not os.path.exists(str(run.file) + ".ready"):
            assert process.poll() is None, Path(str(run.file) + ".err").read_text()
            assert time.monotonic() < deadline, f"{run.name} is not ready after {_READY_S} s"
            time.sleep(0.05)
    run_pod(node, pod_name).remove()
    for _, process in started:
        process.send_signal(signal.SIGINT)
    for run, process in started:
        assert process.wait(60) == 0, Path(str(run.file) + ".err").read_text()
    return [run for run, _ in started]


def replay(run: Run) -> str:
    """What --final shows with the live run's options."""
    command = ["kubetrace", "replay", str(run.file), "--final", *run.options]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode("utf-8", "surrogateescape")
