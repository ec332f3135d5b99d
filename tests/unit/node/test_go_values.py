"""Numbers and times as Go writes them; expected values are from its documentation, or counted by hand."""

from __future__ import annotations

from kubetrace.node.go_values import quantity, time_ns, uvarint, varint


def test_numbers_as_go_writes_them() -> None:
    # encoding/binary: PutUvarint(300) is ac 02, PutVarint(300) is d8 04, PutVarint(-1) is 01
    assert uvarint(b"\xac\x02") == 300 and varint(b"\xd8\x04") == 300 and varint(b"\x01") == -1
    assert uvarint(b"\xff" * 40) == (1 << 64) - 1


def test_a_time_as_go_writes_it() -> None:
    # time.Date(2026, 11, 30, 12, 0, 0, 5, time.UTC).MarshalBinary(), by hand: seconds since the year 1
    seconds = 1_796_040_000 + 62_135_596_800
    data = b"\x01" + seconds.to_bytes(8, "big") + (5).to_bytes(4, "big") + b"\xff\xff"
    assert time_ns(data) == 1_796_040_000_000_000_005
    assert time_ns(b"\x01\x02") is None and time_ns(None) is None and time_ns(b"\x09" + data[1:]) is None
    # the year 1 is none, and so is what no calendar of a node has
    assert time_ns(b"\x01" + bytes(14)) is None and time_ns(b"\x01" + b"\xff" * 14) is None
    assert time_ns(data[:9] + b"\xff" * 6) is None


def test_a_quantity_is_no_more_than_a_disk_has() -> None:
    assert quantity(b"\xd8\x04") == 300 and quantity(b"\x00") == 0
    assert [quantity(data) for data in (None, b"", b"\x01", b"\xff" * 10)] == [None] * 4
