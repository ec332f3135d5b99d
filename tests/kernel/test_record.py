"""A recording of a real pod's life, replayed without its node: what each tracer printed live, to the byte."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kubetrace import tracers
from tests.vm import cri
from tests.vm.cgroup_pods import last_block

from . import recorded

POD = "ledger-0"


@pytest.fixture(scope="module")
def runs(node: cri.Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], tuple[str, str]]]:
    """(tracer, output) -> (live, replayed)."""
    directory = tmp_path_factory.mktemp("recorded")
    made = recorded.record(directory, node, POD)
    with ThreadPoolExecutor(2) as two:
        replayed = list(two.map(recorded.replay, made))
    live = [run.out.read_bytes().decode("utf-8", "surrogateescape") for run in made]
    yield {(run.name, run.options[1]): texts for run, *texts in zip(made, live, replayed, strict=True)}  # type: ignore[misc]
    shutil.rmtree(directory)


Runs = dict[tuple[str, str], tuple[str, str]]


def objects(runs: Runs, name: str) -> list[dict[str, Any]]:
    return [found for found in map(json.loads, runs[name, "json"][1].splitlines()) if found.get("pod") == POD]


@pytest.mark.parametrize("name", tracers.names())
@pytest.mark.one_kernel(full=("6.1",))
def test_a_replay_prints_every_line_of_the_live_run(runs: Runs, name: str) -> None:
    live, replayed = runs[name, "json"]
    assert replayed == live


@pytest.mark.parametrize("name", tracers.names())
@pytest.mark.one_kernel(full=("6.1",))
def test_a_replay_ends_with_the_table_of_the_live_run(runs: Runs, name: str) -> None:
    live, replayed = runs[name, "wide"]
    assert last_block(replayed) == last_block(live)
    # disk begins with file systems
    of_pods = "pod" in {column.key for column in next(iter(tracers.find(name).groupings.values())).columns}
    assert POD in replayed or not of_pods


@pytest.mark.one_kernel(full=("6.1",))
def test_the_recordings_hold_the_pods_life(runs: Runs) -> None:
    assert {"/app/hundred-kib", "/app/data/007.dat"} <= {found["path"] for found in objects(runs, "copyup")}
    events = {found["event"] for found in objects(runs, "cgroups")}
    assert {"created", "attached", "exec", "oom_kill", "exit", "removed"} <= events
    assert [f["exit_code"] for f in objects(runs, "cgroups") if f["event"] == "exit" and f["container"] == "app"] == [3]
    assert {"rootfs", "pivot_root", "exec"} <= {found["phase"] for found in objects(runs, "starts")}
    ledger = [found for found in objects(runs, "writes") if found["destination"] == "emptyDir/cache"]
    assert ledger[-1]["bytes_total"] == 7 * 4096


@pytest.mark.one_kernel(full=("6.1",))
def test_several_tracers_in_one_file_of_record(node: cri.Node, tmp_path: Path) -> None:
    file = tmp_path / "all.ktrace"
    command = ["kubetrace", "record", *tracers.names(), str(file), "-d", "1s"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"View it: kubetrace replay {file} cgroups (or copyup, " in done.stdout
    told = json.loads(
        subprocess.run(["kubetrace", "info", str(file), "-o", "json"], capture_output=True, check=True).stdout
    )
    assert [found["name"] for found in told["tracers"]] == tracers.names() and told["complete"]
