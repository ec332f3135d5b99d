"""Recordings of real runs on this machine's kernel: a replay prints what the live run printed, to the byte."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kubetrace.engines.source import object_path
from tests.vm.cgroup_pods import Pod, boot_ns, last_block, waited_ns, waits

from .conftest import DEADLINE_S, Workload, until
from .test_copyup_native import KUBETRACE, NAME, finish, start


def run(environment: dict[str, str], *arguments: object) -> tuple[str, str]:
    done = subprocess.run([*KUBETRACE, *map(str, arguments)], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode()


def wait_for(ready: Path, process: subprocess.Popen[bytes]) -> None:
    until(ready.exists, "ready", process)


def test_what_top_records_is_what_it_showed(tmp_path: Path) -> None:
    """Of several tracers in one process: those that this kernel can run."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "NODE_NAME": "node1"}
    file, out = tmp_path / "top.ktrace", tmp_path / "out"
    command = [*KUBETRACE, "top", "starts", "-i", "200ms", "-o", "json-tables", "--record", str(file)]
    with open(out, "wb") as told:
        process = subprocess.Popen(
            [*command, "--ready-file", str(tmp_path / "ready")], env=environment, stdout=told, stderr=subprocess.PIPE
        )
    wait_for(tmp_path / "ready", process)
    pod = Pod()
    container = pod.container("app")
    container.run("/bin/sh", "-c", "/bin/true; /bin/true; exit 3")

    def windows(text: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line["type"] == "window"]

    def row(text: str) -> dict[str, Any]:
        last = windows(text)[-1]
        rows = [dict(zip(last["columns"], one, strict=True)) for one in last["rows"]]
        return next((one for one in rows if one["pod"] == pod.name), {})

    until(lambda: row(out.read_text()) != {}, "the pod's row", process)
    pod.remove()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0 and f"kubetrace replay {file} cgroups (or " in err.decode(), err
    live = row(out.read_text())
    replayed, _ = run(environment, "replay", file, "top", "--final", "-o", "json-tables")
    assert row(replayed) == live and live["namespace"] == "shop"
    # and each alone
    alone, _ = run(environment, "replay", file, "cgroups", "--final", "-o", "json")
    events = [o for o in map(json.loads, alone.splitlines()) if o.get("container_id") == container.id]
    assert [o["exit_code"] for o in events if o["event"] == "exit"] == [3]
    assert {o["container"] for o in events} == {"app"}


@pytest.mark.parametrize(
    "options",
    [["-o", "json"], ["-o", "csv"], ["--events", "-o", "wide"], ["-i", "100ms", "--by", "process"], ["-o", "wide"]],
    ids=" ".join,
)
def test_a_replay_prints_the_bytes_of_the_live_run(
    environment: dict[str, str], workload: Workload, tmp_path: Path, options: list[str]
) -> None:
    file = tmp_path / "a.ktrace"
    process = start(environment, tmp_path, "--record", str(file), *options)
    for count in (23, 5, 101):
        workload.fire(bytes(tmp_path) + NAME, count)
    workload.fire(bytes(tmp_path) + b"/" + b"/".join([b"d" * 200] * 3), 7)
    out, err = finish(process)
    assert f"View it: kubetrace replay {file}" in err and out.count("\n") > 4
    assert run(environment, "replay", file, "--speed", 20, *options)[0] == out
    last = run(environment, "replay", file, "--final", *options)[0]
    assert last_block(last) == last_block(out) and last


