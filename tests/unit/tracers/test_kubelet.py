"""What the kubelet's acts come to, from steps of the kernel that are written by hand."""

from __future__ import annotations

import ipaddress
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from kubetrace.attribution.attributor import Identity
from kubetrace.attribution.facts import CgroupSeen, ContainerSeen, MountGone, MountSeen, PodSeen
from kubetrace.attribution.selection import Selection
from kubetrace.attribution.whose import Attribution
from kubetrace.kit.context import Context
from kubetrace.node.host import Host
from kubetrace.stream.layout import Field, Layout
from kubetrace.tracers.kubelet import TRACER, node_reads, node_record, wording
from kubetrace.tracers.kubelet.acts import KubeletBoard, Usage
from kubetrace.tracers.kubelet.rhythm import Rhythm, regular
from kubetrace.tracers.kubelet.watched import Watched

S = 1_000_000_000
MS = 1_000_000
UID = "5f3b9a52-7d1c-4f6e-9d55-1f0f2f8f4c11"
APP, NEXT = "a1" * 32, "b2" * 32
WHATS = (
    *("exec", "connect", "stop", "kill", "signal", "start", "exit", "oom-kill", "run"),
    *("refresh", "rotate", "collect", "mount", "umount"),
    *("began", "ended", "agent-began", "agent-ended", "signalled", "chosen"),
)
_NUMBERS = (
    *("time", "cgroup_id", "memory_cgroup_id", "memory_hierarchy", "device", "pid", "what", "duration", "cpu"),
    *("runtime_cpu", "period", "sent", "received", "begun", "status", "number", "cause", "flags", "port"),
    *("text_bytes", "text_cut", "times"),
)
_BYTES = ("address", "comm", "cause_comm", "text")


def layout(name: str, numbers: tuple[str, ...], texts: tuple[str, ...]) -> Layout:
    fields = [Field(one, 8 * at, 8, "signed", "", WHATS if one == "what" else ()) for at, one in enumerate(numbers)]
    begin = 8 * len(numbers)
    fields += [Field(one, begin + 64 * at, 64, "bytes") for at, one in enumerate(texts)]
    return Layout(name, begin + 64 * len(texts), tuple(fields))


Act = layout("kubelet_act", _NUMBERS, _BYTES).event_type
BLANK = Act(*[0] * len(_NUMBERS), *[b""] * len(_BYTES))
_OF_CONNECTION = (
    *("time", "cgroup_id", "memory_cgroup_id", "memory_hierarchy", "device", "pid", "port", "begun", "connecting"),
    *("duration", "sent", "received", "server", "error", "established", "local_port"),
)
Connection = layout("kubelet_connection", _OF_CONNECTION, ("address",)).event_type
HOST = Identity(kind="host", cgroup_path="/system.slice/containerd.service", attributed_by="host")


def step(what: str, time: int, *, text: tuple[str, ...] = (), **more: Any) -> Any:
    line = b"".join(word.encode() + b"\0" for word in text)
    return BLANK._replace(
        what=WHATS.index(what), time=time, text=line, text_bytes=len(line), **{"cgroup_id": 100, **more}
    )


class Run:
    """A board, and a container that it knows."""

    def __init__(self, selection: Selection | None = None) -> None:
        self.attribution = Attribution(selection or Selection())
        base = f"/kubepods/burstable/pod{UID}"
        self.attribution.learn(
            [
                CgroupSeen(0, 1, "/", 0),
                CgroupSeen(0, 50, base, 0),
                CgroupSeen(0, 100, f"{base}/{APP}", 0),
                CgroupSeen(0, 200, f"{base}/{NEXT}", 0),
                CgroupSeen(0, 900, "/system.slice/containerd.service", 0),
                PodSeen(UID, "shop", "web-0", "config.json", 0),
                *(
                    ContainerSeen(one, "container", "shop", "web-0", "app", UID, "web:1", "c" * 64, "config.json", 0)
                    for one in (APP, NEXT)
                ),
            ]
        )
        self.board = KubeletBoard(Context("node1", 0, self.attribution), BLANK)

    def take(self, *steps: Any) -> list[Any]:
        return [told for one in steps for told, _ in self.board.take(one, self.attribution.identify(one))]

    def end(self) -> list[Any]:
        """What is told at the end: nothing more comes."""
        clock = node_record.LAYOUT.event_type(*[0] * 9, node_record.CLOCK, b"", b"", b"")
        return self.take(clock._replace(time=3600 * S, number=1))

    def rows(self, by: str = "target") -> list[dict[str, Any]]:
        columns = [column.key for column in (*TRACER.groupings[by].columns, *TRACER.measures)]
        return [dict(zip(columns, row, strict=True)) for row in self.board.rows(by)]


