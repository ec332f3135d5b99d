"""Probes, stops and connections by real containerds, as kubetrace kubelet tells them (kubelet_node.py asks for them).

Expected values are what the CRI answered, the exit codes and byte counts of the processes themselves, and the clock
around each request.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.native.kubelet_asked import BURN, CLOSED_PORT, HOSTILE, PORT
from tests.native.test_many_runtimes import ALONE, ROOT, clean_up
from tests.vm import images, stage

Act = Mapping[str, Any]
S = 1_000_000_000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the nodes are made of."""
    made = tmp_path_factory.mktemp("kubelet")
    images.write(made / "images.tar", busybox=stage.program("busybox"), pause=images.build_pause(made), database=False)
    proto = ROOT / "tests" / "vm" / "cri.proto"
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto.parent}", f"--python_out={made}", str(proto)]
    subprocess.run(protoc, check=True)
    return made


@pytest.fixture(scope="module", params=["containerd 1.6", "containerd 2.1"])
def node(request: pytest.FixtureRequest, directory: Path) -> Node:
    """One of them, when all is over."""
    runtime = str(request.param)
    paths = [str(stage.program(name).parent) for name in ("containerd", "runc", "busybox")]
    assert (stage.cache_directory() / "containerd-2" / "versions").exists(), "scripts/setup vm"
    environment = {
        **os.environ,
        "PATH": ":".join([*dict.fromkeys(paths), os.environ["PATH"]]),
        "PYTHONPATH": f"{directory}:{ROOT}",
        "LC_ALL": "C.UTF-8",
        "NODE_NAME": "node1",
    }
    command = [*ALONE, "--net", sys.executable, "-m", "tests.native.kubelet_node", runtime, str(directory)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    clean_up()
    assert done.returncode == 0, done.stderr[-3000:]
    return Node(directory / runtime)


class Node:
    """What was asked, and what was told of it."""

    def __init__(self, stem: Path) -> None:
        self.stem = stem
        self.truth = json.loads(Path(f"{stem}.json").read_text())
        self.told = [json.loads(line) for line in Path(f"{stem}.told").read_text().splitlines()]
        self.acts = [one for one in self.told if one["type"] == "act"]

    def asked(self, kind: str) -> list[Act]:
        return [one for one in self.truth["acts"] if one["kind"] == kind]

    def of(self, *events: str, **wanted: Any) -> list[Act]:
        """Acts on its own pods, and those of no pod: others may have pods on this machine at the same time."""
        pods = {*self.truth["pods"], None}
        return [
            one
            for one in self.acts
            if one["event"] in events and one["pod_uid"] in pods and wanted.items() <= one.items()
        ]

    def replay(self, *options: str) -> str:
        command = [sys.executable, "-m", "kubetrace", "replay", f"{self.stem}.ktrace", "--final", *options]
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "COLUMNS": "160"}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def moment(text: str) -> int:
    """RFC 3339 with nanoseconds -> nanoseconds since 1970."""
    whole, _, part = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * S + int(part)


def test_each_exec_is_told_once_with_its_command_exit_code_and_time(node: Node) -> None:
    asked = node.asked("exec")
    told = node.of("exec")
    assert len(told) == len(asked) == 14
    for act, one in zip(asked, told, strict=True):
        assert (one["namespace"], one["pod"], one["container"], one["container_id"]) == (
            *("shop", "web-0"),
            *(act["container"], act["id"]),
        )
        # between the request and its answer; a command that was killed is answered before it is gone
        assert one["duration_ns"] <= act["ended"] - act["begun"] or act["error"]
        assert act["begun"] <= moment(one["time"]) - one["duration_ns"]
        if "no/such" in str(act["command"]):
            assert (one["executed"], one["command"], one["outcome"]) == (False, None, "not started")
            continue
        assert (one["command"], one["executed"], one["terminal"]) == (shlex.join(act["command"]), True, False)
        if act["error"]:
            assert "timeout 1s exceeded" in act["error"] or "DeadlineExceeded" in act["error"]
            assert (one["exit_signal"], one["killed_by"], one["outcome"]) == (
                *("SIGKILL", "containerd-shim"),
                "killed by runtime",
            )
            assert one["duration_ns"] >= S
        else:
            # as shells have it: 128 and the signal
            code = one["exit_code"] if one["exit_signal"] is None else 137
            assert code == act["answer"][2]


