"""Records as columns: smaller, the same again, and whatever a file says they cost no more than it may have."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubetrace.recording.frames import pack, unpack_payload
from kubetrace.recording.header import Header, Stream, Traced
from kubetrace.recording.reader import Recording
from kubetrace.recording.transpose import fits, fold, room, split_of, unfold
from kubetrace.recording.writer import Recorder
from kubetrace.stream.layout import Batch, Field, Layout
from kubetrace.stream.steps import Step, Tick
from tests.unit.recordings import Found, frames
from tests.unit.test_pipeline import BIRTH, EVENT

# Four records of two bytes and a text of three, of which the third has the first one's; by the format's page.
RECORDS = b"".join([b"\x01\x02abc", b"\x03\x04xyz", b"\x05\x06abc", b"\x07\x08\0\0\0"])
COLUMNS = b"".join(
    [b"\x02\0\0\0", b"\x01\x03\x05\x07", b"\x02\x04\x06\x08", b"\x00\x01\x00\x03", bytes(4), b"abcxyz\0\0\0"]
)


def test_columns_are_what_the_page_says() -> None:
    assert fold(RECORDS, 4, 2) == COLUMNS
    assert unfold(COLUMNS, 4, 20) == RECORDS
    assert fold(b"abcd", 2, 2) == b"\x02\0\0\0acbd"  # no text: no numbers
    assert unfold(b"\x02\0\0\0acbd", 2, 4) == b"abcd"


def test_the_number_of_a_text_is_that_of_the_first_record_with_it() -> None:
    # 300 texts: the numbers need their high bytes; then all of them once more
    texts = [b"%03d" % n for n in range(300)] * 2
    found = fold(b"".join(texts), 600, 0)
    numbers = bytes([*range(256), *range(44)] * 2 + ([0] * 256 + [1] * 44) * 2)
    assert found == b"\0\0\0\0" + numbers + b"".join(texts[:300])
    assert unfold(found, 600, 1800) == b"".join(texts)


@given(st.integers(1, 40), st.integers(0, 8), st.integers(0, 5), st.randoms(use_true_random=False))
def test_any_records_come_back(rows: int, split: int, text: int, chosen: random.Random) -> None:
    if not split + text:
        return
    data = b"".join(bytes(chosen.choices(range(3), k=split + text)) for _ in range(rows))
    columns = fold(data, rows, split)
    assert unfold(columns, rows, len(data)) == data
    assert len(columns) <= room(len(data), rows)


def test_the_largest_frame_comes_back() -> None:
    chosen = random.Random(5)
    data = b"".join(struct.pack("<Q", n) + chosen.randbytes(504) for n in range(16_384))
    assert len(data) == 8 << 20
    (found,) = frames(pack(ord("B"), data, rows=16_384, split=24))
    assert (found.flags, found.size, len(found.payload) <= (8 << 20) + (64 << 10)) == (3, 8 << 20, True)
    assert unpack_payload(found.payload, found.size, flags=found.flags, rows=found.rows) == data


@pytest.mark.parametrize(
    ("layout", "split"),
    [
        (BIRTH, 8 + 24),
        (EVENT, 8 + 198),  # its texts stand before numbers
        (Layout("e", 24, (Field("a", 0, 8, "unsigned"), Field("b", 8, 7, "bytes"), Field("c", 16, 8, "bytes"))), 8 + 8),
        (Layout("e", 16, (Field("a", 0, 12, "bytes"),)), 8),
        (Layout("e", 16, (Field("a", 0, 8, "unsigned"),)), 8 + 16),
    ],
)
def test_texts_are_the_bytes_behind_the_last_number(layout: Layout, split: int) -> None:
    assert split_of(layout) == split


# What a file may say.


@pytest.mark.parametrize(
    ("payload", "rows", "size"),
    [
        (b"", 4, 20),
        (b"\x02\0\0", 4, 20),
        (COLUMNS, 0, 0),
        (COLUMNS, 0, 20),
        (COLUMNS, 4, 0),
        (COLUMNS, 4, 21),
        (COLUMNS, 5, 20),
        (COLUMNS, 0xFFFFFFFF, 0xFFFFFFFF),
        (COLUMNS[:-1], 4, 20),
        (COLUMNS + b"\0", 4, 20),
        (COLUMNS[:12], 4, 20),
        (b"\x06" + COLUMNS[1:], 4, 20),
        (b"\xff\xff\xff\xff" + COLUMNS[4:], 4, 20),
        (COLUMNS[:12] + b"\x00\x01\x02\x03" + COLUMNS[16:], 4, 20),  # four texts, of which three are there
        (COLUMNS[:12] + b"\x00\x01\x00\x01" + COLUMNS[16:], 4, 20),  # two, of which three are there
    ],
)
def test_what_is_no_columns_is_none(payload: bytes, rows: int, size: int) -> None:
    assert unfold(payload, rows, size) is None


def test_a_number_without_a_record_still_names_one_text() -> None:
    assert unfold(COLUMNS[:12] + b"\x09\x0a\x09\xff" + COLUMNS[16:], 4, 20) == RECORDS


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 50), st.integers(0, 300), st.integers(0, 40))
def test_any_bytes_are_records_or_none(payload: bytes, rows: int, size: int, split: int) -> None:
    for given_bytes in (payload, struct.pack("<I", split) + payload):
        found = unfold(given_bytes, rows, size)
        assert found is None or len(found) == size


def test_absurd_counts_are_refused_before_any_work() -> None:
    # a record of 8 MiB would be as many columns, a byte each
    wide = struct.pack("<I", 8 << 20) + bytes(8 << 20)
    tall = struct.pack("<I", 1) + bytes(8 << 20)
    tracemalloc.start()
    try:
        assert not fits(1, 8 << 20) and unfold(wide, 1, 8 << 20) is None
        assert not fits(8 << 20, 8 << 20) and unfold(tall, 8 << 20, 8 << 20) is None
        assert tracemalloc.get_traced_memory()[1] < 4096
    finally:
        tracemalloc.stop()
    # the most that is allowed
    rows = 1023
    (found,) = frames(pack(ord("B"), bytes(rows * 8200), rows=rows, split=8200))
    assert found.flags == 3 and len(found.payload) < 4096
    assert unpack_payload(found.payload, found.size, flags=3, rows=rows) == bytes(rows * 8200)


# What a recorder makes of it.

_HEADER = Header("n", "k", 0, (Traced("births", streams=(Stream(1, "births", BIRTH),)),))
_CHOSEN = random.Random(7)
_PATHS = [f"/kubepods.slice/pod{_CHOSEN.getrandbits(64):016x}".encode() for _ in range(40)]


def births(count: int, start: int = 0) -> bytes:
    """Records that differ in some bytes of each number, with one of 40 paths."""
    chosen, out = random.Random(start), bytearray()
    for n in range(start, start + count):
        path, bits = chosen.choice(_PATHS), chosen.getrandbits
        numbers = n << 36 | bits(36), bits(36), bits(20), n % 3 | bits(5) << 8, len(path) | bits(4) << 8
        out += struct.pack("<8xQQIHH128s", *numbers, path)
    return bytes(out)


def dull(count: int) -> bytes:
    """Records that hardly differ."""
    return b"".join(struct.pack("<8xQQIHH128s", n, 21, 0, 0, 2, b"/a") for n in range(count))


def recorded(path: Path, parts: list[bytes], *, header: Header = _HEADER) -> list[Found]:
    """Each part a segment; all are read again. Returns the frames of records."""
    recorder = Recorder(path, header, force=True)
    for number, data in enumerate(parts):
        recorder.write(Step([], [Batch(header.numbers[1], data)], {}, Tick(number, number, number)))
        recorder.flush()
    recorder.close()
    with Recording(path) as recording:
        found = [b"".join(batch.data for batch in step.batches) for step in recording.steps()]
        assert found == parts and not recording.damage
    return [item for item in frames(path.read_bytes()) if item.kind == "B"]


def test_dense_records_become_columns_and_are_less(tmp_path: Path) -> None:
    parts = [births(1100, n * 1100) for n in range(3)]
    made = recorded(tmp_path / "a", parts)
    assert [(item.flags, item.rows, item.size) for item in made] == [(3, 1100, 1100 * 160)] * 3
    plain = sum(len(pack(ord("B"), part, rows=1100)) for part in parts)
    assert sum(len(item.payload) for item in made) < 0.75 * plain


def test_few_records_and_dull_ones_stay_as_they_are(tmp_path: Path) -> None:
    assert [item.flags for item in recorded(tmp_path / "a", [births(1000), dull(5000)])] == [1, 1]


def test_what_is_the_less_is_found_out_again(tmp_path: Path) -> None:
    # dense, then dull from the third segment on: by the 32nd it is noticed; dense again at once
    parts = [births(1100)] * 2 + [dull(1100)] * 40 + [births(1100)]
    flags = [item.flags for item in recorded(tmp_path / "a", parts)]
    assert flags == [3] * 31 + [1] * 11 + [3]


def test_texts_before_numbers_are_not_torn_to_columns(tmp_path: Path) -> None:
    # one of 200 long texts, then 24 random bytes: letter by letter nothing of it repeats
    middle = Layout(
        "e", 120, (Field("text", 0, 96, "bytes"), *(Field(f"n{n}", n, 8, "unsigned") for n in (96, 104, 112)))
    )
    header = Header("n", "k", 0, (Traced("t", streams=(Stream(1, "s", middle),)),))
    words = [b"%080x" % _CHOSEN.getrandbits(320) + bytes(16) for _ in range(200)]
    part = b"".join(bytes(8) + _CHOSEN.choice(words) + _CHOSEN.randbytes(24) for _ in range(2000))
    plain, columns = (len(pack(ord("B"), part, rows=2000, split=split)) for split in (None, split_of(middle)))
    assert 22 * 2000 < plain < columns
    assert [item.flags for item in recorded(tmp_path / "a", [part] * 3, header=header)] == [1, 1, 1]


def test_damage_of_columns_costs_their_frame_alone(tmp_path: Path) -> None:
    parts = [births(1100, n * 1100) for n in range(4)]
    made = recorded(tmp_path / "a", parts)
    data = (tmp_path / "a").read_bytes()
    for _ in range(100):
        hit = _CHOSEN.randrange(len(made))
        at = _CHOSEN.randrange(made[hit].offset, made[hit].end)
        changed = bytearray(data)
        changed[at] ^= 1 << _CHOSEN.randrange(8)
        (tmp_path / "b").write_bytes(changed)
        with Recording(tmp_path / "b") as recording:
            found = [batch.data for step in recording.steps() for batch in step.batches]
            assert found == parts[:hit] + parts[hit + 1 :], at
            assert sum(d.size for d in recording.damage) == made[hit].end - made[hit].offset
    for size in _CHOSEN.sample(range(made[0].offset, len(data)), 50):
        (tmp_path / "b").write_bytes(data[:size])
        with Recording(tmp_path / "b") as recording:
            found = [batch.data for step in recording.steps() for batch in step.batches]
            assert found == parts[: sum(item.end <= size for item in made)], size
