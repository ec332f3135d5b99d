"""kubetrace cgroups on this machine's kernel: real cgroups and processes, no runtime and no stand-in."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kubetrace.engines.libbpf import LoadedObject
from kubetrace.engines.source import object_path
from tests.vm.cgroup_pods import Container, Pod, remove_cgroup, rows

from .conftest import DEADLINE_S, until

KUBETRACE = [sys.executable, "-m", "kubetrace", "cgroups"]
Event = dict[str, Any]


class Run:
    """A `kubetrace cgroups -o json`."""

    running: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, directory: Path, *options: str) -> None:
        ready, self._out = directory / "ready", directory / "out"
        # of the one before
        ready.unlink(missing_ok=True)
        with open(self._out, "wb") as out:
            self._process = subprocess.Popen(
                [*KUBETRACE, "-o", "json", "-i", "100ms", "--ready-file", str(ready), *options],
                env={**os.environ, "LC_ALL": "C.UTF-8", "NODE_NAME": "node1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
            )
        self.running.append(self._process)
        self.pid = self._process.pid
        until(ready.exists, "ready", self._process)

    def objects(self) -> list[Event]:
        """What it has written so far; read by a description of our own, for what it writes goes on where its own is."""
        return [json.loads(line) for line in self._out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def wait_for(self, wanted: Callable[[Event], bool]) -> Event:
        found: list[Event] = []

        def came() -> bool:
            found[:] = [o for o in self.objects() if wanted(o)]
            return bool(found)

        until(came, "the event", self._process)
        return found[0]

    def wait_for_end_of(self, container: Container) -> None:
        """Before its bundle goes: a busy machine does not promise that its name has been read by any time."""
        self.wait_for(lambda o: o.get("event") == "exit" and o["container_id"] == container.id)

    def end(self) -> list[Event]:
        self._process.send_signal(signal.SIGINT)
        _, err = self._process.communicate(timeout=DEADLINE_S)
        assert self._process.returncode == 0, err
        return self.objects()


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """Not even after a test that failed: the next one would have it beside it."""
    yield
    while Run.running:
        process = Run.running.pop()
        process.kill()
        process.wait()


@pytest.fixture
def pod() -> Iterator[Pod]:
    made = Pod()
    yield made
    made.remove()


def of(container: Container, objects: list[Event]) -> list[Event]:
    return [o for o in objects if o.get("container_id") == container.id]


def test_a_containers_life_is_told_in_order(pod: Pod, tmp_path: Path) -> None:
    run = Run(tmp_path)
    container = pod.container("app")
    ids = container.cgroup_ids
    pid, status = container.run("/bin/sh", "-c", "/bin/true; exit 3")
    assert status == 3
    run.wait_for_end_of(container)
    container.remove()
    objects = run.end()
    events = of(container, objects)
    assert [(e.get("pid"), e.get("path")) for e in events[:3]] == [(None, None), (pid, None), (pid, "/bin/sh")]
    assert [e["event"] for e in events] == ["created", "attached", "exec", "exec", "exit", "removed"]
    child, end, removed = events[3:]
    assert (child["path"], child["comm"]) == ("/bin/true", "true") and child["pid"] != pid
    assert (end["pid"], end["exit_code"], end["signal"]) == (pid, 3, None)
    shortest = container.gone_ns[0] - container.made_ns[1]
    assert shortest <= removed["lifetime_ns"] <= container.gone_ns[1] - container.made_ns[0]
    for event in events:
        assert {
            "type": "cgroup",
            "namespace": "shop",
            "pod": pod.name,
            "container": "app",
            "pod_uid": pod.uid,
            "container_id": container.id,
            "image": "example.org/app:1",
            "node": "node1",
            "qos_class": "Burstable",
            "cgroup_path": container.path,
        }.items() <= event.items()
        assert event["cgroup_id"] in ids
    summary = objects[-1]
    assert (summary["type"], summary["tracer"], summary["lost"], summary["unattributed"]) == (
        "summary",
        "cgroups",
        0,
        0,
    )
    assert summary["events"] == len(objects) - 1
    assert summary["execs"] == sum(o.get("event") == "exec" for o in objects)


def test_the_keys_are_those_of_the_contract(pod: Pod, tmp_path: Path) -> None:
    run = Run(tmp_path)
    container = pod.container("app")
    container.run("/bin/true")
    container.remove()
    identity = {
        *("type", "time", "event", "node", "namespace", "pod", "container", "pod_uid", "container_id", "image"),
        *("qos_class", "cgroup_id", "cgroup_path", "host", "attributed_by", "names_from"),
    }
    own = {e["event"]: set(e) - identity for e in of(container, run.end())}
    assert own == {
        "created": set(),
        "attached": {"pid", "comm"},
        "exec": {"pid", "comm", "path"},
        "exit": {"pid", "comm", "exit_code", "signal"},
        "removed": {"lifetime_ns"},
    }


def test_101_containers_that_live_briefly_are_all_seen_named_and_complete(tmp_path: Path) -> None:
    run = Run(tmp_path)
    pod = Pod(only=("unified", "memory"), reader=run.pid)
    made: list[tuple[Container, int]] = []
    for number in range(101):
        container = pod.container(f"brief-{number}")
        pid, status = container.run("/bin/true")
        assert status == 0
        container.remove()
        made.append((container, pid))
    pod.remove()
    objects = run.end()
    by_id: dict[str, list[Event]] = {}
    for found in objects:
        by_id.setdefault(found.get("container_id") or "", []).append(found)
    lifetimes, unnamed = [], 0
    for container, pid in made:
        events = by_id[container.id]
        assert [e["event"] for e in events] == ["created", "attached", "exec", "exit", "removed"], container.name
        names = {(e["namespace"], e["pod"], e["container"], e["image"]) for e in events}
        # who does not get to reading for as long as the bundle is there comes too late for its name
        unknown = {(None, None, None, None)}
        unnamed += names >= unknown
        assert names - unknown <= {("shop", pod.name, container.name, "example.org/app:1")}
        assert {e["pid"] for e in events if "pid" in e} == {pid}
        assert events[3]["exit_code"] == 0
        assert 0 < events[4]["lifetime_ns"] <= container.gone_ns[1] - container.made_ns[0]
        lifetimes.append(events[4]["lifetime_ns"])
    assert unnamed <= 2
    assert objects[-1]["lost"] == objects[-1]["unattributed"] == 0
    print(f"lived {min(lifetimes) / 1e6:.0f} to {max(lifetimes) / 1e6:.0f} ms")


def test_the_signal_that_ends_a_container_is_named(pod: Pod, tmp_path: Path) -> None:
    run = Run(tmp_path)
    container = pod.container("app")
    process = container.start("/bin/sleep", "60")
    run.wait_for(lambda o: o.get("path") == "/bin/sleep" and o["container_id"] == container.id)
    process.send_signal(signal.SIGTERM)
    process.wait()
    (end,) = [e for e in of(container, run.end()) if e["event"] == "exit"]
    assert (end["exit_code"], end["signal"], end["comm"]) == (None, "SIGTERM", "sleep")


def test_threads_and_children_end_without_being_the_containers_end(pod: Pod, tmp_path: Path) -> None:
    run = Run(tmp_path)
    container = pod.container("app")
    script = (
        "import os, threading\n"
        "threads = [threading.Thread(target=int) for _ in range(7)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "pids = [os.fork() for _ in range(1)]\n"
        "os._exit(5) if pids[0] == 0 else os.wait()\n"
        "os._exit(7)"
    )
    pid, status = container.run(sys.executable, "-S", "-c", script)
    assert status == 7
    ends = [e for e in of(container, run.end()) if e["event"] == "exit"]
    assert [(e["pid"], e["exit_code"]) for e in ends] == [(pid, 7)]


def test_the_end_of_a_process_whose_leader_ended_first(pod: Pod, tmp_path: Path) -> None:
    """The leader calls pthread_exit; its last thread ends the process later: wait() gives the leader's status."""
    run = Run(tmp_path)
    container = pod.container("app")
    script = (
        "import ctypes, os, threading\n"
        # no time promises that the leader is gone first: it is a zombie then
        "def last():\n"
        "    while ') Z' not in open('/proc/self/stat').read(): pass\n"
        "threading.Thread(target=last).start()\n"
        "ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 9)\n"
    )
    pid, status = container.run(sys.executable, "-S", "-c", script)
    (end,) = [e for e in of(container, run.end()) if e["event"] == "exit"]
    assert (end["pid"], end["exit_code"]) == (pid, status)


