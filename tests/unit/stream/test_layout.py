"""Layouts: struct members -> struct format -> events, and back from JSON."""

import struct

import pytest

from kubetrace.stream.layout import Field, Layout

# struct { u64 time; s32 error; u16 mode; /* 2 bytes of padding */ char comm[4]; }, 24 bytes with its tail
SMALL = Layout(
    "small",
    24,
    (
        Field("time", 0, 8, "unsigned", "boot_ns"),
        Field("error", 8, 4, "signed", "errno"),
        Field("mode", 12, 2, "unsigned"),
        Field("comm", 16, 4, "bytes"),
    ),
)


def test_format_has_pads_where_c_has_them() -> None:
    assert SMALL.format == "<QiH2x4s4x"
    assert struct.calcsize(SMALL.format) == 24


def test_decode_skips_ring_headers() -> None:
    record = bytes(8) + (7).to_bytes(8, "little") + (-28).to_bytes(4, "little", signed=True)
    record += (0o644).to_bytes(2, "little") + b"\xaa\xaa" + b"sh\0\0" + b"\xbb" * 4
    first, second = SMALL.decode(record * 2)
    assert first == second
    assert (first.time, first.error, first.mode, first.comm) == (7, -28, 0o644, b"sh\0\0")


def test_part_of_a_record_is_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes are not a whole number of 32-byte small records"):
        list(SMALL.decode(bytes(31)))


def test_json_round_trip() -> None:
    assert Layout.from_json(SMALL.to_json()) == SMALL


@pytest.mark.parametrize(
    "damage",
    [
        {},
        {"name": "x", "size": 24},
        {"name": "x", "size": 24, "fields": [["a", 0, 8]]},
        {"name": "x", "size": 24, "fields": [["a", 0, 3, "unsigned", ""]]},
        {"name": "x", "size": 4, "fields": [["a", 0, 8, "unsigned", ""]]},
        {"name": "x", "size": 24, "fields": [["a", 0, 8, "unsigned", ""], ["b", 4, 8, "unsigned", ""]]},
        {"name": "x", "size": 1 << 40, "fields": []},
        {"name": "x", "size": 24, "fields": [["a", -8, 8, "unsigned", ""]]},
    ],
)
def test_a_damaged_layout_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Layout.from_json(damage)


@pytest.mark.parametrize(
    ("number", "name"), [(0, "made"), (1, "gone"), (2, "unknown"), (2**32 - 1, "unknown"), (-1, "unknown")]
)
def test_a_number_without_a_name_is_unknown(number: int, name: str) -> None:
    layout = Layout("x", 4, (Field("step", 0, 4, "unsigned", "", ("made", "gone")),))
    assert layout.event_type(number).NAMES["step"][number] == name
