"""What recording costs: the format beside JSON lines, a drain beside bcc's callback, and live runs at a paced load.

The reference stream is that of the performance notes: 12 columns, 20,000 paths of 47 characters in the mean, taken by
rank (Zipf), in records of 256 bytes. orjson, msgspec and libbcc are compared with where they are installed.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import itertools
import json
import os
import platform
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import compile_objects

from kubetrace.layout import Batch, Field, Layout
from kubetrace.recording.header import Header, Stream, Traced
from kubetrace.recording.reader import Recording
from kubetrace.recording.writer import Recorder
from kubetrace.steps import STEP_ROWS, Step, Tick

ROOT = Path(__file__).resolve().parent.parent.parent
EVENTS = 1_000_000
_FIELDS = [
    "time", "cgroup_id", "inode", "offset", "bytes", "latency", "pid", "device", "result", "op", "path_bytes", "comm",
    "path",
]  # fmt: skip
_CODES = "QQQQQQIIiHH16s168s"
_SIZES = {"Q": 8, "I": 4, "i": 4, "H": 2}
_ROW = struct.Struct("<8x" + _CODES)
# A child that makes the stand-in's events: `count at once`, or `rate a second for so long`.
_WORKLOAD = """
import os, sys, time
rate, seconds = int(sys.argv[1]), float(sys.argv[2])
os.chdir(sys.argv[3])
if not rate:
    for line in sys.stdin:
        for _ in range(int(line)): os.getppid()
        print(flush=True)
begun = time.monotonic(); made = 0
while (passed := time.monotonic() - begun) < seconds:
    due = int(passed * rate) - made
    for _ in range(due): os.getppid()
    made += due
    time.sleep(0.002)
