"""Frames of a .ktrace file: packing, and reading that survives any damage; the format is in recording/__init__.py."""

from __future__ import annotations

import os
import stat
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from kubetrace.errors import RecordingError
from kubetrace.recording.transpose import fits, fold, room, unfold

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports import zstd
else:
    from compression import zstd

MAGIC = b"KTF1"
MAX_SIZE = 8 << 20
_MAX_LENGTH = MAX_SIZE + (64 << 10)
_HEADER = struct.Struct("<4sBBHIIIIIQQI")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECK.size
_ZSTD, _COLUMNS = 1, 2
# A window of 8 MiB: no frame of ours is larger, and no foreign one makes the reader reserve more.
_WINDOW_LOG = 23
# zstd's first level; of columns with half its table of matches, which finds the same ones in nine tenths of the time.
_LEVEL = {int(zstd.CompressionParameter.compression_level): 1}
_LEVEL_OF_COLUMNS = {**_LEVEL, int(zstd.CompressionParameter.hash_log): 13}
_SMALL = 128
_CHUNK = 1 << 16
_MOST_DAMAGE = 1000
_TORN = "incomplete: the last {} bytes are not a whole frame"

HEADER, STEPS, FACTS, BATCH, LOSSES, END = b"HSFBLE"


class _Allowance(NamedTuple):
    # What the frames of a kind may hold: so many bytes and rows, and so many more for each byte that they take up.
    size: int
    size_per_byte: int
    rows: int
    rows_per_byte: float


# A small file packs what takes minutes and gigabytes to read: what is read is bounded by what the file pays for.
# Recorders of all tracers reach an eighth of each of these at most (facts 8 bytes for one, records 55; 0.2 records and
# 0.05 steps for a byte).
_ALLOWED = {
    HEADER: _Allowance(1 << 20, 64, 1 << 10, 1),
    FACTS: _Allowance(1 << 20, 64, 1 << 12, 2),
    LOSSES: _Allowance(1 << 20, 64, 1 << 12, 2),
    END: _Allowance(1 << 20, 64, 1 << 10, 1),
    STEPS: _Allowance(1 << 20, 64, 1 << 12, 0.5),
    BATCH: _Allowance(MAX_SIZE, 1024, 1 << 18, 2),
}


