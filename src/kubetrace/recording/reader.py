"""Recording: a .ktrace file as the steps that were taken when it was made, or as much of them as is whole."""

from __future__ import annotations

import io
import os
import struct
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from kubetrace.attribution import facts
from kubetrace.errors import RecordingError
from kubetrace.recording.frames import BATCH, END, FACTS, HEADER, LOSSES, MAGIC, STEPS, Damage, Frame, FrameReader
from kubetrace.recording.header import Header, newer, parse
from kubetrace.stream.layout import Batch
from kubetrace.stream.steps import Step, Tick, split

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Fact

# What one segment may unpack to, and the facts of a whole file, the texts in their lists among them: twice what a
# recorder flushes at once, and more than a node has in the lifetime of its kernel. They bound the memory that a hostile
# file can take.
_SEGMENT_BYTES = 16 << 20
_MOST_FACTS = 250_000
_MOST_FACT_BYTES = 64 << 20
# The longest is an image of 500 layers with all of their lines.
_MOST_LINE_BYTES = 4 << 20
# So many facts are learned at once: what asks for the end is heard between two steps.
_STEP_FACTS = 4096
_MOST_KINDS = 64
_MOST_U64 = (1 << 63) - 1


@dataclass(frozen=True)
class End:
    """The closing summary. `rows`: tracer -> records in all parts so far; `continued`: a next part goes on."""

    rows: Mapping[str, int]
    elapsed_ns: int
    wall_ns: int
    continued: bool