RUNC = ("runc", "--root", "/run/containerd/runc/k8s.io", "--log", "/log", "exec", "--detach", APP)
ENTERED, EXECUTED = wording.ENTERED, wording.ENTERED | wording.EXECUTED


def executed(at: int, *, runc: int = 10, pid: int = 20, status: int = 0, cpu: int = 3 * MS, **more: Any) -> list[Any]:
    """The steps of one exec: runc ends before the command does."""
    return [
        step("agent-began", at, text=RUNC, pid=runc, cgroup_id=900),
        step("began", at + 20 * MS, text=("sh", "-c", "exit"), pid=pid, cause=runc, begun=at + 10 * MS, flags=EXECUTED),
        step("agent-ended", at + 25 * MS, pid=runc, number=pid, cpu=9 * MS, runtime_cpu=5 * MS, cgroup_id=900),
        step(
            "ended", at + 40 * MS, pid=pid, cause=runc, begun=at + 10 * MS, status=status, cpu=cpu, runtime_cpu=MS,
            flags=EXECUTED, **more,
        ),
    ]  # fmt: skip


ORDERS = [(0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)]


@pytest.mark.parametrize("order", ORDERS)
def test_an_exec_is_told_once_with_all_that_it_costs_whoever_ends_first(order: tuple[int, ...]) -> None:
    run, steps = Run(), executed(S, status=3 << 8)
    (told,) = run.take(*(steps[at] for at in order))
    assert (wording.what_of(told), told.duration, told.cpu, told.runtime_cpu) == ("exec", 40 * MS, 2 * MS, 10 * MS)
    assert (wording.outcome(told), wording.command(told)) == ("exit 3", b"sh -c exit")
    (row,) = run.rows()
    assert (row["pod"], row["what"], row["count"], row["failed"], row["cpu_ns"], row["runtime_cpu_ns"]) == (
        *("web-0", "exec", 1, 1),
        *(12 * MS, 10 * MS),
    )


def test_an_end_that_two_threads_have_told_is_one() -> None:
    run, steps = Run(), executed(S)
    told = run.take(steps[0], steps[1], steps[3], steps[3], steps[2], steps[2]) + run.end()
    assert [wording.what_of(one) for one in told] == ["exec"]


def test_an_exec_whose_runtime_is_not_seen_to_end_is_told_when_the_run_ends() -> None:
    run, steps = Run(), executed(S)
    assert not run.take(steps[0], steps[1], steps[3])
    clock = node_record.LAYOUT.event_type(*[0] * 9, node_record.CLOCK, b"", b"", b"")
    assert not run.take(clock._replace(time=2 * S))
    (told,) = run.take(clock._replace(time=2 * S, number=1))
    assert (told.duration, told.runtime_cpu) == (40 * MS, MS)


def test_who_killed_a_command_is_told_and_not_taken_for_its_own_end() -> None:
    run, steps = Run(), executed(S, status=9)
    kill = step(
        "signalled", S + 30 * MS, pid=20, number=9, cause=7, cause_comm=b"containerd-shim\0", flags=wording.ENTERED
    )
    (told,) = run.take(*steps[:3], kill, steps[3])
    assert wording.outcome(told) == "killed by runtime"
    assert b"SIGKILL by containerd-shim: it took too long, or who asked has gone" in bytes(wording.detail(told))  # type: ignore[arg-type]
    other = kill._replace(cause_comm=b"bash\0")
    (told,) = Run().take(*steps[:3], other, steps[3])
    assert wording.outcome(told) == "killed by another"
    (told,) = Run().take(*steps)
    assert wording.outcome(told) == "SIGKILL"


def test_what_runc_create_sets_up_is_no_command() -> None:
    run = Run()
    create = (*RUNC[:5], "create", APP)
    told = run.take(
        step("agent-began", S, text=create, pid=10, cgroup_id=900),
        step("agent-ended", S + 9 * MS, pid=10, number=20, cpu=MS, cgroup_id=900),
        step("ended", S + 10 * MS, pid=20, cause=10, begun=S, flags=ENTERED),
    )
    assert [(wording.what_of(one), wording.program(one)) for one in told] == [("run", b"runc create")]