def test_the_lines_and_the_last_table_of_pods_are_replayed(tmp_path: Path) -> None:
    """Of the tracers that keep a board: what was read off the node's files is in the recording too."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "NODE_NAME": "node1"}
    runs: list[tuple[Path, list[str], subprocess.Popen[bytes]]] = []
    for name in ("cgroups", "starts"):
        for options in (["-o", "json"], ["-o", "wide", "-i", "200ms"]):
            file = tmp_path / f"{name}-{options[1]}.ktrace"
            command = [*KUBETRACE, name, *options, "--record", str(file), "--ready-file", f"{file}.ready"]
            with open(f"{file}.out", "wb") as out:
                process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.PIPE)
            runs.append((file, [name, *options], process))
    for file, _, process in runs:
        wait_for(Path(f"{file}.ready"), process)
    pod = Pod()
    container = pod.container("app")
    quota = container.file("cpu.max", ("cpu", "cpu.cfs_quota_us"))
    quota.write_text("10000" if quota.name.startswith("cpu.cfs") else "10000 100000")
    process = container.start("/bin/sh", "-c", "echo hello; while :; do :; done")
    # until each has read its name and what its files count, which a busy machine promises for no time
    for file, _, tracing in runs:
        told = Path(f"{file}.out")
        until(lambda told=told: pod.name in told.read_text(), told.name, tracing)  # type: ignore[misc]
    until(lambda: '"event":"throttled"' in (tmp_path / "cgroups-json.ktrace.out").read_text(), "throttled", process)
    process.kill()
    process.wait()
    pod.remove()
    for _, _, process in runs:
        process.send_signal(signal.SIGINT)
    for file, options, process in runs:
        _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
        live = Path(f"{file}.out").read_text()
        replayed = run(environment, "replay", file, "--final", *options)[0]
        assert pod.name in replayed
        assert last_block(replayed) == last_block(live), options
        assert run(environment, "replay", file, "--speed", 20, *options)[0] == live


def test_record_keeps_what_a_live_run_would_have_printed(
    environment: dict[str, str], workload: Workload, tmp_path: Path
) -> None:
    file, ready = tmp_path / "a.ktrace", tmp_path / "ready"
    process = subprocess.Popen(
        [*KUBETRACE, "record", "copyup", str(file), "--ready-file", str(ready)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(ready, process)
    workload.fire(bytes(tmp_path) + NAME, 1009)
    out, err = finish(process)
    assert out.startswith("Recorded ") and out.endswith(f" to {file}. View it: kubetrace replay {file}\n") and err == ""
    objects = [json.loads(line) for line in run(environment, "replay", file, "--final", "-o", "json")[0].splitlines()]
    mine = [o for o in objects if o.get("pid") == workload.pid]
    assert len(mine) == 1009 and mine[0]["path"].encode("utf-8", "surrogateescape").endswith(b"red\n\xff")
    assert objects[-1]["type"] == "summary" and objects[-1]["lost"] == 0
    assert "Complete:  yes" in run(environment, "info", file)[0]


def test_kill_9_costs_at_most_the_last_second(environment: dict[str, str], workload: Workload, tmp_path: Path) -> None:
    file = tmp_path / "a.ktrace"
    process = start(environment, tmp_path, "--by", "node", "--record", str(file))
    workload.fire(bytes(tmp_path) + b"/before", 503)
    # a process that waits for a CPU writes nothing down: that is not a second of its own
    begun = boot_ns() - waited_ns(process.pid)
    while waits(process.pid) or boot_ns() - waited_ns(process.pid) < begun + 3e9:
        time.sleep(0.05)
    workload.fire(bytes(tmp_path) + b"/after", 5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    out, err = run(environment, "replay", file, "--final", "-o", "json")
    mine = [o for o in map(json.loads, out.splitlines()) if o.get("pid") == workload.pid]
    assert sum(o["path"].endswith("/before") for o in mine) == 503
    assert "its recorder was killed or its disk full: up to a second may be missing" in err and "incomplete" not in err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tiny tmpfs needs root")
def test_a_full_disk_stops_the_recording_and_not_the_tracing(
    environment: dict[str, str], workload: Workload, tmp_path: Path
) -> None:
    (tmp_path / "small").mkdir()
    ready, copy = tmp_path / "ready", tmp_path / "copy.ktrace"
    trace = f"{sys.executable} -m kubetrace copyup -o json --ready-file {ready} --record {tmp_path}/small/a.ktrace"
    script = (
        f"mount -t tmpfs -o size=48k none {tmp_path}/small && {trace} > {tmp_path}/out; cp {tmp_path}/small/* {copy}"
    )
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"trap : INT; {script}"],
        env=environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_for(ready, process)
    # by its own root, as the mount is its own
    recording = Path(f"/proc/{process.pid}/root{tmp_path}/small/a.ktrace")
    begun, fired = recording.stat().st_size, 0

    def fire() -> None:
        nonlocal fired
        workload.fire(bytes(tmp_path) + b"/x%d" % fired, 997)
        fired += 1

    # a busy machine promises no time for what is written down: first some fits, then there is no room left
    fire()
    until(lambda: recording.stat().st_size > begun, "written down", process)
    assert process.stderr is not None
    said = b""
    while b"the recording stopped" not in said:
        while not select.select([process.stderr], [], [], 0.15)[0]:
            fire()
        part = os.read(process.stderr.fileno(), 65536)
        assert part, said  # it has ended
        said += part
    fire()
    os.killpg(process.pid, signal.SIGINT)
    text = (said + process.communicate(timeout=DEADLINE_S)[1]).decode()
    out = (tmp_path / "out").read_bytes()
    assert "kubetrace: the recording stopped: No space left on device; tracing goes on" in text
    assert "What is there can be read: kubetrace replay " in text and "Traceback" not in text
    mine = [line for line in out.splitlines() if b'"pid":%d,' % workload.pid in line]
    assert len(mine) == fired * 997
    kept = [
        line
        for line in run(environment, "replay", copy, "--final", "-o", "json")[0].encode().splitlines()
        if b'"pid":%d,' % workload.pid in line
    ]
    assert 997 <= len(kept) < len(mine) and kept == mine[: len(kept)]
    assert '"damage":[]' in run(environment, "info", copy, "-o", "json")[0]


def test_two_tracers_share_a_file_and_keep_apart(
    objects: Path, environment: dict[str, str], workload: Workload, tmp_path: Path
) -> None:
    (tmp_path / "objects").mkdir()
    shutil.copy(objects / "copyup.bpf.o", tmp_path / "objects")
    shutil.copy(object_path("cgroups"), tmp_path / "objects")
    environment = {**environment, "KUBETRACE_OBJECTS": str(tmp_path / "objects")}
    file, ready = tmp_path / "a.ktrace", tmp_path / "ready"
    process = subprocess.Popen(
        [*KUBETRACE, "record", "copyup", "cgroups", str(file), "--ready-file", str(ready)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(ready, process)
    workload.fire(bytes(tmp_path) + NAME, 211)
    pod = Pod()
    for _ in range(3):
        pod.container("app").run("/bin/true")
    pod.remove()
    assert finish(process)[0].endswith(f" View it: kubetrace replay {file} copyup (or cgroups)\n")

    def of(*arguments: str) -> list[dict[str, Any]]:
        out, _ = run(environment, *arguments)
        return [
            o for o in map(json.loads, out.splitlines()) if workload.pid == o.get("pid") or pod.uid == o.get("pod_uid")
        ]

    copyups = of("replay", str(file), "copyup", "--final", "-o", "json")
    assert {o["type"] for o in copyups} == {"copyup"} and len(copyups) == 211
    cgroups = of("replay", str(file), "cgroups", "--final", "-o", "json")
    assert {o["type"] for o in cgroups} == {"cgroup"} and sum(o["event"] == "exit" for o in cgroups) == 3
    both = of("export", str(file), "--format", "jsonl")
    assert [o for o in both if o["type"] == "copyup"] == copyups
    assert [o for o in both if o["type"] == "cgroup"] == cgroups
    asked = subprocess.run([*KUBETRACE, "replay", str(file)], env=environment, capture_output=True, check=False)
    assert asked.returncode == 2 and b"holds copyup and cgroups" in asked.stderr


def test_a_recording_goes_to_a_pipe(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kubetrace", "record", "cgroups", "-", "-d", "0.5"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=DEADLINE_S)
    file = tmp_path / "x.ktrace"
    file.write_bytes(done.stdout)
    # what is said is not among it
    assert re.search(rb"^Recorded \d+ events? in .* to stdout\.$", done.stderr, re.MULTILINE)
    info = [sys.executable, "-m", "kubetrace", "info", str(file), "-o", "jsonpath={.complete} {.bytes}"]
    assert subprocess.run(info, capture_output=True, text=True, check=True).stdout == f"true {len(done.stdout)}\n"
