"""What every tracer declares of opening a row, and of the table that several share."""

from __future__ import annotations

import pytest

from kubetrace import tracers
from kubetrace.session.overall import Overall, Together
from kubetrace.views.columns import find

NAMES = tracers.names()


@pytest.mark.parametrize(
    ("name", "by", "way"),
    [
        ("copyup", "node", ["pod", "container", "file"]),
        ("copyup", "image", ["layer"]),
        ("copyup", "why", []),
        ("writes", "pod", ["container", "destination", "operation"]),
        ("cgroups", "node", ["pod", "container"]),
        ("starts", "pod", ["container"]),
    ],
)
def test_a_row_is_opened_down_to_its_events(name: str, by: str, way: list[str]) -> None:
    tracer = tracers.find(name)
    among = tracer.others(next(iter(tracer.groupings)))
    found = []
    while (finer := tracer.finer(by, among)) is not None:
        found.append(finer)
        by = finer
    assert found == way


def test_what_the_kernel_was_asked_to_tell_apart_is_where_the_way_ends() -> None:
    writes = tracers.find("writes")
    for by in ("file", "process"):
        assert writes.finer("destination", writes.others(by)) == by
        assert writes.finer(by, writes.others(by)) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_way_down_has_an_end_and_keeps_whose_it_is(name: str) -> None:
    tracer = tracers.find(name)
    for by in tracer.groupings:
        among, seen = tracer.others(by), [by]
        while (finer := tracer.finer(seen[-1], among)) is not None:
            assert finer in among and finer not in seen
            nobodys = {"node", "medium", "ephemeral", "signal"}
            before = {column.key for column in tracer.groupings[seen[-1]].key} - nobodys
            assert before <= {column.key for column in tracer.groupings[finer].key}
            seen.append(finer)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_tracer_says_of_pods_is_in_its_own_table(name: str) -> None:
    tracer = tracers.find(name)
    for one in tracer.overview:
        grouping = tracer.groupings[one.by]
        assert {"namespace", "pod"} <= {column.key for column in grouping.key}
        assert one.measure in {column.key for column in tracer.measures}
        assert one.column.numeric
        assert not one.column.limit or one.column.limit in {other.column.key for other in tracer.overview}


def test_no_two_columns_of_the_shared_table_are_called_alike() -> None:
    columns = Together(Overall([tracers.find(name) for name in NAMES]), {}).columns
    assert len({column.key for column in columns}) == len({column.title for column in columns}) == len(columns)
    assert all(find(columns, column.title) is column for column in columns)


def test_limits_are_found_in_the_shared_table() -> None:
    columns = {column.key: column for column in Overall([tracers.find(name) for name in NAMES]).measures}
    limited = [column for column in columns.values() if column.limit]
    assert len(limited) == 2 and all(column.limit in columns for column in limited)
