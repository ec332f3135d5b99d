"""What a pull waited for, from moments that are written by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from kubetrace.attribution.facts import ContainerSeen
from kubetrace.attribution.selection import Selection
from kubetrace.attribution.whose import Attribution
from kubetrace.kit.context import Context
from kubetrace.tracers.pulls import TRACER, cells, phases, shape
from kubetrace.tracers.pulls.arrivals import PullsBoard
from kubetrace.tracers.pulls.phases import Moments, Part

# The pull that was measured on containerd 1.7.24, in tenths of a second: base, big, share, zeros, top.
RESOLVED, ENDED = 2, 101
LAYERS = [
    Moments(download_begun=2, download_ended=12, unpack_begun=13, committed=38),
    Moments(download_begun=2, download_ended=47, unpack_begun=47, committed=55),
    Moments(download_begun=2, download_ended=8, unpack_begun=55, committed=90),
    Moments(download_begun=8, download_ended=20, unpack_begun=91, committed=99),
    Moments(download_begun=13, download_ended=14, unpack_begun=100, committed=100),
]


def whole(layers: list[Moments], ended: int | None = ENDED, now: int = ENDED) -> list[tuple[str, int, int, int | None]]:
    return [(part.phase, part.begin, part.end, part.layer) for part in phases.critical(0, RESOLVED, layers, ended, now)]


def test_a_pull_waits_for_the_layer_that_is_next_to_be_unpacked() -> None:
    assert whole(LAYERS) == [
        ("resolve", 0, 2, None),
        ("download", 2, 12, 0),
        ("unpack", 12, 38, 0),
        ("download", 38, 47, 1),
        ("unpack", 47, 55, 1),
        ("unpack", 55, 90, 2),
        ("unpack", 90, 99, 3),
        ("unpack", 99, 100, 4),
        ("finish", 100, 101, None),
    ]
    found = phases.sums(phases.critical(0, RESOLVED, LAYERS, ENDED, ENDED))
    assert found == {"resolve": 2, "download": 19, "unpack": 79, "finish": 1} and sum(found.values()) == ENDED
    assert phases.longest(phases.critical(0, RESOLVED, LAYERS, ENDED, ENDED)) == ("unpack", 2, 35)


def test_a_layer_waits_for_a_slot_and_for_those_below_it() -> None:
    said = [(part.phase, part.begin, part.end) for part in phases.of_layer(LAYERS[3], RESOLVED, ENDED)]
    assert said == [("slot", 2, 8), ("download", 8, 20), ("lower", 20, 91), ("unpack", 91, 99)]


@pytest.mark.parametrize("now", range(ENDED + 10))
def test_at_any_moment_the_parts_of_a_running_pull_leave_no_gap(now: int) -> None:
    def so_far(moment: int | None) -> int | None:
        return moment if moment is not None and moment <= now else None

    layers = [
        Moments(
            download_begun=so_far(one.download_begun),
            download_ended=so_far(one.download_ended),
            unpack_begun=so_far(one.unpack_begun),
            committed=so_far(one.committed),
        )
        for one in LAYERS
    ]
    parts = phases.critical(0, so_far(RESOLVED), layers, None, now)
    assert sum(part.ns for part in parts) == now
    assert all(one.end == other.begin for one, other in pairwise(parts))
    for layer in layers:
        own = phases.of_layer(layer, min(RESOLVED, now), now)
        assert sum(part.ns for part in own) == (layer.committed or now) - min(RESOLVED, now)


def test_a_layer_that_was_there_takes_no_time_and_another_pull_s_is_waited_for() -> None:
    layers = [Moments(there=True), Moments(download_ended=30, committed=40, fetched_elsewhere=True)]
    assert whole(layers, 41, 41) == [
        ("resolve", 0, 2, None),
        ("elsewhere", 2, 30, 1),
        ("unpack", 30, 40, 1),
        ("finish", 40, 41, None),
    ]
    both = Moments(download_ended=30, committed=40, fetched_elsewhere=True, unpacked_elsewhere=True)
    assert {part.phase for part in phases.of_layer(both, 2, 41)} == {"elsewhere"}


def test_a_download_of_which_only_the_end_is_known_is_told_as_a_download() -> None:
    layer = Moments(download_ended=12, unpack_begun=13, committed=20)
    assert [part.phase for part in phases.of_layer(layer, 2, 20)] == ["download", "lower", "unpack"]


@pytest.mark.parametrize(
    "layer",
    [
        Moments(download_begun=50, download_ended=3, unpack_begun=99, committed=1),
        Moments(download_begun=-5, download_ended=10**18, unpack_begun=0, committed=0),
        Moments(committed=5),
        Moments(unpack_begun=4, committed=10**18),
    ],
)
def test_moments_that_cannot_be_give_parts_that_can(layer: Moments) -> None:
    # a clock that was set, or a file that lies
    for parts in (phases.of_layer(layer, 2, 60), phases.critical(0, RESOLVED, [layer, layer], 60, 60)):
        assert all(0 <= part.begin <= part.end <= 60 for part in parts)
    assert sum(part.ns for part in phases.critical(0, RESOLVED, [layer, layer], 60, 60)) == 60


def test_what_overlaps_counts_once() -> None:
    parts = [Part("download", 0, 10), Part("download", 5, 12), Part("download", 20, 30), Part("download", 21, 22)]
    assert phases.union(parts) == 22
    assert phases.union([]) == 0


# The board.


def record(what: str, number: int = 1, text: bytes = b"", **more: Any) -> Any:
    blank = {field.name: b"" if field.kind == "bytes" else shape.UNKNOWN for field in shape.LAYOUT.fields}
    numbers = dict.fromkeys([name for name, _ in (*shape.WORDS, ("cgroup_id", ""))], 0)
    values = {
        **blank,
        **numbers,
        "what": shape.WHATS.index(what),
        "pull": number,
        "time": 1,
        "text": text,
        "text_bytes": len(text),
        **more,
    }
    return shape.LAYOUT.event_type(**values)


def board(selection: Selection | None = None) -> PullsBoard:
    return PullsBoard(Context("node1", 0, Attribution(selection or Selection())))


def taken(made: PullsBoard, *records: Any) -> list[Any]:
    from kubetrace.attribution.attributor import Identity

    return [told for one in records for told, _ in made.take(one, Identity(kind="host"))]


def ended(number: int = 1, text: bytes = b"registry.example/app:1", **more: Any) -> list[Any]:
    of = {"number": number, "begun": 0, "resolved": 2, "layers": 1, "total": 100}
    layer = {"download_begun": 2, "download_ended": 12, "unpack_begun": 12, "committed": 30, "position": 0}
    running = record("pull", text=b"registry.example/app", named_by=1, **of)
    done = record("pull", text=text, named_by=2, **{**of, "state": 1, "ended": 31, **more})
    return [record("layer", text=b"COPY a", **of, **layer), running, done]


def test_layers_are_told_before_their_pull_and_once() -> None:
    made = board()
    told = taken(made, *ended(), ended()[-1])
    assert [(one.what, one.download, one.unpack, one.time) for one in told] == [(1, 10, 18, 30), (0, 10, 18, 31)]
    assert [TRACER.kind_of(one) for one in told] == ["layer", "pull"]


def test_while_it_runs_the_tag_is_not_known_and_says_so() -> None:
    made = board()
    taken(made, *ended()[:2])
    (row,) = made.rows("pull")
    assert row[0] == "registry.example/app:?"
    taken(made, *ended())
    (row,) = made.rows("pull")
    assert row[0] == "registry.example/app:1"


def seen(pod: str, prepared_ns: int, image: str = "registry.example/app:1") -> ContainerSeen:
    return ContainerSeen(
        container_id="c" * 64,
        kind="container",
        namespace="shop",
        pod=pod,
        container="app",
        pod_uid="u",
        image=image,
        sandbox_id=None,
        source="config.json",
        time_ns=prepared_ns,
        prepared_ns=prepared_ns,
    )


def test_only_a_pod_that_begins_with_the_image_when_it_has_come_has_waited_for_it() -> None:
    made = board()
    at = [column.key for column in cells.GROUPINGS["pull"].columns].index("pods")
    made.learn(seen("before", 30))
    made.learn(seen("other", 40, "registry.example/other:1"))
    made.learn(seen("late", 31 + 6_000_000_000))
    taken(made, *ended())
    assert made.rows("pull")[0][at] is None
    made.learn(seen("web-0", 40))
    made.learn(seen("web-1", 50))
    assert made.rows("pull")[0][at] == "shop/web-0, shop/web-1"


def test_a_selection_leaves_the_pulls_of_its_pods() -> None:
    made = board(Selection.parse(["shop"], [], []))
    taken(made, *ended(), *ended(2, b"registry.example/b:2"))
    assert made.rows("pull") == []
    made.learn(seen("web-0", 40))
    assert [row[0] for row in made.rows("pull")] == ["registry.example/app:1"]


@pytest.mark.parametrize("by", list(cells.GROUPINGS))
def test_any_record_makes_rows(by: str) -> None:
    made = board()
    taken(made, record("pull", state=60_000, phase=60_000, named_by=60_000, layers=-7, begun=5, ended=1))
    taken(made, record("layer", reused=60_000, position=1 << 40, begun=9, committed=3), record("pull", begun=1 << 60))
    assert len(made.rows(by)) == (0 if by == "node" and not made.rows("pull") else 1)


def test_pulls_that_are_remembered_are_bounded() -> None:
    made = board()
    for number in range(1, 600):
        taken(made, *ended(number))
    rows = made.rows("pull")
    assert len(rows) == 512 and [row[1] for row in rows][-1] == 599
    # what they came to is not forgotten: the agent's counters only rise
    at = [column.key for column in [*cells.GROUPINGS["node"].columns, *cells.MEASURES]]
    (node,) = made.rows("node")
    assert (node[at.index("pulls")], node[at.index("took_ns")]) == (599, 599 * 31)


@pytest.mark.parametrize(
    ("sums", "said"),
    [
        (
            {"unpack": 7_000_000_000, "download": 1_000_000_000},
            "unpacking took 7.0 s of 8.0 s: a faster network saves 1.0 s at most",
        ),
        ({"download": 4_000_000_000, "downloading": 2_000_000_000}, "downloading took 4.0 s of 4.0 s, 50 MiB/s in all"),
        ({"elsewhere": 3_000_000_000}, "waiting for another pull of the same layers took 3.0 s of 3.0 s"),
        ({"slot": 3_000_000_000}, "waiting for a free download took 3.0 s of 3.0 s"),
        ({"resolve": 3_000_000_000}, "the registry's answers took 3.0 s of 3.0 s"),
        ({"unpack": 1, "state": shape.STATES.index("failed")}, "the runtime gave it up"),
    ],
)
def test_the_sentence_says_what_most_of_the_time_was_spent_on(sums: dict[str, int], said: str) -> None:
    one = record("pull")._replace(**{**dict.fromkeys(phases.ALL, 0), "bytes": 100 << 20, **sums})
    text = cells.why(one)
    assert text is not None and text.startswith(said)
