"""Names, layers and destinations on every runtime, snapshotter, place and user namespace of the matrix (support.py).

What is expected was made (many_runtimes.py), or is read off the mount table, /proc and the layers' own files.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.native import support
from tests.vm import guest, images, stage

ROOT = Path(__file__).parent.parent.parent
ALONE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
LINES = {number: line for _, number, line in support.MARKS}

Made = Mapping[str, Any]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the nodes are made of."""
    made = tmp_path_factory.mktemp("runtimes")
    images.write(made / "images.tar", busybox=stage.program("busybox"), pause=images.build_pause(made), database=True)
    with tarfile.open(made / "images.tar") as tar:
        tar.extractall(made / "oci")
    proto = ROOT / "tests" / "vm" / "cri.proto"
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto.parent}", f"--python_out={made}", str(proto)]
    subprocess.run(protoc, check=True)
    return made


@pytest.fixture(scope="module")
def nodes(directory: Path) -> dict[str, Made]:
    """Each cell's name -> what was made for it and what was said of it."""
    paths = [str(stage.program(name).parent) for name in ("containerd", "runc", "busybox", "mke2fs")]
    for tree in ("containerd-2", "podman"):
        assert (stage.cache_directory() / tree / "versions").exists(), "scripts/setup vm"
    environment = {
        **os.environ,
        "PATH": ":".join([*dict.fromkeys(paths), os.environ["PATH"]]),
        "PYTHONPATH": f"{directory}:{ROOT}",
        "LC_ALL": "C.UTF-8",
    }
    found: dict[str, Made] = {}
    for runtime in support.RUNTIMES:
        command = [*ALONE, sys.executable, "-m", "tests.native.many_runtimes", runtime, str(directory)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        clean_up()
        assert done.returncode == 0, done.stderr[-3000:]
        found |= {one["name"]: one for one in json.loads((directory / f"{runtime}.json").read_text())}
    return found


def clean_up() -> None:
    """The cgroups of the pods, which have ended with their PID namespace."""
    for hierarchy in {*guest.hierarchies(), "/sys/fs/cgroup"}:
        for top in ("kubepods", "system.slice/containerd.service"):
            for path, _, _ in os.walk(f"{hierarchy}/{top}", topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)


@pytest.fixture(params=[cell.name for cell in support.tried()])
def made(request: pytest.FixtureRequest, nodes: dict[str, Made]) -> Made:
    """One cell of the matrix."""
    return nodes[request.param]


def test_who_names_the_container_and_its_image_in_every_form(made: Made) -> None:
    for form in ("pid", "id", "cgroup", "root", "log"):
        (answer,) = made["said"][form]
        names = {key: made[key] for key in ("namespace", "pod", "container", "pod_uid", "container_id", "image")}
        assert {key: answer[key] for key in names} == names, (form, answer)
    (pod,) = made["said"]["volume"]
    assert (pod["namespace"], pod["pod"], pod["pod_uid"]) == ("shop", made["pod"], made["pod_uid"])


def test_who_finds_what_belongs_to_the_pod(made: Made) -> None:
    (pod,) = made["said"]["pod"]
    assert (pod["pod_uid"], pod["directory"]) == (made["pod_uid"], made["volume"].partition("/volumes/")[0])
    assert [volume["path"] for volume in pod["volumes"]] == [made["volume"].removesuffix("/x")]
    (own,) = [one for one in pod["containers"] if one["container_id"] == made["container_id"]]
    assert made["pid"] in own["pids"]
    assert (own["root"], own["root_type"], own["upperdir"]) == (made["root"], made["root_type"], made["writable"])


def test_the_page_of_the_pod_says_what_du_and_proc_say(made: Made) -> None:
    page, truth = made["page"], made["truth"]
    assert (page["namespace"], page["pod"], page["pod_uid"]) == ("shop", made["pod"], made["pod_uid"])
    (own,) = [one for one in page["containers"] if one["container_id"] == made["container_id"]]
    assert (own["container"], own["image"], own["root_type"]) == ("app", made["image"], made["root_type"])
    if made["writable"] is not None:
        assert (own["writable"]["path"], own["writable"]["whole"]) == (made["writable"], True)
        assert [own["writable"]["bytes"], own["writable"]["inodes"]] == truth["du"][made["writable"]]
    log = os.path.dirname(made["log"])
    assert (own["log"]["path"], [own["log"]["bytes"], own["log"]["inodes"]]) == (log, truth["du"][log])
    (volume,) = page["volumes"]
    assert [volume["bytes"], volume["inodes"]] == truth["du"][volume["path"]]
    assert {kind: one["inode"] for kind, one in own["namespaces"].items()} == truth["namespaces"]
    for kind, one in own["namespaces"].items():
        assert (one["whose"] == "node") == (one["inode"] == truth["node"][kind])
    assert [[one["inside"], one["on_node"], one["count"]] for one in own["users"]] == truth["users"]
    assert own["processes"] == [{"pid": made["pid"], "comm": truth["comm"]}]
    if made["root_type"] == "overlay":
        layers = own["layers"]
        if made["user"] and made["snapshotter"] == "erofs":
            # containerd's own for the user namespace
            assert layers.pop()["created_by"] is None
        assert [one["layer"] for one in layers] == [1, 2, 3]
        assert [one["created_by"] for one in layers] == [instruction(LINES[number]) for number in (1, 2, 3)]
        found = {one["directory"]: [one["bytes"], one["inodes"]] for one in layers}
        assert found == truth["layers"]


def instruction(line: str) -> str:
    """As it stands in the Dockerfile."""
    return (
        line.removeprefix("/bin/sh -c #(nop) ").removesuffix(" # buildkit").replace("RUN /bin/sh -c ", "RUN ").strip()
    )


def test_a_snapshot_is_its_directory_and_number(made: Made) -> None:
    if made["snapshot"] is not None:
        (answer,) = made["said"]["writable"]
        assert (answer["container_id"], answer["directory"]) == (made["container_id"], made["snapshot"])
    for number, line in LINES.items():
        if f"layer {number}" not in made["said"]:
            continue
        layers = [one for one in made["said"][f"layer {number}"] if one["kind"] == "layer"]
        assert {one["image"] for one in layers} == {images.WEB, images.BATCH}
        for one in layers:
            assert (one["layer"], one["layers"], one["created_by"]) == (number, 3, line)
            assert made["queries"][f"layer {number}"].startswith(one["directory"])
    if made["root_type"] == "overlay":
        assert {form for form in made["said"] if form.startswith("layer")} == {"layer 1", "layer 2", "layer 3"}


def test_a_number_alone_lists_each_snapshot_with_its_directory(nodes: dict[str, Made]) -> None:
    for runtime in ("containerd 1.6", "containerd 2.1"):
        some = next(one for one in nodes.values() if one["runtime"] == runtime)
        found = {one["directory"] for one in some["numbered"]["said"]}
        # all writable layers of that number, and where another snapshotter has a layer of an image there
        assert found >= set(some["numbered"]["directories"]) and len(found) > 1
        assert len({os.path.basename(directory) for directory in found}) == 1
        # each is a query that asks for just this one
        assert all(one["query"].startswith(one["directory"]) for one in some["numbered"]["said"])


def test_a_copy_up_would_be_told_with_its_image_and_line(made: Made) -> None:
    if made["root_type"] != "overlay":
        assert made["layers"] == []
        return
    told = list(made["layers"])
    if made["user"] and made["snapshotter"] == "erofs":
        # which cannot be mounted idmapped: containerd makes a layer of its own, with other owners
        first = told.pop(0)
        assert (first["image"], first["ordinal"], first["created_by"]) == (made["image"], None, None)
        assert first["reason"] == "not a layer of the image: the runtime put it on top, as for a user namespace"
    assert [(one["image"], one["ordinal"], one["layers_total"], one["created_by"]) for one in told[:3]] == [
        (made["image"], number, 3, LINES[number]) for number in (3, 2, 1)
    ]


def test_a_write_lands_in_the_writable_layer_or_the_volume(made: Made) -> None:
    assert made["writes"] == {
        "root": "writable layer",
        "root counted": "True",
        "volume": "emptyDir/cache",
        "volume counted": "True",
    }


def test_volumes_that_are_neither_the_kubelets_nor_a_host_path(nodes: dict[str, Made]) -> None:
    (volumes,) = [one["volumes"] for one in nodes.values() if "volumes" in one]
    assert volumes["writes"] == {
        "/tools": "image volume",
        "/vault": "CSI volume vault (memory)",
        "/db": "local-path claim shop/data-db-0 (node's disk)",
        "/data": "image VOLUME /data (in no quota)",
    }
    assert volumes["mounts"]["/tools"] == images.BATCH
    assert volumes["mounts"]["/vault"] == "vault"


def test_a_containerd_with_a_mount_namespace_of_its_own(nodes: dict[str, Made]) -> None:
    (hidden,) = [one["hidden"] for one in nodes.values() if "hidden" in one]
    assert not hidden["shown"], "its mounts are in PID 1's namespace too"
    said = hidden["said"]
    assert said["root"] == said["writable"] == hidden["container_id"]
    assert said["mounted"] == hidden["root"]
    assert said["upperdir"].startswith("/srv/hidden/root/io.containerd.snapshotter.v1.overlayfs/snapshots/")


def test_crios_starts_have_their_steps(nodes: dict[str, Made]) -> None:
    rooted = []
    for one in nodes.values():
        if one["runtime"] != "CRI-O":
            continue
        steps = {step["phase"]: step for step in one["starts"]}
        # crun makes its process in the cgroup, so that none enters it (runc_init), and mostly with its namespaces
        assert set(steps) >= {"prepared", "pod_cgroup", "cgroup", "volumes", "pivot_root", "exec"}
        assert {(step["pod"], step["container"], step["image"]) for step in one["starts"]} == {
            (one["pod"], "app", one["image"])
        }
        assert steps["exec"]["path"] == "/bin/sh"
        rooted += [steps["rootfs"]["layers"]] if "rootfs" in steps else []
    # whose mount the tracer had read when the entrypoint was executed: podman makes it some milliseconds before
    assert rooted and set(rooted) == {3}
