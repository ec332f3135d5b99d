"""writes on this machine's kernel: its verifier takes every kprobe program, and its arrays are read as counters."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Iterator, Mapping

import pytest

from kubetrace.engines.counters import CounterMap
from kubetrace.engines.libbpf import LoadedObject
from kubetrace.engines.library import library
from kubetrace.engines.source import object_path
from kubetrace.stream.layout import Layout
from kubetrace.tracers import find

TRACER = find("writes")
# as in bpf/counters.bpf.h and writes_key.bpf.h: time, key, value, the next one's header
SLOT = struct.Struct("<Q QQQQIIII QQQQQ16s Q")


@pytest.fixture
def loaded() -> Iterator[LoadedObject]:
    path = object_path("writes")
    with LoadedObject(path, hook="kprobe", optional=TRACER.optional, sizes={"writes": 1024}, attach=False) as made:
        yield made


@pytest.fixture
def layout(loaded: LoadedObject) -> Layout:
    return loaded.layout("writes_counter")


def reader(loaded: LoadedObject) -> CounterMap:
    made = loaded.stream("writes", loaded.layout("writes_counter").size)
    assert isinstance(made, CounterMap)
    return made


def put(loaded: LoadedObject, slot: int, shown: int, place: int = 0, count: int = 0) -> bool:
    key = (100, 0, 1, place, 0, 50, 0, 0)
    record = SLOT.pack(shown, *key, count, count * 10, 0, 1, 0, b"test", 0)
    return loaded.update("writes", struct.pack("<I", slot), record)


def store(loaded: LoadedObject, *counts: tuple[int, int]) -> None:
    """Counters by place, as programs leave them: each in the slot behind that of its place."""
    for number, count in counts:
        assert put(loaded, 1 + number, 1, number, count)
    assert put(loaded, 0, 1 + max(number for number, _ in counts))


@pytest.mark.parametrize(
    "constants",
    [
        {},
        {"by_file": 1, "filter_by_cgroup": 1},
        {"by_process": 1, "latency": 1, "memory_on_v1": 0, "node_mount_namespace": 5},
        {"events": 1, "all_files": 1, "node_mount_namespace": 5},
    ],
)
def test_the_verifier_accepts_every_kprobe_program(constants: Mapping[str, int]) -> None:
    path = object_path("writes")
    with LoadedObject(path, hook="kprobe", optional=TRACER.optional, constants=constants, attach=False) as loaded:
        assert loaded.missing == {}


def test_a_size_is_set_before_the_load(loaded: LoadedObject) -> None:
    assert put(loaded, 1023, 1)
    assert not put(loaded, 1024, 1)


def test_the_record_is_time_key_and_value(loaded: LoadedObject, layout: Layout) -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    store(loaded, (7, 23))
    (event,) = layout.decode(reader(loaded).read())
    assert (event.cgroup_id, event.place, event.count, event.bytes, event.comm[:5]) == (100, 7, 23, 230, b"test\0")
    assert event.NAMES["operation"][event.operation] == "write"
    assert before <= event.time <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_only_what_has_changed_comes_again(loaded: LoadedObject, layout: Layout) -> None:
    counters = reader(loaded)
    store(loaded, *((number, 1) for number in range(101)))
    assert [(e.place, e.count) for e in layout.decode(counters.read())] == [(number, 1) for number in range(101)]
    assert counters.read() == b""
    store(loaded, (53, 2), (101, 5))
    assert {(e.place, e.count) for e in layout.decode(counters.read())} == {(53, 2), (101, 5)}
    store(loaded, (53, 3), (100, 7), (101, 5))
    assert [(e.place, e.count) for e in layout.decode(counters.read())] == [(53, 3), (100, 7)]
    assert counters.read() == b""


def test_a_slot_that_is_being_made_comes_when_it_is_there(loaded: LoadedObject, layout: Layout) -> None:
    counters = reader(loaded)
    store(loaded, (0, 1), (1, 2), (2, 3))
    put(loaded, 2, 0, 1, 2)
    assert [e.place for e in layout.decode(counters.read())] == [0, 2]
    assert counters.read() == b""
    put(loaded, 2, 1, 1, 2)
    assert [(e.place, e.count) for e in layout.decode(counters.read())] == [(1, 2)]


def test_an_absurd_number_of_slots_reads_those_that_are(loaded: LoadedObject, layout: Layout) -> None:
    for slot in range(1, 1024):
        put(loaded, slot, 1, slot, 1)
    put(loaded, 0, 2**64 - 1)
    assert len(list(layout.decode(reader(loaded).read()))) == 1023


def test_a_read_that_took_long_is_not_due_at_once(loaded: LoadedObject, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = reader(loaded)
    assert counters.due
    # a second from one look at the clock to the next: a read takes one, and may take a twentieth of the time
    monkeypatch.setattr("kubetrace.engines.counters.time.monotonic", itertools.count(time.monotonic()).__next__)
    store(loaded, *((number, 1) for number in range(1023)))
    counters.read()
    assert [counters.due for _ in range(25)].index(True) == 19
    counters.hurry()
    assert counters.due


def test_an_object_is_loaded_without_its_unneeded_programs() -> None:
    """fentry is refused here; a program that stands for nothing must not be what is tried."""
    with LoadedObject(
        object_path("writes"),
        hook="kprobe",
        optional=TRACER.optional,
        unneeded=["write_begin__kprobe"],
        attach=False,
    ) as loaded:
        fds = {p.name: library().bpf_program__fd(p.pointer) for p in loaded._programs()}
    assert fds["write_begin__kprobe"] < 0 < fds["writev_begin__kprobe"]
