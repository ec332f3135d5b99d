"""Feed mutated recordings to info, replay and export: python -m tests.recordings.fuzz SECONDS FILE.ktrace...

By hand, with atheris installed beside kubetrace. Every third input is raw bytes behind a whole header; the others
change what is inside a real recording's frames and give each a right checksum, so that what is behind the checksum is
reached. Only kubetrace's own errors are allowed; anything else, or 20 s without an answer, ends the run with the input.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

atheris: Any = importlib.import_module("atheris")
with atheris.instrument_imports():
    for _room in (
        *("attribution.attributor", "commands.export", "commands.info", "commands.replay", "pipeline"),
        *("recording.perfetto", "session.export", "session.replay", "tables.counting", "tracers", "views.plain"),
    ):
        importlib.import_module(f"kubetrace.{_room}")
    from kubetrace import tracers
    from kubetrace.commands.group import kubetrace as commands
    from kubetrace.errors import KubetraceError
    from kubetrace.recording.frames import Frame, FrameReader, pack
    from kubetrace.recording.transpose import fits, fold

    for _name in tracers.names():
        tracers.find(_name)

_INPUT = Path(tempfile.mkdtemp(dir="/dev/shm")) / "fuzz.ktrace"
_COMMANDS = (
    ["info", "-o", "json"],
    ["replay", "--final"],
    ["replay", "--final", "-o", "json"],
    ["replay", "--final", "-o", "wide", "--from", "1s", "--to", "1m"],
    ["replay", "--final", "--events", "-o", "wide"],
    ["export", "--format", "csv"],
    ["export", "--format", "jsonl", "--redact"],
    ["export", "--format", "perfetto"],
)


def frames_of(path: str) -> list[Frame]:
    reader = FrameReader(path)
    with contextlib.closing(reader):
        return list(reader.frames())


def packed(frame: Frame) -> bytes:
    return pack(
        frame.kind,
        frame.payload,
        rows=frame.rows,
        stream=frame.stream,
        segment=frame.segment,
        first=frame.first,
        begin=frame.begin,
        end=frame.end,
    )


def mutated(frames: list[Frame], data: Any) -> Iterator[bytes]:
    for frame in frames:
        # 0 when the data is at its end: the rest stays as it was
        what = data.ConsumeIntInRange(0, 15)
        if what == 6:
            continue
        if what == 1:
            at = data.ConsumeIntInRange(0, len(frame.payload))
            part = data.ConsumeBytes(data.ConsumeIntInRange(0, 24))
            payload = frame.payload[:at] + part + frame.payload[at + data.ConsumeIntInRange(0, 24) :]
            frame = frame._replace(payload=payload[: 8 << 20])
        elif what == 2:
            at = data.ConsumeIntInRange(0, max(0, len(frame.payload) - 1))
            payload = bytearray(frame.payload)
            for number, byte in enumerate(data.ConsumeBytes(16)):
                if at + number < len(payload):
                    payload[at + number] = byte
            frame = frame._replace(payload=bytes(payload))
        elif what == 3:
            whole = data.ConsumeIntInRange
            frame = frame._replace(rows=whole(0, 0xFFFFFFFF), first=whole(0, 0xFFFFFFFF), segment=whole(0, 9))
        elif what == 4:
            frame = frame._replace(stream=data.ConsumeIntInRange(0, 9), kind=data.PickValueInList(list(b"HSFBLEZ")))
        elif what == 5:
            yield packed(frame)
        elif what == 7 and fits(frame.rows, len(frame.payload)):
            yield columns(frame, data)
            continue
        yield packed(frame)


def columns(frame: Frame, data: Any) -> bytes:
    """The frame's payload as columns, of which some bytes are others."""
    size = len(frame.payload)
    changed = bytearray(fold(frame.payload, frame.rows, data.ConsumeIntInRange(0, size // frame.rows)))
    at = data.ConsumeIntInRange(0, len(changed))
    changed[at : at + data.ConsumeIntInRange(0, 8)] = data.ConsumeBytes(8)
    made = bytearray(packed(frame._replace(payload=bytes(changed))))
    made[5] |= 2
    struct.pack_into("<I", made, 20, size)
    struct.pack_into("<I", made, 48, zlib.crc32(made[:48]))
    return bytes(made)


def one(raw: bytes, bases: list[list[Frame]]) -> None:
    data = atheris.FuzzedDataProvider(raw)
    frames = data.PickValueInList(bases)
    if data.ConsumeIntInRange(0, 2):
        _INPUT.write_bytes(packed(frames[0]) + b"".join(mutated(frames, data)))
    else:
        _INPUT.write_bytes(packed(frames[0]) + data.ConsumeBytes(data.remaining_bytes()))
    command, *rest = data.PickValueInList(list(_COMMANDS))
    name = data.PickValueInList(tracers.names()) if command == "replay" else None
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        stack.enter_context(contextlib.suppress(KubetraceError, click.ClickException))
        commands.main([command, str(_INPUT), *([name] if name else []), *rest], standalone_mode=False)


def main() -> None:
    bases = [frames_of(path) for path in sys.argv[2:]]
    options = [
        f"-max_total_time={sys.argv[1]}",
        "-timeout=20",
        "-rss_limit_mb=700",
        "-max_len=4096",
        "-len_control=0",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options], lambda raw: one(raw, bases))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
