"""Numbers out of the files of cgroups, v1 and v2, against files written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubetrace.attribution.facts import CgroupSeen
from kubetrace.node.host import Host
from kubetrace.tracers.cgroups.usage import LAYOUT, Usage

UID, CID = "0f0f0f0f-1111-2222-3333-444444444444", "c" * 64
POD = f"/kubepods/burstable/pod{UID}"
APP = f"{POD}/{CID}"


def write(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)


class FakeHost(Host):
    """A host whose mounts are under a directory of the test's."""

    def __init__(self, root: Path, mounts: list[str]) -> None:
        super().__init__(root)
        self._mountinfo = root / "mountinfo"
        self._mountinfo.write_text("".join(f"{30 + n} 20 0:{30 + n} / {line}\n" for n, line in enumerate(mounts)))

    def mountinfo_path(self) -> str:
        return str(self._mountinfo)

    def path(self, node_path: Any) -> str:
        return f"{self.root}{node_path}"


@pytest.fixture
def v2(tmp_path: Path) -> Usage:
    (tmp_path / "proc/77").mkdir(parents=True)
    # comm may hold anything; field 22 is 12.34 s at 100 ticks
    (tmp_path / "proc/77/stat").write_text("77 (a b) c) S " + " ".join(["0"] * 18) + " 1234 0 0\n")
    write(
        tmp_path / ("sys/fs/cgroup" + APP),
        cgroup__procs="77\n78\n79\n",
        cpu__stat="usage_usec 123456\nuser_usec 1\nnr_periods 17\nnr_throttled 5\nthrottled_usec 250000\n",
        cpu__max="25000 100000\n",
        memory__current="1048576\n",
        memory__max="67108864\n",
        memory__events="low 0\nhigh 3\nmax 4\noom 2\noom_kill 2\n",
        pids__events="max 7\n",
        cpu__pressure="some avg10=1.25 avg60=0.00 avg300=0.00 total=1\nfull avg10=9.00 avg60=0 avg300=0 total=0\n",
        memory__pressure="some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    )
    made = Usage(FakeHost(tmp_path, ["/sys/fs/cgroup rw - cgroup2 cgroup2 rw"]))
    made.learn(CgroupSeen(0, 41, APP, 1))
    return made


def only(usage: Usage) -> Any:
    (batch,) = usage.read()
    (record,) = LAYOUT.decode(batch.data)
    return record


def test_v2(v2: Usage) -> None:
    record = only(v2)
    assert (record.cgroup_id, record.memory_cgroup_id, record.memory_hierarchy, record.device) == (41, 0, 0, 0)
    assert (record.procs, record.begun) == (3, 12_340_000_000)
    assert (record.cpu, record.cpu_limit) == (123_456_000, 250)
    assert (record.periods, record.throttled_periods, record.throttled) == (17, 5, 250_000_000)
    assert (record.memory, record.memory_limit, record.oom_kills, record.forks_refused) == (1 << 20, 64 << 20, 2, 7)
    assert (record.cpu_pressure, record.memory_pressure, record.io_pressure, record.frozen) == (125, 0, -1, -1)


def test_no_limit_and_no_controller_are_unknown(v2: Usage, tmp_path: Path) -> None:
    directory = tmp_path / ("sys/fs/cgroup" + APP)
    write(directory, cpu__max="max 100000\n", memory__max="max\n", cpu__stat="usage_usec 5\n")
    (directory / "memory.current").unlink()
    record = only(v2)
    assert (record.cpu, record.cpu_limit, record.periods, record.memory, record.memory_limit) == (5000, -1, -1, -1, -1)


def test_refused_forks_are_the_cgroups_own_where_the_kernel_tells_them_apart(v2: Usage, tmp_path: Path) -> None:
    write(tmp_path / ("sys/fs/cgroup" + APP), pids__events__local="max 2\n")
    assert only(v2).forks_refused == 2


def test_processes_of_cgroups_below_are_counted(v2: Usage, tmp_path: Path) -> None:
    write(tmp_path / ("sys/fs/cgroup" + APP + "/init.scope"), cgroup__procs="80\n81\n")
    v2.learn(CgroupSeen(0, 42, APP + "/init.scope", 2))
    assert only(v2).procs == 5


def test_what_is_gone_is_read_no_more(v2: Usage, tmp_path: Path) -> None:
    directory = tmp_path / ("sys/fs/cgroup" + APP)
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()
    assert v2.read() == []
    write(directory, cgroup__procs="1\n")
    assert v2.read() == []


def test_cgroups_of_the_host_are_left_alone(v2: Usage) -> None:
    for number, path in enumerate(("/", "/system.slice", "/system.slice/containerd.service", "/kubepods/burstable")):
        v2.learn(CgroupSeen(0, 100 + number, path, 1))
    assert only(v2).cgroup_id == 41


def test_v1_reads_each_controllers_hierarchy(tmp_path: Path) -> None:
    root = tmp_path / "sys/fs/cgroup"
    write(
        root / f"cpu,cpuacct{APP}",
        cgroup__procs="1\n2\n",
        cpuacct__usage="987654321\n",
        cpu__cfs_quota_us="150000\n",
        cpu__cfs_period_us="100000\n",
        cpu__stat="nr_periods 11\nnr_throttled 3\nthrottled_time 4242\n",
    )
    write(
        root / f"memory{APP}",
        cgroup__procs="1\n2\n",
        memory__usage_in_bytes="4096\n",
        memory__limit_in_bytes="9223372036854771712\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    )
    write(root / f"pids{APP}", pids__events="max 0\n")
    write(root / f"freezer{APP}", freezer__state="FROZEN\n")
    made = Usage(
        FakeHost(
            tmp_path,
            [
                f"/sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}"
                for name in ("cpu,cpuacct", "memory", "pids", "freezer")
            ],
        )
    )
    made.learn(CgroupSeen(4, 55, APP, 1))
    record = only(made)
    assert (record.cgroup_id, record.memory_cgroup_id, record.memory_hierarchy) == (0, 55, 4)
    assert (record.procs, record.cpu, record.cpu_limit) == (2, 987_654_321, 1500)
    assert (record.periods, record.throttled_periods, record.throttled) == (11, 3, 4242)
    assert (record.memory, record.memory_limit, record.oom_kills) == (4096, -1, 1)
    assert (record.forks_refused, record.frozen, record.cpu_pressure) == (0, 1, -1)


@pytest.mark.parametrize("text", ["", "some", "some avg10=x.y", "avg10=", "some avg10=1", "\xff\xfe"])
def test_hostile_pressure_files_are_unknown(v2: Usage, tmp_path: Path, text: str) -> None:
    (tmp_path / ("sys/fs/cgroup" + APP) / "cpu.pressure").write_text(text)
    assert only(v2).cpu_pressure == -1


def test_reading_many_is_interrupted_every_few(v2: Usage, tmp_path: Path) -> None:
    for number in range(12):
        path = APP[:-2] + f"{number:02}"
        write(tmp_path / ("sys/fs/cgroup" + path), cgroup__procs="1\n")
        v2.learn(CgroupSeen(0, 100 + number, path, 1))
    calls: list[int] = []
    (batch,) = v2.read(lambda: calls.append(1))
    assert (len(list(LAYOUT.decode(batch.data))), len(calls)) == (13, 3)


def test_thousands_of_cgroups_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = Usage(FakeHost(tmp_path, ["/sys/fs/cgroup rw - cgroup2 cgroup2 rw"]))
    for number in range(600):
        path = f"/kubepods/pod{UID}/{number:064x}"
        write(tmp_path / ("sys/fs/cgroup" + path), cgroup__procs="")
        usage.learn(CgroupSeen(0, number, path, 1))
    # no time passes: a reading has no share of it to spend on more than it must look at
    monkeypatch.setattr("kubetrace.tracers.cgroups.usage.time.monotonic", lambda: 1.0)

    def seen(*, whole: bool = False) -> list[int]:
        return [record.cgroup_id for batch in usage.read(whole=whole) for record in LAYOUT.decode(batch.data)]

    first, second, third = seen(), seen(), seen()
    assert (len(first), len(second), len(third)) == (256, 256, 88)
    assert sorted(first + second + third) == list(range(600))
    assert seen() == first
    assert sorted(seen(whole=True)) == list(range(600))