def test_a_shim_does_not_count_the_programs_that_it_waited_for() -> None:
    shim = ("/usr/bin/containerd-shim-runc-v2", "-namespace", "k8s.io", "-id", APP)
    (told,) = Run().take(
        step("agent-began", S, text=shim, pid=10, cgroup_id=900),
        step("agent-ended", 2 * S, pid=10, cpu=50 * MS, runtime_cpu=4 * MS, cgroup_id=900),
    )
    assert (told.cpu, wording.program(told)) == (4 * MS, b"containerd-shim-runc-v2")


def test_what_runs_in_a_container_is_that_containers_own() -> None:
    steps = executed(S)
    assert not Run().take(steps[0]._replace(cgroup_id=100), steps[2]._replace(cgroup_id=100))


def test_a_stop_that_is_ignored_is_told_at_once_and_its_grace_at_the_end() -> None:
    run, first = Run(), wording.FIRST
    began = step("began", S, text=("sleep", "1"), pid=5, flags=first | wording.EXECUTED)
    term = step("signalled", 10 * S, pid=5, number=15, cause=10, cause_comm=b"runc\0", flags=first | wording.IGNORED)
    kill = term._replace(time=40 * S, number=9, flags=first)
    end = step("ended", 40 * S + MS, pid=5, status=9, flags=first)
    told = run.take(began, term, kill, end) + run.end()
    assert [wording.what_of(one) for one in told] == ["start", "stop", "kill", "exit"]
    assert wording.outcome(told[1]) == "ignored" and b"the whole grace period" in bytes(wording.detail(told[1]))  # type: ignore[arg-type]
    assert (told[2].duration, told[3].duration) == (30 * S, 30 * S + MS)
    assert wording.detail(told[2]) == b"SIGKILL, 30 s after the stop by runc"
    # who had to be killed failed; that it then ended was asked for
    assert [wording.failed(one) for one in told] == [False, False, True, False]


def test_who_ends_before_the_stop_is_told_was_stopped_all_the_same() -> None:
    run, first = Run(), wording.FIRST
    end = step("ended", S, pid=5, status=7 << 8, flags=first)
    # the kernel tells a signal when the process has it already
    term = step("signalled", S + MS, pid=5, number=15, cause=10, cause_comm=b"runc\0", flags=first)
    told = run.take(end, term) + run.end()
    assert [wording.what_of(one) for one in told] == ["stop", "exit"]
    assert (told[1].flags & wording.STOPPED > 0, told[1].duration, wording.failed(told[1])) == (True, 0, False)


def test_the_next_container_of_a_name_says_after_what_and_how_long() -> None:
    run, first = Run(), wording.FIRST
    told = run.take(
        step("began", S, text=("app",), pid=5, flags=first),
        step("ended", 3 * S, pid=5, status=9 << 8, flags=first),
        step("began", 13 * S, text=("app",), pid=6, flags=first, cgroup_id=200),
    )
    assert [wording.detail(one) for one in told] == [b"app", "exit 9", b"again, 10 s after exit 9: app"]
    assert (told[1].duration, wording.failed(told[1])) == (2 * S, True)


def test_an_oom_kill_says_whether_the_container_ends_with_it() -> None:
    run, first = Run(), wording.FIRST
    child = step("chosen", S, pid=6, comm=b"worker\0")
    whole = step("chosen", 2 * S, pid=5, comm=b"app\0", flags=first)
    by_kernel = step("signalled", 2 * S, pid=5, number=9, flags=first | wording.KERNEL)
    end = step("ended", 3 * S, pid=5, status=9, flags=first)
    told = run.take(child, whole, by_kernel, end) + run.end()
    assert [wording.what_of(one) for one in told] == ["oom_kill", "oom_kill", "exit"]
    assert [b"goes on without it" in bytes(wording.detail(one)) for one in told[:2]] == [True, False]  # type: ignore[arg-type]
    assert wording.outcome(told[2]) == "out of memory"


