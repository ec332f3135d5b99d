"""Every container process of four captured nodes gets the names that the kubelet and CRI give it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubetrace.attribution.attributor import Attributor, Identity
from kubetrace.attribution.facts import (
    CgroupSeen,
    ContainerSeen,
    Fact,
    LabelsSeen,
    MountGone,
    MountSeen,
    OverlayGone,
    OverlaySeen,
    PodSeen,
    from_json,
    to_json,
)
from kubetrace.node.host import Host
from kubetrace.node.survey import Node
from tests.nodes import captured
from tests.nodes.captured import CONTAINER_CGROUPS, TREES, Cgroup, Expected


def node_of(root: Path) -> Node:
    return Node(Host(root))


def is_container(cgroup: Cgroup, known: dict[str, Expected]) -> str | None:
    name = cgroup.path.rsplit("/", 1)[-1].removeprefix("cri-containerd-").removesuffix(".scope")
    return name if name in known else None


def check(identity: Identity, wanted: Expected) -> None:
    assert (
        identity.namespace,
        identity.pod,
        identity.container,
        identity.pod_uid,
        identity.container_id,
        identity.image,
        identity.qos_class,
        identity.kind,
    ) == (
        wanted.namespace,
        wanted.pod,
        wanted.container,
        wanted.pod_uid,
        wanted.container_id,
        wanted.image,
        wanted.qos_class,
        wanted.kind,
    )
    assert identity.names_from == "config.json"
    assert not identity.host


def fed(node: Node, cgroups: list[Cgroup]) -> Iterator[Fact]:
    for cgroup in cgroups:
        yield from node.cgroup_created(cgroup.hierarchy, cgroup.cgroup_id, cgroup.path, 1_000)


@pytest.mark.parametrize("tree", TREES)
def test_every_container_cgroup_that_the_tracepoint_tells_of_is_named(tree: str, tmp_path: Path) -> None:
    node = node_of(captured.build(tree, tmp_path))
    unified, memory = captured.unified(tree), captured.memory(tree)
    known = captured.expected(tree)
    attributor = Attributor()
    for fact in fed(node, unified + memory):
        attributor.learn(from_json(to_json(fact)))
    named = 0
    memory_ids = {cgroup.path: cgroup.cgroup_id for cgroup in memory}
    for cgroup in unified or memory:
        container_id = is_container(cgroup, known)
        if container_id is None:
            continue
        named += 1
        identity = attributor.identify(
            cgroup_id=cgroup.cgroup_id if unified else 1,
            memory_cgroup_id=memory_ids.get(cgroup.path, 0),
            memory_hierarchy=3 if memory else 0,
            device=None,
            time_ns=2_000,
        )
        check(identity, known[container_id])
        assert identity.cgroup_path == cgroup.path
        assert identity.attributed_by == ("cgroup" if unified else "memory cgroup")
    assert named == CONTAINER_CGROUPS[tree]


@pytest.mark.parametrize("tree", TREES)
def test_every_container_process_is_named_by_the_scan_of_the_trees(tree: str, tmp_path: Path) -> None:
    root = captured.build(tree, tmp_path, directories=True)
    node = node_of(root)
    attributor = Attributor()
    seen: dict[tuple[int, str], int] = {}
    for fact in node.scan():
        attributor.learn(fact)
        if isinstance(fact, CgroupSeen):
            seen[fact.hierarchy, fact.path] = fact.cgroup_id
    known = captured.expected(tree)
    named = 0
    for cgroup in captured.unified(tree) or captured.memory(tree):
        container_id = is_container(cgroup, known)
        for pid in cgroup.pids if container_id else ():
            lines = root / "proc" / str(pid) / "cgroup"
            if not lines.exists():
                continue
            paths = {int(line.split(":")[0]): line.split(":", 2)[2] for line in lines.read_text().splitlines() if line}
            if any(path.endswith("No such file or directory") for path in paths.values()):
                continue
            named += 1
            identity = attributor.identify(
                cgroup_id=seen.get((0, paths[0]), 1),
                memory_cgroup_id=seen.get((node.memory_hierarchy, paths.get(3, "")), 0),
                memory_hierarchy=node.memory_hierarchy,
                device=None,
                time_ns=2_000,
            )
            assert container_id is not None
            check(identity, known[container_id])
    # The capture is not atomic: some processes were gone before their files were copied.
    assert named >= CONTAINER_CGROUPS[tree]


@pytest.mark.parametrize("tree", TREES)
def test_scan_gives_the_inode_numbers_of_the_directories(tree: str, tmp_path: Path) -> None:
    root = captured.build(tree, tmp_path, directories=True)
    node = node_of(root)
    seen = [fact for fact in node.scan() if isinstance(fact, CgroupSeen)]
    assert len(seen) == len(captured.unified(tree)) + len(captured.memory(tree))
    for fact in seen:
        mount = "sys/fs/cgroup"
        if fact.hierarchy:
            mount += "/memory"
        elif tree == "hybrid-cgroupfs":
            mount += "/unified"
        assert os.stat(root / mount / fact.path.lstrip("/")).st_ino == fact.cgroup_id
    assert {fact.hierarchy for fact in seen} == {
        "v1-cgroupfs": {3},
        "hybrid-cgroupfs": {0, 3},
    }.get(tree, {0})


def test_one_number_means_different_cgroups_in_two_v1_hierarchies(tmp_path: Path) -> None:
    # In the capture 227 is the crashing pod's in the unified tree and the agent's in memory.
    tree = "hybrid-cgroupfs"
    node = node_of(captured.build(tree, tmp_path))
    attributor = Attributor()
    for fact in fed(node, captured.unified(tree) + captured.memory(tree)):
        attributor.learn(fact)
    by_v2 = attributor.identify(cgroup_id=227, memory_cgroup_id=0, memory_hierarchy=0, device=None, time_ns=2)
    by_memory = attributor.identify(cgroup_id=1, memory_cgroup_id=227, memory_hierarchy=3, device=None, time_ns=2)
    assert (by_v2.kind, by_v2.pod, by_v2.attributed_by) == ("pod", "crash-node1", "cgroup")
    assert (by_memory.kind, by_memory.pod, by_memory.attributed_by) == ("pod", "agent-node1", "memory cgroup")


def test_cgroups_of_other_v1_hierarchies_are_read_early_but_not_kept(tmp_path: Path) -> None:
    tree = "v1-cgroupfs"
    node = node_of(captured.build(tree, tmp_path))
    facts = list(fed(node, captured.cgroups(tree, "pids")))
    assert not [fact for fact in facts if isinstance(fact, CgroupSeen)]
    assert len([fact for fact in facts if isinstance(fact, ContainerSeen)]) == CONTAINER_CGROUPS[tree]
    again = list(fed(node, captured.memory(tree)))
    assert {type(fact) for fact in again} == {CgroupSeen}


def test_hybrid_node_with_old_runc_is_named_by_the_memory_controller(tmp_path: Path) -> None:
    # runc 1.0 leaves container processes in the shim's v2 cgroup.
    tree = "hybrid-cgroupfs"
    node = node_of(captured.build(tree, tmp_path))
    attributor = Attributor()
    for fact in fed(node, captured.memory(tree)):
        attributor.learn(fact)
    attributor.learn(CgroupSeen(0, 40, "/system.slice/containerd.service", 1))
    worker = attributor.identify(cgroup_id=40, memory_cgroup_id=419, memory_hierarchy=3, device=None, time_ns=2)
    assert (worker.pod, worker.container, worker.attributed_by) == ("batch-node1", "worker", "memory cgroup")


@pytest.mark.parametrize(
    "path",
    [
        "/kubepods/besteffort/pod317355522b7ec02f49fb63af90cbcf09",
        "/kubepods/podc3f7582e7e88f3ec974831d17e9a510b",
    ],
)
def test_stale_twin_directory_of_a_pod_is_that_pod_without_a_container(path: str, tmp_path: Path) -> None:
    # kubelet 1.20 with the systemd driver leaves /kubepods/... beside /kubepods.slice/...
    tree = "v2-systemd"
    attributor = Attributor()
    for fact in node_of(captured.build(tree, tmp_path, directories=True)).scan():
        attributor.learn(fact)
        if isinstance(fact, CgroupSeen) and fact.path == path:
            twin = fact.cgroup_id
    identity = attributor.identify(cgroup_id=twin, memory_cgroup_id=0, memory_hierarchy=0, device=None, time_ns=2)
    pods = {"317355522b7ec02f49fb63af90cbcf09": "once-node1", "c3f7582e7e88f3ec974831d17e9a510b": "web-node1"}
    assert (identity.kind, identity.container_id) == ("pod", None)
    assert identity.pod == pods[str(identity.pod_uid)]


def test_static_pod_has_the_hash_of_its_manifest_as_uid(tmp_path: Path) -> None:
    tree = "v2-systemd"
    attributor = Attributor()
    for fact in fed(node_of(captured.build(tree, tmp_path)), captured.unified(tree)):
        attributor.learn(fact)
    app = attributor.identify(cgroup_id=2141, memory_cgroup_id=0, memory_hierarchy=0, device=None, time_ns=2)
    assert (app.namespace, app.pod, app.container) == ("shop", "web-node1", "app")
    assert app.pod_uid == "c3f7582e7e88f3ec974831d17e9a510b"
    assert app.qos_class == "Guaranteed"


@pytest.mark.parametrize("tree", TREES)
def test_mounts_of_every_running_container_are_seen_with_their_device(tree: str, tmp_path: Path) -> None:
    node = node_of(captured.build(tree, tmp_path))
    overlays = [fact for fact in node.mounts() if isinstance(fact, OverlaySeen)]
    roots = {fact.container_id: fact for fact in overlays if fact.container_id}
    assert set(roots) <= set(captured.expected(tree))
    assert len(roots) >= CONTAINER_CGROUPS[tree] - 1
    assert node.mounts() == []


def test_writable_layer_and_lower_layers_of_the_cart_container(tmp_path: Path) -> None:
    node = node_of(captured.build("v2-cgroupfs-apiserver", tmp_path))
    snapshots = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
    cart = [fact for fact in node.mounts() if isinstance(fact, OverlaySeen) and fact.device == 149]
    assert len(cart) == 1
    assert cart[0].container_id == "069e7402774378d3aaa893de9da0742afbdf3ad256829817b2f226644e6c2cd0"
    assert cart[0].upperdir == f"{snapshots}/18/fs"
    assert cart[0].workdir == f"{snapshots}/18/work"
    assert cart[0].lowerdirs == (f"{snapshots}/4/fs", f"{snapshots}/3/fs", f"{snapshots}/2/fs")
    assert cart[0].since_ns == 0


def test_snapshots_are_told_apart_from_what_a_snapshotter_knows_of_them(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path)
    made = root / "var/lib/containerd/io.containerd.snapshotter.v1.native"
    made.mkdir(parents=True)
    levels = {inode: levels for _, inode, levels in node_of(root).anchors()}
    assert levels[made.stat().st_ino] == levels[made.parent.stat().st_ino] == 1


def test_device_number_given_to_the_next_container_at_once_names_the_right_one(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path)
    node = node_of(root)
    attributor = Attributor()
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for fact in node.mounts():
        attributor.learn(fact)
    mountinfo = root / "proc/1/mountinfo"
    old, new = "069e7402774378d3", "ffff7402774378d3"
    mountinfo.write_text(mountinfo.read_text().replace(old, new))
    facts = node.mounts()
    assert [type(fact) for fact in facts] == [OverlayGone, OverlaySeen]
    for fact in facts:
        attributor.learn(fact)
    gone = facts[0]
    assert isinstance(gone, OverlayGone)
    attributor.learn(CgroupSeen(0, 7, "/system.slice/containerd.service", 1))

    def at(time_ns: int) -> str | None:
        return attributor.identify(
            cgroup_id=7, memory_cgroup_id=0, memory_hierarchy=0, device=149, time_ns=time_ns
        ).container_id

    assert str(at(0)).startswith(old)
    assert str(at(before - 1)).startswith(old)
    assert str(at(gone.time_ns + 1)).startswith(new)
    # Between the two looks it was either.
    assert at(gone.time_ns - 1) is None


def test_new_overlay_between_two_looks_is_known_from_its_mount_on(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path)
    node = node_of(root)
    mountinfo = root / "proc/1/mountinfo"
    whole = mountinfo.read_text()
    mountinfo.write_text("".join(line for line in whole.splitlines(True) if " 0:149 " not in line))
    attributor = Attributor()
    for fact in node.mounts():
        attributor.learn(fact)
    mountinfo.write_text(whole)
    facts = node.mounts()
    assert len(facts) == 1
    seen = facts[0]
    assert isinstance(seen, OverlaySeen)
    assert 0 < seen.since_ns <= seen.time_ns
    attributor.learn(seen)
    attributor.learn(CgroupSeen(0, 7, "/system.slice/containerd.service", 1))
    runc = attributor.identify(
        cgroup_id=7, memory_cgroup_id=0, memory_hierarchy=0, device=149, time_ns=seen.since_ns + 1
    )
    assert runc.container_id == seen.container_id
    before = attributor.identify(
        cgroup_id=7, memory_cgroup_id=0, memory_hierarchy=0, device=149, time_ns=seen.since_ns - 1
    )
    assert before.kind == "host"


CART = "069e7402774378d3aaa893de9da0742afbdf3ad256829817b2f226644e6c2cd0"
CART_POD = "7cf5a5da-f0f8-45a3-a0e2-dabe5b08f504"
TASKS = "run/containerd/io.containerd.runtime.v2.task/k8s.io"


def cart_after(root: Path, cgroup_id: int = 2011) -> tuple[Node, list[Fact], Identity]:
    node = node_of(root)
    facts = node.cgroup_created(0, cgroup_id, f"/kubepods/burstable/pod{CART_POD}/{CART}", 1_000)
    attributor = Attributor()
    for fact in facts:
        attributor.learn(fact)
    identity = attributor.identify(
        cgroup_id=cgroup_id, memory_cgroup_id=0, memory_hierarchy=0, device=None, time_ns=1_001
    )
    return node, facts, identity


def without_bundle(tmp_path: Path) -> Path:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path)
    (root / TASKS / CART / "config.json").unlink()
    (root / TASKS / CART).rmdir()
    return root


def test_container_whose_config_json_is_gone_is_named_by_containerds_metadata(tmp_path: Path) -> None:
    root = without_bundle(tmp_path)
    captured.database("meta.db", root / "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db")
    _, _, cart = cart_after(root)
    assert (cart.namespace, cart.pod, cart.container) == ("shop", "cart-7d4b9c6f5d-x2x9z", "cart")
    assert (cart.pod_uid, cart.qos_class, cart.names_from) == (CART_POD, "Burstable", "containerd metadata")


def test_without_metadata_it_is_named_by_its_log_link(tmp_path: Path) -> None:
    _, _, cart = cart_after(without_bundle(tmp_path))
    assert (cart.namespace, cart.pod, cart.container) == ("shop", "cart-7d4b9c6f5d-x2x9z", "cart")
    assert (cart.pod_uid, cart.image, cart.names_from) == (CART_POD, None, "log links")


def test_without_a_link_its_pod_is_named_by_the_log_directory(tmp_path: Path) -> None:
    root = without_bundle(tmp_path)
    for link in (root / "var/log/containers").iterdir():
        link.unlink()
    _, _, cart = cart_after(root)
    assert (cart.namespace, cart.pod, cart.container) == ("shop", "cart-7d4b9c6f5d-x2x9z", None)
    assert (cart.kind, cart.container_id, cart.names_from) == ("container", CART, "log directories")


def test_without_logs_its_pod_is_named_by_the_kubelets_hosts_file(tmp_path: Path) -> None:
    root = without_bundle(tmp_path)
    (root / "var/log").rename(root / "var/gone")
    _, _, cart = cart_after(root)
    assert (cart.namespace, cart.pod, cart.names_from) == (None, "cart-7d4b9c6f5d-x2x9z", "kubelet")


def test_hosts_file_of_a_host_network_pod_is_no_pods_name(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path)
    (root / "var/log").rename(root / "var/gone")
    uid = "e2cb711266254f5d6121a41eb7b618ce"
    facts = node_of(root).cgroup_created(0, 5, f"/kubepods/besteffort/pod{uid}/{'9' * 64}", 1)
    assert [fact for fact in facts if isinstance(fact, PodSeen)] == []


def test_nameless_container_keeps_its_ids_and_is_improved_by_resolve_again(tmp_path: Path) -> None:
    root = without_bundle(tmp_path)
    (root / "var/log").rename(root / "var/gone")
    hosts = root / f"var/lib/kubelet/pods/{CART_POD}/etc-hosts"
    hosts.unlink()
    node, facts, cart = cart_after(root)
    assert (cart.kind, cart.pod, cart.pod_uid, cart.container_id) == ("container", None, CART_POD, CART)
    assert cart.names_from is None
    attributor = Attributor()
    for fact in facts:
        attributor.learn(fact)
    question = {"cgroup_id": 2011, "memory_cgroup_id": 0, "memory_hierarchy": 0, "device": None, "time_ns": 2_000}
    assert attributor.identify(**question).pod is None  # type: ignore[arg-type]
    assert node.resolve_again() == []
    (root / "var/gone").rename(root / "var/log")
    later = [fact for _ in range(4) for fact in node.resolve_again()]
    for fact in later:
        attributor.learn(fact)
    assert attributor.identify(**question).container == "cart"  # type: ignore[arg-type]
    assert node.resolve_again() == []


def test_looking_for_a_container_that_nothing_names_ends(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path)
    node = node_of(root)
    node.cgroup_created(0, 9, f"/docker/{'e' * 64}", 1)
    for _ in range(24 * 64):
        assert node.resolve_again() == []
    (root / f"var/log/containers/late_shop_main-{'e' * 64}.log").symlink_to("nothing")
    for _ in range(64):
        assert node.resolve_again() == []


def test_config_json_that_comes_after_its_directory_is_waited_for(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path)
    config = root / TASKS / CART / "config.json"
    text = config.read_bytes()
    config.write_bytes(text[: len(text) // 2])

    def finish() -> None:
        time.sleep(0.001)
        config.write_bytes(text)

    # Stands for containerd.
    thread = threading.Thread(target=finish)
    node = node_of(root)
    thread.start()
    facts = node.cgroup_created(0, 2011, f"/kubepods/burstable/pod{CART_POD}/{CART}", 1_000)
    thread.join()
    assert any(isinstance(fact, ContainerSeen) for fact in facts + node.resolve_again())


def test_cgroup_created_does_not_wait_long_for_a_config_json_that_never_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path)
    (root / TASKS / CART / "config.json").write_bytes(b"{")
    (root / "var/log").rename(root / "var/gone")
    node = node_of(root)
    slept: list[float] = []
    monkeypatch.setattr("kubetrace.node.survey.time.sleep", slept.append)
    # time passes by sleeping only
    monkeypatch.setattr("kubetrace.node.survey.time.monotonic_ns", lambda: int(sum(slept) * 1e9))
    node.cgroup_created(0, 2011, f"/kubepods/burstable/pod{CART_POD}/{CART}", 1_000)
    assert 0 < sum(slept) <= 0.003


def test_scan_twice_gives_new_containers_only(tmp_path: Path) -> None:
    node = node_of(captured.build("v2-cgroupfs-apiserver", tmp_path, directories=True))
    first = [fact for fact in node.scan() if isinstance(fact, ContainerSeen)]
    assert len(first) == 10
    assert [fact for fact in node.scan() if isinstance(fact, ContainerSeen | OverlaySeen)] == []


def test_vanishing_directories_do_not_stop_the_scan(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path, directories=True)
    facts = node_of(root).scan()
    seen = [next(facts)]
    gone = root / "sys/fs/cgroup/kubepods/besteffort"
    gone.rename(root / "elsewhere")
    seen += list(facts)
    assert any(isinstance(fact, CgroupSeen) and fact.path == "/kubepods/burstable" for fact in seen)


class Passing(Host):
    """A host whose mountinfo has another text at each read, the last one from then on."""

    texts: list[Path]

    def mountinfo_path(self) -> str:
        return str(self.texts.pop(0) if len(self.texts) > 1 else self.texts[0])


def test_a_line_that_one_read_passes_over_is_not_an_unmount(tmp_path: Path) -> None:
    overlay = "90 1 0:90 / /run/x/rootfs rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/u,workdir=/w"
    disk = "91 1 8:1 / /data rw - ext4 /dev/sda1 rw"
    other = "92 1 8:2 / /other rw - ext4 /dev/sda2 rw"
    host = Passing(tmp_path)

    def reads(*found: list[str]) -> None:
        host.texts = []
        for number, lines in enumerate(found):
            path = tmp_path / f"mountinfo-{number}"
            path.write_text("".join(f"{line}\n" for line in lines))
            host.texts.append(path)

    reads([overlay, disk])
    node = Node(host)
    assert {type(fact) for fact in node.mounts()} == {OverlaySeen, MountSeen}
    # each is passed over by one of two reads, and a new one is there in one of them
    reads([disk], [overlay, other])
    assert [(type(fact), getattr(fact, "device", None)) for fact in node.mounts()] == [(MountSeen, 8 << 20 | 2)]
    reads([overlay, other, disk])
    assert node.mounts() == []
    reads([disk])
    gone = node.mounts()
    assert {(type(fact), getattr(fact, "device", None)) for fact in gone} == {
        (OverlayGone, 90),
        (MountGone, 8 << 20 | 2),
    }


def test_the_labels_of_pods_are_looked_for_only_where_they_are_wanted(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path, directories=True)
    database = root / "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db"
    captured.database("meta.db", database)
    # containerd's own record of the sandbox of shop/cart; those of other pods are not in this database
    wanted = ("7cf5a5da-f0f8-45a3-a0e2-dabe5b08f504", ("app=cart",))
    found = [fact for fact in Node(Host(root), labels=True).scan() if isinstance(fact, LabelsSeen)]
    assert [(fact.pod_uid, fact.labels) for fact in found] == [wanted]
    assert [from_json(to_json(fact)) for fact in found] == found
    assert not [fact for fact in node_of(root).scan() if isinstance(fact, LabelsSeen)]
    # and of a pod that begins: with its container, in one go
    cart = next(cgroup for cgroup in captured.unified("v2-cgroupfs-apiserver") if cgroup.path.endswith("2cd0"))
    facts = Node(Host(root), labels=True).cgroup_created(0, cart.cgroup_id, cart.path, 1_000)
    assert [type(fact).__name__ for fact in facts] == ["CgroupSeen", "ContainerSeen", "LabelsSeen"]


def test_labels_that_are_not_there_yet_are_looked_for_again(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path, directories=True)
    node = Node(Host(root), labels=True)
    assert not [fact for fact in node.scan() if isinstance(fact, LabelsSeen)]
    captured.database("meta.db", root / "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db")
    assert [fact.labels for fact in node.resolve_again() if isinstance(fact, LabelsSeen)] == [("app=cart",)]
    assert not [fact for fact in node.resolve_again() if isinstance(fact, LabelsSeen)]


INNER, OUTER = "1" * 64, "0" * 64


def nested(root: Path, inner: str, parents: dict[int, int], cgroups: dict[int, str]) -> Attributor:
    """A node with a pod of which a container runs docker: processes with their parents and cgroups."""
    for pid, parent in parents.items():
        process = root / "proc" / str(pid)
        process.mkdir(parents=True, exist_ok=True)
        (process / "status").write_text(f"Name:\tx\nPPid:\t{parent}\n")
        (process / "cgroup").write_text(f"0::{cgroups[pid]}\n")
    for path in {*cgroups.values(), inner}:
        directory = root / f"sys/fs/cgroup{path}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid, own in cgroups.items() if own == path))
    (root / "proc/1").mkdir(parents=True, exist_ok=True)
    (root / "proc/1/mountinfo").write_text("30 24 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    bundle = root / TASKS / OUTER / "config.json"
    bundle.parent.mkdir(parents=True)
    cri = "io.kubernetes.cri."
    names = {"container-type": "container", "sandbox-name": "ci-0", "sandbox-namespace": "build"}
    annotations = {
        cri + name: text for name, text in {**names, "container-name": "dind", "sandbox-uid": CART_POD}.items()
    }
    bundle.write_text(json.dumps({"annotations": annotations}))
    attributor = Attributor()
    for fact in Node(Host(root)).scan():
        attributor.learn(from_json(to_json(fact)))
    return attributor


@pytest.mark.parametrize(
    "inner", [f"/docker/{INNER}", f"/system.slice/docker-{INNER}.scope", f"/kubepods/podx/{INNER}"]
)
def test_container_in_a_container_has_the_outer_ones_names_and_its_own_id(inner: str, tmp_path: Path) -> None:
    own = f"/kubepods/burstable/pod{CART_POD}/{OUTER}"
    # the entrypoint, dockerd, the shim, and what the inner container runs
    parents = {500: 400, 501: 500, 502: 501, 503: 502, 400: 1}
    cgroups = {500: own, 501: own, 502: own, 503: inner, 400: "/system.slice/containerd.service"}
    attributor = nested(tmp_path, inner, parents, cgroups)
    number = os.stat(tmp_path / f"sys/fs/cgroup{inner}").st_ino
    found = attributor.identify(cgroup_id=number, memory_cgroup_id=0, memory_hierarchy=0, device=None, time_ns=1)
    assert (found.namespace, found.pod, found.container, found.pod_uid) == ("build", "ci-0", "dind", CART_POD)
    assert (found.container_id, found.names_from, found.image) == (INNER, "ancestry", None)


@pytest.mark.parametrize("parents", [{503: 1}, {503: 400, 400: 1}, {503: 503}, {503: 777}])
def test_container_whose_processes_descend_from_no_pod_stays_nameless(parents: dict[int, int], tmp_path: Path) -> None:
    inner = f"/docker/{INNER}"
    cgroups = {503: inner, 400: "/system.slice/docker.service"}
    attributor = nested(tmp_path, inner, parents, {pid: cgroups[pid] for pid in parents})
    number = os.stat(tmp_path / f"sys/fs/cgroup{inner}").st_ino
    found = attributor.identify(cgroup_id=number, memory_cgroup_id=0, memory_hierarchy=0, device=None, time_ns=1)
    assert (found.kind, found.pod, found.container_id, found.nameless) == ("container", None, INNER, True)


def test_pod_within_a_pod_is_the_outer_one() -> None:
    """Kubernetes in a pod: its kubelet has kubepods below the pod's own cgroup, and this node names that pod."""
    attributor = Attributor()
    attributor.learn(PodSeen(CART_POD, "build", "ci-0", "log directories", 1))
    inner = "11111111-2222-4333-8444-555555555555"
    path = f"/kubepods/burstable/pod{CART_POD}/kubelet/kubepods/besteffort/pod{inner}/{INNER}"
    attributor.learn(CgroupSeen(0, 7, path, 1))
    found = attributor.identify(cgroup_id=7, memory_cgroup_id=0, memory_hierarchy=0, device=None, time_ns=1)
    assert (found.namespace, found.pod, found.pod_uid, found.container_id) == ("build", "ci-0", CART_POD, INNER)