def test_oom_kills_are_those_of_the_memory_controller(pod: Pod, tmp_path: Path) -> None:
    run = Run(tmp_path)
    container = pod.container("app")
    limit = 16 << 20
    container.file("memory.max", ("memory", "memory.limit_in_bytes")).write_text(str(limit))
    hungry = f"{sys.executable} -S -c 'bytearray(64 << 20)'"
    pid, status = container.run("/bin/sh", "-c", f"{hungry}; {hungry}; {hungry}; exit 4")
    assert status == 4
    told = container.file("memory.events", ("memory", "memory.oom_control")).read_text()
    counted = dict(line.split() for line in told.splitlines())["oom_kill"]
    container.remove()
    events = of(container, run.end())
    kills = [e for e in events if e["event"] == "oom_kill"]
    assert len(kills) == int(counted) == 3
    assert [e["memory_events"]["oom_kill"] for e in kills] == [1, 2, 3]
    for kill in kills:
        assert set(kill) >= {"victim_pid", "comm", "memory_bytes", "swap_bytes", "limit_bytes", "memory_events"}
        assert (kill["limit_of"], kill["limit_cgroup"], kill["group_victim_pid"]) == ("container", container.path, None)
        assert kill["limit_bytes"] == limit
        assert limit // 2 < kill["memory_bytes"] < 64 << 20
        assert kill["victim_pid"] != pid and kill["comm"].startswith("python")
    assert [e["exit_code"] for e in events if e["event"] == "exit"] == [4]


