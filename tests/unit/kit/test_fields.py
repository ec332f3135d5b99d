"""A field is declared once: what follows from it, for events written by hand."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import pytest

from kubetrace.attribution.attributor import Identity
from kubetrace.errors import UsageError
from kubetrace.kit.context import Context
from kubetrace.kit.fields import DEVICE, ERROR, EVENTS, PATH, PROCESS, Field, Fielded, Sum, named
from kubetrace.kit.tracer import MAX, SUM
from kubetrace.views.columns import Column

Event = namedtuple(
    "Event", "time cgroup_id memory_cgroup_id device pid tid comm path path_bytes path_end size begun how error"
)
Event.NAMES = {"how": ("plainly", "by force")}  # type: ignore[attr-defined]
ONE = Event(5, 77, 0, 0x600003, 12, 13, b"sh\0x", b"log\0var\0", 8, 0, 4096, 3, 1, -28)
SIZE = Column("size_bytes", "SIZE", "bytes")


class Tried(Fielded):
    name = "tried"
    summary = "Show what was tried."
    streams = {"tries": "tried_event"}  # noqa: RUF012
    fields = (
        *PROCESS,
        PATH,
        DEVICE,
        Field(SIZE, "size"),
        Field(Column("begun", "BEGUN", "time")),
        Field(Column("how", "HOW", "text"), says=named("how"), ours=True),
        Field("twice", says=lambda event: event.size * 2),
        ERROR,
    )
    labels = ("path", "how")
    sums: Sequence[Sum] = (
        EVENTS,
        Sum(SIZE, "size", metric=("bytes", "Bytes tried.")),
        Sum(Column("last", "LAST", "time"), "time", MAX),
    )


CONTEXT = Context("node1", 100)
WHO = Identity(namespace="shop", pod="web", container="app", kind="container", attributed_by="cgroup")


def test_an_object_has_each_field_in_its_order() -> None:
    record = Tried().record(ONE, WHO, CONTEXT)
    assert list(record)[-11:] == [
        *("pid", "tid", "comm", "path", "path_truncated", "device", "size_bytes", "begun", "how", "twice", "error")
    ]
    assert [record[key] for key in list(record)[-11:]] == [
        *(12, 13, b"sh", b"/var/log", False, "6:3", 4096, "1970-01-01T00:00:00.000000103Z", "by force", 8192, "ENOSPC")
    ]
    assert (record["type"], record["node"], record["pod"], record["cgroup_id"]) == ("tried", "node1", "web", 77)


def test_a_line_has_each_column() -> None:
    tracer = Tried()
    keys = [column.key for column in tracer.event_columns]
    assert keys == [
        *("time", "namespace", "pod", "container", "pid", "comm", "path", "size_bytes", "begun", "how", "error")
    ]
    assert list(tracer.event_cells(ONE, WHO, CONTEXT)) == [
        *(105, "shop", "web", "app", 12, b"sh", b"/var/log", 4096, 103, "by force", "ENOSPC")
    ]
    assert (
        dict(zip(keys, tracer.event_cells(ONE._replace(path_end=1), WHO, CONTEXT), strict=True))["path"]
        == "…/var/log".encode()
    )


def test_rows_metrics_and_redaction_follow() -> None:
    tracer = Tried()
    assert [column.key for column in tracer.measures] == ["events", "size_bytes", "last"]
    assert list(tracer.values(ONE, CONTEXT)) == [1, 4096, 105]
    assert list(tracer.joined_values(ONE, CONTEXT, 3)) == [3, 12288, 105]
    assert list(tracer.operations()) == [SUM, SUM, MAX]
    assert list(tracer.groupings) == ["path", "how", "container", "pod", "node"]
    assert set(tracer.sorts) >= {"events", "size_bytes", "last", "pod"}
    cells = tracer.key_cells(ONE, WHO, CONTEXT)
    assert {column.key for grouping in tracer.groupings.values() for column in grouping.columns} <= cells.keys()
    assert [(metric.name, metric.measure, metric.help) for metric in tracer.metrics] == [
        ("events", "events", "Events."),
        ("bytes", "size_bytes", "Bytes tried."),
    ]
    assert (tracer.metered_by, tracer.metric_labels) == ("container", ("namespace", "pod", "container"))
    assert set(tracer.ours) == {"how", "device", "error"}
    totals = {"events": 2, "size_bytes": 8192, "last": 105}
    assert tracer.summary_record(totals) == {"events": 2, "size_bytes": 8192}
    assert tracer.summary_text(totals) == "2 events, size 8.0 KiB"


class Joined(Tried):
    """Of which events may differ in two members: these are added up, or the largest is kept, before it is told."""

    name = "joined"
    alike = {"size": SUM, "twice": MAX}  # noqa: RUF012
    sums = (
        *Tried.sums,
        Sum(Column("both", "BOTH", "count"), ("size", "pid")),
        Sum(Column("largest", "LARGEST", "count"), ("size", "tid"), MAX),
        Sum(Column("odd", "ODD", "count"), lambda event: event.tid % 2),
    )


def test_what_was_joined_is_not_added_up_twice() -> None:
    assert list(Joined().values(ONE, CONTEXT)) == [1, 4096, 105, 4096 + 12, 4096 + 13, 1]
    assert list(Joined().joined_values(ONE, CONTEXT, 5)) == [5, 4096, 105, (4096 + 12) * 5, 4096 + 13, 5]


@pytest.mark.parametrize("member", ["x; import os", "class", "", "a b"])
def test_what_is_not_a_members_name_is_refused(member: str) -> None:
    fields: Sequence[Any] = (Field("key" if member else "", member),)
    with pytest.raises(UsageError, match="cannot be read"):
        type("Broken", (Fielded,), {"name": "broken", "fields": fields})
