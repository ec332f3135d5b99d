"""Make golden recordings of the present version.

    scripts/vm --kernel 6.1 --node=quiet -- python3 -m tests.recordings.make real N
    python -m tests.recordings.make NATIVE.ktrace NAME
    python -m tests.recordings.make columns OLD NEW

The first makes TRACER-N of each tracer, from real runs over one pod's life; TRACER-N.jsonl is what the live run
printed. The second takes the layouts of any recording of copyup on a real kernel, nothing else: its events are these
few, written by hand, and NAME.jsonl is what replay said of them. NAME.txt is the last table. All were read by a person.
The third writes the records of another golden as columns, which a recorder does with many only: NEW says what OLD says.
Never make an old one again: later versions have to read what was written then.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from kubetrace.attribution.facts import CgroupSeen, ContainerSeen, Fact, OverlaySeen, PodSeen
from kubetrace.recording import frames
from kubetrace.recording.frames import BATCH, HEADER, FrameReader
from kubetrace.recording.header import Header
from kubetrace.recording.reader import Recording
from kubetrace.recording.transpose import split_of
from kubetrace.recording.writer import Recorder
from kubetrace.stream.layout import Batch, Layout
from kubetrace.stream.steps import Step, Tick

WEB = "a1" * 32
UID = "5f3b9a52-7d1c-4f6e-9d55-1f0f2f8f4c11"


def pack(layout: Layout, **values: object) -> bytes:
    record = bytearray(layout.stride)
    for field in layout.fields:
        struct.pack_into(
            "<" + field.code, record, 8 + field.offset, values.get(field.name, b"" if field.kind == "bytes" else 0)
        )
    return bytes(record)


def event(layout: Layout, at: int, cgroup: int, path: bytes, **more: object) -> bytes:
    names = b"".join(name + b"\0" for name in reversed(path.strip(b"/").split(b"/")))
    given: dict[str, object] = {
        "time": at, "cgroup_id": cgroup, "device": 45, "pid": 4242, "tid": 4243, "comm": b"nginx", "mode": 0o100644,
        "path": names, "path_bytes": len(names), "duration": 1_250_000, "flags": 1, "inode": 77,
        "trigger": 1, "layer_index": 1,
    }  # fmt: skip
    return pack(layout, **{**given, **more})


SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice"


def real(number: str) -> None:
    import shutil
    import tempfile

    from tests.kernel import recorded
    from tests.vm import cri

    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as directory:
        for run in recorded.record(Path(directory), cri.Node.connect(), "ledger-0"):
            made = here / f"{run.name}-{number}"
            if run.options != ["-o", "json"] or made.with_suffix(".ktrace").exists():
                continue
            shutil.copyfile(run.file, made.with_suffix(".ktrace"))
            shutil.copyfile(run.out, made.with_suffix(".jsonl"))
            replay(made, ".txt")


def replay(name: Path, suffix: str, *more: str) -> None:
    command = [sys.executable, "-m", "kubetrace", "replay", str(name.with_suffix(".ktrace")), "--final", *more]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC", "COLUMNS": "80"}
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    name.with_suffix(suffix).write_bytes(done.stdout)


def columns(old: Path, new: Path) -> None:
    reader, numbers = FrameReader(old.with_suffix(".ktrace")), {}
    with open(new.with_suffix(".ktrace"), "xb") as file:
        for frame in reader.frames():
            payload, split = frame.payload, None
            if frame.kind == HEADER:
                header = Header.from_json(payload)
                assert header is not None
                payload = replace(header, version=2).to_json()
                numbers = {number: split_of(header.layouts[key]) for number, key in header.numbers.items()}
            elif frame.kind == BATCH:
                split = numbers[frame.stream]
            where = {name: getattr(frame, name) for name in ("stream", "segment", "rows", "first", "begin", "end")}
            file.write(frames.pack(frame.kind, payload, split=split, **where))
    reader.close()


def main() -> None:
    if sys.argv[1] == "real":
        real(sys.argv[2])
        return
    if sys.argv[1] == "columns":
        columns(*(Path(__file__).parent / name for name in sys.argv[2:]))
        return
    native, name = Path(sys.argv[1]), Path(__file__).parent / sys.argv[2]
    with Recording(native) as recording:
        traced = replace(recording.header.tracers[0], hook="fentry")
        short, long = (recording.layouts[f"copyup/{stream}"] for stream in ("copyup", "copyup_long"))
    header = Header("worker-3", "6.1.0-18-amd64", 1_795_000_000_000_000_000, (traced,), kubetrace="0.1.0")
    known: list[Fact] = [
        CgroupSeen(0, 900, "/system.slice/sshd.service", 0),
        CgroupSeen(
            0,
            4711,
            f"{SLICE}/cri-containerd-{WEB}.scope",
            0,
        ),
        ContainerSeen(
            WEB, "container", "shop", "web-0", "nginx", UID, "docker.io/library/nginx:1.27", "b2" * 32, "config.json", 0
        ),
        PodSeen(UID, "shop", "web-0", "config.json", 0),
        OverlaySeen(
            45, WEB, f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{WEB}/rootfs", "/u", "/w", ("/l2", "/l1"), 0
        ),
    ]
    first = [
        event(short, 1_000_000_000, 4711, b"/etc/nginx/nginx.conf", size=2048, copied=2048),
        event(
            short, 1_000_500_000, 4711, b"/var/cache/\x1b[31m\xff", size=10 << 20, copied=10 << 20, duration=48_000_000
        ),
        event(short, 1_001_000_000, 900, b"/etc/passwd", size=900, copied=900, comm=b"vi", trigger=3, flags=0),
    ]
    second = [
        event(short, 1_900_000_000, 4711, b"/srv/data", size=1 << 30, error=-28, duration=2_000_000_000),
        event(short, 1_950_000_000, 31337, b"/bin/sh", size=7, cloned=7, device=99),
    ]
    deep = [event(long, 1_940_000_000, 4711, b"/" + b"/".join([b"d" * 200] * 3), mode=0o040755)]
    wall = header.clock_offset_ns
    recorder = Recorder(name.with_suffix(".ktrace"), header)
    none = {"copyup": {"ring_full": 0, "map_full": 0, "missed_return": 0, "missed_run": 0}}
    recorder.write(Step(known, [], none, Tick(4_000_000, wall + 900_000_000, 1_000_000)))
    recorder.write(
        Step([], [Batch("copyup/copyup", b"".join(first))], {}, Tick(104_000_000, wall + 1_100_000_000, 2_000_000))
    )
    recorder.flush()
    lost = {"copyup": {**none["copyup"], "ring_full": 17}}
    both = [Batch("copyup/copyup", b"".join(second)), Batch("copyup/copyup_long", b"".join(deep))]
    recorder.write(Step([], both, lost, Tick(1_104_000_000, wall + 2_000_000_000, 12_000_000)))
    recorder.close()
    replay(name, ".jsonl", "-o", "json")
    replay(name, ".txt")


main()