def test_the_limit_that_was_hit_may_be_the_pods(pod: Pod, tmp_path: Path) -> None:
    run = Run(tmp_path)
    container = pod.container("app")
    root = pod.roots.get("memory", pod.roots["unified"])
    name = "memory.limit_in_bytes" if "memory" in pod.roots else "memory.max"
    Path(root + pod.path, name).write_text(str(24 << 20))
    container.file("memory.max", ("memory", "memory.limit_in_bytes")).write_text(str(1 << 30))
    _, status = container.run(sys.executable, "-S", "-c", "bytearray(64 << 20)")
    assert status == -signal.SIGKILL
    events = of(container, run.end())
    (kill,) = [e for e in events if e["event"] == "oom_kill"]
    assert kill["limit_bytes"] == 24 << 20
    assert (kill["limit_of"], kill["limit_cgroup"], kill["container"]) == ("pod", pod.path, "app")
    (end,) = [e for e in events if e["event"] == "exit"]
    assert (end["signal"], end["pid"]) == ("SIGKILL", kill["victim_pid"])


def limit_file(pod: Pod, path: str) -> Path:
    root = pod.roots.get("memory", pod.roots["unified"])
    return Path(root + path, "memory.limit_in_bytes" if "memory" in pod.roots else "memory.max")


def hit_by_the_kernels_log(pid: int) -> str:
    """The cgroup that ran out of memory when this process was chosen (mm/oom_kill.c, dump_oom_summary)."""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    found = re.findall(rf"oom_memcg=([^,]*),.*,pid={pid},", log)
    assert found, log[-4000:]
    return str(found[-1])


@pytest.mark.parametrize("more", [0, 1 << 20])
def test_of_two_limits_it_is_the_one_that_the_kernel_names(pod: Pod, tmp_path: Path, more: int) -> None:
    """Equal ones are the pod's: what the kernel takes for the container's cgroup itself is charged to the pod."""
    run = Run(tmp_path)
    container = pod.container("app")
    limit_file(pod, pod.path).write_text(str((24 << 20) + more))
    limit_file(pod, container.path).write_text(str(24 << 20))
    _, status = container.run(sys.executable, "-S", "-c", "bytearray(64 << 20)")
    assert status == -signal.SIGKILL
    kill = run.wait_for(lambda o: o.get("event") == "oom_kill" and o["pod"] == pod.name)
    run.end()
    hit = hit_by_the_kernels_log(kill["victim_pid"])
    assert (kill["limit_cgroup"], kill["limit_bytes"]) == (hit, (24 << 20) + (more if hit == pod.path else 0))
    assert kill["limit_of"] == ("pod" if hit == pod.path else "container") and kill["container"] == "app"
    if more:
        assert hit == container.path


