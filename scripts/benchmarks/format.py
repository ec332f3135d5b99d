"""What a recording costs in bytes and CPU: the reference stream beside JSON lines by msgspec that are packed as well.

The stream is that of the performance notes: 12 columns, 20,000 paths of 47 characters in the mean, taken by rank
(Zipf), in records of 256 bytes. Packed is by zstd at the same level, and read again is decoded and summed by cgroup.
"""

from __future__ import annotations

import random
import struct
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, cpu, interleaved, median, missing, spread
from benchmarks.peers import encoder
from kubetrace.recording.frames import pack
from kubetrace.recording.header import Header, Stream, Traced
from kubetrace.recording.reader import Recording
from kubetrace.recording.writer import Recorder
from kubetrace.stream.layout import Batch, Field, Layout
from kubetrace.stream.steps import STEP_ROWS, Step, Tick

EVENTS = 1_000_000
# Decoded rows of the rival are a tenth: they are Python objects, and the time is linear.
_PART = EVENTS // 10
_FIELDS = [
    "time", "cgroup_id", "inode", "offset", "bytes", "latency", "pid", "device", "result", "op", "path_bytes", "comm",
    "path",
]  # fmt: skip
_CODES = "QQQQQQIIiHH16s168s"
_SIZES = {"Q": 8, "I": 4, "i": 4, "H": 2}
_ROW = struct.Struct("<8x" + _CODES)


def layout_of_reference() -> Layout:
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


def reference() -> bytes:
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


def run(rounds: int) -> list[Row]:
    """Bytes per event; millions of events a second of one core, written and read."""
    layout, data = layout_of_reference(), reference()
    header = Header("n", "k", 0, (Traced("t", streams=(Stream(1, "events", layout),)),))
    chunk = STEP_ROWS * layout.stride
    chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    pair = struct.Struct("<8x8xQ16xQ" + f"{layout.stride - 48}x")
    encode = encoder("msgspec")
    rows = [dict(zip(_FIELDS, row, strict=True)) for row in _ROW.iter_unpack(data[: _PART * layout.stride])]
    for row in rows:
        row["comm"], row["path"] = (row[key].partition(b"\0")[0].decode() for key in ("comm", "path"))
    lines_bytes: list[int] = []
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "a.ktrace"

        def write() -> None:
            recorder = Recorder(file, header, force=True)
            for number, batch in enumerate(chunks):
                recorder.write(Step((), [Batch("t/events", batch)], {}, Tick(number, number, number)))
            recorder.close()

        def read() -> None:
            totals: dict[int, int] = {}
            with Recording(file) as recording:
                for step in recording.steps():
                    for batch in step.batches:
                        for cgroup, size in pair.iter_unpack(batch.data):
                            try:
                                totals[cgroup] += size
                            except KeyError:
                                totals[cgroup] = size

        def rival() -> None:
            assert encode is not None
            written = 0
            for at in range(0, len(rows), STEP_ROWS):
                lines = b"\n".join([encode(row) for row in rows[at : at + STEP_ROWS]])
                written += len(pack(0, lines, rows=1))
            lines_bytes.append(written)

        ways: dict[str, Any] = {"write": lambda: cpu(write) / EVENTS, "read": lambda: cpu(read) / EVENTS}
        if encode is not None:
            ways["rival"] = lambda: cpu(rival) / _PART
        found = interleaved(ways, rounds)
        size = file.stat().st_size / EVENTS
    made = [
        Row("recording, size", size, f"{size:.1f} B/ev", f"of {layout.stride} in the ring; budget: at most 22"),
        _speed("recording, write", found["write"], "budget: 4 M/s"),
        _speed("recording, read and group by cgroup", found["read"], "budget: 3 M/s"),
    ]
    if encode is None:
        return [*made, missing("msgspec", "pip install msgspec")]
    ratio = median(found["rival"]) / median(found["write"])
    note = f"{ratio:.1f} x our CPU, though already decoded; {lines_bytes[0] / _PART:.1f} B/ev"
    return [*made, _speed("msgspec JSON lines, packed as well, write", found["rival"], note)]


def _speed(what: str, samples: tuple[float, ...], note: str) -> Row:
    speed = 1 / median(samples) / 1e6
    return Row(what, speed, f"{speed:.1f} M/s", f"{spread(samples, 1e9)} ns/ev; {note}", samples)
