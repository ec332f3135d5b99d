"""kubetrace run: a user's own tracer on a tracepoint, by both compilers, live, recorded, replayed and exported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import DEADLINE_S, ROOT, until

KUBETRACE = [str(Path(sys.executable).parent / "kubetrace")]
SOURCE = ROOT / "tests" / "native" / "asked.bpf.c"
ASK = """
import os, sys
os.chdir(sys.argv[1])
for who in (*range(7), 11, 13):
    try:
        os.getpriority(os.PRIO_USER, who)
    except OSError:
        pass
"""


def asked(tmp_path: Path, *options: str) -> tuple[int, str, str]:
    """Run the tracer while a process asks nine times; its pid, and what kubetrace wrote."""
    ready = tmp_path / "ready"
    # of the one before
    ready.unlink(missing_ok=True)
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "NODE_NAME": "node1", "COLUMNS": "160"}
    process = subprocess.Popen(
        [*KUBETRACE, "run", str(SOURCE), "--ready-file", str(ready), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    until(ready.exists, "ready", process)
    asker = subprocess.Popen([sys.executable, "-S", "-c", ASK, str(tmp_path)])
    assert asker.wait() == 0
    process.send_signal(2)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return asker.pid, out, err


def of(pid: int, out: str) -> list[dict[str, Any]]:
    return [record for line in out.splitlines() if (record := json.loads(line)).get("pid") == pid]


@pytest.mark.parametrize("engine", ["libbpf", "bcc"])
def test_events_have_the_structs_members(tmp_path: Path, engine: str) -> None:
    pid, out, _ = asked(tmp_path, "--engine", engine, "-o", "json")
    events = of(pid, out)
    assert [event["who"] for event in events] == [*range(7), 11, 13]
    assert {event["path"] for event in events} == {str(tmp_path)}
    assert {(event["type"], event["about"], event["comm"], event["node"]) for event in events} == {
        ("asked", "user", "python", "node1")
    }
    assert [event["error"] for event in events] == [None] * 7 + ["ESRCH"] * 2
    assert [event["size_bytes"] for event in events] == [1000] * 7 + [0] * 2
    assert events[-1]["waited_ns"] == 13
    assert {"namespace", "pod", "container_id", "cgroup_id", "attributed_by"} <= events[0].keys()
    summary = json.loads(out.splitlines()[-1])
    assert (summary["type"], summary["tracer"]) == ("summary", "run:asked")
    assert summary["size_bytes"] >= 7000 and summary["max_waited_ns"] >= 13 and summary["errors"] >= 2


def test_rows_are_added_up(tmp_path: Path) -> None:
    pid, out, err = asked(tmp_path, "--by", "process", "--sort", "events")
    titles = next(line for line in out.splitlines() if line.startswith("NAMESPACE"))
    assert titles.split()[3:] == ["PID", "COMM", "EVENTS▼", "SIZE", "QUESTIONS", "MAX", "WAITED", "ERRORS", "LAST"]
    row = [line for line in out.splitlines() if f" {pid} " in line][-1]
    assert row.split()[-9:-1] == ["python", "9", "6.8", "KiB", "9", "13", "ns", "2"]
    assert "longest waited" in err + out


def test_a_recording_is_replayed_and_exported_anywhere(tmp_path: Path) -> None:
    file = tmp_path / "asked.ktrace"
    pid, out, _ = asked(tmp_path, "-o", "json", "--record", str(file))
    live = of(pid, out)
    assert len(live) == 9
    for command in (["replay", str(file), "--final", "-o", "json"], ["export", str(file), "--format", "jsonl"]):
        done = subprocess.run([*KUBETRACE, *command], capture_output=True, text=True, check=True)
        assert of(pid, done.stdout) == live
    done = subprocess.run(
        [*KUBETRACE, "export", str(file), "--format", "csv"], capture_output=True, text=True, check=True
    )
    titles, *lines = done.stdout.splitlines()
    assert titles.endswith("size_bytes,questions,waited_ns,about,error,who,path")
    assert len([line for line in lines if f",{pid},{pid},python," in line]) == 9
    done = subprocess.run([*KUBETRACE, "info", str(file)], capture_output=True, text=True, check=True)
    assert "run:asked" in done.stdout


def test_the_worked_example_of_the_docs_passes_the_verifier() -> None:
    from kubetrace.engines.bcc.engine import BccObject
    from kubetrace.engines.libbpf import LoadedObject
    from kubetrace.engines.own_program import OwnProgram
    from kubetrace.engines.source import sources

    example = ROOT / "docs" / "unlink.bpf.c"
    program = OwnProgram(example, "libbpf", None)
    with (
        BccObject(example, sources(), attach=False) as by_bcc,
        LoadedObject(program.path, hook="kprobe", attach=False) as by_libbpf,
    ):
        assert by_bcc.layout("unlink_event") == by_libbpf.layout("unlink_event") == program.layout({})


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("x.c", "", "x.c is not called NAME.bpf.c"),
        ("x.bpf.c", "int a;\n", "declares no streams of events"),
        ("x.bpf.c", "KT_STREAM(a, b, 1);\nKT_STREAM(c, d, 1);\n", "declares 2 streams"),
        ("x.bpf.c", '#include "tracer.bpf.h"\nKT_STREAM(a, b, 4096);\n', "x.bpf.c"),
        (
            "x.bpf.c",
            '#include "tracer.bpf.h"\nchar LICENSE[] SEC("license") = "GPL";\n'
            "struct b { __u64 c; };\nKT_STREAM(a, b, 4096);\n",
            "has no time, cgroup_id, memory_cgroup_id",
        ),
    ],
)
@pytest.mark.parametrize("engine", ["libbpf", "bcc"])
def test_what_is_no_tracer_is_refused_in_words(tmp_path: Path, name: str, source: str, words: str, engine: str) -> None:
    (tmp_path / name).write_text(source)
    command = [*KUBETRACE, "run", str(tmp_path / name), "--engine", engine]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert words in done.stderr and "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_refused_in_words(tmp_path: Path) -> None:
    done = subprocess.run([*KUBETRACE, "run", str(tmp_path / "x.bpf.c")], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "cannot read" in done.stderr
