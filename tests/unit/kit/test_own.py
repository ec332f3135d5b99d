"""Columns out of a struct alone: what a user's tracer shows, without any kernel."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from kubetrace.attribution.attributor import Identity
from kubetrace.errors import UsageError
from kubetrace.kit.context import Context
from kubetrace.kit.own import Derived
from kubetrace.kit.tracer import Tracer
from kubetrace.stream.layout import Field, Layout

WHO = (
    Field("time", 0, 8, "unsigned", "boot_ns"),
    Field("cgroup_id", 8, 8, "unsigned", "cgroup_id"),
    Field("memory_cgroup_id", 16, 8, "unsigned", "cgroup_id"),
    Field("memory_hierarchy", 24, 4, "unsigned", "hierarchy"),
    Field("device", 28, 4, "unsigned", "dev"),
    Field("pid", 32, 4, "unsigned"),
    Field("tid", 36, 4, "unsigned"),
    Field("comm", 40, 16, "bytes"),
)
OWN = (
    Field("size", 56, 8, "unsigned", "bytes"),
    Field("waited", 64, 8, "unsigned", "duration_ns"),
    Field("how", 72, 4, "unsigned", "", ("plain", "forced")),
    Field("error", 76, 4, "signed", "errno"),
    Field("kind", 80, 8, "bytes"),
    Field("uid", 88, 4, "unsigned"),
    Field("reserved", 92, 4, "unsigned"),
)


def of(*fields: Field) -> Derived:
    return Derived("run:own", "own", Layout("own_event", 504, (*WHO, *fields)))


def event(tracer_fields: tuple[Field, ...], data: bytes) -> Any:
    layout = Layout("own_event", 504, (*WHO, *tracer_fields))
    (found,) = layout.decode(bytes(8) + data.ljust(504, b"\0"))
    return found


ONE = struct.pack("<QQQIIII16sQQIi8sI", 5, 77, 0, 0, 0x600003, 12, 13, b"sh\0x", 4096, 9, 1, -28, b"a\0b", 1000)


def test_it_is_a_tracer_like_any_other() -> None:
    tracer: Tracer = of(*OWN)
    assert len(tracer.operations()) == len(tracer.measures)
    assert [column.title for column in tracer.measures] == ["EVENTS", "SIZE", "MAX WAITED", "ERRORS", "LAST"]
    assert list(tracer.groupings) == ["how", "container", "pod", "process", "node", "kind", "uid"]
    assert next(iter(tracer.sorts)) == "size_bytes"
    assert [column.key for column in tracer.event_columns][-6:] == [
        "size_bytes",
        "waited_ns",
        "how",
        "error",
        "kind_value",
        "uid",
    ]


def test_values_and_cells_are_the_members() -> None:
    tracer, clock = of(*OWN), Context("node1", 100)
    found = event(OWN, ONE)
    assert list(tracer.values(found, clock)) == [1, 4096, 9, 1, 105]
    cells = dict(zip([c.key for c in tracer.event_columns], tracer.event_cells(found, Identity(), clock), strict=True))
    assert {
        "time": 105,
        "comm": b"sh",
        "size_bytes": 4096,
        "waited_ns": 9,
        "how": "forced",
        "error": "ENOSPC",
        "kind_value": b"a",
        "uid": 1000,
    }.items() <= cells.items()
    record = tracer.record(found, Identity(), clock)
    assert (record["type"], record["device"], record["cgroup_id"], record["how"]) == ("own", "6:3", 77, "forced")
    assert "reserved" not in record


def test_a_value_that_an_enum_does_not_name_is_a_number() -> None:
    found = event(OWN, ONE[:72] + struct.pack("<I", 9) + ONE[76:])
    assert of(*OWN).record(found, Identity(), Context("", 0))["how"] == "9"


def test_a_path_is_the_default_grouping() -> None:
    path = (
        Field("path_bytes", 56, 2, "unsigned"),
        Field("path_end", 58, 2, "unsigned"),
        Field("path", 60, 16, "bytes"),
    )
    tracer = of(*path)
    assert next(iter(tracer.groupings)) == "path" and next(iter(tracer.sorts)) == "events"
    names = b"log\0var\0"
    whole = event(path, ONE[:56] + struct.pack("<HH", len(names), 0) + names)
    cut = event(path, ONE[:56] + struct.pack("<HH", len(names), 1) + names)
    assert tracer.key_cells(whole, Identity(), Context("", 0))["path"] == b"/var/log"
    assert tracer.key_cells(cut, Identity(), Context("", 0))["path"] == "…/var/log".encode()
    assert tracer.record(whole, Identity(), Context("", 0))["path"] == b"/var/log"


def test_the_summary_says_what_was_added_up() -> None:
    totals = {"events": 2, "size_bytes": 8192, "max_waited_ns": 9, "errors": 1, "last": 0}
    assert of(*OWN).summary_text(totals) == "2 events, size 8.0 KiB, longest waited 9 ns, 1 error"
    assert of(*OWN).summary_record(totals) == {"size_bytes": 8192, "max_waited_ns": 9, "errors": 1}


def test_a_struct_that_cannot_be_attributed_is_refused() -> None:
    with pytest.raises(UsageError, match="has no time, cgroup_id"):
        Derived("run:own", "own", Layout("own_event", 504, OWN))
    with pytest.raises(UsageError, match="comm is not what KT_WHO makes it"):
        Derived("run:own", "own", Layout("own_event", 504, (*WHO[:-1], Field("comm", 40, 8, "unsigned"))))
