"""The agent's counters: they only rise, their number is bounded, and their total stays exact."""

from __future__ import annotations

import random

import pytest

from kubetrace import tracers
from kubetrace.agent.metrics import of_the_node
from kubetrace.agent.series import OVERFLOW, Series, standing
from kubetrace.agent.serve import _split
from kubetrace.agent.watch import _label
from kubetrace.errors import HookMissing, KubetraceError, PermissionDenied, UsageError


def series(limit: int = 3, idle_s: float = 60.0) -> Series:
    return Series(1, 1, limit=limit, idle_s=idle_s)


def read(of: Series) -> dict[str, float]:
    return {labels[0]: sums[0] for labels, sums in of.read().items()}


def test_growth_is_added() -> None:
    made = series()
    made.absorb([(("a",), [3]), (("b",), [0])], 0)
    made.absorb([(("a",), [5]), (("b",), [7])], 1)
    assert read(made) == {"a": 5, "b": 7}


def test_a_row_that_falls_is_not_taken_back() -> None:
    made = series()
    made.absorb([(("a",), [10])], 0)
    made.absorb([(("a",), [4])], 1)
    made.absorb([(("a",), [6])], 2)
    assert read(made) == {"a": 12}


def test_a_row_that_is_gone_counts_from_zero_when_it_comes_again() -> None:
    made = series()
    made.absorb([(("a",), [10])], 0)
    made.absorb([], 1)
    made.absorb([(("a",), [4])], 2)
    assert read(made) == {"a": 14}


def test_sums_stay_when_the_tracer_is_attached_anew() -> None:
    made = series()
    made.absorb([(("a",), [10])], 0)
    made.begin_again()
    made.absorb([(("a",), [4])], 1)
    assert read(made) == {"a": 14}


def test_a_new_row_is_held_until_it_is_there_again() -> None:
    made = series()
    made.absorb([(("3f2a",), [1]), (("a",), [2])], 0, hold_new=True)
    assert read(made) == {}
    # what had only an id has a name now, and is counted under it alone
    made.absorb([(("web",), [1]), (("a",), [5])], 1, hold_new=True)
    assert read(made) == {"a": 5}
    made.absorb([(("web",), [1]), (("a",), [6])], 2, hold_new=True)
    assert read(made) == {"a": 6, "web": 1}
    made.absorb([(("web",), [4]), (("late",), [2])], 3)
    assert read(made) == {"a": 6, "web": 4, "late": 2}


def test_what_finds_no_place_is_one_overflow_series_and_counted_once() -> None:
    made = series(limit=2)
    made.absorb([((name,), [1]) for name in "abcd"], 0)
    made.absorb([((name,), [3]) for name in "abcd"], 1)
    assert read(made) == {"a": 3, "b": 3, OVERFLOW: 6}
    assert (len(made), made.overflowed) == (2, 2)


def test_who_does_not_grow_gives_the_place_back() -> None:
    made = series(limit=1, idle_s=10)
    made.absorb([(("a",), [1]), (("b",), [1])], 0)
    made.absorb([(("a",), [1]), (("b",), [1])], 11)
    assert read(made) == {OVERFLOW: 1}
    made.absorb([(("a",), [1]), (("b",), [5])], 12)
    assert read(made) == {"b": 4, OVERFLOW: 1}


def test_rows_whose_labels_are_cut_to_the_same_are_one() -> None:
    made = series()
    made.absorb([(("x" * 256 + "1",), [2]), (("x" * 256 + "2",), [3])], 0)
    assert read(made) == {"x" * 256: 5}


def test_the_total_is_exact_and_the_number_bounded_whatever_comes() -> None:
    dice = random.Random(23)
    made = series(limit=7, idle_s=5)
    rows: dict[str, int] = {}
    total = 0
    shown: dict[str, float] = {}
    gone = 0.0
    for now in range(500):
        for _ in range(5):
            name, more = str(dice.randrange(40)), dice.randrange(1, 10)
            rows[name] = rows.get(name, 0) + more
            total += more
        made.absorb([((name,), [value]) for name, value in rows.items()], now)
        after = read(made)
        assert len(made) <= 7
        for name, value in shown.items():
            if name not in after or after[name] < value:
                gone += value  # expired, or expired and come again
        shown = after
        assert sum(after.values()) + gone == total


@pytest.mark.parametrize(
    ("value", "label"),
    [(None, ""), ("web-0", "web-0"), (b"a\xff\n\x1b[31m", r"a\xff\n\x1b[31m"), ("\u202e", r"\u202e")],
)
def test_labels_are_shown_as_in_tables(value: str | bytes | None, label: str) -> None:
    assert _label(value) == label


def test_numbers_as_they_stand_are_bounded_and_their_sum_stays() -> None:
    rows = [(("log", "a"), 5.0), (("log", "a"), 6.0), (("log", "b"), 3.0), (("volume", "a"), None), (("log", "c"), 2.0)]
    assert standing(rows, limit=9, sums=True) == {("log", "a"): 11.0, ("log", "b"): 3.0, ("log", "c"): 2.0}
    assert standing(rows, limit=1, sums=True) == {("log", "a"): 11.0, (OVERFLOW, OVERFLOW): 5.0}
    # of times until something happens the shortest are kept, and no sum is made of others
    assert standing(rows, limit=2, sums=False) == {("log", "c"): 2.0, ("log", "b"): 3.0}


@pytest.mark.parametrize("name", tracers.names())
def test_what_a_tracer_meters_is_there(name: str) -> None:
    tracer = tracers.find(name)
    if not tracer.metrics:
        assert tracer.standings or name == "starts"  # single steps, no sums
        for one in tracer.standings:
            grouping = {column.key for column in tracer.groupings[one.by].columns}
            assert set(one.labels) <= grouping and one.join in ("sum", "last")
            assert one.measure in grouping | {column.key for column in tracer.measures}
        return
    columns = {column.key for column in tracer.groupings[tracer.metered_by].columns}
    assert set(tracer.metric_labels) <= columns
    operations = dict(zip([column.key for column in tracer.measures], tracer.operations(), strict=True))
    assert {operations[metric.measure] for metric in tracer.metrics} == {"sum"}


@pytest.mark.parametrize(
    ("address", "parts"),
    [(":9435", ("", 9435)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:80", ("::1", 80))],
)
def test_an_address_is_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert _split(address) == parts


@pytest.mark.parametrize("address", ["9435", "host", ":x", ":70000", ""])
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(UsageError, match="is not an ADDRESS:PORT"):
        _split(address)


@pytest.mark.parametrize(
    ("error", "of_node"),
    [
        (HookMissing("this kernel has no BTF.", check="kernel BTF"), True),
        (HookMissing("neither fentry nor kprobes."), True),
        (PermissionDenied("the kernel is locked down for confidentiality", check="lockdown"), True),
        # these are of who started it
        (PermissionDenied("this pod lacks CAP_BPF"), False),
        (KubetraceError("copyup stopped"), False),
    ],
)
def test_what_no_restart_changes_is_the_nodes(error: KubetraceError, of_node: bool) -> None:
    assert of_the_node(error) is of_node