def test_the_pods_limit_hit_by_one_container_may_take_another_one(pod: Pod, tmp_path: Path) -> None:
    """The victim is the one with most memory, whoever asks; its own limit is full as well, and is not what was hit."""
    run = Run(tmp_path)
    large, small = pod.container("large"), pod.container("small")
    limit_file(pod, pod.path).write_text(str(64 << 20))
    limit_file(pod, large.path).write_text(str(1 << 30))
    ready = tmp_path / "ready-large"
    hold = f"held = bytearray(48 << 20); open({str(ready)!r}, 'w').close(); import time; time.sleep(600)"
    holder = large.start(sys.executable, "-S", "-c", hold)
    until(ready.exists, "what it holds", holder)
    # page by page: who asks is never the larger of the two
    asks = "held = [bytearray(1 << 20) for _ in range(20)]"
    small.run(sys.executable, "-S", "-c", asks)
    assert holder.wait(timeout=DEADLINE_S) == -signal.SIGKILL
    kill = run.wait_for(lambda o: o.get("event") == "oom_kill" and o["pod"] == pod.name)
    run.end()
    assert (kill["container"], kill["victim_pid"]) == ("large", holder.pid)
    assert hit_by_the_kernels_log(holder.pid) == pod.path
    assert (kill["limit_of"], kill["limit_cgroup"], kill["limit_bytes"]) == ("pod", pod.path, 64 << 20)


def test_a_limit_of_a_cgroup_inside_the_container_is_none_of_the_containers(pod: Pod, tmp_path: Path) -> None:
    run = Run(tmp_path)
    container = pod.container("app")
    inner = f"{container.path}/inner"
    root = pod.roots.get("memory", pod.roots["unified"])
    os.mkdir(root + inner)
    try:
        limit_file(pod, inner).write_text(str(16 << 20))
        enter = f"open({root + inner + '/cgroup.procs'!r}, 'w').write('0')"
        _, status = container.run(sys.executable, "-S", "-c", f"{enter}; bytearray(64 << 20)")
        assert status == -signal.SIGKILL
        kill = run.wait_for(lambda o: o.get("event") == "oom_kill" and o["pod"] == pod.name)
    finally:
        remove_cgroup(root + inner)
    run.end()
    # where v1 has the memory controller, the container is known by v2's hierarchy, which has no such cgroup
    path = inner if "memory" not in pod.roots else None
    assert (kill["container"], kill["limit_of"], kill["limit_cgroup"]) == ("app", "inside", path)
    assert hit_by_the_kernels_log(kill["victim_pid"]) == inner


def test_reclaim_by_the_limit_is_told_with_the_time_that_it_took(pod: Pod, tmp_path: Path) -> None:
    run = Run(tmp_path, "--min-stall", "0")
    container = pod.container("app")
    container.file("memory.max", ("memory", "memory.limit_in_bytes")).write_text(str(16 << 20))
    script = f"f = open({str(tmp_path / 'cache')!r}, 'wb')\nfor _ in range(64): f.write(bytes(1 << 20))\nf.close()"
    pid, status = container.run(sys.executable, "-S", "-c", script)
    assert status == 0
    stalls = [e for e in of(container, run.end()) if e["event"] == "reclaim"]
    assert stalls and all(e["pid"] == pid and e["duration_ns"] > 0 for e in stalls)
    assert {e["limit_bytes"] for e in stalls} <= {16 << 20, None}


def cpu_stat(container: Container) -> dict[str, int]:
    text = container.file("cpu.stat", ("cpu", "cpu.stat")).read_text()
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def throttle(container: Container, periods: int) -> None:
    """Work in a container of a tenth of a CPU until it was throttled so often; a busy machine promises no time."""
    quota = container.file("cpu.max", ("cpu", "cpu.cfs_quota_us"))
    quota.write_text("10000" if quota.name.startswith("cpu.cfs") else "10000 100000")
    process = container.start("/bin/sh", "-c", "while :; do :; done")
    try:
        until(lambda: cpu_stat(container)["nr_throttled"] >= periods, "throttled", process)
    finally:
        process.kill()
        process.wait()


