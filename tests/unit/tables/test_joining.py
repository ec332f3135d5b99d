"""Joining alike records: sums, maxima and counts are those of the records one by one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetrace.kit.tracer import LAST, MAX, SUM
from kubetrace.stream.layout import Field, Layout
from kubetrace.tables.joining import Joiner

LAYOUT = Layout(
    "event",
    48,
    (
        Field("time", 0, 8, "unsigned"),
        Field("cgroup_id", 8, 8, "unsigned"),
        Field("copied", 16, 8, "unsigned"),
        Field("tid", 24, 4, "unsigned"),
        Field("error", 28, 4, "signed"),
        Field("path", 32, 12, "bytes"),
    ),
)
ALIKE = {"time": MAX, "copied": SUM, "tid": LAST}


def record(time: int, cgroup: int, copied: int, tid: int, error: int, path: bytes) -> bytes:
    return bytes(8) + struct.pack("<QQQIi12s4x", time, cgroup, copied, tid, error, path)


def test_alike_records_are_one_with_their_number() -> None:
    data = b"".join(
        [
            record(5, 1, 100, 7, 0, b"/a"),
            record(9, 2, 1, 7, 0, b"/a"),
            record(8, 1, 23, 9, 0, b"/a"),
            record(6, 1, 1000, 8, 0, b"/a"),
            record(7, 1, 1, 7, -28, b"/a"),
            record(4, 1, 2, 7, 0, b"/b"),
            record(3, 1, 5, 7, 0, b"/b"),
        ]
    )
    joined, counts = Joiner(LAYOUT, ALIKE).join(data)
    found = [
        (tuple(event)[:5], event.path.rstrip(b"\0"), n) for event, n in zip(LAYOUT.decode(joined), counts, strict=True)
    ]
    assert found == [
        ((8, 1, 1123, 8, 0), b"/a", 3),
        ((9, 2, 1, 7, 0), b"/a", 1),
        ((7, 1, 1, 7, -28), b"/a", 1),
        ((4, 1, 7, 7, 0), b"/b", 2),
    ]


def test_records_that_differ_in_what_nobody_looks_at_are_one() -> None:
    data = b"".join(
        [
            record(5, 1, 100, 7, 0, b"/a"),
            record(9, 2, 1, 8, 0, b"/b"),
            record(8, 1, 23, 9, 0, b"/c"),
            record(7, 1, 1, 7, -28, b"/a"),
        ]
    )
    joiner = Joiner(LAYOUT, {"time": MAX, "copied": SUM}, ("tid", "path", "not there"))
    joined, counts = joiner.join(data)
    assert [(tuple(event), n) for event, n in zip(LAYOUT.decode(joined), counts, strict=True)] == [
        ((8, 1, 123, 0, 0, bytes(12)), 2),
        ((9, 2, 1, 0, 0, bytes(12)), 1),
        ((7, 1, 1, 0, -28, bytes(12)), 1),
    ]


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize("time_at", [0, 8], ids=["one piece", "two pieces"])
def test_records_are_told_apart_by_a_piece_of_any_length(size: int, time_at: int) -> None:
    layout = Layout("event", 16 + size, (Field("time", time_at, 8, "unsigned"),))
    paths = [bytes([at % 3]).ljust(size, b"x") for at in range(23)]
    numbers = [(at, at % 2) if time_at == 0 else (at % 2, at) for at in range(23)]
    data = b"".join(bytes(8) + struct.pack("<QQ", *pair) + path for pair, path in zip(numbers, paths, strict=True))
    _, counts = Joiner(layout, {"time": MAX}).join(data)
    assert sorted(counts) == [3, 4, 4, 4, 4, 4]


# The same with a path that is rather compared than looked up.
LONG = Layout("event", 128, (*LAYOUT.fields[:-1], Field("path", 32, 96, "bytes")))
RUNS = st.lists(
    st.tuples(
        st.integers(1, 90),  # how many in a row
        st.integers(1, 3),
        st.sampled_from([0, -28]),
        st.sampled_from([b"/a", b"/b"]),
        st.integers(0, 2**40),
    ),
    max_size=12,
)


@pytest.mark.parametrize("unseen", [(), ("path",), ("error", "path"), ("tid", "time")], ids=" ".join)
@pytest.mark.parametrize("layout", [LAYOUT, LONG], ids=["short", "long"])
@given(runs=RUNS, piece=st.integers(1, 300))
def test_pieces_of_a_ring_add_up_like_its_records_one_by_one(
    layout: Layout, unseen: tuple[str, ...], runs: list[tuple[int, int, int, bytes, int]], piece: int
) -> None:
    records: list[bytes] = []
    expected: dict[tuple[int, int, bytes], tuple[int, int, int, int]] = {}
    for run, (length, cgroup, error, path, copied) in enumerate(runs):
        for at in range(length):
            time, tid = (run * 7919 + at * 31) % 101, run * 100 + at
            header = struct.pack("<II", layout.size, len(records))
            numbers = record(time, cgroup, copied + at, tid, error, b"")[8:40]
            records.append(header + numbers + path.ljust(layout.size - 32, b"\0"))
            key = (cgroup, 0 if "error" in unseen else error, b"" if "path" in unseen else path)
            count, latest, total, _ = expected.get(key, (0, 0, 0, 0))
            seen = (0, 0) if "tid" in unseen else (max(latest, time), tid)
            expected[key] = (count + 1, seen[0], total + copied + at, seen[1])
    joiner = Joiner(layout, {name: how for name, how in ALIKE.items() if name not in unseen}, unseen)
    for at in range(0, len(records), piece):
        lying = bytearray(b"".join(records[at : at + piece]))
        joiner.add(memoryview(lying))
        lying[:] = b"\xff" * len(lying)  # the ring is written anew
    data, counts = joiner.take()
    found = {
        (e.cgroup_id, e.error, e.path.rstrip(b"\0")): (count, e.time, e.copied, e.tid)
        for e, count in zip(layout.decode(data), counts, strict=True)
    }
    assert list(found.items()) == list(expected.items())
    assert joiner.take() == (b"", [])


def test_numbers_that_lie_askew_are_joined_too() -> None:
    layout = Layout("event", 16, (Field("time", 4, 8, "unsigned"),))
    data = b"".join([bytes(8) + struct.pack("<IQI", 1, time, 2) for time in (3, 9, 5)])
    assert Joiner(layout, {"time": MAX}).join(data) == (bytes(8) + struct.pack("<IQI", 1, 9, 2), [3])


def test_nothing_gives_nothing() -> None:
    assert Joiner(LAYOUT, ALIKE).join(b"") == (b"", [])


def test_half_a_record_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number"):
        Joiner(LAYOUT, ALIKE).join(bytes(57))


def test_a_sum_that_no_number_holds_leaves_the_records_alone() -> None:
    data = record(1, 1, 2**64 - 1, 1, 0, b"/a") * 3
    assert Joiner(LAYOUT, ALIKE).join(data) == (data, [1, 1, 1])


@pytest.mark.parametrize(
    "field",
    [
        Field("copied", 16, 8, "bytes"),
        Field("copied", 4, 8, "unsigned"),
        Field("copied", 44, 8, "unsigned"),
        Field("other", 16, 8, "unsigned"),
    ],
    ids=["no number", "overlaps", "reaches out", "is not there"],
)
def test_a_layout_that_lies_is_not_joined(field: Field) -> None:
    fields = [field if known.name == "copied" else known for known in LAYOUT.fields]
    assert Joiner.fits(LAYOUT, ALIKE)
    assert not Joiner.fits(Layout("event", 48, tuple(fields)), ALIKE)


def test_what_nobody_looks_at_must_not_overlap_either() -> None:
    assert Joiner.fits(LAYOUT, {"time": MAX}, ("path",))
    lying = Layout("event", 48, (*LAYOUT.fields, Field("comm", 40, 8, "bytes")))
    assert not Joiner.fits(lying, {"time": MAX}, ("path", "comm"))
