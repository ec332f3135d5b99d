"""A new tracer is two files: in a copy of the tree, one is found wherever the four are, without another line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from .conftest import DEADLINE_S, ROOT, until

IN_KERNEL = """
/* execs: each program that is executed. */
#include "tracer.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum execs_kind {
	execs_program,
	execs_interpreted,
};

struct execs_event {
	KT_WHO;
	kt_bytes stack;
	enum execs_kind kind;
	__u16 path_bytes;
	__u16 reserved;
	char path[512 - 8 - KT_WHO_BYTES - 16];
};
KT_STREAM(execs, execs_event, 1024 * 1024);
KT_ROOM(room, execs_event);

SEC("raw_tp/sched_process_exec")
int exec__raw_tp(struct bpf_raw_tracepoint_args *ctx)
{
	struct linux_binprm *bprm = (struct linux_binprm *)ctx->args[2];
	struct execs_event *event = room_cleared();
	long read;

	if (!event || !kt_who_runs(event))
		return 0;
	event->stack = 1024;
	event->kind = execs_interpreted;
	read = bpf_probe_read_kernel_str(event->path, sizeof(event->path), BPF_CORE_READ(bprm, filename));
	event->path_bytes = read > 0 ? read - 1 : 0;
	kt_output(&execs, event, sizeof(*event));
	return 0;
}
"""
TRACER = '''
"""execs: each program that is executed, by pod."""

from kubetrace.kit.fields import EVENTS, PROCESS, Field, Fielded, Sum, named
from kubetrace.views.columns import Column

STACK = Column("stack_bytes", "STACK", "bytes", help="room for its stack")


class Execs(Fielded):
    """Programs."""

    name = "execs"
    summary = "Show each program that is executed, live, by pod."
    explanation = "Each row is a program."
    examples = (("kubetrace execs", "every pod of this node"),)
    streams = {"execs": "execs_event"}
    noun = ("program", "programs")
    fields = (
        *PROCESS,
        Field(Column("path", "PROGRAM", "path", help="as it was given"), says=lambda e: e.path[: e.path_bytes]),
        Field(Column("how", "HOW", "text", help="how it is run"), says=named("kind"), ours=True),
        Field(STACK, "stack"),
    )
    labels = ("path",)
    sums = (EVENTS, Sum(STACK, "stack", metric=("stack_bytes", "Room for stacks.")))


TRACER = Execs()
'''


class Tree:
    """A copy of what an installation is made of, and kubetrace run from it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("src", "bpf", "scripts"):
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        # which nobody else executes
        self.program = shutil.copy(shutil.which("true") or "/bin/true", directory / "seven")
        (directory / "bpf" / "execs.bpf.c").write_text(IN_KERNEL)
        (directory / "src" / "kubetrace" / "tracers" / "execs.py").write_text(TRACER.lstrip())
        subprocess.run([sys.executable, directory / "scripts" / "compile_objects.py"], check=True, capture_output=True)
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(directory / "src"),
            "NODE_NAME": "node1",
            "COLUMNS": "200",
            "LC_ALL": "C.UTF-8",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "kubetrace", *arguments],
            env=self._environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
        return out

    def live(self, *arguments: str) -> str:
        """What it prints about a program that is executed seven times while it runs."""
        ready = self.directory / "ready"
        ready.unlink(missing_ok=True)
        process = self.start(*arguments, "--ready-file", str(ready))
        until(ready.exists, "ready", process)
        for _ in range(7):
            subprocess.run([self.program], check=True)
        process.send_signal(2)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
        return out


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("tree"))


def test_it_is_in_the_help(tree: Tree) -> None:
    assert "execs" in tree.run("--help") and "Each program that is executed, by pod." in tree.run("--help")
    said = tree.run("execs", "--help")
    assert "Show each program that is executed" in said
    assert ["STACK", "room", "for", "its", "stack"] in [line.split() for line in said.splitlines()]
    assert "--by" in said and "path|container|pod|node" in said.replace(" ", "")


def test_it_is_shown_recorded_replayed_and_exported(tree: Tree) -> None:
    file = str(tree.directory / "execs.ktrace")
    live = tree.live("execs", "-o", "json", "--record", file)
    program = str(tree.program)
    events = [record for line in live.splitlines() if (record := json.loads(line)).get("path") == program]
    assert len(events) == 7
    assert {(e["type"], e["how"], e["stack_bytes"], e["node"]) for e in events} == {
        ("execs", "interpreted", 1024, "node1")
    }
    assert {"namespace", "pod", "container", "pid", "tid", "comm", "cgroup_id"} <= events[0].keys()
    assert tree.run("replay", file, "--final", "-o", "json") == live
    table = tree.run("replay", file, "--final")
    (row,) = (line for line in table.splitlines() if f" {program} " in line)
    assert row.split()[-3:] == ["7", "7.0", "KiB"]
    assert " programs, " in table
    assert tree.run("replay", file, "--final", "--by", "pod", "--sort", "stack_bytes")
    exported = [json.loads(line) for line in tree.run("export", file, "--format", "jsonl").splitlines()]
    assert [record for record in exported if record["path"] == program] == events
    redacted = tree.run("export", file, "--format", "jsonl", "--redact")
    assert program not in redacted and '"how":"interpreted"' in redacted.replace(" ", "")
    assert "stack_bytes" in tree.run("export", file, "--format", "csv").splitlines()[0]
    assert program in tree.run("export", file, "--format", "perfetto")
    tree.run("export", file, "--format", "parquet", "-o", file + ".parquet")
    assert "execs" in tree.run("info", file)


def test_its_sums_are_metrics_and_a_trial_of_doctor(tree: Tree) -> None:
    ready = tree.directory / "agent-ready"
    agent = tree.start("agent", "execs", "--listen", "127.0.0.1:0", "--ready-file", str(ready))
    until(ready.exists, "ready", agent)
    assert agent.stderr is not None
    url = next(line for line in agent.stderr if "serving" in line).split()[-1]

    def counted() -> bool:
        subprocess.run([tree.program], check=True)
        with urllib.request.urlopen(url) as answer:
            text = answer.read().decode()
        return "kubetrace_execs_stack_bytes_total{" in text and "kubetrace_execs_events_total{" in text

    until(counted, "counted", agent)
    agent.send_signal(2)
    agent.communicate(timeout=DEADLINE_S)
    assert "execs" in json.dumps(json.loads(tree.run("doctor", "-o", "json")))
