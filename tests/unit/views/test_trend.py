"""What a live table adds to rows: growth in a second, the last minute, bars; and where a replay is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetrace.views.columns import Column
from kubetrace.views.timeline import timeline
from kubetrace.views.trend import SLOTS, Trend, bar, sparkline

SECOND = 1_000_000_000
SUMS = (Column("pod", "POD", "name"), Column("copies", "COPIES", "count", rate="COPIES/s"))
GAUGES = (
    Column("pod", "POD", "name"),
    Column("mem", "MEM", "bytes", limit="most"),
    Column("most", "MEM-LIMIT", "bytes"),
)


def test_a_sum_has_what_it_grew_by_in_a_second() -> None:
    trend = Trend(SUMS, 1)
    assert [column.title for column in trend.columns()] == ["POD", "COPIES", "COPIES/s", "LAST-MINUTE"]
    trend.look([("a", 10)], SECOND, whole=True, order="copies")
    # how it came to that is not known
    assert trend.row(("a", 10), ascii=False)[0][:3] == ["a", 10, None]
    trend.look([("a", 30), ("b", 4)], 3 * SECOND, whole=True, order="copies")
    cells, hints = trend.row(("a", 30), ascii=False)
    assert cells[:3] == ["a", 30, 10] and hints == {"copies": "grown", "copies/s": "grown"}
    # there was none before, as all were seen
    assert trend.row(("b", 4), ascii=False)[0][2] == 2
    trend.look([("a", 30), ("b", 5)], 3 * SECOND + 1, whole=False, order="copies")
    trend.look([("a", 30), ("c", 9)], 5 * SECOND, whole=False, order="copies")
    assert trend.row(("a", 30), ascii=False)[1] == {}
    # it may have been there before, where nobody looked
    assert trend.row(("c", 9), ascii=False)[0][2] is None
    assert trend.row(("never", 9), ascii=False)[0] == ["never", 9, None, ""]


def test_a_slow_growth_is_not_shown_as_none() -> None:
    trend = Trend(SUMS, 1)
    trend.look([("a", 1)], 0, whole=True, order="copies")
    trend.look([("a", 2)], 10 * SECOND, whole=True, order="copies")
    assert trend.row(("a", 2), ascii=False)[0][2] == 1


def test_the_last_minute_moves_on() -> None:
    trend = Trend(SUMS, 1)
    trend.look([("a", 0)], 0, whole=True, order="copies")
    trend.look([("a", 5)], SECOND, whole=True, order="copies")
    assert trend.row(("a", 5), ascii=True)[0][-1] == "." * (SLOTS - 1) + "#"
    trend.look([("a", 5)], 11 * SECOND, whole=True, order="copies")
    assert trend.row(("a", 5), ascii=True)[0][-1] == "." * (SLOTS - 3) + "#.."
    trend.look([("a", 5)], 100 * SECOND, whole=True, order="copies")
    assert trend.row(("a", 5), ascii=True)[0][-1] == ""


def test_time_that_goes_back_knows_nothing_of_before() -> None:
    trend = Trend(SUMS, 1)
    trend.look([("a", 5)], 9 * SECOND, whole=True, order="copies")
    trend.look([("a", 3)], 2 * SECOND, whole=True, order="copies")
    assert trend.row(("a", 3), ascii=True)[0][2] is None


def test_few_rows_are_remembered() -> None:
    trend = Trend(SUMS, 1)
    for second in range(5):
        trend.look([(f"{second}-{at}", 1) for at in range(1500)], second * SECOND, whole=False, order="copies")
    assert len(trend._rows) <= 2000
    trend.look([("a", 1)], 500 * SECOND, whole=False, order="copies")
    assert len(trend._rows) == 1


def test_a_bar_is_there_where_something_has_a_limit() -> None:
    trend = Trend(GAUGES, 1)
    trend.look([("a", 50, None)], SECOND, whole=True, order="mem")
    assert len(trend.columns()) == 3
    trend.look([("a", 50, 100), ("b", 95, 100)], 2 * SECOND, whole=True, order="mem")
    assert [column.title for column in trend.columns()] == ["POD", "MEM", "MEM/LIMIT", "MEM-LIMIT"]
    assert trend.row(("a", 50, 100), ascii=True) == (["a", 50, "####.... 50%", 100], {})
    assert trend.row(("b", 95, 100), ascii=True)[1] == {"mem": "near", "mem/limit": "near"}
    assert trend.row(("c", 5, None), ascii=True)[0] == ["c", 5, None, None]


@pytest.mark.parametrize(
    ("share", "text"), [(0, "░░░░░░░░ 0%"), (0.899, "███████░ 89%"), (0.9, "███████░ 90%!"), (30, "████████ 999%!")]
)
def test_a_bar_says_that_it_is_near(share: float, text: str) -> None:
    assert bar(share, ascii=False) == text


@given(st.lists(st.floats(0, 1e18), max_size=30), st.booleans())
def test_a_little_is_not_drawn_as_nothing(values: list[float], ascii: bool) -> None:
    drawn = sparkline(values, ascii=ascii)
    if not any(values):
        assert drawn == ""
        return
    assert len(drawn) == len(values) and drawn.isascii() is (ascii or not drawn)
    for value, cell in zip(values, drawn, strict=True):
        assert (value == 0) == (cell in ".·") or (ascii and cell == ".")


@given(st.integers(0, 10**12), st.integers(1, 10**12), st.integers(20, 200), st.booleans())
def test_a_replay_says_where_it_is(at: int, length: int, cells: int, ascii: bool) -> None:
    at = min(at, length)
    line = timeline([0, 5, 1], at, length, 0, "paused", cells, ascii=ascii)
    assert line.startswith("-  ")
    assert line.endswith("  paused") and (not ascii or line.isascii())
    assert len(line) <= max(cells, 40)


def test_the_mark_of_a_replay_moves_from_end_to_end() -> None:
    assert timeline([1], 0, 60 * SECOND, 0, "x1", 45, ascii=True).split("  ")[2].startswith("|")
    assert timeline([1], 60 * SECOND, 60 * SECOND, 0, "x1", 45, ascii=True).split("  ")[2].endswith("|")
