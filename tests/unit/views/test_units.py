from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetrace.errors import UsageError
from kubetrace.views.units import (
    format_bytes,
    format_clock,
    format_count,
    format_duration,
    format_elapsed,
    format_percent,
    format_time,
    parse_duration,
    parse_size,
)


@pytest.fixture
def zurich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5018, "4.9 KiB"),
        (10188, "9.9 KiB"),
        (10189, "10 KiB"),
        (1048063, "1023 KiB"),
        (1048064, "1.0 MiB"),
        (67108864, "64 MiB"),
        (2147483648, "2.0 GiB"),
        (2**63, "8.0 EiB"),
        (2**80, ">999 EiB"),
        (-5120, "-5.0 KiB"),
    ],
)
def test_bytes_are_binary_and_say_so(n: int, text: str) -> None:
    assert format_bytes(n) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (870, "870 ns"),
        (1000, "1.0 µs"),
        (12_345, "12 µs"),
        (999_499, "999 µs"),
        (999_500, "1.0 ms"),
        (3_449_999, "3.4 ms"),
        (1_200_000_000, "1.2 s"),
        (59_499_999_999, "59 s"),
        (59_500_000_000, "1m00s"),
        (125_000_000_000, "2m05s"),
        (3_720_000_000_000, "1h02m"),
        (273_600_000_000_000, "3d04h"),
        (-5_000, "-5.0 µs"),
    ],
)
def test_durations_take_the_unit_that_keeps_them_short(ns: int, text: str) -> None:
    assert format_duration(ns) == text


@given(st.integers(0, 2**90))
def test_no_size_is_wider_than_8_cells(n: int) -> None:
    assert len(format_bytes(n)) <= 8


@given(st.integers(0, 999 * 86400 * 10**9))
def test_no_duration_is_wider_than_7_cells(ns: int) -> None:
    assert len(format_duration(ns)) <= 7


@given(st.integers(0, 10**18))
def test_no_count_is_wider_than_6_cells(n: int) -> None:
    assert len(format_count(n)) <= 6


def test_counts_are_exact_up_to_six_digits() -> None:
    shown = [format_count(n) for n in (0, 812, 999_999, 1_000_000, 9_949_999, 9_950_000, 999_600_000, 10**18, -7)]
    assert shown == ["0", "812", "999999", "1.0M", "9.9M", "10M", "1.0G", "1E", "-7"]


def test_percentages_never_round_something_to_nothing() -> None:
    assert [format_percent(p) for p in (0, 0.01, 0.1, 0.42, 9.94, 9.95, 12.3, 100, -0.42)] == [
        "0%", "<0.1%", "0.1%", "0.4%", "9.9%", "10%", "12%", "100%", "-0.4%",
    ]  # fmt: skip


def test_elapsed_reads_like_a_clock() -> None:
    shown = [format_elapsed(s) for s in (0, 42.9, 3599, 3727, 86400 * 3 + 3727)]
    assert shown == ["0:00", "0:42", "59:59", "1:02:07", "3d01:02:07"]


def test_times_are_rfc_3339_with_nanoseconds(zurich: None) -> None:
    winter, summer = 1795456923_123456789, 1784138523_000000007
    assert format_time(winter) == "2026-11-23T18:02:03.123456789Z"
    assert format_time(winter, local=True) == "2026-11-23T19:02:03.123456789+01:00"
    assert format_time(summer, local=True) == "2026-07-15T20:02:03.000000007+02:00"
    assert format_clock(winter) == "19:02:03.123"


def test_zones_west_and_with_half_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "NST3:30")
        time.tzset()
        assert format_time(0, local=True) == "1969-12-31T20:30:00.000000000-03:30"
    time.tzset()


def test_a_time_that_no_calendar_has_is_a_number() -> None:
    assert format_time(10**30) == str(10**30)
    assert format_clock(10**30) == str(10**30)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("0", 0),
        ("64Ki", 65536),
        ("10M", 10_000_000),
        ("10k", 10_000),
        ("1.5GiB", 1610612736),
        ("2 MiB", 2097152),
        ("100B", 100),
        ("1.5", 1),
        ("7Ei", 7 << 60),
    ],
)
def test_sizes_are_kubernetes_quantities(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "64i", "1e3", "8Ei", "12m", "1.2.3", "٣", "9" * 30, "Ki", "\x1b[2J"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_size(text)
    assert "is not a size" in str(refused.value)
    assert "64Ki" in refused.value.do
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("500ms", 0.5),
        ("2s", 2.0),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("1d", 86400.0),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("40ns", 4e-8),
    ],
)
def test_durations_as_people_type_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1x", "1 m", "inf", "nan", "1e9", "1s\n2", "1m30"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_duration(text)
    assert "is not a duration" in str(refused.value)
    assert "1m30s" in refused.value.do