class Frame(NamedTuple):
    """One whole frame. `payload` is unpacked; `begin` and `end` are nanoseconds since the recording began."""

    kind: int
    stream: int
    segment: int
    rows: int
    first: int
    begin: int
    end: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of the file that are not a whole frame."""

    offset: int
    size: int
    what: str

    def __str__(self) -> str:
        """As a person reads it."""
        return f"{self.size} bytes at {self.offset}: {self.what}"


def pack(
    kind: int,
    payload: bytes | memoryview,
    *,
    rows: int,
    stream: int = 0,
    segment: int = 0,
    first: int = 0,
    begin: int = 0,
    end: int = 0,
    split: int | None = None,
) -> bytes:
    """A frame, compressed if that pays. The payload has at most MAX_SIZE bytes.

    `split`: the payload is `rows` equal records, which may be written as columns; their texts begin there.
    """
    size, flags, packed = len(payload), 0, bytes(payload) if len(payload) < _SMALL else b""
    if not packed and size:
        if split is not None and fits(rows, size):
            payload, flags = fold(payload, rows, split), _COLUMNS
        packed = zstd.compress(payload, options=_LEVEL_OF_COLUMNS if flags else _LEVEL)
        flags |= _ZSTD
    head = _HEADER.pack(
        MAGIC, kind, flags, stream, segment, rows, first, size, len(packed), begin, end, zlib.crc32(packed)
    )
    return head + _CHECK.pack(zlib.crc32(head)) + packed


def unpack_payload(data: bytes, size: int, *, flags: int = _ZSTD, rows: int = 0) -> bytes | None:
    """The payload of `size` bytes; None if `data` is not one of exactly so many, packed as the flags say."""
    if flags & _COLUMNS:
        columns = None
        if fits(rows, size):
            columns = _inflate(data, room(size, rows)) if flags & _ZSTD else data
        return None if columns is None else unfold(columns, rows, size)
    found = _inflate(data, size) if flags & _ZSTD else data
    return found if found is not None and len(found) == size else None


def _inflate(data: bytes, most: int) -> bytes | None:
    # None for what is not one whole zstd frame of at most so many bytes.
    options = {int(zstd.DecompressionParameter.window_log_max): _WINDOW_LOG}
    machine = zstd.ZstdDecompressor(options=options)
    try:
        found = machine.decompress(data, max_length=most + 1)
    except zstd.ZstdError:
        return None
    return found if len(found) <= most and machine.eof and not machine.unused_data else None


class FrameReader:
    """Every whole frame of a file, in order, in bounded memory whatever the file says.

    `damage` is complete when `frames` is exhausted. A file that grows is read up to the size that it had at first.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises RecordingError if there is no such regular file."""
        self.path = Path(path)
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise RecordingError(f"{self.path} is not a regular file.", do="give a file that kubetrace record made")
            self._file: BinaryIO = open(path, "rb")  # noqa: SIM115  # closed by close()
        except OSError as error:
            raise RecordingError(f"cannot read {self.path}: {error.strerror or error}.") from error
        self.size = status.st_size
        self.damage: list[Damage] = []
        self.unknown = 0
        """Frames of kinds, or with flags, that this version does not know."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def frames(self, wanted: bytes = b"HSFBLE", *, batches_from: int = 0, payloads: bool = True) -> Iterator[Frame]:
        """Frames of the wanted kinds, from the start of the file; batches only of segments that end late enough.

        `batches_from`: nanoseconds since the recording began. Without `payloads` these are not read, and are b"".
        """
        self.damage.clear()
        self.unknown = 0
        left: dict[int, list[float]] = {kind: [allowed.size, allowed.rows] for kind, allowed in _ALLOWED.items()}
        at = 0
        while at < self.size:
            head = self._read(at, HEADER_BYTES)
            if not _whole(head, 0):
                at = self._resync(at)
                continue
            _, kind, flags, stream, segment, rows, first, size, length, begin, end, crc = _HEADER.unpack_from(head)
            if size > MAX_SIZE or length > _MAX_LENGTH:
                self._damaged(at, HEADER_BYTES, "a frame of an impossible size")
                at += HEADER_BYTES
                continue
            whole = HEADER_BYTES + length
            if at + whole > self.size:
                # Only a torn tail, unless the file lost bytes in the middle: then frames follow.
                at = self._resync(at)
                continue
            at += whole
            if kind not in b"HSFBLE" or flags & ~(_ZSTD | _COLUMNS):
                self.unknown += 1
                continue
            if kind not in wanted or (kind == BATCH and end < batches_from):
                continue
            if not payloads:
                yield Frame(kind, stream, segment, rows, first, begin, end, b"")
                continue
            if not _paid(left[kind], _ALLOWED[kind], whole, size, rows):
                self._damaged(at - whole, whole, "a frame that holds more than so few bytes can")
                continue
            payload: bytes | None = self._read(at - length, length)
            if payload is None or len(payload) != length or zlib.crc32(payload) != crc:
                self._damaged(at - whole, whole, "a frame that was changed")
                continue
            payload = unpack_payload(payload, size, flags=flags, rows=rows)
            if payload is None:
                self._damaged(at - whole, whole, "a frame that does not unpack")
                continue
            yield Frame(kind, stream, segment, rows, first, begin, end, payload)

    def _read(self, at: int, size: int) -> bytes:
        try:
            self._file.seek(at)
            return self._file.read(size)
        except OSError as error:
            raise RecordingError(f"cannot read {self.path}: {error.strerror or error}.") from error

    def _resync(self, start: int) -> int:
        # Where the next header that checks begins, behind `start`; the end of the file if there is none.
        at = start + 1
        while at + HEADER_BYTES <= self.size:
            chunk = self._read(at, min(_CHUNK, self.size - at))
            if len(chunk) < HEADER_BYTES:
                break
            found = chunk.find(MAGIC)
            while 0 <= found <= len(chunk) - HEADER_BYTES:
                if _whole(chunk, found):
                    self._damaged(start, at + found - start, "no whole frame")
                    return at + found
                found = chunk.find(MAGIC, found + 1)
            at += len(chunk) - HEADER_BYTES + 1
        self._damaged(start, self.size - start, _TORN)
        return self.size

    def _damaged(self, offset: int, size: int, what: str) -> None:
        # A hostile file can hold any number of flaws: neighbours are one, and a list of them is bounded.
        last = self.damage[-1] if self.damage else None
        if last is not None and (last.offset + last.size == offset or len(self.damage) >= _MOST_DAMAGE):
            self.damage.pop()
            offset, size = last.offset, offset + size - last.offset
        self.damage.append(Damage(offset, size, what.format(size)))


def _paid(left: list[float], allowed: _Allowance, whole: int, size: int, rows: int) -> bool:
    # Whether a frame's contents are within what its kind has `left`; takes them from it.
    left[0] += whole * allowed.size_per_byte
    left[1] += whole * allowed.rows_per_byte
    if size > left[0] or rows > left[1]:
        return False
    left[0] -= size
    left[1] -= rows
    return True


def _whole(data: bytes, at: int) -> bool:
    if len(data) < at + HEADER_BYTES or data[at : at + 4] != MAGIC:
        return False
    check = _CHECK.unpack_from(data, at + _HEADER.size)[0]
    return bool(zlib.crc32(data[at : at + _HEADER.size]) == check)
