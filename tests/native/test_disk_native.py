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


def test_the_page_of_the_node_says_what_df_and_ctr_say(node: Path, truth: dict[str, Any]) -> None:
    page, made = json.loads((node / "page").read_text()), truth["page"]
    (disk,) = [one for one in page["disks"] if "kubelet" in one["holds"]]
    assert disk["holds"] == ["kubelet", "logs", "images of containerd"] and disk["fstype"] == "ext4"
    assert (disk["capacity_bytes"], disk["inodes"]) == (truth["df"]["size"], truth["df"]["itotal"])
    assert abs(disk["available_bytes"] - truth["df"]["avail"]) < 1 << 20
    (store,) = page["stores"]
    assert (store["kind"], store["images"], store["containers"]) == ("containerd", made["targets"], made["containers"])
    assert (store["blobs"], store["blob_bytes"], store["problem"]) == (made["blobs"], made["blob bytes"], None)
    (overlay,) = [one for one in store["unpacked"] if one["layers"]]
    kinds = [made["snapshots"].count(kind) for kind in ("Committed", "Active")]
    assert (overlay["snapshotter"], [overlay["layers"], overlay["writable"]]) == ("overlayfs", kinds)
    (kubelet,) = page["kubelets"]
    assert kubelet["config"] == "/var/lib/kubelet/config.yaml"
    assert kubelet["settings"]["imageGCHighThresholdPercent"] == {"value": "90", "source": "--image-gc-high-threshold"}
    soft = [one for one in page["thresholds"] if one["action"] == "evicts after"]
    assert [(one["signal"], one["amount"], one["grace_s"]) for one in soft] == [("nodefs.available", 300 << 20, 90.0)]
    assert page["pods"] == made["pods"] and page["runtimes"][0]["containers"] > 0
    shown = (node / "page.txt").read_text()
    for said in ("kubelet, logs, images of containerd", "collects images from 90% full on", "evicts pods below 10%"):
        assert said in shown


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
    # directories between those that are asked for, another one of the node, and ext4's own
    assert (rest["how"], rest["state"]) == ("difference", "whole") and rest["used_bytes"] < 200_000


def test_the_nodes_own_directories_are_walked_where_that_is_asked_for(node: Path, truth: dict[str, Any]) -> None:
    found = parts(node, truth, "whole")
    # 30,000 bytes and two directories; what is mounted elsewhere too is not counted twice
    assert {one["path"]: one["used_bytes"] for one in found if one["kind"] == "node"} == {
        "/run/disk/lost+found": 16_384,
        "/run/disk/usr": 32_768 + 2 * 4096,
    }
    assert sum(one["used_bytes"] for one in found) == truth["df"]["used"]


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


def test_a_full_disk_is_seen_and_nothing_is_written_to_it(node: Path, truth: dict[str, Any]) -> None:
    assert truth["full"]["avail"] == 0 and truth["full after"] == truth["full"]
    acts = {o["signal"]: o["action"] for o in objects(node, "full") if o.get("what") == "threshold" and o["roles"]}
    assert acts == {
        "nodefs.available": "evicts now",
        "nodefs.available soft": "evicts now",
        "imagefs.available": "evicts now",
        "imagefs.usage": "image GC now",
        "nodefs.inodesFree": "evicts",
    }
    assert sum(one["used_bytes"] for one in parts(node, truth, "full")) == truth["full"]["used"]


def test_metadata_that_cannot_be_read_is_said_and_the_rest_goes_on(node: Path, truth: dict[str, Any]) -> None:
    found = parts(node, truth, "torn")
    (problem,) = [one for one in found if one["kind"] == "image layers" and "not known" in one["name"]]
    assert (problem["used_bytes"], problem["state"]) == (None, "part")
    cache = next(one for one in found if one["kind"] == "emptyDir")
    assert {"bytes": cache["used_bytes"], "inodes": cache["inodes"]} == truth["cache"]
    # what is not known is in the rest
    assert sum(one["used_bytes"] or 0 for one in found) == truth["after"]["used"]


def test_a_replay_says_what_the_live_run_said(node: Path, truth: dict[str, Any]) -> None:
    assert truth["replayed"].splitlines() == (node / "recorded").read_text().splitlines()


def test_the_table_says_what_can_be_removed(node: Path) -> None:
    table = (node / "by-kind").read_text()
    assert "kubectl delete pod -n shop ledger-0" in table
    assert f"crictl rmi {disk_node.SMALL}" in table and f"crictl rmi {images.WEB}" not in table


# kubetrace images, of the same node.


def image(node: Path, name: str) -> dict[str, Any]:
    (found,) = [one for one in objects(node, "images") if one["image"] == name]
    return found