# Rhythm.


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        ([0, 10, 20, 30, 40], (10, 1)),
        ([0, 10, 20, 30], None),
        ([0, 10, 20, 30, 41.5], None),
        ([0, 10.2, 20, 30.1, 40, 50.2], (10.1, 1)),
        ([0, 3, 10, 13, 20, 23, 30, 33, 40], (10, 2)),
        ([0, 1, 5, 6, 18, 19, 40], None),
        ([0, 0.1, 0.2, 0.3, 0.4], None),
        # somebody looked by hand, and then it was regular again
        ([0, 10, 13, 20, 30, 40, 50, 60], (10, 1)),
        ([], None),
    ],
)
def test_what_is_regular(moments: list[float], expected: tuple[float, int] | None) -> None:
    found = regular([round(moment * S) for moment in moments])
    assert found == (Rhythm(round(expected[0] * S), expected[1]) if expected is not None else None)


def test_a_probe_is_named_by_its_rhythm_and_not_before() -> None:
    run = Run()
    notes = []
    for number in range(6):
        run.take(*executed((1 + 10 * number) * S))
        notes.append(run.rows()[0]["rhythm"])
    assert notes == [None] * 4 + ["every 10 s"] * 2


def test_a_terminal_says_that_it_is_a_session_however_regular_it_is() -> None:
    run = Run()
    for number in range(6):
        steps = executed((1 + 10 * number) * S)
        steps[1] = steps[1]._replace(flags=EXECUTED | wording.TERMINAL)
        run.take(*steps)
    assert run.rows()[0]["rhythm"] == "terminal"


# Connections.


def connection(**more: Any) -> Any:
    values = dict.fromkeys(Connection._fields, 0)
    address = bytes(10) + b"\xff\xff" + ipaddress.ip_address("10.0.0.7").packed
    given = {"cgroup_id": 900, "begun": S, "connecting": MS, "duration": 5 * MS, "port": 8080, "established": 1}
    return Connection(**{**values, "address": address, "time": 2 * S, **given, **more})


def test_a_connection_is_of_the_container_whose_socket_has_answered() -> None:
    run = Run()
    ((told, of),) = run.board.take(connection(server=100, sent=40, received=213), HOST)
    assert (of.pod, of.container, told.duration, told.period) == ("web-0", "app", 5 * MS, MS)
    assert wording.detail(told) == "10.0.0.7:8080 sent 40 B, received 213 B"
    assert not wording.failed(told)


def told_address(uid: str, *, gone: int = 0) -> Any:
    blank = node_record.LAYOUT.event_type(*[0] * 9, node_record.ADDRESS, b"", b"", b"")
    return blank._replace(time=S, number=gone, address=connection().address, text=uid.encode(), text_bytes=len(uid))


def test_where_nothing_answered_the_pods_address_says_whose_it_is() -> None:
    refused = connection(established=0, error=111)
    run = Run()
    ((told, of),) = run.board.take(refused, HOST)
    assert (of.kind, wording.outcome(told), wording.failed(told)) == ("host", "ECONNREFUSED", True)
    run.take(told_address(UID))
    ((told, of),) = run.board.take(refused, HOST)
    assert (of.pod, of.container) == ("web-0", None)
    # another pod says that it is its own: then neither is named
    run.take(told_address("11111111-7d1c-4f6e-9d55-1f0f2f8f4c11"))
    ((told, of),) = run.board.take(refused, HOST)
    assert of.kind == "host"
    run.take(told_address("11111111-7d1c-4f6e-9d55-1f0f2f8f4c11", gone=1))
    ((told, of),) = run.board.take(refused, HOST)
    assert of.pod == "web-0"


HOSTS = b"# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost\nfe00::0\tip6-mcastprefix\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HOSTS + b"10.0.0.7\tweb-0\nfd00::7\tweb-0\n", ["::ffff:10.0.0.7", "fd00::7"]),
        (HOSTS + b"10.0.0.7\tweb-0\n\n# Entries added by HostAliases.\n10.0.0.8\tother\n", ["::ffff:10.0.0.7"]),
        (b"# Kubernetes-managed hosts file (host network).\n192.0.2.1\tnode1\n", []),
        (b"10.0.0.7\tweb-0\n", []),
        (HOSTS + b"\x1b[2J\n999.1.1.1 x\n\xff\xfe y\n" + b"10.0.0.7 " + b"x" * 5000 + b"\n", ["::ffff:10.0.0.7"]),
        (HOSTS + b"10.0.0.7 a\n" * 10_000, []),
    ],
)
def test_a_pods_addresses_are_those_that_the_kubelet_wrote(text: bytes, expected: list[str], tmp_path: Path) -> None:
    directory = tmp_path / "var/lib/kubelet/pods" / UID
    directory.mkdir(parents=True)
    for name in ("proc/1",):
        (tmp_path / name).mkdir(parents=True)
    (directory / "etc-hosts").write_bytes(text)
    looks = node_reads.NodeReads(Host(tmp_path))

    def addresses() -> list[tuple[str, int]]:
        (batch,) = looks.read()
        found = [one for one in node_record.LAYOUT.decode(batch.data) if one.kind == node_record.ADDRESS]
        assert all(one.text[: one.text_bytes].decode() == UID for one in found)
        return [(str(ipaddress.IPv6Address(one.address)), one.number) for one in found]

    wanted = [str(ipaddress.IPv6Address(one)) for one in expected]
    assert addresses() == [(one, 0) for one in wanted]
    # told once, and again when it is so no more
    assert addresses() == []
    (directory / "etc-hosts").unlink()
    assert addresses() == [(one, 1) for one in wanted]


