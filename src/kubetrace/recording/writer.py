"""Recorder: steps in, a .ktrace file out; the format is in recording/__init__.py."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kubetrace.attribution import facts
from kubetrace.errors import OutputError, UsageError
from kubetrace.recording.frames import BATCH, END, FACTS, HEADER, LOSSES, MAX_SIZE, STEPS, pack
from kubetrace.recording.header import Header
from kubetrace.recording.private import create, part_before, refuse_existing, refuse_parts
from kubetrace.recording.transpose import split_of
from kubetrace.stream.layout import Batch
from kubetrace.stream.steps import STEP_BYTES, STEP_ROWS, Step, Tick, split

# A kill -9 costs what is not flushed: at most this long, and what came since the tick before.
_FLUSH_S = 0.5
_FLUSH_BYTES = 2 << 20
# Records may become columns from so many in a frame on, and if as they are they take more than so many bytes each.
_MANY = 1024
_DENSE = 22
_EVERY = 32
# The smallest --max-size: below it a file would hold little but its header.
MIN_MAX_SIZE = 64 << 10


class Recorder:
    """Appends steps to a file, in flushes of at most half a second.

    A disk that fills does not stop the run: what is on it stays whole, `trouble` says what happened, and everything
    after it is only counted (`dropped`).
    """

    def __init__(
        self, path: str | os.PathLike[str], header: Header, *, force: bool = False, max_size: int | None = None
    ) -> None:
        """Create the file, readable by its owner only. `max_size` is in bytes: then it is rotated to FILE.1.

        Raises UsageError if the file exists, or that of the rotation (unless `force`, which replaces regular files),
        OutputError if it cannot be created.
        """
        self.path = Path(path)
        self.rows: dict[str, int] = {traced.name: 0 for traced in header.tracers}
        """Tracer -> records so far, in all parts."""
        self.bytes = 0
        """Bytes written, in all parts."""
        self.dropped = 0
        """Records that found no room on the disk."""
        self.trouble = ""
        """Why nothing is written any more, for the user; empty while all is well."""
        self.last = Tick(0, 0, 0)
        """Of the newest step."""
        self.losses: dict[str, dict[str, int]] = {}
        self._header = header
        self._layouts = header.layouts
        self._splits = {key: split_of(layout) for key, layout in self._layouts.items()}
        self._folded: dict[str, bool] = {}
        self._streams = {key: number for number, key in header.numbers.items()}
        self._order = list(header.numbers.values())
        self._owner = {key: key.partition("/")[0] for key in self._order}
        self._row = struct.Struct(f"<QqQIB{len(self._order)}I")
        self._max_size = max_size
        self._replaces = force
        self._known: list[str] = []
        self._size = 0
        self._fresh = 0
        self._segment = 0
        self._clear()
        refuse_parts(self.path, rotated=max_size is not None, force=force)
        self._fd = create(self.path, force=force, append=True)
        self._append(self._preamble())
        if self.trouble:
            os.close(self._fd)
            raise OutputError(
                f"cannot write {self.path}: {self.trouble}.", do="check the free space, or record elsewhere"
            )

    def _clear(self) -> None:
        self._steps: list[bytes] = []
        self._facts: list[str] = []
        self._batches: dict[str, list[bytes]] = {}
        self._loss_lines: list[str] = []
        self._pending = 0
        self._begun: float | None = None
        self._first_ns = self.last.elapsed_ns

    def _preamble(self) -> bytes:
        # The header twice; in a later part everything that was learned before it, too.
        payload = self._header.to_json()
        header = pack(HEADER, payload, rows=1)
        self._segment = 0
        parts = [header, header]
        if self._known or self.losses:
            lines, self._facts = self._facts, self._known
            losses, self._loss_lines = self._loss_lines, [self._loss(0, t, k) for t, k in self.losses.items()]
            steps, self._steps = self._steps, [self._row.pack(*_times(self.last), len(self._known), 0, *self._none())]
            batches, self._batches = self._batches, {}
            parts.append(self._segment_bytes())
            self._facts, self._loss_lines, self._steps, self._batches = lines, losses, steps, batches
        return b"".join(parts)

    def _none(self) -> list[int]:
        return [0] * len(self._order)

    @staticmethod
    def _loss(step: int, tracer: str, losses: Mapping[str, int]) -> str:
        return json.dumps({"step": step, "tracer": tracer, "losses": dict(losses)}, separators=(",", ":"))

    def write(self, step: Step) -> None:
        """Take a step; flushes what has waited long enough."""
        counts = dict.fromkeys(self._order, 0)
        for batch in step.batches:
            if batch.stream in counts:
                rows = len(batch.data) // self._layouts[batch.stream].stride
                counts[batch.stream] += rows
                self.rows[self._owner[batch.stream]] += rows
                self._batches.setdefault(batch.stream, []).append(batch.data)
                self._pending += len(batch.data)
        if step.tick is not None:
            self.last = step.tick
        for tracer, losses in step.losses.items():
            self.losses[tracer] = dict(losses)
            self._loss_lines.append(self._loss(len(self._steps), tracer, losses))
        lines = [facts.to_json(fact) for fact in step.facts]
        self._facts += lines
        self._pending += sum(map(len, lines))
        tick = step.tick
        self._steps.append(self._row.pack(*_times(self.last), len(lines), tick is not None, *counts.values()))
        now = time.monotonic()
        if self._begun is None:
            self._begun = now
        if self._pending >= _FLUSH_BYTES or now - self._begun >= _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        if not self._steps:
            return
        if self.trouble:
            self._drop()
        else:
            data = self._segment_bytes()
            if self._max_size is not None:
                if self._fresh and self._size + len(data) > self._max_size:
                    self._rotate()
                    data = self._segment_bytes()
                self._known += self._facts
            if not self.trouble:
                self._append(data)
                self._fresh += 1
            if self.trouble:
                self._drop()
        self._clear()

    def _drop(self) -> None:
        for stream, batches in self._batches.items():
            self.dropped += sum(map(len, batches)) // self._layouts[stream].stride

    def close(self) -> None:
        """Flush, say that this is the end, and close. The file is on the disk then."""
        self.flush()
        if not self.trouble:
            self._append(self._end(continued=False))
        self._finish()

    def _end(self, *, continued: bool) -> bytes:
        end = {
            "rows": self.rows,
            "elapsed_ns": self.last.elapsed_ns,
            "wall_ns": self.last.wall_ns,
            "losses": self.losses,
            "continued": continued,
        }
        self._segment += 1
        return pack(END, json.dumps(end, separators=(",", ":")).encode("ascii"), rows=1, segment=self._segment)

    def _finish(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS) and not self.trouble:
                self.trouble = error.strerror or str(error)
        os.close(self._fd)

    def _rotate(self) -> None:
        self._append(self._end(continued=True))
        self._finish()
        self._header = replace(self._header, part=self._header.part + 1)
        self._size = self._fresh = 0
        try:
            # what is there the first time may have come since the start
            refuse_existing(part_before(self.path), force=self._replaces)
            os.replace(self.path, part_before(self.path))
            self._replaces = True
            self._fd = create(self.path, force=False, append=True)
        except (OSError, OutputError, UsageError) as error:
            self.trouble = str(getattr(error, "what", "") or getattr(error, "strerror", "") or error)
            self._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            return
        self._append(self._preamble())

    def _segment_bytes(self) -> bytes:
        self._segment += 1
        where = {"segment": self._segment, "begin": self._first_ns, "end": self.last.elapsed_ns}
        frames = [
            pack(
                STEPS,
                b"".join(self._steps[at : at + STEP_ROWS]),
                rows=len(self._steps[at : at + STEP_ROWS]),
                first=at,
                **where,
            )
            for at in range(0, len(self._steps), STEP_ROWS)
        ]
        for kind, lines in ((FACTS, self._facts), (LOSSES, self._loss_lines)):
            first = 0
            for part in _by_size(lines):
                payload = "\n".join(part).encode("ascii")
                frames.append(pack(kind, payload, rows=len(part), first=first, **where))
                first += len(part)
        for stream, batches in self._batches.items():
            layout, first = self._layouts[stream], 0
            for (batch,) in split([Batch(stream, b"".join(batches))], self._layouts):
                rows = len(batch.data) // layout.stride
                frames.append(self._batch(stream, batch.data, rows, first, where))
                first += rows
        return b"".join(frames)

    def _batch(self, stream: str, data: bytes, rows: int, first: int, where: Mapping[str, int]) -> bytes:
        # As columns only what is much and dense, and becomes a quarter less by it: long records cost up to half as much
        # CPU again, and those that differ little pack as well as they are. It is found out once, and in each _EVERY-th
        # segment again.
        number, split, many = self._streams[stream], self._splits[stream], rows >= _MANY
        anew = stream not in self._folded or not self._segment % _EVERY
        if many and not anew and self._folded[stream]:
            return pack(BATCH, data, rows=rows, first=first, stream=number, split=split, **where)
        frame = pack(BATCH, data, rows=rows, first=first, stream=number, **where)
        if many and len(frame) <= _DENSE * rows:
            self._folded.pop(stream, None)
        elif many and anew:
            folded = pack(BATCH, data, rows=rows, first=first, stream=number, split=split, **where)
            self._folded[stream] = 4 * len(folded) <= 3 * len(frame)
            return min(folded, frame, key=len)
        return frame

    def _append(self, data: bytes) -> None:
        # One write(2) for a flush; a disk that takes a part of it is full, and the part is taken back.
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self.trouble = error.strerror or str(error)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            return
        self._size += len(data)
        self.bytes += len(data)


def _times(tick: Tick) -> tuple[int, int, int]:
    return tick.elapsed_ns, tick.wall_ns, tick.cpu_ns


def _by_size(lines: list[str]) -> list[list[str]]:
    # In parts that fit into a frame; a line is one fact, and no fact comes near that size.
    parts: list[list[str]] = []
    size = MAX_SIZE
    for line in lines:
        if size + len(line) + 1 > MAX_SIZE // 4:
            parts.append([])
            size = 0
        parts[-1].append(line)
        size += len(line) + 1
    return parts


assert STEP_BYTES <= MAX_SIZE