def test_a_command_line_is_the_one_that_was_given_and_no_terminal_obeys_it(node: Node) -> None:
    (one,) = node.of("exec", command=shlex.join(HOSTILE))
    assert one["exit_code"] == 5
    lines = node.replay("--events")
    assert "\x1b" not in lines and "\u202e" not in lines
    assert r"\x1b[2J\u202e$(reboot)\n" in lines


def test_what_a_command_used_is_what_the_shell_says_of_itself_and_runc_comes_beside_it(node: Node) -> None:
    (one,) = node.of("exec", command=shlex.join(["sh", "-c", BURN]))
    (asked,) = [act for act in node.asked("exec") if act["command"] == ["sh", "-c", BURN]]
    # times(1p): user and system of the shell, in ticks that the kernel scales
    times = re.findall(r"(\d+)m([\d.]+)s", asked["answer"][0])
    used = sum(int(minutes) * 60 + float(seconds) for minutes, seconds in times)
    command = (one["cpu_ns"] - one["runtime_cpu_ns"]) / S
    assert used - 0.02 <= command <= used + 0.05
    for each in node.of("exec"):
        # a command's share is never negative, and runc and its init took something
        assert 0 < each["runtime_cpu_ns"] <= each["cpu_ns"]


def test_a_probe_is_known_by_its_rhythm_when_it_has_come_five_times(node: Node) -> None:
    told = node.of("exec", command="cat /proc/version")
    begun = [act["begun"] for act in node.asked("exec") if act["command"] == ["cat", "/proc/version"]]
    assert [one["period_ns"] is None for one in told[:5]] == [True] * 5
    gaps = [later - earlier for earlier, later in pairwise(begun)]
    # a busy machine may have made it irregular: then it is not called regular
    if max(gaps) - min(gaps) < 200_000_000:
        assert (told[5]["times_a_period"], round(told[5]["period_ns"] / S)) == (1, 1)
        assert "every 1.0 s" in node.replay("-o", "wide")
    assert not [one for one in node.of("exec") if one["period_ns"] and one["command"] != "cat /proc/version"]


def test_a_stop_says_at_once_whether_the_grace_period_will_be_waited(node: Node) -> None:
    asked = {act["container"]: act for act in node.asked("stop")}
    codes = node.asked("stop")[-1]["codes"]
    assert codes == {"stubborn": 137, "app": 7, "before": 137}
    for name, act in asked.items():
        # containerd asks once more while it waits, at times
        (stop,) = node.of("stop", container_id=act["id"])
        (end,) = node.of("exit", container_id=act["id"])
        assert (stop["signal"], stop["ignored"], stop["sender"]) == ("SIGTERM", name != "app", "runc")
        assert act["begun"] <= moment(stop["time"]) <= act["ended"]
        assert end["stopped"]
        if name == "app":
            assert not node.of("kill", container_id=act["id"])
            assert (end["exit_code"], end["exit_signal"]) == (7, None)
            continue
        (kill,) = node.of("kill", container_id=act["id"])
        assert act["grace"] * S <= kill["duration_ns"] <= end["duration_ns"] <= act["ended"] - act["begun"]
        assert (kill["sender"], end["exit_signal"]) == ("runc", "SIGKILL")


def test_connections_of_the_kubelet_are_counted_to_the_one(node: Node) -> None:
    told = node.of("connect", port=PORT, connected=True)[node.truth["before_connections"] :]
    made = node.truth["connections"]
    assert len(told) == 23 + 13 + 1
    (pid,) = {one["pid"] for one in node.of("connect")}
    assert pid > 0
    assert {(one["namespace"], one["pod"], one["container"]) for one in told} == {("shop", "web-0", "web")}
    assert {one["container_id"] for one in told} == {node.truth["web"]}
    assert {(one["address"], one["error"]) for one in told} == {("127.0.0.1", None)}
    # who closes first is told first: that is no order
    clients = {client["local"]: client for client in (*made["tcp"], *made["http"], *made["held"])}
    assert sorted(one["local_port"] for one in told) == sorted(clients)
    for one in told:
        client = clients[one["local_port"]]
        assert one["received_bytes"] == client["received"]
        assert one["sent_bytes"] == (node.truth["http_bytes"] if client["received"] else 0)
        assert one["connect_ns"] <= client["connect_ns"]
        assert one["connect_ns"] <= one["open_ns"] <= client["took_ns"]
        if client in made["held"]:
            assert one["open_ns"] >= S // 2


def test_a_port_where_nobody_listens_is_told_as_refused_and_of_nobody(node: Node) -> None:
    refused = node.of("connect", port=CLOSED_PORT)
    assert len(refused) == len(node.truth["connections"]["refused"]) == 7
    assert {(one["error"], one["connected"], one["pod"]) for one in refused} == {("ECONNREFUSED", False, None)}
    assert all(one["host"] for one in refused)


