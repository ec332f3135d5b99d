"""kubetrace disk on a node whose disk is known: every figure against du, df and ctr, and each removal against df."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.native import disk_node
from tests.vm import guest, images, stage

ROOT = Path(__file__).parent.parent.parent
DEVICE = "disk_device"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of tests.native.disk_node that has ended."""
    made = tmp_path_factory.mktemp("disk")
    images.write(made / "images.tar", busybox=stage.program("busybox"), pause=images.build_pause(made), database=True)
    disk_node.write_images(made / "store.tar")
    proto = ROOT / "tests" / "vm" / "cri.proto"
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto.parent}", f"--python_out={made}", str(proto)]
    subprocess.run(protoc, check=True)
    paths = [str(stage.runtime_program(name, "2").parent) for name in ("containerd", "runc")]
    paths += [str(stage.program(name).parent) for name in ("busybox", "mke2fs")]
    environment = {
        **os.environ,
        "PATH": ":".join([*dict.fromkeys(paths), os.environ["PATH"]]),
        "PYTHONPATH": f"{made}:{ROOT}",
        "LC_ALL": "C.UTF-8",
        "NODE_NAME": "node1",
    }
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*alone, sys.executable, "-m", "tests.native.disk_node", str(made)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    for hierarchy in {*guest.hierarchies(), "/sys/fs/cgroup"}:
        for top in ("kubepods", "system.slice/containerd.service"):
            for path, _, _ in os.walk(f"{hierarchy}/{top}", topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
    assert done.returncode == 0, done.stderr[-3000:]
    return made


@pytest.fixture(scope="module")
def truth(node: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((node / "truth.json").read_text())
    return found


def objects(node: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (node / name).read_text().splitlines()]


def parts(node: Path, truth: dict[str, Any], name: str = "once") -> list[dict[str, Any]]:
    """The last word on each entry of the node's disk."""
    last = {found["entry"]: found for found in objects(node, name) if found.get("what") == "part"}
    return [found for found in last.values() if found[DEVICE] == truth["device"]]


def test_a_file_system_is_as_df_has_it(node: Path, truth: dict[str, Any]) -> None:
    systems = [found for found in objects(node, "once") if found.get("what") == "filesystem"]
    last = [found for found in systems if found[DEVICE] == truth["device"]][-1]
    df = truth["df"]
    assert (last["capacity_bytes"], last["used_bytes"], last["available_bytes"]) == (
        df["size"],
        df["used"],
        df["avail"],
    )
    assert (last["inodes"], last["inodes_free"]) == (df["iused"], df["iavail"])
    assert set(last["roles"]) == {"nodefs", "imagefs", "containerfs"}


def test_thresholds_are_those_of_the_kubelets_file_and_flags(node: Path, truth: dict[str, Any]) -> None:
    found = {o["signal"]: o for o in objects(node, "once") if o.get("what") == "threshold" and o["roles"]}
    size, inodes = truth["df"]["size"], truth["df"]["itotal"]
    file = f"{disk_node.KUBELET}/config.yaml"
    assert {signal: (one["least"], one["source"]) for signal, one in found.items()} == {
        "nodefs.available": (size // 10, file),
        "imagefs.available": (int(size * 0.15), file),
        "nodefs.inodesFree": (inodes // 20, file),
        "nodefs.available soft": (300 << 20, file),
        # the flag wins over the file's 80: less than 11 % available
        "imagefs.usage": (-(-size * 11 // 100), "--image-gc-high-threshold"),
    }
    assert found["nodefs.available soft"]["grace_ns"] == 90_000_000_000
    assert {one["available_bytes"] for one in found.values()} == {truth["df"]["avail"]}


def test_image_layers_are_what_du_and_ctr_say(node: Path, truth: dict[str, Any]) -> None:
    usage = [line.split() for line in truth["usage"].splitlines()[1:]]
    committed = [(int(size), int(inodes)) for key, size, inodes in usage if key.startswith("sha256:")]
    layers = [one for one in parts(node, truth) if one["kind"] == "image layers"]
    assert sum(one["used_bytes"] for one in layers) == sum(size + 8192 for size, _ in committed)
    assert sum(one["inodes"] for one in layers) == sum(inodes + 2 for _, inodes in committed)
    numbers = [name for name in truth["snapshots"] if int(name) <= len(committed)]
    assert sum(one["used_bytes"] for one in layers) == sum(truth["snapshots"][name]["bytes"] for name in numbers)
    blobs = [one for one in parts(node, truth) if one["kind"] == "image blobs"]
    # du counts the directory too
    assert sum(one["used_bytes"] for one in blobs) == truth["blobs"]["bytes"] - 4096
    assert sum(one["inodes"] for one in blobs) == truth["blobs"]["inodes"] - 1


def test_what_pods_have_is_what_du_says_and_is_theirs(node: Path, truth: dict[str, Any]) -> None:
    found = parts(node, truth)

    def one(kind: str, **values: str | None) -> dict[str, Any]:
        (match,) = [o for o in found if o["kind"] == kind and all(o[key] == value for key, value in values.items())]
        assert (match["how"], match["state"]) == ("walk", "whole")
        return match

    writable = one("writable layer", container_id=truth["container_id"])
    assert {"bytes": writable["used_bytes"], "inodes": writable["inodes"]} == truth["writable"]
    assert (writable["namespace"], writable["pod"], writable["container"]) == ("shop", "ledger-0", "app")
    # one that has ended, which has neither cgroup nor bundle any more
    ended = one("writable layer", container_id=truth["ended_id"])
    assert (ended["namespace"], ended["pod"], ended["container"]) == ("shop", "ledger-0", "once")
    assert ended["used_bytes"] > 300_000
    cache = one("emptyDir", name="cache")
    assert {"bytes": cache["used_bytes"], "inodes": cache["inodes"]} == truth["cache"]
    assert (cache["namespace"], cache["pod"], cache["pod_uid"]) == ("shop", "ledger-0", truth["uid"])
    log = one("log", container="app")
    assert {"bytes": log["used_bytes"], "inodes": log["inodes"]} == truth["log"]
    assert one("image volume")["pod"] == "database-0"


def test_deleted_files_that_are_open_are_named_with_their_holder(node: Path, truth: dict[str, Any]) -> None:
    for name, how in (("once", "iterator"), ("unhooked", "/proc")):
        held = {one["path"]: one for one in parts(node, truth, name) if one["kind"] == "deleted, open"}
        # 31 and 17 pieces of 64 KiB; the second one is in the container's own root
        assert {path: one["used_bytes"] for path, one in held.items()} == {
            "/cache/gone": 31 << 16,
            "/tmp/hidden": 17 << 16,
        }
        for one in held.values():
            assert (one["how"], one["inodes"], one["users"]) == (how, 1, 1)
            assert (one["namespace"], one["pod"], one["container"]) == ("shop", "ledger-0", "app")
            assert f"[{truth['pid']}]" in one["name"]


def test_what_is_in_no_metadata_is_an_orphan(node: Path, truth: dict[str, Any]) -> None:
    orphans = {one["name"]: one["used_bytes"] for one in parts(node, truth) if one["kind"] == "orphan"}
    assert orphans == {
        "snapshot 999, not in the metadata": truth["snapshots"]["999"]["bytes"],
        "begun pull of layer-sha256:" + "b" * 64: 73_728,
    }


def test_all_parts_and_the_rest_are_what_df_says_is_used(node: Path, truth: dict[str, Any]) -> None:
    found = parts(node, truth)
    assert sum(one["used_bytes"] for one in found) == truth["df"]["used"]
    (rest,) = [one for one in found if one["kind"] == "the rest"]
    # directories between those that are asked for, and ext4's own
    assert (rest["how"], rest["state"]) == ("difference", "whole") and rest["used_bytes"] < 200_000


@pytest.mark.parametrize("image", [disk_node.SMALL, disk_node.OTHER, disk_node.APP])
def test_removing_an_image_frees_what_was_said_to_the_byte(node: Path, truth: dict[str, Any], image: str) -> None:
    (said,) = [
        one
        for one in parts(node, truth, f"before-{image.rpartition('/')[2]}")
        if one["kind"] == "image layers" and one["name"] == image
    ]
    assert said["frees_bytes"] == truth["removed"][image] > 5_000_000
    assert said["users"] == 0


def test_looking_takes_no_room(truth: dict[str, Any]) -> None:
    assert truth["after"] == truth["df"]


def test_a_replay_says_what_the_live_run_said(node: Path, truth: dict[str, Any]) -> None:
    assert truth["replayed"].splitlines() == (node / "recorded").read_text().splitlines()


def test_the_table_says_what_can_be_removed(node: Path) -> None:
    table = (node / "by-kind").read_text()
    assert "kubectl delete pod -n shop ledger-0" in table
    assert f"crictl rmi {disk_node.SMALL}" in table and f"crictl rmi {images.WEB}" not in table
