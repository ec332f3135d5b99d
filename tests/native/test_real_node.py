"""kubetrace cgroups on containers that real containerd and runc start on this machine's kernel."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.vm import guest, images, stage

ROOT = Path(__file__).parent.parent.parent
# A bound that is chosen: half of how long containerd keeps a brief container's config.json (63 ms, the median).
BUNDLE_NS = 30_000_000


@pytest.fixture(scope="module", params=stage.RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    """PATH with containerd and runc: this machine's release's (1.6, 1.1), and a newer one's (2.1, 1.3)."""
    try:
        paths = [str(stage.runtime_program(name, request.param).parent) for name in ("containerd", "runc")]
        paths.append(str(stage.program("busybox").parent))
        import grpc_tools  # noqa: F401
    except (stage.StageError, ImportError) as error:
        pytest.skip(f"no container runtime here ({error}). Try:  scripts/setup vm")
    return ":".join([*dict.fromkeys(paths), os.environ["PATH"]])


@pytest.fixture(scope="module")
def node(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of tests.native.real_node that has ended."""
    tmp_path = tmp_path_factory.mktemp("node")
    pause = images.build_pause(tmp_path)
    images.write(tmp_path / "images.tar", busybox=stage.program("busybox"), pause=pause)
    proto = ROOT / "tests" / "vm" / "cri.proto"
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto.parent}", f"--python_out={tmp_path}", str(proto)]
    subprocess.run(protoc, check=True)
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*alone, sys.executable, "-m", "tests.native.real_node", "101", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PATH": runtime, "PYTHONPATH": f"{tmp_path}:{ROOT}", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    for hierarchy in guest.hierarchies():
        with contextlib.suppress(OSError):
            for below in ("/containerd.service", ""):
                os.rmdir(f"{hierarchy}/system.slice{below}")
    assert done.returncode == 0, done.stderr[-2000:]
    return tmp_path


def objects_of(node: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (node / name).read_text().splitlines()]


def test_101_brief_containers_of_containerd_are_seen_named_and_complete(node: Path) -> None:
    truth = json.loads((node / "truth.json").read_text())
    objects = objects_of(node, "cgroups")
    told: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for found in objects:
        told[found.get("container_id") or ""].append(found)
    assert len(truth["ended"]) == 101
    lifetimes = []
    for container_id, ended in truth["ended"].items():
        events = told[container_id]
        whose = {(e["namespace"], e["pod"], e["container"], e["pod_uid"], e["image"], e["qos_class"]) for e in events}
        named = ("shop", "brief-0", ended["name"], truth["pod_uid"], images.BATCH, "Burstable")
        unnamed = ("shop", "brief-0", None, truth["pod_uid"], None, "Burstable")
        # runc takes the bundle away when it likes: who waited for a CPU for as long as a bundle lives has no name
        starved = ended["waited_ns"] >= BUNDLE_NS
        assert whose == {named} or (starved and whose <= {named, unnamed}), (whose, ended)
        assert {e["cgroup_path"] for e in events} == {f"{truth['cgroup']}/{container_id}"}
        # the runtime's own init enters, and executes itself again, before it becomes the entrypoint
        # (and freezes the cgroup for a moment, which a look at its state may meet). The kernel tells that a process
        # was moved after it has moved it (cgroup_attach_task), so what it then executes may come first
        names = [e["event"] for e in events if e["event"] not in ("throttled", "frozen", "thawed")]
        assert (names[0], names[-3:]) == ("created", ["exec", "exit", "removed"]), names
        assert set(names[1:-2]) == {"attached", "exec"}, names
        entrypoint = [e for e in events if e["event"] == "exec"][-1]
        assert entrypoint["path"] == "/bin/true"
        (end,) = [e for e in events if e["event"] == "exit"]
        assert (end["pid"], end["exit_code"], end["signal"]) == (entrypoint["pid"], ended["exit_code"], None)
        lifetimes.append(events[-1]["lifetime_ns"] / 1e6)
    assert objects[-1]["lost"] == 0
    lifetimes.sort()
    print(f"lived {lifetimes[0]:.0f} to {lifetimes[-1]:.0f} ms, half of them less than {lifetimes[50]:.0f}")


def test_the_start_of_a_real_pod_adds_up_and_tells_its_namespaces(node: Path) -> None:
    truth = json.loads((node / "truth.json").read_text())
    objects = objects_of(node, "starts")
    (sandbox, kept) = (
        [found for found in objects if found.get("container_id") == truth[name]] for name in ("sandbox", "kept")
    )
    steps = ["prepared", "rootfs", "cgroup", "runc_init", "namespaces", "volumes", "pivot_root", "exec"]
    assert {found["phase"] for found in sandbox} >= {"pod_cgroup", *steps} - {"volumes"}
    assert [found["phase"] for found in kept] == [*steps, "first_write"]
    # from the pod's begin to its entrypoint: what came before this container is the sandbox's, and that of the others
    assert kept[-2]["since_ns"] >= sum(found["duration_ns"] for found in sandbox)
    for found, own in ((sandbox[-1], "sandbox"), (kept[-2], "kept")):
        expected, paused = truth["namespaces"][own], truth["namespaces"]["sandbox"]
        for name, told in found["namespaces"].items():
            # what is the node's is asked in the VM: this machine's first process may not be looked at
            assert told["inode"] == expected[name]
            shared = own == "kept" and expected[name] == paused[name]
            assert told["pod"] == (shared and not told["node"]), name
    assert kept[-2]["namespaces"]["ipc"]["pod"] and not kept[-2]["namespaces"]["mnt"]["pod"]


def test_pods_are_chosen_by_the_labels_that_containerd_keeps(node: Path) -> None:
    truth = json.loads((node / "truth.json").read_text())
    brief, plain = (
        [found for found in objects_of(node, f"cgroups-lapp={app}") if found["type"] == "cgroup"]
        for app in ("brief", "plain")
    )
    assert {(found["namespace"], found["pod"]) for found in brief} == {("shop", "brief-0")}
    assert {(found["namespace"], found["pod"]) for found in plain} == {("jobs", "plain-0")}
    # the one began before its labels were asked for, the other after: both with all of their containers
    assert truth["kept"] in {found["container_id"] for found in brief}
    assert {found["container"] for found in plain if found["event"] == "created"} >= {"late"}


def test_the_page_of_a_pod_says_what_du_and_proc_say(node: Path) -> None:
    truth = json.loads((node / "truth.json").read_text())
    page = truth["page"]
    by_name, by_process = page["told"]
    for one in (by_name, by_process):
        del one["use"]
        for container in one["containers"]:
            del container["use"]
    assert by_name == by_process
    assert (by_name["namespace"], by_name["pod"], by_name["pod_uid"]) == ("shop", "brief-0", truth["pod_uid"])
    (kept,) = [one for one in by_name["containers"] if one["container_id"] == truth["kept"]]
    assert (kept["container"], kept["image"]) == ("kept", images.BATCH)
    # the writable layer, a file of two names in it; the log; each layer of the image
    for part in (kept["writable"], kept["log"]):
        assert [part["bytes"], part["inodes"]] == page["du"][part["path"]] and part["whole"]
    assert {found["path"] for found in kept["writable"]["largest"]} <= {"/tmp/a/b", "/tmp", "/"}
    # as kubetrace images counts them: with the snapshot's own directory and its work, two blocks of a disk
    assert [[layer["bytes"] - 8192, layer["inodes"]] for layer in kept["layers"]] == page["layers"]
    assert [layer["created_by"] for layer in kept["layers"]][1] == images.APP_LINE.removesuffix(" # buildkit")
    own, shared, nodes = truth["namespaces"]["kept"], truth["namespaces"]["sandbox"], page["node"]
    for kind, inode in own.items():
        whose = "node" if inode == nodes[kind] else "pod" if inode == shared[kind] else "container"
        assert kept["namespaces"][kind] == {"inode": inode, "whose": whose}
    assert {found["whose"] for found in kept["namespaces"].values()} == {"container", "pod", "node"}
    assert kept["processes"] == [{"pid": page["pid"], "comm": "sleep"}]
    assert kept["users"] == [{"inside": 0, "on_node": 0, "count": 2**32 - 1}]
    cache, scratch = by_name["volumes"]
    assert (cache["name"], cache["kind"]) == ("cache", "empty-dir")
    assert [cache["bytes"], cache["inodes"]] == page["du"][cache["path"]]
    assert (scratch["name"], scratch["fstype"], scratch["inodes"]) == ("scratch", "tmpfs", 1)
    for said in ("shop/brief-0", "container kept", "1 of 3", "writable layer", "tmpfs: memory", "its own: mnt"):
        assert said in page["shown"]


def test_what_grows_of_a_pod_is_told_while_it_is_watched(node: Path) -> None:
    truth = json.loads((node / "truth.json").read_text())
    grown = [line for line in truth["watched"] if "  volume cache  " in line]
    assert grown and all(re.match(r"[0-9:]{8}  shop/brief-0  volume cache  [0-9.]+ MiB, \+", line) for line in grown)
    assert sum("+1 inode" in line for line in grown) == 1
