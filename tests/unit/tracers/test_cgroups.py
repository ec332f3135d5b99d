"""The board of kubetrace cgroups: twins, restarts, lifetimes, what gauges tell, and what is forgotten; no kernel."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from kubetrace import tracers
from kubetrace.attribution.attributor import Identity
from kubetrace.kit.context import Context
from kubetrace.node.cgroup_files import UNKNOWN
from kubetrace.stream.layout import Field, Layout
from kubetrace.tracers.cgroups import CgroupsBoard, usage
from kubetrace.views.table import plain, render
from kubetrace.views.window import Window

CGROUPS: Any = tracers.find("cgroups")
NAMES = (
    *("created", "removed", "attached", "exec", "exit", "oom-kill"),
    *("throttled", "reclaim", "fork-refused", "frozen", "thawed"),
)
NUMBERS = (
    *("time", "cgroup_id", "memory_cgroup_id", "duration", "memory", "limit", "memory_hierarchy", "device"),
    *("pid", "status", "periods", "path_bytes", "first", "events_high", "events_max", "events_oom", "events_oom_kill"),
    *("swap", "group", "limit_levels", "memory_deeper"),
)
EVENT = Layout(
    "cgroups_activity",
    8 * len(NUMBERS) + 4 + 16 + 60,
    (
        *(Field(name, 8 * at, 8, "signed") for at, name in enumerate(NUMBERS)),
        Field("event", 8 * len(NUMBERS), 4, "unsigned", "", NAMES),
        Field("comm", 8 * len(NUMBERS) + 4, 16, "bytes"),
        Field("path", 8 * len(NUMBERS) + 20, 60, "bytes"),
    ),
)
S = 1_000_000_000
UID = "0f0f0f0f-1111-2222-3333-444444444444"


def who(container: str | None = "app", letter: str = "a", kind: Any = "container", **more: Any) -> Identity:
    path = f"/kubepods/burstable/pod{UID}" + (f"/{letter * 64}" if kind != "pod" else "")
    given: dict[str, Any] = {
        "namespace": "shop",
        "pod": "cart-0",
        "container": container if kind == "container" else None,
        "pod_uid": UID,
        "container_id": letter * 64 if kind != "pod" else None,
        "qos_class": "Burstable",
        "kind": kind,
        "cgroup_path": path,
        **more,
    }
    return Identity(**given)


class Told:
    """A board, fed with events."""

    def __init__(self, keep: str = "1m", missing: Collection[str] = ()) -> None:
        layouts = {"activity": EVENT}
        self.board: CgroupsBoard = CGROUPS.board({"keep": keep}, layouts, missing, Context("node1", 0))
        self.blank = EVENT.event_type._make(b"" if f.kind == "bytes" else 0 for f in EVENT.fields)

    def tell(self, name: str, time_s: float, identity: Identity, **values: Any) -> list[Any]:
        given = {"cgroup_id": 7, **values}
        event = self.blank._replace(time=int(time_s * S), event=NAMES.index(name), **given)
        return [told for told, _ in self.board.take(event, identity)]

    def sample(self, time_s: float, identity: Identity, **numbers: int) -> list[Any]:
        values = dict.fromkeys(usage.LAYOUT.event_type._fields, UNKNOWN)
        values.update({"cgroup_id": 7, "memory_cgroup_id": 0, "memory_hierarchy": 0, "device": 0})
        values.update(numbers, time=int(time_s * S))
        return [told for told, _ in self.board.take(usage.LAYOUT.event_type(**values), identity)]

    def rows(self, by: str = "container") -> list[dict[str, Any]]:
        columns = [*CGROUPS.groupings[by].columns, *CGROUPS.measures]
        return [dict(zip([c.key for c in columns], row, strict=True)) for row in self.board.rows(by)]


def names(told: list[Any]) -> list[str]:
    return [NAMES[event.event] for event in told]


def test_the_same_cgroup_in_two_hierarchies_is_told_once() -> None:
    told = Told()
    memory = {"cgroup_id": 0, "memory_cgroup_id": 9, "memory_hierarchy": 4}
    for name in ("created", "attached", "removed"):
        assert names(told.tell(name, 1, who(), pid=5)) == [name]
        assert told.tell(name, 1.1, who(), pid=5, **memory) == []
    # moved back into it later, by the hierarchy that is told
    assert names(told.tell("attached", 2, who(), pid=5)) == ["attached"]


def test_the_node_s_own_cgroups_are_left_out() -> None:
    assert Told().tell("exec", 1, Identity(kind="host", cgroup_path="/system.slice")) == []


def test_what_a_container_makes_below_itself_is_no_container() -> None:
    told = Told()
    below = who(cgroup_path=f"/kubepods/burstable/pod{UID}/{'a' * 64}/init.scope")
    assert told.tell("created", 1, below) == told.tell("removed", 2, below) == told.tell("exit", 3, below) == []
    assert names(told.tell("exec", 4, below)) == ["exec"]


def test_a_lifetime_is_from_created_to_removed() -> None:
    told = Told()
    told.tell("created", 10, who())
    (removed,) = told.tell("removed", 12.5, who())
    assert removed.duration == 2_500_000_000
    assert CGROUPS.record(removed, who(), Context("node1", 0))["lifetime_ns"] == 2_500_000_000


def test_a_container_of_the_same_name_is_a_restart_of_the_same_row() -> None:
    told = Told()
    told.tell("created", 1, who(letter="a"))
    told.tell("exec", 1, who(letter="a"), pid=5)
    told.tell("oom-kill", 2, who(letter="a"), pid=5)
    told.tell("exit", 2, who(letter="a"), pid=5, status=9)
    (row,) = told.rows()
    assert (row["state"], row["oom_kills"], row["restarts"]) == ("OOMKilled", 1, 0)
    told.tell("removed", 3, who(letter="a"))
    told.tell("created", 4, who(letter="b"))
    told.tell("exec", 4, who(letter="b"), pid=6)
    # what is late about the old one does not end the new one
    told.tell("removed", 5, who(letter="a"))
    (row,) = told.rows()
    assert (row["state"], row["oom_kills"], row["restarts"], row["execs"]) == ("running", 1, 1, 2)
    told.tell("exit", 6, who(letter="b"), pid=6, status=3 << 8)
    assert told.rows()[0]["state"] == "exit 3"


def test_all_that_are_killed_with_one_are_one_incident() -> None:
    told = Told()
    told.tell("created", 1, who())
    for pid in (8, 5, 7, 6):
        told.tell("oom-kill", 2, who(), pid=pid, group=8)
    (row,) = told.rows()
    assert (row["ooms"], row["oom_kills"]) == (1, 4)
    # another group, and one alone
    told.tell("oom-kill", 3, who(), pid=9, group=9)
    told.tell("oom-kill", 4, who(), pid=11)
    (row,) = told.rows()
    assert (row["ooms"], row["oom_kills"]) == (3, 6)
    assert told.rows("pod")[0]["ooms"] == 3


POD_PATH = f"/kubepods/burstable/pod{UID}"
OWN = f"{POD_PATH}/{'a' * 64}"


@pytest.mark.parametrize(
    ("path", "levels", "of", "cgroup", "said"),
    [
        (OWN, 0, "container", OWN, "limit 16 MiB of the container, had 4.0 KiB"),
        (OWN, 1, "pod", POD_PATH, "limit 16 MiB of the pod, had 4.0 KiB"),
        (OWN, 2, "above", "/kubepods/burstable", "limit 16 MiB of burstable, had 4.0 KiB"),
        (OWN, 4, "above", "/", "limit 16 MiB of the node's root cgroup, had 4.0 KiB"),
        (OWN + "/in/er", 0, "inside", OWN + "/in/er", "limit 16 MiB of a cgroup inside it, had 4.0 KiB"),
        (OWN + "/in/er", 2, "container", OWN, "limit 16 MiB of the container, had 4.0 KiB"),
        # levels that no path has: a recording that was changed
        (OWN, 9, None, None, "limit 16 MiB, had 4.0 KiB"),
    ],
)
def test_whose_limit_an_oom_kill_hit(path: str, levels: int, of: str | None, cgroup: str | None, said: str) -> None:
    identity = who(cgroup_path=path, attributed_by="cgroup")
    (event,) = Told().tell("oom-kill", 1, identity, pid=5, limit=16 << 20, limit_levels=levels, memory=4096)
    record = CGROUPS.record(event, identity, Context("node1", 0))
    assert (record["limit_of"], record["limit_cgroup"]) == (of, cgroup)
    cells = CGROUPS.event_cells(event, identity, Context("node1", 0))
    assert cells[-1] == said


def test_levels_count_from_the_memory_controllers_cgroup() -> None:
    """Of cgroup v1 and v2 at once: a container that is known by v2's path, with a memory cgroup of v1's inside."""
    identity = who(attributed_by="cgroup")
    given = {"pid": 5, "limit": 16 << 20, "memory_hierarchy": 4, "memory_deeper": 1}
    for levels, of, cgroup in ((0, "inside", None), (1, "container", OWN), (2, "pod", POD_PATH)):
        (event,) = Told().tell("oom-kill", 1, identity, limit_levels=levels, **given)
        record = CGROUPS.record(event, identity, Context("node1", 0))
        assert (record["limit_of"], record["limit_cgroup"]) == (of, cgroup)


def test_a_container_named_only_later_is_the_same_row() -> None:
    told = Told()
    told.tell("created", 1, who(letter="a"))
    told.tell("exit", 2, who(letter="a"), status=0)
    nameless = who(container=None, letter="b", pod=None, namespace=None)
    told.tell("created", 3, nameless)
    told.tell("exec", 3, nameless)
    assert len(told.rows()) == 2
    told.tell("exec", 4, who(letter="b"))
    (row,) = told.rows()
    assert (row["container"], row["restarts"], row["execs"], row["state"]) == ("app", 1, 2, "running")


def test_usage_is_the_difference_of_two_looks() -> None:
    told = Told()
    numbers = {"procs": 3, "memory": 4096, "memory_limit": 8192, "cpu_limit": 500, "begun": 5 * S}
    told.sample(10, who(), cpu=1 * S, periods=10, throttled_periods=1, throttled=S, cpu_pressure=125, **numbers)
    assert told.rows()[0]["cpu_milli"] is None
    (event,) = told.sample(12, who(), cpu=2 * S, periods=30, throttled_periods=6, throttled=3 * S, **numbers)
    assert (NAMES[event.event], event.periods, event.duration) == ("throttled", 5, 2 * S)
    (row,) = told.rows()
    assert (row["cpu_milli"], row["throttled_percent"], row["throttled_ns"]) == (500, 25, 2 * S)
    assert (row["procs"], row["memory_bytes"], row["memory_limit_bytes"], row["cpu_limit_milli"]) == (
        3,
        4096,
        8192,
        500,
    )
    assert row["age_ns"] == 7 * S


def test_time_that_is_counted_after_its_period_is_told_too() -> None:
    told = Told()
    told.sample(1, who(), throttled_periods=4, throttled=S, periods=9)
    (one,) = told.sample(2, who(), throttled_periods=5, throttled=S, periods=10)
    (other,) = told.sample(3, who(), throttled_periods=5, throttled=2 * S, periods=11)
    assert [(event.periods, event.duration) for event in (one, other)] == [(1, 0), (0, S)]
    assert told.sample(4, who(), throttled_periods=5, throttled=2 * S, periods=12) == []


def test_a_new_container_begins_with_zeros_an_old_one_with_what_it_has() -> None:
    told = Told()
    assert told.sample(1, who(letter="a"), throttled_periods=7, throttled=S, periods=9) == []
    told.tell("created", 1, who("new", "b"))
    (event,) = told.sample(2, who("new", "b"), throttled_periods=7, throttled=S, periods=9)
    assert (event.periods, event.duration) == (7, S)


@pytest.mark.parametrize("missing", [(), (CGROUPS.optional["fork"],)])
def test_refused_forks_come_from_the_files_only_where_no_hook_tells_them(missing: tuple[str, ...]) -> None:
    told = Told(missing=missing)
    told.sample(1, who(), forks_refused=2)
    events = told.sample(2, who(), forks_refused=5)
    assert [(NAMES[e.event], e.periods) for e in events] == ([("fork-refused", 3)] if missing else [])


def test_v1_s_freezer_is_told_by_its_state() -> None:
    told = Told()
    told.sample(1, who(), frozen=0)
    assert names(told.sample(2, who(), frozen=1)) == ["frozen"]
    assert told.rows()[0]["state"] == "frozen"
    assert names(told.sample(3, who(), frozen=0)) == ["thawed"]


def test_what_ended_stays_marked_until_keep_runs_out() -> None:
    told = Told(keep="10s")
    told.tell("created", 1, who(kind="pod"))
    for name, letter, status in (("job", "a", 0), ("app", "b", 1 << 8)):
        told.tell("created", 1, who(name, letter))
        told.tell("exit", 2, who(name, letter), status=status)
        told.tell("removed", 3, who(name, letter))
    assert [row["state"] for row in told.rows()] == ["exit 0", "exit 1"]
    told.tell("exec", 20, who("other", "c"))
    # one that failed stays for as long as its pod: it may be about to be started again
    assert [row["container"] for row in told.rows()] == ["app", "other"]
    told.tell("removed", 21, who(kind="pod"))
    assert [row["state"] for row in told.rows("pod")] == ["ended"]
    told.tell("created", 40, who("x", "d", pod_uid=UID.replace("0f", "1f"), pod="cart-1"))
    assert {row["pod"] for row in told.rows("pod")} == {"cart-1"}


def test_a_pod_a_second_leaves_nothing_behind_for_who_only_reads_the_events() -> None:
    told = Told()
    for number in range(1000):
        uid = f"00000000-0000-0000-0000-{number:012x}"
        path = f"/kubepods/burstable/pod{uid}"
        pod = who(kind="pod", pod_uid=uid, pod=f"job-{number}", cgroup_path=path)
        app = who(pod_uid=uid, pod=f"job-{number}", container_id=f"{number:064x}", cgroup_path=f"{path}/{number:064x}")
        for name, identity in (("created", pod), ("created", app), ("attached", app), ("exec", app)):
            assert len(told.tell(name, number, identity, pid=number)) == 1
        told.tell("exit", number + 0.5, app, pid=number, status=1 << 8)
        for identity in (app, pod):
            told.tell("removed", number + 0.6, identity)
    board = told.board
    # a minute's
    for held in (board._pods, board._containers, board._named):
        assert len(held) <= 63
    assert len(board._twins) <= 63 * 5 and not board._begun


def test_a_pod_has_its_own_usage_and_its_containers_events() -> None:
    told = Told()
    for at in (1, 2):
        told.sample(at, who(kind="pod"), memory=100, procs=5, cpu=at * S, memory_limit=1000)
        told.sample(at, who("app", "a"), memory=60, procs=3, cpu=at * S // 2, oom_kills=0)
        told.sample(at, who(None, "b", "sandbox"), memory=1, procs=1)
    told.tell("exec", 2, who("app", "a"))
    told.tell("exec", 2, who(None, "b", "sandbox"))
    (pod,) = told.rows("pod")
    assert (pod["memory_bytes"], pod["procs"], pod["cpu_milli"], pod["memory_limit_bytes"]) == (100, 5, 1000, 1000)
    assert pod["execs"] == 2
    assert [row["container"] for row in told.rows()] == ["app"]
    (node,) = told.rows("node")
    assert (node["node"], node["memory_bytes"]) == ("node1", 100)
    assert [row["qos_class"] for row in told.rows("qos")] == ["Burstable"]


def test_the_end_by_a_signal_and_by_a_status_are_told_apart() -> None:
    told, clock = Told(), Context("node1", 0)
    (event,) = told.tell("exit", 1, who(), status=137 << 8)
    record = CGROUPS.record(event, who(), clock)
    assert (record["exit_code"], record["signal"]) == (137, None)
    # with a core dump (bit 7), and a real-time signal that has no name
    (event,) = told.tell("exit", 1, who(), status=0x80 | 11)
    assert CGROUPS.record(event, who(), clock)["signal"] == "SIGSEGV"
    (event,) = told.tell("exit", 1, who(), status=40)
    assert CGROUPS.record(event, who(), clock)["signal"] == "SIG40"


def test_what_matters_fits_80_cells() -> None:
    told = Told()
    told.sample(1, who(), cpu=0, periods=0, throttled_periods=0, memory=1 << 20, procs=1)
    told.sample(2, who(), cpu=S, periods=10, throttled_periods=10, throttled=S, memory=64 << 20, procs=7)
    columns = [*CGROUPS.groupings["container"].columns, *CGROUPS.measures]
    lines = [plain(line) for line in render(Window(columns, told.board.rows("container"), sort="cpu_milli"), 80)]
    header = next(line for line in lines if "CONTAINER" in line)
    assert all(len(line) <= 80 for line in lines) and "…" not in header
    assert header.split()[:4] == ["NS", "POD", "CONTAINER", "STATE"]
    assert header.replace("▼", "").split()[-5:] == ["CPU", "THR", "MEM", "OOM", "RST"]


def test_a_pod_that_was_there_before_is_as_old_as_its_oldest_container() -> None:
    told = Told()
    # processes are in the containers' cgroups, none in the pod's own
    told.sample(10, who(kind="pod"), procs=2)
    told.sample(10, who("sidecar", "b"), begun=9 * S, procs=1)
    told.sample(10, who(), begun=3 * S, procs=1)
    (row,) = told.rows("pod")
    assert (row["age_ns"], row["procs"]) == (7 * S, 2)


@pytest.mark.parametrize(
    ("name", "values", "detail"),
    [
        ("throttled", {"periods": 7, "duration": 479_000_000}, "7 periods, 479 ms"),
        ("reclaim", {"duration": 4_800_000, "limit": 16 << 20}, "waited 4.8 ms, limit 16 MiB"),
        ("reclaim", {"duration": 4_800_000}, "waited 4.8 ms"),
    ],
)
def test_the_last_column_of_a_narrow_terminal_says_it_all(name: str, values: dict[str, int], detail: str) -> None:
    (event,) = Told().tell(name, 1, who(), **values)
    cells = CGROUPS.event_cells(event, who(), Context("node1", 0))
    assert cells[[column.key for column in CGROUPS.event_columns].index("detail")] == detail


def test_no_two_columns_of_a_table_have_one_title() -> None:
    for name in tracers.names():
        tracer = tracers.find(name)
        for grouping in tracer.groupings.values():
            columns = [*grouping.columns, *tracer.measures]
            for titles in ([c.title for c in columns], [c.short or c.title for c in columns]):
                assert len(set(titles)) == len(titles), (name, titles)
