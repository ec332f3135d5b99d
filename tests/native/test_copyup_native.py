"""The whole tool as a process, from kernel to output, on this machine's kernel through the stand-in."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import DEADLINE_S, Workload, until

KUBETRACE = [sys.executable, "-m", "kubetrace"]
NAME = b"/kubetrace-native/\x1b[31mred\n\xff"


def start(environment: dict[str, str], tmp_path: Path, *options: str) -> subprocess.Popen[bytes]:
    ready = tmp_path / "ready"
    # of the one before
    ready.unlink(missing_ok=True)
    process = subprocess.Popen(
        [*KUBETRACE, "copyup", "--ready-file", str(ready), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    until(ready.exists, "ready", process)
    return process


def finish(process: subprocess.Popen[bytes], number: int = signal.SIGINT) -> tuple[str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return out.decode("utf-8", "surrogateescape"), err.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_json_holds_every_event_and_a_summary(
    environment: dict[str, str], workload: Workload, tmp_path: Path, number: int
) -> None:
    process = start(environment, tmp_path, "-o", "json")
    workload.fire(bytes(tmp_path) + NAME, 23)
    out, err = finish(process, number)
    assert err == "" and out.isascii()
    objects = [json.loads(line) for line in out.splitlines()]
    mine = [o for o in objects if o["type"] == "copyup" and o["pid"] == workload.pid]
    assert len(mine) == 23
    path = mine[0]["path"].encode("utf-8", "surrogateescape")
    assert (bytes(tmp_path) + NAME).endswith(path) and path.endswith(b"red\n\xff")
    assert mine[0]["node"] == "node1" and mine[0]["kind"] == "directory" and mine[0]["error"] is None
    summary = objects[-1]
    assert summary["type"] == "summary" and summary["lost"] == 0
    assert summary["events"] == summary["copies"] == len(objects) - 1


def test_csv_is_rfc_4180_with_escaped_names(environment: dict[str, str], workload: Workload, tmp_path: Path) -> None:
    process = start(environment, tmp_path, "-o", "csv")
    workload.fire(bytes(tmp_path) + NAME, 5)
    out, _ = finish(process)
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    mine = [row for row in rows if row["pid"] == str(workload.pid)]
    assert len(mine) == 5
    assert mine[0]["path"].endswith(r"\x1b[31mred\n\xff")


def test_a_pipe_gets_plain_lines_without_escapes(
    environment: dict[str, str], workload: Workload, tmp_path: Path
) -> None:
    process = start(environment, tmp_path, "--by", "process", "-i", "200ms")
    workload.fire(bytes(tmp_path) + NAME, 11)
    out, _ = finish(process)
    assert "\x1b" not in out
    last = out[out.rindex("NAMESPACE") :]
    (row,) = [line for line in last.splitlines() if f" {workload.pid} " in line]
    assert row.split()[5:7] == ["open-write", "11"]
    assert out.splitlines()[-1].endswith("0 unattributed.")


def test_events_are_lines(environment: dict[str, str], workload: Workload, tmp_path: Path) -> None:
    process = start(environment, tmp_path, "--events", "--no-headers")
    workload.fire(bytes(tmp_path) + NAME, 3)
    out, err = finish(process)
    mine = [line for line in out.splitlines() if f" {workload.pid} " in line]
    assert len(mine) == 3 and all(r"\x1b[31mred\n\xff" in line for line in mine)
    assert "TIME" not in out and "copy-ups" in err


def test_min_size_is_decided_in_the_kernel(environment: dict[str, str], workload: Workload, tmp_path: Path) -> None:
    # a directory on this machine's file systems is far smaller
    process = start(environment, tmp_path, "-o", "json", "--min-size", "1Gi")
    workload.fire(bytes(tmp_path) + b"/small", 5)
    out, _ = finish(process)
    assert json.loads(out)["events"] == 0


def test_a_selection_that_matches_nothing_says_so_and_waits(
    environment: dict[str, str], workload: Workload, tmp_path: Path
) -> None:
    process = start(environment, tmp_path, "-o", "json", "-p", "no-such-pod")
    workload.fire(bytes(tmp_path) + b"/x", 5)
    out, err = finish(process)
    assert json.loads(out)["events"] == 0
    assert err == "kubetrace: no container matches -p no-such-pod yet; waiting\n"


def test_a_reader_that_goes_away_ends_it_quietly(
    environment: dict[str, str], workload: Workload, tmp_path: Path
) -> None:
    process = start(environment, tmp_path, "-o", "json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    workload.fire(bytes(tmp_path) + b"/x", 5)
    assert process.wait(timeout=DEADLINE_S) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_full_disk_is_an_error_not_a_traceback(environment: dict[str, str], tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*KUBETRACE, "copyup", "-d", "300ms"], env=environment, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: cannot write to ") and b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--by", "planet"], 2, "copyup cannot group by 'planet'."),
        (["--sort", "age"], 2, "copyup cannot sort by 'age'."),
        (["--by", "pod", "--sort", "file"], 2, "there is no file to sort by when grouped --by pod."),
        (["--min-size", "many"], 2, "many"),
        (["-d", "soon"], 2, "soon"),
        (["-i", "1ms"], 2, "--interval 1ms is too short to read."),
        (["-n", "a,,b"], 2, "holds an empty name"),
        (["-o", "xml"], 2, "xml"),
        (["--host-root", "/nonexistent"], 1, "/nonexistent"),
        (["--ready-file", "/nonexistent/x"], 1, "/nonexistent/x"),
    ],
)
def test_bad_input_is_a_clear_error(environment: dict[str, str], options: list[str], status: int, words: str) -> None:
    done = subprocess.run(
        [*KUBETRACE, "copyup", *options], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert words in done.stderr and "Traceback" not in done.stderr


def test_without_rights_the_first_line_says_so(environment: dict[str, str]) -> None:
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--clear-groups", *KUBETRACE]
    done = subprocess.run(
        [*command, "copyup", "-d", "1"],
        env={**environment, "HOME": "/tmp"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done
    assert done.stderr.splitlines()[:2] == [
        "Error: kubetrace may not load BPF.",
        "This shell is not root; tracing needs CAP_BPF and CAP_PERFMON.",
    ]


def test_in_a_pod_the_first_line_says_what_is_missing_and_the_second_what_works(environment: dict[str, str]) -> None:
    # as root without the two, and as a user without any
    for which in (["--bounding-set=-all", "--inh-caps=-all"], ["--reuid=65534", "--clear-groups"]):
        done = subprocess.run(
            ["setpriv", *which, *KUBETRACE, "copyup", "-n", "shop", "-p", "web-*"],
            env={**environment, "HOME": "/tmp", "KUBERNETES_SERVICE_HOST": "10.96.0.1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done
        assert done.stderr.splitlines()[:2] == [
            "Error: this pod lacks CAP_BPF and CAP_PERFMON: it may not load BPF programs.",
            "Try:  kubectl debug node/NODE -it --profile=sysadmin --image=IMAGE -- kubetrace copyup -n shop -p 'web-*'",
        ]


def test_it_waits_for_overlayfs_and_says_so(
    objects: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kubetrace import tracers
    from kubetrace.engines import source
    from kubetrace.session import trace
    from kubetrace.session.options import Attach, Keep, Last, Show, check

    answers = iter([False, False, True])
    monkeypatch.setattr(source, "hookable", lambda tracer: next(answers))
    monkeypatch.setattr("kubetrace.session.attach._WAIT_FOR_HOOK_S", 0.01)
    monkeypatch.setenv("KUBETRACE_OBJECTS", str(objects))
    copyup = tracers.find("copyup")
    by, sort = check(copyup, None, None)
    asked = Attach(own={"min_size": "1Ei"})
    trace.run(copyup, asked, Show(by, sort, output="json"), Keep(), Last(duration_s=0.3))
    out, err = capsys.readouterr()
    assert err == "kubetrace: overlayfs is not loaded on this node yet; attaching when it appears\n"
    assert json.loads(out)["type"] == "summary" and next(answers, None) is None


def test_overhead_tells_what_the_programs_take(environment: dict[str, str], workload: Workload, tmp_path: Path) -> None:
    process = start(environment, tmp_path, "-o", "json", "--overhead")
    workload.fire(bytes(tmp_path) + NAME, 1009)
    out, _ = finish(process)
    (program,) = [p for name, p in json.loads(out.splitlines()[-1])["bpf"].items() if name == "standin__raw_tp"]
    assert program["runs"] >= 1009 and program["run_time_ns"] >= 1009 * 10
    process = start(environment, tmp_path, "--overhead", "-i", "300ms")
    assert process.stdout is not None
    shown = re.compile(
        r"own CPU [\d.]+% · BPF [\d.]+% \([\d,.]+[kM]? runs/s, [\d.]+ (?:n|µ)s each, most in standin__raw_tp\)".encode()
    )
    # however long a busy machine takes from one table to the next
    while not shown.search(line := process.stdout.readline()):
        assert line, process.communicate()
        workload.fire(bytes(tmp_path) + NAME, 101)
    out, _ = finish(process)
    assert re.search(r"^BPF programs ran \d+ times, [\d.]+ [nµ]s each: [\d.]+% of a core\.$", out, re.MULTILINE)