def test_throttling_is_that_of_cpu_stat(pod: Pod, tmp_path: Path) -> None:
    run = Run(tmp_path)
    container = pod.container("app")
    throttle(container, 7)
    # what was throttled when it ended is counted at the next period's begin; periods are counted until one was idle
    before: dict[str, int] = {}
    while before != (before := cpu_stat(container)):
        time.sleep(0.25)
    time_ns = before["throttled_time"] if "throttled_time" in before else before["throttled_usec"] * 1000

    def told(objects: list[Event]) -> tuple[int, int]:
        events = [e for e in of(container, objects) if e["event"] == "throttled"]
        return sum(e["periods"] for e in events), sum(e["duration_ns"] for e in events)

    # the time may be read later than the periods (unthrottle_cfs_rq)
    run.wait_for(lambda _: told(run.objects()) >= (before["nr_throttled"], time_ns))
    container.remove()
    assert told(run.end()) == (before["nr_throttled"], time_ns)


def test_refused_forks_are_those_of_pids_events(pod: Pod, tmp_path: Path) -> None:
    run = Run(tmp_path)
    container = pod.container("app")
    container.file("pids.max", ("pids", "pids.max")).write_text("2")
    script = (
        "import os\n"
        "refused = 0\n"
        # the child lives for as long as this does, however long that is
        "ends, lives = os.pipe()\n"
        "for _ in range(13):\n"
        "    try:\n"
        "        if os.fork() == 0: os.close(lives); os.read(ends, 1); os._exit(0)\n"
        "    except BlockingIOError: refused += 1\n"
        "os._exit(refused)"
    )
    _, refused = container.run(sys.executable, "-S", "-c", script)
    assert refused == 12

    def told(objects: list[Event]) -> int:
        return sum(e["count"] for e in of(container, objects) if e["event"] == "fork_refused")

    run.wait_for(lambda _: told(run.objects()) >= 12)
    container.remove()
    assert told(run.end()) == 12


def test_freezing_is_told_by_either_freezer(pod: Pod, tmp_path: Path) -> None:
    run = Run(tmp_path)
    container = pod.container("app")
    process = container.start("/bin/sleep", "60")
    run.wait_for(lambda o: o.get("path") == "/bin/sleep" and o["container_id"] == container.id)
    freezer = container.file("cgroup.freeze", ("freezer", "freezer.state"))
    v1 = freezer.name == "freezer.state"
    freezer.write_text("FROZEN" if v1 else "1")
    run.wait_for(lambda o: o.get("event") == "frozen" and o["container_id"] == container.id)
    freezer.write_text("THAWED" if v1 else "0")
    run.wait_for(lambda o: o.get("event") == "thawed" and o["container_id"] == container.id)
    process.kill()
    process.wait()
    container.remove()
    counted = Counter(e["event"] for e in of(container, run.end()))
    assert (counted["frozen"], counted["thawed"]) == (1, 1)


def test_a_selection_leaves_other_pods_out(tmp_path: Path) -> None:
    pods = [Pod("shop"), Pod("jobs")]
    run = Run(tmp_path, "-n", "jobs")
    containers = [pod.container("app") for pod in pods]
    for container in containers:
        container.run("/bin/true")
    run.wait_for_end_of(containers[1])
    for pod in pods:
        pod.remove()
    objects = run.end()
    assert {o["namespace"] for o in objects if o["type"] == "cgroup"} == {"jobs"}
    assert [o["event"] for o in of(containers[1], objects)] == [
        "created",
        "attached",
        "exec",
        "exit",
        "removed",
    ]


