"""Probes in tracefs, over a directory that has its files: what is written to it, and what is counted as whose."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest

from kubetrace.engines import tracefs
from kubetrace.engines.tracefs import TracefsReturns


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "events").mkdir()
    (tmp_path / "kprobe_events").touch()
    monkeypatch.setattr(tracefs, "_ROOTS", (str(tmp_path),))
    return tmp_path


def group(root: Path, name: str, *events: str, age_s: float = 0.0) -> None:
    for event in events:
        (root / "events" / name / event).mkdir(parents=True)
    now = time.time()
    os.utime(root / "events" / name, (now - age_s, now - age_s))


def commands(root: Path) -> set[str]:
    return set((root / "kprobe_events").read_text().split("\n")) - {""}


def test_only_what_a_dead_kubetrace_left_is_removed(root: Path) -> None:
    own = os.stat("/proc/self/ns/pid").st_ino
    with subprocess.Popen(["true"]) as done:
        done.wait()
    dead, alive = done.pid, os.getpid()
    group(root, f"kubetrace_{own}_{dead}_7f00", "a", "b")
    group(root, f"kubetrace_{own}_{alive}_7f00", "c", age_s=3600)
    # the same pids in another namespace say nothing: that one may be at work right now
    group(root, f"kubetrace_{own + 1}_{dead}_7f00", "d")
    group(root, f"kubetrace_{own + 1}_{alive}_7f00", "e", age_s=3600)
    # of a version that did not tell the namespace
    group(root, f"kubetrace_{dead}_7f00", "f", age_s=3600)
    group(root, f"kubetrace_{dead}_7f01", "g")
    group(root, "others_1_2_3", "h", age_s=3600)
    TracefsReturns().close()
    assert commands(root) == {
        f"-:kubetrace_{own}_{dead}_7f00/a",
        f"-:kubetrace_{own}_{dead}_7f00/b",
        f"-:kubetrace_{own + 1}_{alive}_7f00/e",
        f"-:kubetrace_{dead}_7f00/f",
    }


def test_one_that_is_busy_keeps_none_of_the_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def command(self: TracefsReturns, text: str) -> None:
        tried.append(text)
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(TracefsReturns, "_command", command)
    for name in ("kubetrace_1_2", "kubetrace_3_4"):
        group(root, name, "a", "b", age_s=3600)
    TracefsReturns()
    assert sorted(tried) == [f"-:kubetrace_{name}/{event}" for name in ("1_2", "3_4") for event in "ab"]


def test_each_counts_its_own_misses(root: Path) -> None:
    first, second = TracefsReturns(), TracefsReturns()
    for one in (first, second):
        # the event's directory is not there: nothing is attached, but the probe was made
        assert one.attach("return__kretprobe", "ovl_copy_up_one", lambda event: 0) == 0
    (name,), (other,) = first._events, second._events
    assert name != other and len(name) < 64
    (root / "kprobe_profile").write_text(f"  {name}  100  7\n  {other}  100  11\n  return__kretprobe  5  13\n")
    assert (first.missed(), second.missed()) == (7, 11)
    first.close()
    assert f"-:{first._group}/{name}" in commands(root)
