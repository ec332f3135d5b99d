"""A .ktrace file gives back the steps that went in, and as much of them as is whole after any damage."""

from __future__ import annotations

import json
import os
import random
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubetrace import recording
from kubetrace.attribution.facts import CgroupSeen, Fact, OverlaySeen
from kubetrace.errors import OutputError, RecordingError, UsageError
from kubetrace.recording.frames import FrameReader, pack, unpack_payload
from kubetrace.recording.header import Header
from kubetrace.recording.reader import Recording
from kubetrace.recording.writer import MIN_MAX_SIZE, Recorder
from kubetrace.stream.layout import Batch
from kubetrace.stream.steps import Step, Tick
from tests.unit.recordings import HEADER, Found, frame, frames, record, steps
from tests.unit.test_pipeline import EVENT, event


def read(path: Path) -> tuple[list[Step], Recording]:
    with Recording(path) as recording:
        return list(recording.steps()), recording


def times(found: Iterable[Step]) -> list[int]:
    return sorted(e.time for step in found for batch in step.batches for e in EVENT.decode(batch.data))


def learned(found: Iterable[Step]) -> Counter[Fact]:
    return Counter(fact for step in found for fact in step.facts)


def same(one: Step, other: Step) -> bool:
    return (list(one.facts), list(one.batches), one.losses, one.tick) == (
        list(other.facts),
        list(other.batches),
        other.losses,
        other.tick,
    )


def test_the_page_of_the_format_is_in_the_documentation() -> None:
    page = recording.__doc__
    assert page is not None
    assert f"```text\n{page.strip()}\n```" in (Path(__file__).parents[3] / "docs" / "recording.md").read_text()


def test_a_recording_gives_back_every_step(tmp_path: Path) -> None:
    made = steps()
    record(tmp_path / "a", made)
    found, recording = read(tmp_path / "a")
    assert len(found) == 40 and all(map(same, made, found))
    assert recording.header == HEADER and not recording.damage
    assert recording.end is not None and recording.end.rows == {"copyup": 780} and not recording.end.continued
    assert recording.end.elapsed_ns == 3_900_000_007


def test_the_file_is_its_owners_only_and_not_replaced_unasked(tmp_path: Path) -> None:
    record(tmp_path / "a", [])
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="exists"):
        Recorder(tmp_path / "a", HEADER)
    (tmp_path / "link").symlink_to("/dev/null")
    with pytest.raises(OutputError, match="not a regular file"):
        Recorder(tmp_path / "link", HEADER, force=True)
    with pytest.raises(OutputError, match="cannot create"):
        Recorder(tmp_path / "no" / "a", HEADER)


def test_a_rotation_does_not_replace_what_is_no_part_of_it(tmp_path: Path) -> None:
    other = tmp_path / "a.1"
    other.write_text("precious")
    with pytest.raises(UsageError, match=r"a\.1 exists"):
        Recorder(tmp_path / "a", HEADER, max_size=MIN_MAX_SIZE)
    assert not (tmp_path / "a").exists()
    other.unlink()
    # it may come later; the recording then stops, and says why
    recorder = Recorder(tmp_path / "a", HEADER, max_size=MIN_MAX_SIZE)
    other.write_text("precious")
    for step in steps(2000):
        recorder.write(step)
        recorder.flush()
        if recorder.trouble:
            break
    assert "a.1 exists" in recorder.trouble and other.read_text() == "precious"
    recorder.close()
    # its own parts it replaces, as often as it takes
    other.unlink()
    recorder = Recorder(tmp_path / "b", HEADER, max_size=MIN_MAX_SIZE)
    for step in steps(300):
        recorder.write(step)
        recorder.flush()
    recorder.close()
    with Recording(tmp_path / "b") as last:
        assert not recorder.trouble and last.header.part > 2


def test_a_large_drain_is_cut_into_steps_and_frames(tmp_path: Path) -> None:
    data = b"".join(event(number, 21, b"/a", 1) for number in range(40_009))
    record(tmp_path / "a", [Step(batches=[Batch("copyup/copyup", data)], tick=Tick(1, 2, 3))])
    found, _ = read(tmp_path / "a")
    assert times(found) == list(range(40_009))
    assert [step.tick for step in found] == [None, None, Tick(1, 2, 3)]


