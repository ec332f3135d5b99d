"""The last events that a table of sums remembers for who wants to see those of a row."""

from __future__ import annotations

from kubetrace import tracers
from kubetrace.attribution.selection import Selection
from kubetrace.attribution.whose import Attribution
from kubetrace.kit.context import Context
from kubetrace.pipeline import Pipeline
from kubetrace.stream.layout import Batch
from kubetrace.stream.steps import Step
from tests.unit.recordings import HEADER, facts
from tests.unit.test_pipeline import event


def taken(context: Context, recent: int, *numbers: int) -> Pipeline:
    layouts = HEADER.layouts
    pipeline = Pipeline(tracers.find("copyup"), layouts, context, groupings=["file", "pod"], recent=recent)
    pipeline.take(Step(facts(0)))
    for number in numbers:
        take(pipeline, number)
    return pipeline


def take(pipeline: Pipeline, *numbers: int) -> None:
    # odd ones are of shop/web-0, the others of nobody known
    records = [
        event(number, 21 if number % 2 else 30, b"/file-%d" % number, number, device=7 if number % 2 else 99)
        for number in numbers
    ]
    pipeline.take(Step(batches=[Batch("copyup/copyup", b"".join(records))]))


def test_the_last_events_are_remembered_and_told_once() -> None:
    pipeline = taken(Context("node1", 0), 3, 1, 2, 3, 4)
    total, found = pipeline.table.recent(0)
    assert total == 4 and [item[0].time for item in found] == [2, 3, 4]
    assert pipeline.table.recent(total) == (4, ())
    take(pipeline, 5, 6)
    total, found = pipeline.table.recent(total)
    assert total == 6 and [item[0].time for item in found] == [5, 6]
    take(pipeline, 7, 8, 9, 10, 11)
    total, found = pipeline.table.recent(total)
    assert [item[0].time for item in found] == [9, 10, 11]
    assert [(of.pod, count) for _, of, count in found[:1]] == [("web-0", 1)]


def test_only_events_that_are_asked_for_are_remembered() -> None:
    context = Context("node1", 0, Attribution(Selection.parse(["shop"], [], [], None)))
    pipeline = taken(context, 3, 1, 2, 3, 4)
    assert [item[0].time for item in pipeline.table.recent(0)[1]] == [1, 3]


def test_who_does_not_look_pays_nothing() -> None:
    pipeline = taken(Context("node1", 0), 0, 1, 2)
    assert pipeline.table.recent(0) == (0, ())