class Recording:
    """One file, opened and understood. Use as a context, or close it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises RecordingError for what is not a recording, or one of a newer version."""
        self._reader = FrameReader(path)
        self.path = self._reader.path
        try:
            self.header = self._find_header()
        except BaseException:
            self._reader.close()
            raise
        self.layouts = self.header.layouts
        self.end: End | None = None
        """The closing summary, once the steps are exhausted; None for a recording that was killed."""
        self.ignored_facts = 0
        """Facts of kinds that this version does not know, or that are too many."""
        self._numbers = self.header.numbers
        self._row = struct.Struct(f"<QqQIB{len(self._numbers)}I")

    def __enter__(self) -> Self:
        """Nothing more to open."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._reader.size

    @property
    def damage(self) -> Sequence[Damage]:
        """What is not a whole frame; complete when the steps are exhausted."""
        return self._reader.damage

    @property
    def unknown(self) -> int:
        """Frames that a later version may know."""
        return self._reader.unknown

    @property
    def last_ns(self) -> int:
        """When it ends, in nanoseconds since it began."""
        kinds = bytes([STEPS, BATCH, END])
        return min(max((frame.end for frame in self._reader.frames(kinds, payloads=False)), default=0), _MOST_U64)

    def density(self, streams: Collection[str], parts: int) -> list[float]:
        """About how many records of these streams (steps.stream_key) there are in each of so many equal parts of it."""
        numbers = {number for number, key in self._numbers.items() if key in streams}
        found = [0.0] * parts
        length = max(1, self.last_ns)
        for frame in self._reader.frames(bytes([BATCH]), payloads=False):
            if frame.stream not in numbers or not frame.rows:
                continue
            first, last = (min(parts - 1, max(0, at) * parts // length) for at in (frame.begin, frame.end))
            for at in range(first, max(first, last) + 1):
                found[at] += frame.rows / (max(first, last) + 1 - first)
        return found

    def holds(self, stream: str) -> bool:
        """Whether there are records of a stream (steps.stream_key)."""
        numbers = {number for number, key in self._numbers.items() if key == stream}
        frames = self._reader.frames(bytes([BATCH]), payloads=False)
        return any(frame.stream in numbers and frame.rows for frame in frames)

    def _find_header(self) -> Header:
        for frame in self._reader.frames(bytes([HEADER])):
            header = Header.from_json(frame.payload)
            if header is not None:
                return header
        with open(self.path, "rb") as file:
            magic = file.read(4)
        if magic[:3] == MAGIC[:3] and magic[3:].isdigit() and magic > MAGIC:
            raise newer(magic[3:].decode())
        if not self._reader.size:
            raise RecordingError(f"{self.path} is empty.", why="Its recorder was ended before it could write anything.")
        raise RecordingError(
            f"{self.path} is not a recording: it holds no whole header.",
            why="Either it is another kind of file, or its beginning is lost.",
            do="give a file that kubetrace record made",
        )

    def steps(self, batches_from: int = 0) -> Iterator[Step]:
        """Every step, in order; of segments that end before `batches_from` (ns since the beginning) no records."""
        self.end, self.ignored_facts = None, 0
        self._facts = self._fact_bytes = 0
        self._last = Tick(0, 0, 0)
        segment: list[Frame] = []
        size = 0
        for frame in self._reader.frames(batches_from=batches_from):
            if frame.kind == HEADER:  # known already; read to see whether its copy is whole
                continue
            if segment and (frame.segment != segment[0].segment or size + len(frame.payload) > _SEGMENT_BYTES):
                yield from self._assemble(segment)
                segment, size = [], 0
            if frame.kind == END:
                self._read_end(frame.payload)
            else:
                segment.append(frame)
                size += len(frame.payload)
        if segment:
            yield from self._assemble(segment)

    def _read_end(self, payload: bytes) -> None:
        data = parse(payload)
        if data is None:
            return
        rows = data.get("rows")
        self.end = End(
            {k: _count(v) for k, v in rows.items() if k in {t.name for t in self.header.tracers}}
            if isinstance(rows, dict)
            else {},
            _count(data.get("elapsed_ns")),
            _count(data.get("wall_ns")),
            data.get("continued") is True,
        )

    # One segment: its frames put together again as far as they are there. Each says which of the segment's facts or
    # records it holds, so a missing one leaves a hole and moves nothing.

    def _assemble(self, frames: list[Frame]) -> Iterator[Step]:
        learned: dict[int, Fact] = {}
        losses: dict[int, dict[str, dict[str, int]]] = {}
        pieces: dict[str, list[tuple[int, int, bytes]]] = {key: [] for key in self._numbers.values()}
        rows: list[tuple[Any, ...]] = []
        for frame in sorted(frames, key=lambda frame: frame.first):
            if frame.kind == FACTS:
                self._read_facts(frame, learned)
            elif frame.kind == LOSSES:
                self._read_losses(frame, losses)
            elif frame.kind == BATCH:
                key = self._numbers.get(frame.stream)
                if key is not None and frame.rows * self.layouts[key].stride == len(frame.payload):
                    pieces[key].append((frame.first, frame.rows, frame.payload))
            elif frame.kind == STEPS and frame.rows * self._row.size == len(frame.payload):
                rows += self._row.iter_unpack(frame.payload)
        told = _Cursor(sorted(learned))
        streams = {key: _Pieces(found, self.layouts[key].stride) for key, found in pieces.items()}
        for number, (elapsed, wall, cpu, fact_count, has_tick, *counts) in enumerate(rows):
            self._last = Tick(min(elapsed, _MOST_U64), wall, min(cpu, _MOST_U64))
            batches = [
                batch
                for (key, stream), count in zip(streams.items(), counts, strict=True)
                for batch in stream.take(key, count)
            ]
            yield from self._parts(
                [learned[at] for at in told.take(fact_count)],
                batches,
                losses.pop(number, {}),
                self._last if has_tick else None,
            )
        # What no row accounts for: the steps' own frame is lost.
        batches = [batch for key, stream in streams.items() for batch in stream.rest(key)]
        left = [learned[at] for at in told.take(1 << 62)]
        if batches or left or losses:
            late: dict[str, dict[str, int]] = {}
            for number in sorted(losses):
                late.update(losses[number])
            end = min(frames[0].end, _MOST_U64)
            passed = max(0, end - self._last.elapsed_ns)
            self._last = Tick(self._last.elapsed_ns + passed, self._last.wall_ns + passed, self._last.cpu_ns)
            yield from self._parts(left, batches, late, self._last if not rows else None)

    def _parts(
        self, learned: list[Fact], batches: list[Batch], losses: dict[str, dict[str, int]], tick: Tick | None
    ) -> Iterator[Step]:
        # A recorder's step fits, but for the first of a large node; one of a hostile file is cut.
        while len(learned) > _STEP_FACTS:
            yield Step(facts=learned[:_STEP_FACTS])
            learned = learned[_STEP_FACTS:]
        parts = list(split(batches, self.layouts)) or [[]]
        for part in parts[:-1]:
            yield Step(facts=learned, batches=part)
            learned = []
        yield Step(facts=learned, batches=parts[-1], losses=losses, tick=tick)

    def _read_facts(self, frame: Frame, learned: dict[int, Fact]) -> None:
        for number, line in enumerate(io.BytesIO(frame.payload), frame.first):
            # a text of one wide character takes four bytes for each of them
            size = 4 * len(line) if b"\\u" in line else len(line)
            if self._facts >= _MOST_FACTS or self._fact_bytes + size > _MOST_FACT_BYTES or len(line) > _MOST_LINE_BYTES:
                self.ignored_facts += 1
                continue
            self._fact_bytes += size
            try:
                fact = facts.from_json(line) if line.isascii() else None
            except ValueError:
                fact = None
            if fact is None:
                self.ignored_facts += 1
            else:
                learned[number] = fact
                self._facts += 1 + facts.items(fact)

    def _read_losses(self, frame: Frame, losses: dict[int, dict[str, dict[str, int]]]) -> None:
        for line in islice(io.BytesIO(frame.payload), frame.rows):
            data = parse(line) if len(line) <= _MOST_LINE_BYTES else None
            if data is None or not isinstance(data.get("losses"), dict) or not isinstance(data.get("tracer"), str):
                continue
            step = data.get("step")
            counts = {str(kind): _count(count) for kind, count in list(data["losses"].items())[:_MOST_KINDS]}
            losses.setdefault(step if type(step) is int else 0, {})[data["tracer"]] = counts


class _Cursor:
    """Which of the numbers there are come next, of a sequence that may have holes."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = numbers
        self._at = 0
        self._end = 0

    def take(self, count: int) -> list[int]:
        """Those of the next `count`."""
        self._end += count
        stop = bisect_right(self._numbers, self._end - 1)
        found = self._numbers[self._at : stop]
        self._at = stop
        return found


class _Pieces:
    """A stream's records of one segment, of which some may be missing."""

    def __init__(self, pieces: list[tuple[int, int, bytes]], stride: int) -> None:
        self._pieces = pieces[::-1]
        self._stride = stride
        self._at = 0

    def take(self, key: str, count: int) -> list[Batch]:
        """Those of the next `count` records that are there."""
        end = self._at + count
        found = []
        while self._pieces and count:
            first, rows, data = self._pieces[-1]
            start, stop = max(first, self._at), min(first + rows, end)
            if start < stop:
                found.append(Batch(key, data[(start - first) * self._stride : (stop - first) * self._stride]))
            if first + rows > end:
                break
            self._pieces.pop()
        self._at = end
        return found

    def rest(self, key: str) -> list[Batch]:
        """All that is left."""
        return self.take(key, 1 << 62)


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= _MOST_U64 else 0