# Files.


class Kubelet:
    """A kubelet's, a log's and a containerd's directories, with one volume and one container."""

    def __init__(self, root: Path) -> None:
        self.volume = root / "var/lib/kubelet/pods" / UID / "volumes/kubernetes.io~secret/token"
        self.log = root / "var/log/pods" / f"shop_web-0_{UID}" / "app"
        self.store = root / "var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
        for directory in (self.volume, self.log, self.store, root / "proc/1"):
            directory.mkdir(parents=True)
        (self.log / "0.log").write_bytes(b"x" * 1234)
        for number in range(7):
            (self.store / str(number)).mkdir()

    def fill(self, at: int) -> None:
        """As the kubelet does (pkg/volume/util/atomic_writer.go)."""
        version = f"..2026_11_30_02_43_{at:02}.456339893"
        (self.volume / version).mkdir()
        (self.volume / version / "password").write_text("hunter2")
        (self.volume / "..data_tmp").symlink_to(version)
        (self.volume / "..data_tmp").rename(self.volume / "..data")


def test_new_contents_of_a_volume_are_told_when_they_are_in_place(tmp_path: Path) -> None:
    node = Kubelet(tmp_path)
    watched = Watched(Host(tmp_path))
    watched.look(soon=True)
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for at in (1, 2):
        node.fill(at)
    (node.volume / "..data_tmp").symlink_to("nowhere")
    found = watched.take()
    (node.volume / "..data_tmp").unlink()
    assert [(one.kind, one.pod_uid, one.name, one.count) for one in found] == [
        ("refresh", UID, "token", 1),
        ("refresh", UID, "token", 0),
    ]
    assert all(before < one.time_ns and one.duration_ns >= 0 for one in found)
    # one that was filled before is not filled for the first time
    later = Watched(Host(tmp_path))
    later.look()
    node.fill(3)
    assert [one.count for one in later.take()] == [0]
    watched.close()
    later.close()


def test_a_volume_that_is_mounted_over_its_directory_is_watched_anew(tmp_path: Path) -> None:
    node = Kubelet(tmp_path)
    watched = Watched(Host(tmp_path))
    watched.look(soon=True)
    # another directory under the name, as a tmpfs is
    node.volume.rename(tmp_path / "old")
    node.volume.mkdir()
    watched.look(soon=True)
    node.fill(1)
    assert [(one.kind, one.count) for one in watched.take()] == [("refresh", 1)]
    shutil.rmtree(node.volume)
    assert watched.take() == []
    watched.close()


def test_a_log_that_is_rotated_is_told_with_its_size_and_nothing_else_of_it(tmp_path: Path) -> None:
    node = Kubelet(tmp_path)
    watched = Watched(Host(tmp_path))
    watched.look(soon=True)
    (node.log / "0.log").rename(node.log / "0.log.20261130-024300")
    (node.log / "0.log").write_bytes(b"")
    # the one before is packed
    (node.log / "tmp").write_bytes(b"")
    (node.log / "tmp").rename(node.log / "0.log.20261130-014300.gz")
    (one,) = watched.take()
    assert (one.kind, one.pod_uid, one.name, one.count) == ("rotate", UID, "app", 1234)
    watched.close()


def test_snapshots_that_are_removed_together_are_one_collection(tmp_path: Path) -> None:
    node = Kubelet(tmp_path)
    watched = Watched(Host(tmp_path))
    watched.look(soon=True)
    for number in range(5):
        (node.store / str(number)).rmdir()
        watched.read()
    (node.store / "new-123").mkdir()
    (node.store / "new-123").rmdir()
    # more may come
    assert watched.take() == []
    (one,) = watched.take(whole=True)
    assert (one.kind, one.count) == ("collect", 5) and one.name.endswith("io.containerd.snapshotter.v1.overlayfs")
    assert one.duration_ns >= 0
    watched.close()


