"""Recordings for tests: steps with known contents, and a parser of frames that shares nothing with the reader."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kubetrace.attribution.facts import CgroupGone, CgroupSeen, Fact, OverlaySeen
from kubetrace.recording.header import Header, Stream, Traced
from kubetrace.recording.writer import Recorder
from kubetrace.stream.layout import Batch
from kubetrace.stream.steps import Step, Tick

from .test_pipeline import BATCH, EVENT, WEB, container, event

HEADER = Header(
    "node1",
    "6.1.0-18-amd64",
    1_795_000_000_000_000_000,
    (Traced("copyup", "fentry", streams=(Stream(1, "copyup", EVENT), Stream(2, "copyup_long", EVENT))),),
)
# What a container may call its files: a terminal's language, bytes that are no text, our own magic.
HOSTILE = (b"/a\x1b[31m\n", b"/\xff\xfe", b"/KTF1", "/\u202egpj.exe".encode(), b"/=cmd|x", b"/" + b"d" * 50)


def facts(at: int) -> list[Fact]:
    return [
        CgroupSeen(0, 21, f"/kubepods/podweb/{WEB}", at),
        container(WEB, "shop", "web-0", "app"),
        OverlaySeen(7, WEB, "/run/x", "/up", "/work", ("/lower",), at),
    ]


def steps(count: int = 40) -> list[Step]:
    """`count` ticks of 100 ms; tick n has n events, each with a copied size and a time of its own."""
    made: list[Step] = []
    number = 0
    for tick in range(count):
        now = tick * 100_000_000
        records = []
        for _ in range(tick):
            number += 1
            cgroup = (21, 30, 8123)[number % 3]
            path = HOSTILE[number % len(HOSTILE)]
            records.append(event(number, cgroup, path, number, device=7 if cgroup == 21 else 99))
        half = len(records) // 2
        batches = [
            Batch("copyup/copyup", b"".join(records[:half])),
            Batch("copyup/copyup_long", b"".join(records[half:])),
        ]
        learned: list[Fact] = facts(0) if tick == 0 else []
        if tick == 9:
            learned = [CgroupSeen(0, 30, f"/kubepods/podx/{BATCH}", now), container(BATCH, "jobs\udcff", "b\n0", "w")]
        if tick == 30:
            learned = [CgroupGone(0, 30, now)]
        losses = {"copyup": {"ring_full": tick // 20 * 3, "map_full": 0}} if tick % 20 == 0 else {}
        time = Tick(now + 7, HEADER.clock_offset_ns + now, now // 100)
        made.append(Step(learned, [batch for batch in batches if batch.data], losses, time))
    return made


def record(
    path: Path, made: Sequence[Step], header: Header = HEADER, *, every: int = 5, close: bool = True
) -> Recorder:
    """Flushed after `every` steps, whatever the time."""
    recorder = Recorder(path, header, force=True)
    for number, step in enumerate(made, 1):
        recorder.write(step)
        if not number % every:
            recorder.flush()
    recorder.close()
    return recorder


class Found(NamedTuple):
    """One frame as the format's page draws it. `payload` is as it is in the file."""

    offset: int
    end: int
    kind: str
    flags: int
    stream: int
    segment: int
    rows: int
    first: int
    size: int
    payload: bytes


def frames(data: bytes) -> Iterator[Found]:
    """Every frame of an undamaged file."""
    at = 0
    while at < len(data):
        magic, kind, flags, stream, segment, rows, first, size, length = struct.unpack_from("<4sBBHIIIII", data, at)
        crc, check = struct.unpack_from("<II", data, at + 44)
        payload = data[at + 52 : at + 52 + length]
        assert magic == b"KTF1" and check == zlib.crc32(data[at : at + 48]) and crc == zlib.crc32(payload)
        yield Found(at, at + 52 + length, chr(kind), flags, stream, segment, rows, first, size, payload)
        at += 52 + length


def frame(kind: str, payload: bytes, *, size: int | None = None, flags: int = 0, **where: int) -> bytes:
    """One frame by the format's page, with any claim that is wanted."""
    given = {"stream": 0, "segment": 0, "rows": 1, "first": 0, "length": len(payload), "begin": 0, "end": 0, **where}
    head = struct.pack(
        "<4sBBHIIIIIQQI",
        b"KTF1",
        ord(kind),
        flags,
        given["stream"],
        given["segment"],
        given["rows"],
        given["first"],
        len(payload) if size is None else size,
        given["length"],
        given["begin"],
        given["end"],
        zlib.crc32(payload),
    )
    return head + struct.pack("<I", zlib.crc32(head)) + payload
