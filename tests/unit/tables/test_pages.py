"""Screens of very many rows: the same rows as a sort of all gives, whatever was shown before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubetrace import tracers
from kubetrace.tables.pages import Pages
from kubetrace.tables.sorting import sort_rows
from kubetrace.tables.tally import Coarser, Tally, tallies
from kubetrace.views.columns import Column

COLUMNS = (
    Column("pod", "POD", "name"),
    Column("pid", "PID", "count"),
    Column("why", "WHY", "text"),
    Column("copies", "COPIES", "count"),
    Column("bytes", "BYTES", "bytes"),
)
ORDERS = (
    "copies",
    "-copies",
    "+copies",
    "bytes",
    "+bytes",
    "pod",
    "-pod",
    "+pod",
    "pid",
    "+pid",
    "why",
    "-why",
    "gone",
)
# what happens to a row: (pod, pid, copies, bytes)
HAPPENINGS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 5), st.integers(0, 3), st.integers(0, 50)), max_size=60
)


def page(
    pages: Pages, rows: dict[Any, Any], changed: Any, generation: int, order: str, begin: int, end: int, wanted: Any
) -> Any:
    found, total = pages.page(
        rows,
        changed,
        generation,
        order,
        begin,
        end,
        wanted,
        front=lambda key: (*key, f"why{key[1] % 3}"),
        number=lambda at: f"row[{at - 3}]",
    )
    return [(*key, f"why{key[1] % 3}", *row) for key, row in found], total


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(HAPPENINGS, st.sampled_from(ORDERS), st.integers(0, 50), st.integers(0, 9), st.booleans()),
        max_size=8,
    ),
    st.integers(0, 20),
    st.integers(1, 8),
)
def test_a_page_is_what_a_sort_of_all_rows_has_there(refreshes: list[Any], few: int, kept: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # as with very many rows
        patch.setattr("kubetrace.tables.pages._FEW", few)
        patch.setattr("kubetrace.tables.pages._KEPT", kept)
        look(refreshes)


def look(refreshes: list[Any]) -> None:
    pages = Pages(COLUMNS, 3)
    rows: dict[Any, list[int]] = {}

    def wanted(cells: Any) -> bool:
        return cells[0] in "aceg"

    for happened, order, begin, count, chosen in refreshes:
        changed = {(pod, pid): None for pod, pid, _, _ in happened}
        for pod, pid, copies, size in happened:
            row = rows.setdefault((pod, pid), [0, 0])
            row[0] += copies
            row[1] += size
        every = [(*key, f"why{key[1] % 3}", *row) for key, row in rows.items() if not chosen or wanted(key)]
        found = page(pages, rows, changed, 0, order, begin, begin + count, wanted if chosen else None)
        assert found == (sort_rows(list(every), COLUMNS, order, None)[begin : begin + count], len(every))


def test_rows_that_were_taken_away_are_not_shown() -> None:
    pages, rows = Pages(COLUMNS, 3), {(f"p{number}", number): [number, 0] for number in range(50)}
    assert page(pages, rows, rows, 0, "copies", 0, 1, None)[0][0][0] == "p49"
    for number in range(40, 50):
        del rows[f"p{number}", number]
    assert page(pages, rows, rows, 1, "copies", 0, 1, None)[0][0][0] == "p39"
    assert page(pages, rows, rows, 1, "pod", 0, 1, None)[0][0][0] == "p0"


def test_a_row_is_asked_once_whether_it_is_wanted() -> None:
    asked = []

    def wanted(cells: Any) -> bool:
        asked.append(cells[0])
        return True

    pages, rows = Pages(COLUMNS, 3), {("a", 1): [1, 1]}
    for _ in range(3):
        page(pages, rows, rows, 0, "copies", 0, 5, wanted)
    rows["b", 1] = [2, 2]
    assert page(pages, rows, rows, 0, "copies", 0, 5, wanted)[1] == 2
    assert asked == ["a", "b"]


def test_a_coarser_grouping_that_is_looked_at_is_counted_from_then_on() -> None:
    tracer = tracers.find("copyup")
    found = tallies(tracer, list(tracer.groupings))
    files, pods = found["file"], found["pod"]
    assert isinstance(files, Tally) and isinstance(pods, Coarser)

    def happen(pod: str, path: bytes, to: list[Tally]) -> None:
        cells: dict[str, Any] = {"namespace": "shop", "pod": pod, "container": "app", "path": path, "trigger": "chmod"}
        cells |= {"image": "i", "layer": None, "created_by": None, "qos_class": "Burstable"}
        for tally in to:
            tally.add(cells, [1, 0, 10, 5, 0, 10, 0, 7])

    happen("web", b"/a", [files])
    happen("web", b"/b", [files])
    counted = pods.counted()
    happen("web", b"/c", [files, counted])
    happen("db", b"/c", [files, counted])
    assert counted.page("copies", 0, 9) == pods.page("copies", 0, 9)
    assert counted.page("copies", 0, 9)[0][0][3] == 3