def test_without_an_inotify_instance_nothing_of_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise OSError(24, "Too many open files")

    Kubelet(tmp_path)
    monkeypatch.setattr("kubetrace.node.inotify.Inotify.__init__", refuse)
    watched = Watched(Host(tmp_path))
    watched.look(soon=True)
    assert (watched.fds, watched.take(whole=True)) == ([], [])
    watched.close()


def test_what_is_done_to_files_is_told_of_the_pod_that_it_is_of(tmp_path: Path) -> None:
    node, run = Kubelet(tmp_path), Run()
    looks = node_reads.NodeReads(Host(tmp_path))
    looks.read()
    node.fill(1)
    (node.log / "0.log").rename(node.log / "0.log.20261130-024300")
    (node.store / "3").rmdir()
    (batch,) = looks.read(whole=True)
    told = [found for one in node_record.LAYOUT.decode(batch.data) for found in run.board.take(one, HOST)]
    assert [(wording.what_of(one), of.pod, of.container, wording.detail(one)) for one, of in told] == [
        ("refresh", "web-0", None, b"volume token filled for the first time"),
        ("rotate", "web-0", "app", b"log of app, 1.2 KiB, begun anew"),
        (
            *("collect", None, None),
            b"1 snapshot removed from /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs",
        ),
    ]
    looks.close()


def test_mounts_of_a_pods_volumes_are_told_but_for_those_that_were_there() -> None:
    run = Run()
    base = f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~secret"
    for name, since in (("old", 0), ("new", S)):
        run.board.learn(MountSeen(50, "/", f"{base}/{name}", "tmpfs", "tmpfs", 2 * S, since))
    run.board.learn(MountSeen(51, "/", "/mnt/other", "ext4", "/dev/vdb", 2 * S, S))
    run.board.learn(MountGone(50, f"{base}/old", 3 * S))
    clock = node_record.LAYOUT.event_type(*[0] * 9, node_record.CLOCK, b"", b"", b"")
    told = list(run.board.take(clock._replace(time=4 * S), HOST))
    assert [(wording.what_of(one), of.pod, wording.detail(one), one.time) for one, of in told] == [
        ("mount", "web-0", b"volume new (tmpfs)", 2 * S),
        ("umount", "web-0", b"volume old (tmpfs)", 3 * S),
    ]


# Advice.


def advised(run: Run, *steps: Any) -> list[str]:
    advice = TRACER.advice()
    for one in steps:
        for told, of in run.board.take(one, run.attribution.identify(one)):
            advice.add(told, of, run.board._context)
    assert len(advice.remedies()) == len([remedy.record() for remedy in advice.remedies()])
    return [remedy.text(lambda name: name if isinstance(name, str) else name.decode()) for remedy in advice.remedies()]


def test_a_dear_probe_is_named_with_its_share_of_a_core_and_a_cheap_one_is_not() -> None:
    # 12 ms of CPU each: in every second, and in every ten
    dear, cheap = ([one for number in range(9) for one in executed((1 + each * number) * S)] for each in (1, 10))
    (said,) = advised(Run(), *dear)
    assert said.startswith(
        "shop/web-0/app: the probe sh -c exit comes every 1.0 s and costs 1.3% of a core, 1.1% of it the runtime's: "
    )
    assert advised(Run(), *cheap) == []


def test_what_is_killed_for_its_time_and_what_does_not_hear_a_stop_are_named_the_longest_first() -> None:
    steps = executed(S, status=9)
    kill = step("signalled", S + 30 * MS, pid=20, number=9, cause_comm=b"containerd-shim", flags=wording.ENTERED)
    first = wording.FIRST
    began = step("began", S, text=("sleep", "1"), pid=5, flags=first)
    term = step("signalled", 10 * S, pid=5, number=15, comm=b"sleep", cause_comm=b"runc", flags=first | wording.IGNORED)
    stop, timeout = advised(
        Run(), *steps[:3], kill, steps[3], began, term, term._replace(time=40 * S, number=9, flags=first)
    )
    assert "its first process (sleep) has no handler for that" in stop and "(30 s so far)" in stop
    assert "sh -c exit was killed by the runtime 1 time, after 40 ms" in timeout


