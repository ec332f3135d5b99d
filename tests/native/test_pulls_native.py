"""Pulls of every kind by real containerds from a real registry, as kubetrace tells them (pulls_node.py makes them).

Expected values are the registry's own log, what the CRI answered, and what lies on the disk. Where two clocks of two
processes are compared it is only for what one of them does before it can be asked by the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.native.test_many_runtimes import ALONE, ROOT, clean_up
from tests.vm import images, stage

Truth = Mapping[str, Any]
_NANOSECONDS = 1_000_000_000
# What a file's time may be behind: the clock that the kernel gives files ticks (ktime_get_coarse_real_ts64, CONFIG_HZ).
_TICK_NS = 10_000_000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the nodes are made of."""
    made = tmp_path_factory.mktemp("pulls")
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
    for tree in ("containerd-2", "registry"):
        assert (stage.cache_directory() / tree / "versions").exists(), "scripts/setup vm"
    environment = {
        **os.environ,
        "PATH": ":".join([*dict.fromkeys(paths), os.environ["PATH"]]),
        "PYTHONPATH": f"{directory}:{ROOT}",
        "LC_ALL": "C.UTF-8",
        "NODE_NAME": "node1",
    }
    alone = [*ALONE, "--net"]
    command = [*alone, sys.executable, "-m", "tests.native.pulls_node", runtime, str(directory)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    clean_up()
    assert done.returncode == 0, done.stderr[-3000:]
    return Node(directory / runtime)


class Node:
    """What was made, and what was told of it."""

    def __init__(self, stem: Path) -> None:
        self.stem = stem
        self.truth: Truth = json.loads(Path(f"{stem}.json").read_text())
        self.told = [json.loads(line) for line in Path(f"{stem}.told").read_text().splitlines()]
        command = [sys.executable, "-m", "kubetrace", "replay", f"{stem}.ktrace", "--final"]
        self.shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def pull(self, name: str) -> tuple[Truth, Truth, list[Truth]]:
        """What was made, what was told of the pull, and of its layers."""
        made = self.truth["pulls"][name]
        (found,) = [one for one in self.told if one.get("event") == "pull" and one["name"] == made["name"]]
        layers = [one for one in self.told if one.get("event") == "layer" and one["pull"] == found["pull"]]
        return made, found, layers


WHOLE = ("first", "cold", "warm", "together", "beside", "cut", "again", "elsewhere")


@pytest.mark.parametrize("name", WHOLE)
def test_a_pull_is_told_with_its_name_its_layers_and_its_whole_time(node: Node, name: str) -> None:
    made, pull, layers = node.pull(name)
    assert (pull["state"], pull["name_from"], pull["layers"]) == ("done", "image", len(made["layers"]))
    assert [(one["layer"], one["digest"], one["total_bytes"], one["created_by"]) for one in layers] == [
        (at, one["digest"], one["bytes"], one["line"]) for at, one in enumerate(made["layers"])
    ]
    # no gap and no overlap: the parts of the critical path are the time that it took, between what the CRI saw
    assert sum(pull["phases"].values()) == pull["duration_ns"] <= made["ended"] - made["begun"]
    for one in layers:
        assert sum(one["phases"].values()) == one["duration_ns"] <= pull["duration_ns"]


@pytest.mark.parametrize("name", WHOLE)
def test_bytes_are_those_that_the_registry_sent(node: Node, name: str) -> None:
    _, pull, layers = node.pull(name)
    # who asked for a blob that two pulls need is not in the registry's log: what each of them tells is taken together
    names = ("together", "beside") if name in ("together", "beside") else (name,)
    asked = [one for of in names for one in node.truth["pulls"][of]["asked"]]
    for one in layers:
        sent = {(request["first"], request["sent"]) for request in asked if request["digest"] == one["digest"]}
        if one["reused"] == "no" and "elsewhere_ns" not in one["phases"]:
            # a blob that is asked for again goes on from where it was
            assert one["bytes"] == one["total_bytes"] - min(first for first, _ in sent)
            assert one["resumed_bytes"] == min(first for first, _ in sent)
        else:
            assert one["bytes"] == 0
    assert pull["bytes"] == sum(one["bytes"] for one in layers)


@pytest.mark.parametrize("name", WHOLE)
def test_what_was_unpacked_is_what_lies_on_the_disk(node: Node, name: str) -> None:
    _, pull, layers = node.pull(name)
    for one in layers:
        # st_blocks and names, each inode once: du of snapshots/N/fs
        assert [one["unpacked_bytes"], one["inodes"]] == node.truth["layers"][str(one["snapshot"])]
    fresh = [one for one in layers if one["reused"] != "unpacked"]
    assert pull["unpacked_bytes"] == sum(one["unpacked_bytes"] for one in fresh)
    assert pull["inodes"] == sum(one["inodes"] for one in fresh)


def test_a_layer_is_downloaded_and_then_unpacked_on_those_below_it(node: Node) -> None:
    made, pull, layers = node.pull("cold")
    asked = {one["digest"]: one for one in made["asked"]}
    assert len(layers) == 5
    for one in layers:
        phases = one["phases"]
        assert phases["download_ns"] > 0 and phases["unpack_ns"] > 0
        # by the proxy's rate, and it had nothing to send before it was asked
        assert one["bytes"] == 10_240 or phases["download_ns"] >= (one["bytes"] - 65_536) / (8 << 20) * _NANOSECONDS
        assert asked[one["digest"]]["sent"] == one["bytes"]
    # one after the other: what one waits for is at least what those below it took to be unpacked
    ends = [one["duration_ns"] for one in layers]
    assert ends == sorted(ends)
    for below, one in pairwise(layers):
        assert one["duration_ns"] - one["phases"]["unpack_ns"] >= below["duration_ns"] - _TICK_NS
    assert pull["phases"]["unpack_ns"] >= sum(one["phases"]["unpack_ns"] - _TICK_NS for one in layers)


def test_layers_that_were_there_cost_nothing(node: Node) -> None:
    _, pull, layers = node.pull("warm")
    assert [one["reused"] for one in layers] == ["unpacked", "unpacked", "no"]
    assert [one["duration_ns"] for one in layers[:2]] == [0, 0]
    assert pull["bytes"] == layers[2]["bytes"] == pull["total_bytes"] - sum(one["total_bytes"] for one in layers[:2])


def test_of_two_pulls_of_one_layer_one_downloads_and_the_other_waits_for_it(node: Node) -> None:
    told = [node.pull(name) for name in ("together", "beside")]
    shared = [layers[0] for _, _, layers in told]
    assert sorted("elsewhere_ns" in one["phases"] for one in shared) == [False, True]
    waited = next(pull for _, pull, layers in told if "elsewhere_ns" in layers[0]["phases"])
    assert waited["phases"]["elsewhere_ns"] > 0 and waited["bytes"] == waited["total_bytes"] - shared[0]["total_bytes"]
    # nothing twice
    assert (
        sum(pull["bytes"] for _, pull, _ in told)
        == sum(pull["total_bytes"] for _, pull, _ in told) - (shared[0]["total_bytes"])
    )


def test_a_pull_that_fails_says_so_and_not_why(node: Node) -> None:
    made = node.truth["pulls"]["failed"]
    assert "not found" in made["error"]
    (pull,) = [one for one in node.told if one.get("event") == "pull" and one["state"] == "failed"]
    # the repository is known by the label, the tag is not
    assert (pull["name"], pull["name_from"], pull["layers"]) == ("127.0.0.1/team/failed", "label", 2)
    assert "127.0.0.1/team/failed:?" in node.shown and "the runtime's log says it" in node.shown


def test_a_pull_whose_runtime_was_killed_is_left_over_and_taken_up_where_it_was(node: Node) -> None:
    _, _, layers = node.pull("again")
    (asked,) = [one for one in node.truth["pulls"]["again"]["asked"] if one["digest"] == layers[0]["digest"]]
    assert asked["status"] == 206 and layers[0]["resumed_bytes"] == asked["first"] > 0
    assert "left over" in node.shown
    # it is not told as ended: its lease is there for a day
    assert not [one for one in node.told if one.get("event") == "pull" and one["state"] == "left"]


def test_the_pod_that_begins_with_the_image_is_the_one_that_waited(node: Node) -> None:
    lines = [line.split() for line in node.shown.splitlines()]
    of = {line[0]: line for line in lines if line and line[0].startswith("127.0.0.1")}
    assert "shop/web-0" in of[node.truth["pulls"]["cold"]["name"]]
    assert not [line for name, line in of.items() if "/team/app:1" not in name and "shop/web-0" in line]


def test_decompressors_are_seen_where_the_runtime_uses_them(node: Node) -> None:
    _, _, layers = node.pull("cold")
    used = [one["unpacker_cpu_ns"] for one in layers]
    if "1.6" in node.stem.name:  # it has unpigz in its PATH
        assert used[-1] is None and all(used[:-1])  # the last is no gzip
    else:
        assert not any(used)


@pytest.mark.parametrize(
    "options", [["--final"], ["--final", "--by", "layer"], ["--final", "-o", "json"], ["--final", "-n", "shop"]]
)
def test_a_recording_says_the_same(node: Node, options: list[str]) -> None:
    command = [sys.executable, "-m", "kubetrace", "replay", f"{node.stem}.ktrace", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if "shop" in options:
        assert "team/app:1" in done.stdout and "team/app:2" not in done.stdout
        return
    names = {made["name"] for name, made in node.truth["pulls"].items() if name in WHOLE}
    assert all(name in done.stdout for name in names)


def test_nothing_is_lost_and_nobody_is_blamed(node: Node) -> None:
    (summary,) = [one for one in node.told if one["type"] == "summary"]
    assert summary["hook"] == ("none" if "2.1" in node.stem.name else "raw_tp")
    assert (summary["lost"], summary["unattributed"], summary["pulls"], summary["failed"]) == (0, 0, len(WHOLE) + 1, 1)