def test_rotation_keeps_the_newest_two_parts_each_readable_alone(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a", HEADER, max_size=30_000)
    made = steps(400)
    for step in made:
        recorder.write(step)
        recorder.flush()
    recorder.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.1"]
    assert all(path.stat().st_size < 40_000 for path in tmp_path.iterdir())
    before, older = read(tmp_path / "a.1")
    after, newer = read(tmp_path / "a")
    assert newer.header.part == older.header.part + 1 > 2
    assert older.end is not None and older.end.continued and newer.end is not None and not newer.end.continued
    assert learned(before) == learned(after) == learned(made)
    assert [list(s.batches) for s in [*before[1:], *after[1:]]] == [
        list(s.batches) for s in made[len(made) - len(before) - len(after) + 2 :]
    ]
    assert after[0].losses == {"copyup": {"ring_full": 57, "map_full": 0}}


# Damage.


def expected(whole: list[Found], path: Path) -> tuple[list[int], Counter[Fact]]:
    """What the whole frames hold, by their own account."""
    from kubetrace.attribution.facts import from_json

    found: list[int] = []
    known: Counter[Fact] = Counter()
    for item in whole:
        payload = unpack_payload(item.payload, item.size, flags=item.flags, rows=item.rows)
        assert payload is not None
        if item.kind == "B":
            found += [e.time for e in EVENT.decode(payload)]
        elif item.kind == "F":
            known.update(from_json(line) for line in payload.split(b"\n"))
    return sorted(found), known


def test_a_file_that_was_cut_gives_every_whole_frame(tmp_path: Path) -> None:
    record(tmp_path / "a", steps())
    data = (tmp_path / "a").read_bytes()
    whole = list(frames(data))
    (tmp_path / "b").touch()
    for size in sorted(random.Random(6).sample(range(len(data)), 200)):
        os.truncate(tmp_path / "b", 0)
        (tmp_path / "b").write_bytes(data[:size])
        left = [item for item in whole if item.end <= size]
        if not any(item.kind == "H" for item in left):
            with pytest.raises(RecordingError):
                read(tmp_path / "b")
            continue
        found, recording = read(tmp_path / "b")
        assert (times(found), learned(found)) == expected(left, tmp_path), size
        torn = size - left[-1].end
        assert [str(d) for d in recording.damage] == (
            [f"{torn} bytes at {left[-1].end}: incomplete: the last {torn} bytes are not a whole frame"] if torn else []
        )
        assert recording.end is None


def test_a_flipped_bit_costs_one_frame(tmp_path: Path) -> None:
    record(tmp_path / "a", steps())
    data = (tmp_path / "a").read_bytes()
    whole = list(frames(data))
    chosen = random.Random(23)
    for _ in range(1000):
        at = chosen.randrange(len(data))
        changed = bytearray(data)
        changed[at] ^= 1 << chosen.randrange(8)
        (tmp_path / "b").write_bytes(changed)
        found, recording = read(tmp_path / "b")
        left = [item for item in whole if not item.offset <= at < item.end]
        assert (times(found), learned(found)) == expected(left, tmp_path), at
        assert recording.damage, at
        assert sum(d.size for d in recording.damage) <= max(item.end - item.offset for item in whole)


def test_a_lost_steps_frame_keeps_facts_records_and_a_time(tmp_path: Path) -> None:
    record(tmp_path / "a", steps())
    data = (tmp_path / "a").read_bytes()
    lost = next(item for item in frames(data) if item.kind == "S" and item.segment == 4)
    (tmp_path / "a").write_bytes(data[: lost.offset] + data[lost.end :])
    found, _ = read(tmp_path / "a")
    assert times(found) == list(range(1, 781))
    elapsed = [step.tick.elapsed_ns for step in found if step.tick is not None]
    assert elapsed == sorted(elapsed) and len(elapsed) == 36 and 1_900_000_007 in elapsed


def test_frames_of_a_later_version_are_left_out_and_counted(tmp_path: Path) -> None:
    record(tmp_path / "a", steps(3))
    with open(tmp_path / "a", "ab") as file:
        file.write(frame("Z", b"what will be") + frame("B", b"x", flags=4))
    found, recording = read(tmp_path / "a")
    assert len(found) == 3 and recording.unknown == 2 and not recording.damage


def test_a_newer_version_is_refused_with_its_name(tmp_path: Path) -> None:
    data = json.loads(HEADER.to_json()) | {"version": 3, "kubetrace": "9.9.9"}
    (tmp_path / "a").write_bytes(frame("H", json.dumps(data).encode()))
    with pytest.raises(RecordingError, match=r"format version 3.*\n.*kubetrace 9\.9\.9.*\nTry:  update"):
        Recording(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"KTF3" + bytes(400))
    with pytest.raises(RecordingError, match="format version 3"):
        Recording(tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty", b""),
        ("text", b"hello\n" * 100),
        ("zeros", bytes(100_000)),
        ("magics", b"KTF1" * 50_000),
        ("no object", frame("H", b"[1, 2]")),
        ("nested", frame("H", b"[" * 100_000)),
        ("long number", frame("H", b'{"format":"kubetrace recording","version":' + b"9" * 5000 + b"}")),
        ("no layouts", frame("H", b'{"format":"kubetrace recording","version":1,"tracers":[{}]}')),
    ],
)
def test_what_is_no_recording_is_said_to_be_none(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(RecordingError, match=r"is not a recording|is empty"):
        Recording(tmp_path / "a")


@pytest.mark.parametrize(
    "change",
    [
        {"size": 1 << 19},
        {"fields": []},
        {"fields": [["time", 0, 0, "bytes", ""]]},
        {"fields": [["class", 0, 8, "unsigned", ""]]},
        {"fields": [["a b", 0, 8, "unsigned", ""]]},
        {"fields": [["time", 0, 8, "unsigned", ""], ["time", 8, 8, "unsigned", ""]]},
        {"fields": [[f"f{n}", n, 1, "unsigned", ""] for n in range(174)]},
        {"name": "import os"},
    ],
)
def test_a_header_with_impossible_layouts_is_none(change: dict[str, object]) -> None:
    data = json.loads(HEADER.to_json())
    data["tracers"][0]["streams"][0]["layout"] |= change
    if change == {"fields": []}:
        data["tracers"][0]["streams"][1]["number"] = 1
    assert Header.from_json(json.dumps(data).encode()) is None


def test_a_header_survives_json_with_any_text() -> None:
    odd = replace(HEADER, node="n\udcff\x1b", kernel="\u202e")
    assert Header.from_json(odd.to_json()) == odd


def test_counts_that_cannot_be_are_damage_not_memory(tmp_path: Path) -> None:
    header = frame("H", HEADER.to_json())
    huge = frame("B", b"x", size=0xFFFFFFFF) + frame("B", b"", length=0xFFFFFFFF)
    # 60 bytes cannot be 4 billion records; the steps claim as many
    liar = frame("S", b"\xff" * 37, segment=1) + frame("B", bytes(60), segment=1, rows=0xFFFFFFFF, stream=1)
    good = pack(ord("B"), event(5, 21, b"/a", 1), rows=1, stream=1, segment=2)
    (tmp_path / "a").write_bytes(header + huge + liar + good)
    found, recording = read(tmp_path / "a")
    assert times(found) == [5]
    sizes, records = recording.damage
    assert sizes.size >= 104 and "impossible size" in sizes.what
    assert records.what == "a frame that holds more than so few bytes can"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.binary(max_size=80),
            st.sampled_from("HSFBLEZ"),
            st.integers(0, 3),
            st.integers(0, 3),
            st.integers(0, 0xFFFFFFFF),
            st.integers(0, 0xFFFFFFFF),
            st.booleans(),
            st.none() | st.integers(0, 4),
        ),
        max_size=12,
    )
)
def test_any_frames_are_read_without_an_exception(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[bytes, str, int, int, int, int, bool, int | None]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz"
    parts = [frame("H", HEADER.to_json())]
    for payload, kind, stream, segment, rows, first, packed, split in made:
        where = {"stream": stream, "segment": segment, "first": first}
        if packed:
            parts.append(pack(ord(kind), payload * 8, rows=rows if split is None else 8, split=split, **where))
        else:
            parts.append(frame(kind, payload, rows=rows, flags=split or 0, **where))
    path.write_bytes(b"".join(parts))
    with Recording(path) as recording:
        for step in recording.steps():
            for batch in step.batches:
                assert len(batch.data) % EVENT.stride == 0


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_behind_the_header_are_read_without_an_exception(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz2"
    path.write_bytes(frame("H", HEADER.to_json()) + tail)
    with Recording(path) as recording:
        assert list(recording.steps()) == []
        assert sum(d.size for d in recording.damage) == len(tail)


# what os.fsdecode gives for any bytes
_NAMES = st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
_FACTS = st.one_of(
    st.builds(CgroupSeen, st.integers(0, 9), st.integers(0, 1 << 60), _NAMES, st.integers(0, 1 << 60)),
    st.builds(
        OverlaySeen,
        st.integers(0, 1 << 30),
        st.none() | _NAMES,
        _NAMES,
        st.none() | _NAMES,
        st.none() | _NAMES,
        st.lists(_NAMES, max_size=3).map(tuple),
        st.integers(0, 1 << 60),
    ),
)
_STEPS = st.builds(
    lambda known, rows, tick: Step(
        known,
        [Batch("copyup/copyup", b"".join(event(n, 21, b"/x", n) for n in range(rows)))] if rows else [],
        {},
        tick,
    ),
    st.lists(_FACTS, max_size=4),
    st.integers(0, 5),
    st.none() | st.builds(Tick, st.integers(0, 1 << 60), st.integers(-(1 << 60), 1 << 62), st.integers(0, 1 << 60)),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(_STEPS, max_size=12), st.integers(1, 5))
def test_any_steps_come_back(tmp_path_factory: pytest.TempPathFactory, made: list[Step], every: int) -> None:
    path = tmp_path_factory.getbasetemp() / "steps"
    record(path, made, every=every)
    found, recording = read(path)
    assert len(found) == len(made) and all(map(same, made, found)) and not recording.damage


def test_neighbouring_damage_is_one_and_the_list_is_bounded(tmp_path: Path) -> None:
    bad = bytearray(frame("B", b"abcd"))
    bad[-1] ^= 1
    good = frame("E", b"{}")
    (tmp_path / "a").write_bytes(frame("H", HEADER.to_json()) + bytes(bad) * 5 + (good + bytes(bad)) * 5000)
    with_all = FrameReader(tmp_path / "a")
    list(with_all.frames())
    assert len(with_all.damage) == 1000
    assert with_all.damage[0].size == 5 * len(bad)
    with_all.close()