def table(tmp_path: Path, *options: str) -> list[dict[str, str]]:
    """The last block of a table on a pipe, by title."""
    done = subprocess.run(
        [*KUBETRACE, "-d", "600ms", "-i", "200ms", "-o", "wide", *options],
        env={**os.environ, "LC_ALL": "C.UTF-8", "NODE_NAME": "node1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return rows(done.stdout)


def test_the_table_shows_what_was_there_before(pod: Pod, tmp_path: Path) -> None:
    container = pod.container("app")
    container.file("memory.max", ("memory", "memory.limit_in_bytes")).write_text(str(64 << 20))
    quota = container.file("cpu.max", ("cpu", "cpu.cfs_quota_us"))
    quota.write_text("25000" if quota.name.startswith("cpu.cfs") else "25000 100000")
    process = container.start("/bin/sh", "-c", "for n in 1 2 3 4 5 6; do sleep 60 & done; wait")
    try:
        until(lambda: len(Path(container.directories[0], "cgroup.procs").read_text().split()) == 7, "7", process)
        (row,) = [row for row in table(tmp_path) if row["POD"] == pod.name]
        (by_pod,) = [row for row in table(tmp_path, "--by", "pod") if row["POD"] == pod.name]
    finally:
        for line in Path(container.directories[0], "cgroup.procs").read_text().split():
            os.kill(int(line), signal.SIGKILL)
        process.wait()
    assert (row["NAMESPACE"], row["CONTAINER"], row["STATE"], row["QOS"]) == ("shop", "app", "running", "Burstable")
    assert (row["PROCS"], row["CPU-LIMIT"], row["MEM-LIMIT"]) == ("7", "250m", "64 MiB")
    assert (row["OOM"], row["RESTARTS"], by_pod["PROCS"]) == ("0", "0", "7")


def test_without_programs_the_cgroups_files_are_read(pod: Pod, tmp_path: Path) -> None:
    ready, out = tmp_path / "ready", tmp_path / "out"
    with open(out, "wb") as file:
        process = subprocess.Popen(
            [*KUBETRACE, "--hook", "none", "-o", "json-tables", "-i", "200ms", "--ready-file", str(ready)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.PIPE,
        )
    Run.running.append(process)
    until(ready.exists, "ready", process)
    # born unseen
    container = pod.container("app")
    container.file("memory.max", ("memory", "memory.limit_in_bytes")).write_text(str(64 << 20))
    throttle(container, 3)
    asleep = container.start("/bin/sh", "-c", "for n in 1 2 3; do sleep 600 & done; wait")

    def row() -> dict[str, Any]:
        """Of the last whole table."""
        lines = [line for line in out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        last = json.loads(lines[-1]) if lines else {"columns": [], "rows": []}
        rows = [dict(zip(last["columns"], cells, strict=True)) for cells in last["rows"]]
        return next((one for one in rows if (one["pod"], one["container"]) == (pod.name, "app")), {})

    until(lambda: row().get("procs") == 4, "its four processes", process)
    there = row()
    assert (there["namespace"], there["memory_limit_bytes"]) == ("shop", 64 << 20)
    for line in Path(container.directories[0], "cgroup.procs").read_text().split():
        os.kill(int(line), signal.SIGKILL)
    asleep.wait()
    until(lambda: row().get("procs") == 0, "none any more", process)
    container.file("memory.max", ("memory", "memory.limit_in_bytes")).write_text(str(16 << 20))
    _, status = container.run(sys.executable, "-S", "-c", "bytearray(64 << 20)")
    assert status == -signal.SIGKILL
    until(lambda: row().get("ooms") == 1, "the kill that memory.oom_control or memory.events has counted", process)
    container.remove()
    until(lambda: row().get("state") != "running", "that it is gone", process)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=DEADLINE_S)[1].decode()
    assert process.returncode == 0, err
    tables = [one for one in map(json.loads, out.read_bytes().splitlines()) if "notices" in one]
    (notice,) = tables[-1]["notices"]
    assert "starts, ends, victims and stalls are not seen" in notice


def test_a_replay_tells_what_the_live_run_told(tmp_path: Path) -> None:
    recording = tmp_path / "node.ktrace"
    run = Run(tmp_path, "--record", str(recording))
    pod = Pod()
    container = pod.container("app")
    throttle(container, 1)
    run.wait_for(lambda o: o.get("event") == "throttled" and o["container_id"] == container.id)
    pod.remove()
    live = [o for o in run.end() if o["type"] == "cgroup"]
    replayed = subprocess.run(
        [sys.executable, "-m", "kubetrace", "replay", str(recording), "--final", "-o", "json"],
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [o for o in map(json.loads, replayed.stdout.splitlines()) if o["type"] == "cgroup"] == live
    assert {"created", "throttled", "exit", "removed"} <= {o["event"] for o in live}


@pytest.mark.parametrize("tracer", ["cgroups", "starts"])
def test_the_verifier_accepts_every_kprobe_program(tracer: str) -> None:
    """Loading needs no kprobes in the kernel, only its verifier; attaching is the VM's."""
    with LoadedObject(object_path(tracer), hook="kprobe", attach=False) as loaded:
        assert loaded.missing == {}


def test_a_run_ends_with_its_reader_though_it_has_nothing_to_say(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    command = [*KUBETRACE, "-o", "json", "-n", "none", "--ready-file", str(ready)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        until(ready.exists, "ready", process)
        assert process.poll() is None
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 0
