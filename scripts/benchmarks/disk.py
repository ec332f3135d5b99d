"""What kubetrace disk takes: 100 images, 1,000 layers, 500 containers with 200 files each, then a volume of a million.

A real containerd on an ext4 of its own, in namespaces of its own; du(1) of the same directories is the peer.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.disk_guest import BUDGET_S, IMAGES, LAYERS, MANY
from benchmarks.measure import Row, median, spread
from tests.vm import guest, images, stage

ROOT = Path(__file__).parent.parent.parent


def node(what: str, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) seconds of each thing that was measured on that node."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        directory = Path(name)
        _write_images(directory / "images.tar")
        proto = ROOT / "tests" / "vm" / "cri.proto"
        protoc = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{proto.parent}",
            f"--python_out={directory}",
            str(proto),
        ]
        subprocess.run(protoc, check=True)
        paths = [str(stage.runtime_program(one, "2").parent) for one in ("containerd", "runc")]
        paths.append(str(stage.program("mke2fs").parent))
        environment = {
            **os.environ,
            "PATH": ":".join([*dict.fromkeys(paths), os.environ["PATH"]]),
            "PYTHONPATH": f"{directory}:{ROOT}:{ROOT}/scripts",
        }
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*alone, sys.executable, "-m", "benchmarks.disk_guest", what, str(rounds), name]
        try:
            subprocess.run(command, check=True, env=environment)
        finally:
            for hierarchy in {*guest.hierarchies(), "/sys/fs/cgroup"}:
                for below in ("/containerd.service", ""):
                    with contextlib.suppress(OSError):
                        os.rmdir(f"{hierarchy}/system.slice{below}")
        found: dict[str, list[tuple[float, float]]] = json.loads((directory / "samples.json").read_text())
        return found


def _write_images(path: Path) -> None:
    layout = images.Layout()
    for number in range(IMAGES):
        layers = []
        for at in range(LAYERS):
            layer = images.Layer()
            # the two lowest are shared by ten images each
            of = number // 10 if at < 2 else number
            for file in range(20):
                layer.file(f"usr/{at}/{file}", images.pattern(3000, of * 1000 + at * 20 + file))
            layers.append(layer.tar())
        layout.add(f"registry.example/bench/{number}:1", layers, ["/bin/sh"], [])
    layout.write(path)


def row(what: str, samples: list[tuple[float, float]], note: str = "", *, cpu: bool = True) -> Row:
    """Of the CPU, or of the wall time."""
    values = [one[1 if cpu else 0] for one in samples]
    return Row(what, median(values), f"{median(values):.2f} s", note or spread(values, digits=2), tuple(values))


def run(rounds: int) -> list[Row]:
    """scripts/bench disk."""
    found = node("disk", rounds)
    du = median([used for _, used in found["du"]])
    once = median([used for _, used in found["once"]])
    wall, used = found["budget"][0]
    return [
        row("kubetrace disk, launch to the first row (wall)", found["first"], cpu=False),
        row("kubetrace disk --once, everything (CPU)", found["once"], f"{once / du:.1f} x du(1) of the same snapshots"),
        row("the same (wall)", found["once"], cpu=False),
        row("du -s of the snapshots (CPU)", found["du"]),
        Row(
            f"a volume of {MANY:,} files, {BUDGET_S:.0f} s at the default budget",
            100 * used / wall,
            f"{100 * used / wall:.1f} %",
            "of a core, kubetrace and its walks together",
        ),
        row("the same volume at once (CPU)", found["million"]),
    ]
