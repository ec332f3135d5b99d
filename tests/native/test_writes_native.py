"""writes on this machine's kernel: its verifier takes every kprobe program, and its maps are read as counters."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

import pytest

from kubetrace.engines.counters import CounterMap
from kubetrace.engines.libbpf import LoadedObject, library
from kubetrace.engines.source import object_path
from kubetrace.layout import Layout
from kubetrace.tracers import find

TRACER = find("writes")
VALUE = struct.Struct("<QQQQQ16s")


def key(number: int) -> bytes:
    return struct.pack("<QQQQIIII", 100, 0, 1, number, 0, 50, 0, 0)


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


def store(loaded: LoadedObject, number: int, count: int) -> None:
    assert loaded.update("writes", key(number), VALUE.pack(count, count * 10, 0, 1, 0, b"test"))


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
    for number in range(1024):
        store(loaded, number, 1)
    assert not loaded.update("writes", key(1024), VALUE.pack(1, 1, 0, 1, 0, b""))


def test_the_record_is_time_key_and_value(loaded: LoadedObject, layout: Layout) -> None:
    store(loaded, 7, 23)
    (event,) = layout.decode(reader(loaded).read())
    assert (event.cgroup_id, event.place, event.count, event.bytes, event.comm[:5]) == (100, 7, 23, 230, b"test\0")
    assert event.NAMES["operation"][event.operation] == "write" and event.time > 0


def test_only_what_has_changed_comes_again(loaded: LoadedObject, layout: Layout) -> None:
    counters = reader(loaded)
    for number in range(101):
        store(loaded, number, 1)
    assert len(list(layout.decode(counters.read()))) == 101
    assert counters.read() == b""
    store(loaded, 53, 2)
    store(loaded, 1000, 5)
    assert {(e.place, e.count) for e in layout.decode(counters.read())} == {(53, 2), (1000, 5)}
    store(loaded, 53, 3)
    assert [(e.place, e.count) for e in layout.decode(counters.read())] == [(53, 3)]


def test_a_kernel_without_batches_gives_the_same(loaded: LoadedObject, layout: Layout) -> None:
    for number in range(211):
        store(loaded, number, number)
    batched, single = reader(loaded), reader(loaded)
    single._batched = False
    assert set(layout.decode(batched.read())) and batched._snapshot()[0] != b""
    first = {(e.place, e.count) for e in layout.decode(single.read())}
    assert first == {(number, number) for number in range(211)}
    assert sorted(batched._split(batched._snapshot()[1])) == sorted(single._split(single._snapshot()[1]))


def test_a_read_that_took_long_is_not_due_at_once(loaded: LoadedObject) -> None:
    counters = reader(loaded)
    assert counters.due
    for number in range(1024):
        store(loaded, number, 1)
    counters.read()
    assert not counters.due
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
