"""What kubetrace cgroups says of real containers against the kernel's own counters and the runtime, on v1 and v2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm import cgroup_pods, cri, images

from .conftest import SHELL, Event, Tracer, losses

V2 = os.path.exists("/sys/fs/cgroup/cgroup.procs")


@pytest.fixture(scope="module")
def watch(node: cri.Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracer]:
    made = Tracer(tmp_path_factory.mktemp("cgroups"), "-i", "200ms", "--min-stall", "0", command="cgroups")
    yield made
    objects = made.end()
    summary = objects[-1]
    lost = losses(objects)
    assert (summary["type"], summary["tracer"], summary["unattributed"]) == ("summary", "cgroups", 0)
    told = [o for o in objects if o["type"] == "cgroup"]
    assert summary["events"] == len(told) == len(objects) - 1 - lost
    for key, event in (("created", "created"), ("removed", "removed"), ("execs", "exec"), ("oom_kills", "oom_kill")):
        assert summary[key] == sum(o["event"] == event for o in told)


class Watched:
    """One container and its events."""

    def __init__(self, watch: Tracer, container: cri.Container) -> None:
        self.watch, self.container = watch, container

    def wait(self, event: str, more: Callable[[Event], bool] = lambda _: True) -> Event:
        for found in self.events(event):
            if more(found):
                return found
        mine = self.container.container_id
        return self.watch.wait_for(lambda o: o.get("event") == event and o.get("container_id") == mine and more(o))

    def events(self, *names: str) -> list[Event]:
        mine = [o for o in self.watch.objects if o.get("container_id") == self.container.container_id]
        return [o for o in mine if not names or o["event"] in names]

    def file(self, v2: str, controller: str, v1: str) -> Path:
        path = self.container.cgroup_path
        return Path(f"/sys/fs/cgroup{path}", v2) if V2 else Path(f"/sys/fs/cgroup/{controller}{path}", v1)

    def number(self, path: Path, name: str) -> int:
        return int(dict(line.split() for line in path.read_text().splitlines())[name])


Start = Callable[..., Watched]


@pytest.fixture(scope="module")
def start(watch: Tracer, pod: cri.Pod) -> Iterator[Start]:
    made: list[cri.Container] = []

    def run(name: str, command: list[str], **options: int) -> Watched:
        container = pod.start_container(name, images.BATCH, command, **options)  # type: ignore[arg-type]
        made.append(container)
        return Watched(watch, container)

    yield run
    for container in made:
        if container in pod.containers:
            container.remove()


@pytest.mark.each_kernel
@pytest.mark.each_cgroup_mode
def test_a_real_containers_life(start: Start, pod: cri.Pod) -> None:
    case = start("life", ["sh", "-c", "sleep 0.1; exit 3"])
    removed = case.wait("removed")
    entrypoint = case.wait("exec", lambda e: e["path"] == "/bin/sh")
    own = [e for e in case.events("created", "exec", "exit", "removed") if e.get("pid") in (None, entrypoint["pid"])]
    assert [e["event"] for e in own] == ["created", "exec", "exit", "removed"]
    assert case.events("attached")
    assert (own[2]["exit_code"], own[2]["signal"]) == (3, None)
    assert own[2]["exit_code"] == case.container.wait()
    assert 0 < removed["lifetime_ns"] < 60e9
    for event in case.events():
        assert {
            "namespace": "shop",
            "pod": pod.name,
            "container": "life",
            "pod_uid": pod.uid,
            "image": images.BATCH,
            "qos_class": "Burstable",
            "cgroup_path": case.container.cgroup_path,
        }.items() <= event.items()


@pytest.mark.each_kernel
@pytest.mark.each_cgroup_mode
def test_the_pid_and_signal_are_the_runtimes(start: Start) -> None:
    case = start("signal", ["sleep", "1000"])
    pid = case.container.pid
    assert case.wait("exec", lambda e: e["path"].endswith("/sleep"))["pid"] == pid
    assert case.events("created")[0]["cgroup_id"] in {
        os.stat(f"{root}{case.container.cgroup_path}").st_ino
        for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified")
        if os.path.isdir(root + case.container.cgroup_path)
    }
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGKILL)
    end = case.wait("exit")
    assert (end["pid"], end["exit_code"], end["signal"]) == (pid, None, "SIGKILL")


@pytest.mark.each_kernel
@pytest.mark.each_cgroup_mode
def test_a_container_that_was_there_before_is_told_to_end(node: cri.Node, watch: Tracer) -> None:
    worker = node.pod("jobs", "batch-0").container("worker")
    pid = worker.pid
    os.kill(pid, signal.SIGKILL)
    end = Watched(watch, worker).wait("exit")
    assert (end["pid"], end["signal"], end["pod"]) == (pid, "SIGKILL", "batch-0")


@pytest.mark.each_kernel
@pytest.mark.each_cgroup_mode
def test_oom_kills_equal_memory_events(start: Start) -> None:
    hungry = "dd if=/dev/zero of=/dev/null bs=200M count=1; "
    case = start("oom", ["sh", "-c", hungry * 3 + "exec sleep 1000"], memory_limit_bytes=48 << 20)
    pid = case.container.pid
    case.wait("exec", lambda e: e["pid"] == pid and e["path"] != "/bin/sh")
    counted = case.number(case.file("memory.events", "memory", "memory.oom_control"), "oom_kill")
    kills = case.events("oom_kill")
    assert len(kills) == counted == 3
    assert [k["memory_events"]["oom_kill"] for k in kills] == [1, 2, 3]
    assert {(k["limit_bytes"], k["limit_of"], k["group_victim_pid"]) for k in kills} == {(48 << 20, "container", None)}
    assert len({k["victim_pid"] for k in kills} - {pid}) == 3
    assert all(0 < k["memory_bytes"] < 256 << 20 for k in kills)
    assert case.events("reclaim") and all(e["duration_ns"] > 0 for e in case.events("reclaim"))


if V2:

    @pytest.mark.each_kernel
    def test_a_kill_of_a_whole_group_is_told_as_one(start: Start) -> None:
        """As the kubelet sets it for every container of cgroup v2 (memory.oom.group, since 1.28)."""
        hungry = "dd if=/dev/zero of=/dev/null bs=200M count=1"
        script = f"sleep 1000 & sleep 1000 & while [ ! -e /go ]; do sleep 0.1; done; {hungry}; true"
        case = start("group", ["sh", "-c", script], memory_limit_bytes=48 << 20)
        pid = case.container.pid
        case.file("memory.oom.group", "", "").write_text("1")
        Path(f"/proc/{pid}/root/go").touch()
        end = case.wait("exit")
        assert (end["pid"], end["signal"]) == (pid, "SIGKILL")
        case.wait("removed")
        kills = case.events("oom_kill")
        # Who is reached too late has died with its PID namespace's first process; the chosen may be counted again.
        counted = [k["memory_events"]["oom_kill"] for k in kills]
        assert counted == sorted(set(counted)) and counted[0] == 1 and counted[-1] - len(kills) in (0, 1)
        assert 2 <= len(kills) == len({k["victim_pid"] for k in kills}) <= 4
        assert {k["group_victim_pid"] for k in kills} == {kills[0]["victim_pid"]}
        assert kills[0]["comm"] == "dd"
        assert {(k["limit_of"], k["limit_cgroup"]) for k in kills} == {("container", case.container.cgroup_path)}


JIFFY_NS = 4_000_000  # Debian's CONFIG_HZ=250

# v1 has no such limit (its soft one stalls nobody).
if V2:

    @pytest.mark.each_kernel
    def test_stalls_at_memory_high_equal_memory_events(start: Start) -> None:
        case = start("high", SHELL)
        pid = case.container.pid
        case.wait("exec", lambda e: e["pid"] == pid and e["path"] != "/bin/sh")
        directory = Path(f"/sys/fs/cgroup{case.container.cgroup_path}")
        limit = int((directory / "memory.current").read_text()) + (24 << 20)
        (directory / "memory.high").write_text(str(limit))
        code = (
            "import mmap, os, sys\n"
            "os.sched_setaffinity(0, {0})\n"
            f"open('{directory}/cgroup.procs', 'w').write('0')\n"
            "held = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
            "held.madvise(mmap.MADV_NOHUGEPAGE)\n"
            f"events = os.open('{directory}/memory.events', os.O_RDONLY)\n"
            "for at in range(0, 64 << 20, 4096):\n"
            "    held[at] = 1\n"
            "    if int(os.pread(events, 512, 0).split()[3]) >= 7: break\n"  # low N high N
            "else: sys.exit('memory.high held nobody up')"
        )
        begun = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        process = subprocess.Popen(["python3", "-S", "-c", code])
        assert process.wait(120) == 0
        lasted_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - begun
        # an event is counted, then tried to reclaim for (mm/memcontrol.c, reclaim_high)
        counted = case.number(directory / "memory.events", "high")
        assert counted >= 7
        deadline = time.monotonic() + 30
        while len(case.events("reclaim")) < counted:
            assert time.monotonic() < deadline, (counted, case.events("reclaim"))
            time.sleep(0.1)
            case.watch.drain()
        stalls = case.events("reclaim")
        assert len(stalls) == counted
        assert {(e["pid"], e["comm"]) for e in stalls} == {(process.pid, "python3")}
        # none where reclaim made more room than a charge takes
        assert limit in {e["limit_bytes"] for e in stalls} <= {limit, None}
        assert all(e["duration_ns"] > 0 for e in stalls)
        told_ns = sum(e["duration_ns"] for e in stalls)
        assert told_ns < lasted_ns
        # what the kernel says of its own: stalls, with the sleeps after them; summed up every two seconds, without
        # those of a CPU that was busy for less than a jiffy of them, and of several CPUs a mean by how busy each was
        # (kernel/sched/psi.c, collect_percpu_times): 38 of 61 ms have been seen
        unseen_ns = (lasted_ns // 2_000_000_000 + 2) * JIFFY_NS
        while told_ns > (os.cpu_count() or 1) * (pressure_ns := _stalled_us(directory) * 1000) + unseen_ns:
            assert time.monotonic() < deadline, (told_ns, pressure_ns, unseen_ns)
            time.sleep(0.5)
        assert pressure_ns < lasted_ns + 100_000_000


def _stalled_us(directory: Path) -> int:
    # some avg10=0.00 avg60=0.00 avg300=0.00 total=0
    line = (directory / "memory.pressure").read_text().splitlines()[0]
    return int(line.rpartition("total=")[2])


@pytest.mark.each_kernel
@pytest.mark.each_cgroup_mode
def test_throttling_equals_cpu_stat(start: Start) -> None:
    case = start("throttled", ["sh", "-c", "while :; do :; done"])
    quota = case.file("cpu.max", "cpu", "cpu.cfs_quota_us")
    quota.write_text("10000 100000" if V2 else "10000")
    case.wait("throttled")
    case.file("cgroup.freeze", "freezer", "freezer.state").write_text("1" if V2 else "FROZEN")
    case.wait("frozen")
    stat = case.file("cpu.stat", "cpu", "cpu.stat")

    def counted() -> tuple[int, int]:
        time_ns = case.number(stat, "throttled_usec") * 1000 if V2 else case.number(stat, "throttled_time")
        return case.number(stat, "nr_throttled"), time_ns

    def told() -> tuple[int, int]:
        events = case.events("throttled")
        return sum(e["periods"] for e in events), sum(e["duration_ns"] for e in events)

    deadline = time.monotonic() + 30
    while told() != counted():
        assert time.monotonic() < deadline, (told(), counted())
        time.sleep(0.3)
        case.watch.drain()
    assert told()[0] > 0
    case.file("cgroup.freeze", "freezer", "freezer.state").write_text("0" if V2 else "THAWED")
    case.wait("thawed")
    case.container.remove()  # it would burn what the others' tests need


@pytest.mark.each_kernel
@pytest.mark.each_cgroup_mode
def test_refused_forks_equal_pids_events(start: Start) -> None:
    case = start("forks", SHELL)
    pid = case.container.pid
    case.wait("exec", lambda e: e["pid"] == pid and e["path"] != "/bin/sh")
    case.file("pids.max", "pids", "pids.max").write_text("1")
    enter = "".join(
        f"open('{root}{case.container.cgroup_path}/cgroup.procs', 'w').write('0'); "
        for root in cgroup_pods.hierarchies().values()
        if os.path.isdir(root + case.container.cgroup_path)
    )
    code = (
        f"import os; {enter}\nrefused = 0\n"
        "for _ in range(13):\n"
        "    try:\n        os.fork() or os._exit(0)\n"
        "    except OSError: refused += 1\n"
        "os._exit(refused)"
    )
    done = subprocess.run(["python3", "-S", "-c", code], check=False)
    assert done.returncode == 13
    events = case.file("pids.events", "pids", "pids.events")
    assert case.number(events, "max") == 13
    deadline = time.monotonic() + 30
    while sum(e["count"] for e in case.events("fork_refused")) < 13:
        assert time.monotonic() < deadline, case.events("fork_refused")
        time.sleep(0.1)
        case.watch.drain()
    refused = case.events("fork_refused")
    assert sum(e["count"] for e in refused) == 13
    assert {e["comm"] for e in refused} == {"python3"}  # the hook says who


@pytest.mark.one_kernel
def test_101_brief_containers_made_by_hand(watch: Tracer) -> None:
    pod = cgroup_pods.Pod("shop", only=("unified", "memory"), reader=watch.pid)
    made, unnamed = [], 0
    for number in range(101):
        container = pod.container(f"brief-{number}")
        pid, _ = container.run("/bin/true")
        container.remove()
        made.append((container, pid))
    pod.remove()
    watch.wait_for(lambda o: o.get("event") == "removed" and o["pod_uid"] == pod.uid and not o["container_id"])
    by_id: dict[str, list[Event]] = {}
    for found in watch.objects:
        by_id.setdefault(found.get("container_id") or "", []).append(found)
    for container, pid in made:
        events = by_id[container.id]
        assert [e["event"] for e in events if e["event"] != "throttled"] == [
            "created",
            "attached",
            "exec",
            "exit",
            "removed",
        ], container.name
        # who does not get to reading for as long as the bundle is there comes too late for its name
        names = {(e["pod"], e["container"]) for e in events}
        unnamed += names == {(pod.name, None)}
        assert names <= {(pod.name, container.name), (pod.name, None)}
        assert {e["pid"] for e in events if "pid" in e} == {pid}
    assert unnamed <= 2


@pytest.mark.each_cgroup_mode
def test_the_table_equals_the_files_and_counts_restarts(start: Start, pod: cri.Pod, tmp_path: Path) -> None:
    def script(count: int) -> list[str]:
        return ["sh", "-c", f"for n in $(seq {count}); do sleep 1000 & done; wait"]

    def processes(case: Watched) -> int:
        return len(case.file("cgroup.procs", "memory", "cgroup.procs").read_text().split())

    first = start("again", script(6))
    first.file("memory.max", "memory", "memory.limit_in_bytes").write_text(str(64 << 20))
    with open(tmp_path / "table", "w+") as out:
        process = subprocess.Popen(
            ["kubetrace", "cgroups", "-p", pod.name, "-c", "again", "-o", "wide", "-i", "500ms"], stdout=out
        )

        def row(wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                assert process.poll() is None
                text = Path(out.name).read_text()
                found = cgroup_pods.rows(text) if "kubetrace cgroups" in text else []
                if found and wanted(found[0]):
                    return found[0]
                time.sleep(0.1)
            raise AssertionError(Path(out.name).read_text()[-2000:])

        try:
            shown = row(lambda found: found["PROCS"] == "7")
            assert processes(first) == 7
            assert (shown["STATE"], shown["QOS"], shown["MEM-LIMIT"]) == ("running", "Burstable", "64 MiB")
            assert (shown["OOM"], shown["RESTARTS"]) == ("0", "0")
            first.container.stop()
            assert row(lambda found: found["STATE"] != "running")["STATE"] == "SIGKILL"
            second = start("again", script(2), attempt=1)
            shown = row(lambda found: found["RESTARTS"] == "1" and found["PROCS"] == "3")
            assert (shown["STATE"], processes(second)) == ("running", 3)
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0


@pytest.mark.each_kernel
@pytest.mark.each_cgroup_mode
def test_json_has_no_surprises(watch: Tracer) -> None:
    for found in watch.objects:
        assert json.dumps(found).isascii()