def test_images_have_their_names_users_and_sizes(node: Path, truth: dict[str, Any]) -> None:
    found = {one["image"]: one for one in objects(node, "images")}
    assert set(found) == {
        *(disk_node.APP, disk_node.OTHER, disk_node.SMALL, images.WEB, images.BATCH, images.DATABASE, images.PAUSE)
    }
    web = found[images.WEB]
    assert [(one["pod"], one["container"], one["running"]) for one in web["used_by"]] == [("ledger-0", "app", True)]
    batch = found[images.BATCH]
    assert [(one["container"], one["running"]) for one in batch["used_by"]] == [("once", False)]
    assert {one["container"] for one in found[images.PAUSE]["used_by"]} == {"(sandbox)"}
    assert [name for name, one in found.items() if one["pinned"]] == [images.PAUSE]
    listed = {line.split()[0]: line.split()[2] for line in truth["images"].splitlines()[1:]}
    assert all(listed[name] == one["target"] for name, one in found.items())
    assert all(one["built"] == "2023-11-14T22:13:20Z" for one in found.values())


def test_an_image_is_as_large_as_its_snapshots(node: Path, truth: dict[str, Any]) -> None:
    layers = {one["chain_id"]: one for one in objects(node, "layers")}
    for layer in layers.values():
        on_disk = truth["snapshots"][str(layer["snapshot"])]
        assert (layer["unpacked_bytes"], layer["inodes"] + 2) == (on_disk["bytes"], on_disk["inodes"])
    for one in objects(node, "images"):
        assert one["unpacked_bytes"] == sum(layers[chain]["unpacked_bytes"] for chain in one["layers"])
        assert one["own_bytes"] + one["shared_bytes"] == one["unpacked_bytes"] + one["compressed_bytes"]


def test_what_images_waste_is_what_their_dockerfile_says(node: Path) -> None:
    # made so: 20 files of base of less than a block written again; 2 MiB and 50 files of three blocks deleted
    app = image(node, disk_node.APP)
    lines = [line["created_by"] for line in disk_node.HISTORY]
    assert [
        (one["bytes"], one["files"], one["deleted"], one["created_by"], one["hidden_by"], one["largest"])
        for one in app["waste"]
    ] == [
        (20 * 4096, 20, 0, lines[0], lines[2], "/usr/share/00/0000"),
        ((2 << 20) + 50 * 12_288, 51, 51, lines[1], lines[2], "/opt/tool"),
    ]
    assert app["wasted_bytes"] == 20 * 4096 + (2 << 20) + 50 * 12_288
    assert app["waste_problem"] is None
    assert image(node, disk_node.OTHER)["wasted_bytes"] == 0
    table = (node / "waste.txt").read_text()
    assert "RUN make-big" in table and "RUN update-all" in table


def test_what_containers_changed_of_an_image_is_what_they_copied_up(node: Path) -> None:
    # a MiB and two more bytes, and one file of two blocks; new files are no change of the image
    (changed,) = image(node, images.WEB)["changed"]
    assert (changed["layer"], changed["files"], changed["containers"]) == (2, 2, 1)
    blocks = -(-images.small_file_bytes(1) // 4096)
    assert changed["bytes"] == (1 << 20) + 4096 + blocks * 4096
    assert changed["created_by"] == images.APP_LINE
    assert image(node, images.BATCH)["changed"] == []


def test_a_layer_that_is_on_disk_twice_is_named(node: Path) -> None:
    layers = objects(node, "layers")
    twice = [one for one in layers if one["twins"]]
    assert len(twice) == 2 and twice[0]["diff_id"] == twice[1]["diff_id"]
    assert {one["chain_id"] for one in twice} == {one["twins"][0] for one in twice}
    assert sorted(name for one in twice for name in one["images"]) == [disk_node.OTHER, disk_node.SMALL]


def test_what_two_images_share_and_have_twice(node: Path, truth: dict[str, Any]) -> None:
    (found,) = objects(node, "diff")
    other, small = image(node, disk_node.OTHER), image(node, disk_node.SMALL)
    assert found["shared"] == [other["layers"][0]] == [small["layers"][0]]
    assert found["twice"] == [[other["layers"][2], small["layers"][1]]]
    assert (found["only_first"], found["only_second"]) == ([other["layers"][1]], [])
    assert "twice on disk" in (node / "diff.txt").read_text()


def test_unused_images_are_those_without_a_container(node: Path) -> None:
    assert {one["image"] for one in objects(node, "unused")} == {disk_node.APP, disk_node.OTHER, disk_node.SMALL}


def test_the_tree_has_each_layer_once_and_each_image(node: Path) -> None:
    lines = (node / "tree.txt").read_text().splitlines()
    assert len(lines) == len(objects(node, "layers"))
    assert all(any(one["image"] in line for line in lines) for one in objects(node, "images"))
    assert any("x3" in line and "ADD base /" in line for line in lines)