# What is bounded, and what is hostile.


def test_commands_that_a_script_makes_up_are_counted_together() -> None:
    from kubetrace.tracers.kubelet import acts

    run = Run()
    most = acts._MOST_ROWS
    for number in range(most + 7):
        steps = executed(S + number)
        line = f"x{number}\0".encode()
        steps[1] = steps[1]._replace(text=line, text_bytes=len(line))
        run.take(*steps)
    rows = run.rows()
    assert len(rows) <= most + 1
    assert sum(row["count"] for row in rows) == most + 7
    (older,) = [row for row in rows if row["target"] == "(older ones)"]
    assert older["count"] >= 7


def test_a_command_line_is_told_as_it_was_and_shown_so_that_it_can_be_typed() -> None:
    words = ("sh", "-c", "echo 'x'; \x1b[2J")
    (told,) = Run().take(*[executed(S)[0], step("began", S, text=words, pid=20, cause=10), *executed(S)[2:]])
    assert wording.arguments(told) == [word.encode() for word in words]
    assert wording.command(told) == b"""sh -c 'echo '"'"'x'"'"'; \x1b[2J'"""
    cut = told._replace(text=b"a\0b", text_bytes=3, text_cut=1)
    assert wording.command(cut) == b"a b"
    assert str(wording.detail(cut), "utf-8").startswith("a b…")  # type: ignore[arg-type]
    assert wording.command(told._replace(text=b"\xff\xfe\0", text_bytes=3)) == b"'\xff\xfe'"


def test_the_last_container_id_or_the_pods_path_says_for_whom_a_program_runs() -> None:
    run = Run()

    def whose(*words: str) -> Identity:
        begun = step("agent-began", S, text=words, pid=10, cgroup_id=900)
        steps = [begun, step("agent-ended", 2 * S, pid=10, cgroup_id=900)]
        ((_, of),) = [told for one in steps for told in run.board.take(one, HOST)]
        return of

    assert whose("runc", "--log", f"/x/{NEXT}/log.json", "delete", APP).container_id == APP
    mount = whose("mount", "-t", "tmpfs", "tmpfs", f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~secret/token")
    assert (mount.pod, mount.container) == ("web-0", None)
    assert whose("runc", "delete", "f" * 64).kind == "host"
    assert whose("mount", "/pods/../../etc").kind == "host"


def test_of_other_pods_nothing_is_counted() -> None:
    run = Run(Selection.parse(["jobs"], [], []))
    assert not run.take(*executed(S))
    assert not run.rows() and not run.rows("node")


def test_the_share_of_a_core_is_that_of_the_last_minute() -> None:
    usage = Usage()
    assert usage.percent(0) is None
    for second in range(0, 130, 10):
        usage.add(second * S, (0 if second < 60 else second - 60) * S // 10)
    assert usage.percent(121 * S) == pytest.approx(10)
    # gone for a minute
    assert usage.percent(181 * S) is None
    # another process under its number
    usage.add(131 * S, 0)
    assert usage.percent(132 * S) is None


def test_probes_are_shown_beside_what_the_pod_itself_uses() -> None:
    run = Run()
    pod = node_record.LAYOUT.event_type(*[0] * 9, node_record.POD, b"", b"", b"")._replace(cgroup_id=50)
    for number in range(60):
        run.take(pod._replace(time=(1 + number) * S, number=number * 30 * MS), *executed((1 + number) * S))
    (row,) = run.rows("pod")
    # 12 ms in each second; 30 ms in each
    assert row["cpu_percent"] == pytest.approx(1.2, rel=0.03)
    assert row["pod_cpu_percent"] == pytest.approx(3.0, rel=0.03)
    assert row["per_minute"] == pytest.approx(60, rel=0.03)


def test_what_a_later_version_or_a_damaged_file_says_is_not_understood_and_harms_nobody() -> None:
    run = Run()
    strange = step("began", S)._replace(what=len(WHATS) - 1, status=-1, number=1 << 31, flags=(1 << 32) - 1)
    for told in run.take(strange):
        assert TRACER.event_cells(told, Identity(), run.board._context)
    for what in range(len(WHATS)):
        one = strange._replace(what=what, text=b"\xff", text_bytes=1, text_cut=1, address=bytes(16))
        assert isinstance(wording.detail(one), str | bytes | None)
        assert isinstance(wording.outcome(one), str | None)