"""


def _layout() -> Layout:
    fields, at = [], 0
    codes = [*_CODES[: _CODES.index("16s")], "16s", "168s"]
    for name, code in zip(_FIELDS, codes, strict=True):
        size = _SIZES.get(code) or int(code[:-1])
        kind = "bytes" if code.endswith("s") else "signed" if code == "i" else "unsigned"
        fields.append(Field(name, at, size, kind))
        at += size
    return Layout("event", at, tuple(fields))


def _paths() -> list[bytes]:
    chosen = random.Random(1)
    words = [
        "var", "lib", "app", "data", "cache", "log", "tmp", "session", "index", "node_modules", "usr", "share",
        "python3", "site-packages", "etc", "home", "web",
    ]  # fmt: skip
    found = []
    for _ in range(20_000):
        directory = "/".join(chosen.choice(words) for _ in range(chosen.randint(4, 6)))
        found.append(f"/{directory}/{chosen.getrandbits(44):011x}.log".encode())
    return found


def _reference() -> bytes:
    chosen = random.Random(2)
    paths = _paths()
    ranks = chosen.choices(range(len(paths)), weights=[1 / (n + 1) for n in range(len(paths))], k=EVENTS)
    cgroups = [chosen.getrandbits(20) for _ in range(50)]
    comms = (b"python3", b"node", b"java", b"postgres", b"nginx", b"sh")
    out, now = bytearray(), 10**13
    for rank in ranks:
        now += int(chosen.expovariate(1 / 10_000))
        owner = rank % 50
        size = chosen.choice((4096, 512, 100 + rank % 400, 65536))
        out += _ROW.pack(
            now, cgroups[owner], 1000 + rank, (rank % 16) * 4096, size, int(chosen.lognormvariate(9, 1)),
            4000 + owner, 8 << 20 | owner % 8, size, rank % 4, len(paths[rank]), comms[owner % 6], paths[rank],
        )  # fmt: skip
    return bytes(out)


def _cpu(act: Callable[[], object]) -> float:
    begun = time.process_time()
    act()
    return time.process_time() - begun


def _format(rounds: int, directory: Path) -> Iterator[dict[str, str]]:
    layout, data = _layout(), _reference()
    header = Header("n", "k", 0, (Traced("t", streams=(Stream(1, "events", layout),)),))
    file = directory / "a.ktrace"
    chunk = STEP_ROWS * layout.stride

    def write() -> None:
        recorder = Recorder(file, header, force=True)
        for number, at in enumerate(range(0, len(data), chunk)):
            recorder.write(Step((), [Batch("t/events", data[at : at + chunk])], {}, Tick(number, number, number)))
        recorder.close()

    pair = struct.Struct("<8x8xQ16xQ" + f"{layout.stride - 48}x")

    def group() -> dict[int, int]:
        totals: dict[int, int] = {}
        with Recording(file) as recording:
            for step in recording.steps():
                for batch in step.batches:
                    for cgroup, size in pair.iter_unpack(batch.data):
                        totals[cgroup] = totals.get(cgroup, 0) + size
        return totals

    writes, reads, rivals = [], [], []
    rival_bytes = 0
    encode = _encoder("msgspec")
    if encode:
        from kubetrace.recording.frames import pack

        part = EVENTS // 10
        rows = [dict(zip(_FIELDS, row, strict=True)) for row in _ROW.iter_unpack(data[: part * layout.stride])]
        for row in rows:
            row["comm"], row["path"] = (row[key].partition(b"\0")[0].decode() for key in ("comm", "path"))

        def rival() -> None:
            nonlocal rival_bytes
            rival_bytes = 0
            for at in range(0, len(rows), STEP_ROWS):
                lines = b"\n".join([encode(row) for row in rows[at : at + STEP_ROWS]])
                rival_bytes += len(pack(0, lines, rows=1))

    for _ in range(rounds):
        writes.append(_cpu(write))
        reads.append(_cpu(group))
        if encode:
            rivals.append(_cpu(rival) * EVENTS / part)
    size = file.stat().st_size / EVENTS
    wrote, read = statistics.median(writes), statistics.median(reads)
    yield {"what": "reference stream, size", "value": f"{size:.1f} B/ev", "note": f"raw {layout.stride} B"}
    speed = f"{EVENTS / wrote / 1e6:.1f} M/s"
    yield {"what": "reference stream, write", "value": speed, "note": "events a second of one core"}
    speed = f"{EVENTS / read / 1e6:.1f} M/s"
    yield {"what": "reference stream, read and group", "value": speed, "note": "sum by cgroup"}
    if encode:
        other = statistics.median(rivals)
        note = f"{other / wrote:.1f} x our CPU (already decoded), {rival_bytes / part:.1f} B/ev"
        speed = f"{EVENTS / other / 1e6:.1f} M/s"
        yield {"what": "msgspec JSON lines, as well packed", "value": speed, "note": note}
    else:
        yield {"what": "msgspec", "value": "-", "note": "not installed: pip install msgspec"}


def _encoder(name: str) -> Callable[[Any], bytes] | None:
    try:
        module: Any = importlib.import_module(name)
    except ImportError:
        return None
    encode: Callable[[Any], bytes] = module.dumps if name == "orjson" else module.json.Encoder().encode
    return encode


def _bcc_callback(fd: int, layout: Layout, out: Any) -> Callable[[], None] | None:
    """What bcc's open_ring_buffer does: libbcc's consumer, a ctypes callback, event() as a ctypes structure."""
    encode = _encoder("orjson")
    try:
        library = ctypes.CDLL("libbcc.so.0")
    except OSError:
        return None
    if encode is None:
        return None
    kinds: dict[str, Any] = {
        "Q": ctypes.c_uint64, "I": ctypes.c_uint32, "i": ctypes.c_int32, "H": ctypes.c_uint16, "?": ctypes.c_bool,
        "B": ctypes.c_uint8,
    }  # fmt: skip

    class Event(ctypes.Structure):
        _fields_ = [(f.name, ctypes.c_char * f.size if f.kind == "bytes" else kinds[f.code]) for f in layout.fields]

    names = [f.name for f in layout.fields if f.name != "path"]

    def handle(_context: int, data: int, _size: int) -> int:
        event = ctypes.cast(data, ctypes.POINTER(Event)).contents
        record = {name: getattr(event, name) for name in names}
        record["comm"] = event.comm.decode("utf-8", "replace")
        record["path"] = event.path.decode("utf-8", "replace")
        out.write(encode(record) + b"\n")
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    callback = kind(handle)
    library.bpf_new_ringbuf.restype = ctypes.c_void_p
    ring = library.bpf_new_ringbuf(fd, callback, None)
    library.bpf_consume_ringbuf.argtypes = [ctypes.c_void_p]

    def consume(_keep: Any = callback) -> None:
        library.bpf_consume_ringbuf(ring)

    return consume


def _drain(rounds: int, directory: Path, objects: Path) -> Iterator[dict[str, str]]:
    from kubetrace.engines.libbpf import LoadedObject

    count = 16_000
    workload = subprocess.Popen(
        [sys.executable, "-S", "-c", _WORKLOAD, "0", "0", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert workload.stdin is not None and workload.stdout is not None
    constants = {"standin_pid": workload.pid}
    with (
        LoadedObject(objects / "copyup.bpf.o", constants=constants) as loaded,
        open(directory / "bcc.jsonl", "wb") as out,
    ):
        layout = loaded.layout("copyup_event")
        ring = loaded.ring("copyup", layout.size)
        header = Header("n", "k", 0, (Traced("copyup", streams=(Stream(1, "copyup", layout),)),))
        recorder = Recorder(directory / "drain.ktrace", header, force=True)
        tick = itertools.count()

        def mine() -> None:
            now = next(tick)
            recorder.write(Step((), [Batch("copyup/copyup", ring.read())], {}, Tick(now, now, now)))
            recorder.flush()

        theirs = _bcc_callback(loaded.map_fd("copyup"), layout, out)
        times: dict[str, list[float]] = {"mine": [], "theirs": []}
        for _ in range(rounds):
            for name, act in (("mine", mine), ("theirs", theirs)):
                if act is None:
                    continue
                workload.stdin.write(f"{count}\n")
                workload.stdin.flush()
                workload.stdout.readline()
                times[name].append(_cpu(act) / count * 1e9)
        recorder.close()
        size = recorder.bytes / (rounds * count)
        lines = out.tell() / (rounds * count)
    workload.kill()
    workload.communicate()
    cost = statistics.median(times["mine"])
    note = f"{size:.1f} B/ev, records of {layout.stride} B"
    yield {"what": "drain to a recording", "value": f"{cost:.0f} ns/ev", "note": note}
    what = "bcc callback + orjson lines"
    if theirs is None:
        yield {"what": what, "value": "-", "note": "not installed: apt-get install libbpfcc; pip install orjson"}
        return
    other = statistics.median(times["theirs"])
    note = f"{other / cost:.1f} x ours, {lines:.0f} B/ev"
    yield {"what": what, "value": f"{other:.0f} ns/ev", "note": note}


def _live(directory: Path, objects: Path, rate: int, seconds: float = 4.0) -> dict[str, str]:
    file, ready = directory / f"live{rate}.ktrace", directory / f"ready{rate}"
    environment = {**os.environ, "KUBETRACE_OBJECTS": str(objects)}
    process = subprocess.Popen(
        [sys.executable, "-m", "kubetrace", "record", "copyup", str(file), "--force", "--ready-file", str(ready)],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    while not ready.exists() and process.poll() is None:
        time.sleep(0.01)
    subprocess.run([sys.executable, "-S", "-c", _WORKLOAD, str(rate), str(seconds), str(directory)], check=True)
    process.send_signal(signal.SIGINT)
    process.wait()
    found = json.loads(
        subprocess.run(
            [sys.executable, "-m", "kubetrace", "info", str(file), "-o", "json"], capture_output=True, check=True
        ).stdout
    )
    (tracer,) = found["tracers"]
    with Recording(file) as recording:
        ticks = [step.tick for step in recording.steps() if step.tick is not None]
    cpu = (ticks[-1].cpu_ns - ticks[0].cpu_ns) / (ticks[-1].elapsed_ns - ticks[0].elapsed_ns)
    lost = sum(tracer["losses"].values())
    note = f"{lost} lost of {tracer['events'] + lost}, {found['bytes'] / max(1, tracer['events']):.1f} B/ev"
    return {"what": f"live, {rate} events/s asked for", "value": f"{100 * cpu:.1f} % CPU", "note": note}


def run(rounds: int) -> list[dict[str, str]]:
    """Rows of what, value and note."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        objects = directory / "objects"
        source = ROOT / "tests" / "native" / "standin.bpf.c"
        compile_objects.compile_object(source, objects / "copyup.bpf.o", platform.machine(), "-I", str(ROOT / "bpf"))
        return [
            *_format(max(1, rounds // 3), directory),
            *_drain(rounds, directory, objects),
            *(_live(directory, objects, rate) for rate in (10_000, 100_000, 500_000)),
        ]