def test_a_container_that_ends_and_its_next_one(node: Node) -> None:
    starts, ends = ([one for one in node.of(event) if one["container"] == "crash"] for event in ("start", "exit"))
    assert [one["container_id"] for one in starts] == node.truth["crash_ids"]
    assert [one["restart"] for one in starts] == [False, True]
    assert [one["exit_code"] for one in ends] == node.truth["crashed"] == [9, 0]
    assert starts[1]["duration_ns"] == moment(starts[1]["time"]) - moment(ends[0]["time"])


def test_one_that_wants_too_much_memory_says_so_where_it_has_a_limit(node: Node) -> None:
    container, code = node.truth["greedy"]
    assert code == 137
    (kill,) = node.of("oom_kill", container_id=container)
    (end,) = node.of("exit", container_id=container)
    assert kill["first_process"] and kill["pid"] == end["pid"]
    assert (end["out_of_memory"], end["outcome"]) == (True, "out of memory")


def test_the_runtimes_programs_are_told_with_the_container_that_they_are_for(node: Node) -> None:
    crashed = node.truth["crash_ids"][0]
    programs = [
        next((word for word in one["command"].split() if word in ("create", "start", "delete", "kill")), None)
        for one in node.of("run", container_id=crashed)
    ]
    for wanted in ("create", "start", "delete"):
        assert wanted in programs
    assert all(one["cpu_ns"] > 0 for one in node.of("run"))
    # runc exec is told with what it has executed, and its init with runc
    assert not [one for one in node.of("run") if {"exec", "init"} & set(one["command"].split())]


def test_what_is_done_to_a_pods_files_is_told_without_a_program_in_the_kernel(node: Node) -> None:
    files = node.truth["files"]
    told = [one for one in node.acts if one["pod_uid"] == files["uid"]]
    # volumes are mounted before the pod's sandbox is there, which names it
    names = {(one["namespace"], one["pod"]) for one in told if one["event"] != "mount"}
    assert names == {("jobs", "files-0")}
    mounts = [(one["event"], one["name"]) for one in told if one["event"] in ("mount", "umount")]
    assert mounts == [("mount", "token (tmpfs)"), ("umount", "token (tmpfs)")]
    refreshed = [one for one in told if one["event"] == "refresh"]
    assert [(one["name"], one["first"]) for one in refreshed] == [("token", False)] * 3
    for one, (begun, ended) in zip(refreshed, files["refreshed"], strict=True):
        # read as soon as it has happened, by whoever gets a CPU
        assert moment(one["time"]) >= begun and one["took_ns"] <= moment(one["time"]) - begun
        assert ended >= begun
    (rotated,) = [one for one in told if one["event"] == "rotate"]
    assert (rotated["container"], rotated["name"], rotated["bytes"]) == ("app", "app", files["log"])


def test_snapshots_that_are_collected_are_counted(node: Node) -> None:
    files = node.truth["files"]
    # of the sandbox and of the container
    assert files["collected"] == 2
    assert sum(one["snapshots"] for one in node.of("collect")) == files["collected_before"] + files["collected"]


@pytest.mark.parametrize("options", [(), ("--by", "pod"), ("--by", "what"), ("-n", "shop")])
def test_a_recording_shows_the_same(node: Node, options: tuple[str, ...]) -> None:
    shown = node.replay(*options)
    assert "web-0" in shown
    # the node's own is nobody's who asks for pods
    assert ("(host)" in shown) == (options != ("-n", "shop"))


def test_a_replay_tells_what_the_live_run_told(node: Node) -> None:
    replayed = [json.loads(line) for line in node.replay("-o", "json").splitlines()]
    assert [one for one in replayed if one["type"] == "act"] == node.acts


def test_nothing_is_lost(node: Node) -> None:
    (summary,) = [one for one in node.told if one["type"] == "summary"]
    assert (summary["hook"], summary["lost"], summary["unattributed"]) == ("raw_tp", 0, 0)
    assert summary["acts"] == summary["events"] == len(node.acts)
    assert summary["failed"] == len(
        [
            one
            for one in node.acts
            if (one["event"] in ("exec", "run") and (one["exit_code"] or one["exit_signal"]))
            or (one["event"] == "connect" and not one["connected"])
            or (one["event"] == "exit" and (one["exit_code"] or one["exit_signal"]) and not one["stopped"])
            or one["event"] in ("kill", "oom_kill")
        ]
    )
