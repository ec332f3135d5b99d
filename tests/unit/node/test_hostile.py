"""What others write into the node's files never stops the tracer: names stay data, errors stay in."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetrace.attribution.facts import (
    CgroupSeen,
    ContainerSeen,
    DirectorySeen,
    OverlaySeen,
    PodSeen,
    from_json,
    to_json,
)
from kubetrace.errors import NodeError
from kubetrace.node import containerd, kubelet_dir, logs
from kubetrace.node.host import Host
from kubetrace.node.survey import Node

ID = "069e7402774378d3aaa893de9da0742afbdf3ad256829817b2f226644e6c2cd0"
UID = "7cf5a5da-f0f8-45a3-a0e2-dabe5b08f504"
PATH = f"/kubepods/burstable/pod{UID}/{ID}"
MOUNTS = "30 24 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/mountinfo").write_text(MOUNTS)
    (tmp_path / "proc/1/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    return tmp_path


def bundle(root: Path) -> Path:
    directory = root / f"run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / "config.json"


def named(root: Path) -> ContainerSeen | None:
    facts = Node(Host(root)).cgroup_created(0, 8, PATH, 1)
    assert facts[0] == CgroupSeen(0, 8, PATH, 1)
    return next((fact for fact in facts if isinstance(fact, ContainerSeen)), None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b'"text"',
        b"\xff\xfe",
        b"\x00" * 100,
        b"[" * 200_000,
        b'{"annotations":' * 100_000,
        b'{"annotations":{"io.kubernetes.cri.sandbox-name":"' + b"x" * (5 << 20) + b'"}}',
    ],
)
def test_config_json_that_is_none_gives_no_name_and_no_error(content: bytes, root: Path) -> None:
    bundle(root).write_bytes(content)
    started = time.thread_time()
    assert named(root) is None
    assert time.thread_time() - started < 1


@pytest.mark.parametrize(
    "spec",
    [
        {"annotations": None, "linux": None, "root": None},
        {"annotations": [], "linux": [], "root": []},
        {"annotations": {"io.kubernetes.cri.sandbox-name": 3}, "linux": {"cgroupsPath": {}}, "root": {"path": 5}},
        {"annotations": {}, "root": {"path": "a\0b"}},
        {"annotations": {}, "root": {"path": "../" * 1000}},
    ],
)
def test_values_of_other_types_are_left_out(spec: dict[str, object], root: Path) -> None:
    bundle(root).write_text(json.dumps(spec))
    seen = named(root)
    assert seen is not None
    assert (seen.kind, seen.namespace, seen.pod, seen.image) == ("container", None, None, None)


@pytest.mark.parametrize("kind", ["fifo", "directory", "loop", "dangling", "device", "unreadable"])
def test_config_json_that_is_no_file_does_not_block(kind: str, root: Path) -> None:
    config = bundle(root)
    if kind == "fifo":
        os.mkfifo(config)
    elif kind == "directory":
        config.mkdir()
    elif kind == "loop":
        config.symlink_to(config)
    elif kind == "dangling":
        config.symlink_to("/nowhere/at/all")
    elif kind == "device":
        config.symlink_to("/dev/zero")
    else:
        config.write_text("{}")
        config.chmod(0)
        if os.access(config, os.R_OK):
            config.unlink()
    started = time.thread_time()
    assert named(root) is None
    assert time.thread_time() - started < 1


def test_names_with_newlines_escapes_and_raw_bytes_are_kept_as_they_are(root: Path) -> None:
    name = "evil\n\x1b]0;title\x07\u202e\udcff"
    bundle(root).write_text(json.dumps({"annotations": {"io.kubernetes.cri.sandbox-name": name}}))
    seen = named(root)
    assert seen is not None and seen.pod == name
    assert from_json(to_json(seen)) == seen


def test_cgroup_paths_of_any_bytes_make_a_fact(root: Path) -> None:
    for path in ("/\udcff\n\x1b[2J", "/" + "a/" * 20_000, "", "no slash", "/\0"):
        facts = Node(Host(root)).cgroup_created(0, 9, path, 1)
        assert facts == [CgroupSeen(0, 9, path, 1)]


def test_directories_of_any_name_are_walked(root: Path) -> None:
    odd = os.fsencode(root) + b"/sys/fs/cgroup/\xff\n\x1b[31m"
    os.makedirs(odd + b"/below")
    (root / "sys/fs/cgroup/loop").symlink_to(root / "sys/fs/cgroup")
    paths = [fact.path for fact in Node(Host(root)).scan() if isinstance(fact, CgroupSeen)]
    assert sorted(paths) == ["/", "/\udcff\n\x1b[31m", "/\udcff\n\x1b[31m/below"]


def test_tree_deeper_than_a_path_can_be_is_walked_as_far_as_it_goes(root: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(root / "sys/fs/cgroup")
        for _ in range(60):
            os.mkdir("d" * 100)
            os.chdir("d" * 100)
        facts = [fact for fact in Node(Host(root)).scan() if isinstance(fact, CgroupSeen)]
    finally:
        os.chdir(here)
    assert 30 < len(facts) <= 61


def test_log_names_that_are_no_kubelets_are_left_out(root: Path) -> None:
    links, directories = root / "var/log/containers", root / "var/log/pods"
    links.mkdir(parents=True)
    directories.mkdir()
    for name in (
        f"a_b_c-{ID}.log",
        f"a_b_c_d-{ID}.log",
        f"a_b-{ID}.log",
        f"a_b_c-{ID[:40]}.log",
        f"a_b_c-{ID}.log.gz",
        f"-{ID}.log",
        "x\n\x1b.log",
    ):
        (links / name).symlink_to("loop")
    for name in ("ns_pod_uid", "ns_pod", "ns_pod_uid_more", "_pod_uid", "ns__uid"):
        (directories / name).mkdir()
    host = Host(root)
    found = list(logs.containers(host, {ID}, 1))
    assert [(seen.pod, seen.namespace, seen.container) for seen in found] == [("a", "b", "c")]
    assert list(logs.pods(host, 1)) == [PodSeen("uid", "ns", "pod", "log directories", 1)]


def test_log_directory_that_is_a_loop_or_a_file_gives_nothing(root: Path) -> None:
    (root / "var/log").mkdir(parents=True)
    (root / "var/log/containers").symlink_to("containers")
    (root / "var/log/pods").write_text("no directory")
    host = Host(root)
    assert list(logs.containers(host, {ID}, 1)) == []
    assert list(logs.pods(host, 1)) == []


HEAD = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\nfe00::0\tip6-mcastprefix\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (HEAD + "10.88.0.5\tcart-7d\n", "cart-7d"),
        (HEAD + "10.88.0.5\tcart.sub.ns.svc.cluster.local\tcart\n", "cart"),
        (HEAD + "10.88.0.5\tcart\nfd00::5\tcart\n", "cart"),
        (HEAD + "10.88.0.5\tcart\n\n# Entries added by HostAliases.\n1.2.3.4\tforged\n", "cart"),
        (HEAD + "10.88.0.5\tev\x1bil\n", None),
        (HEAD + "10.88.0.5\t../../etc\n", None),
        (HEAD + "10.88.0.5\t" + "a" * 64 + "\n", None),
        (HEAD, None),
        ("# Kubernetes-managed hosts file (host network).\n10.0.0.1\tnode\n", None),
        ("10.88.0.5\tcart\n", None),
        ("", None),
        (HEAD + "x" * 70_000, None),
    ],
)
def test_hosts_file_names_a_pod_only_in_the_kubelets_form(text: str, name: str | None, root: Path) -> None:
    hosts = root / f"var/lib/kubelet/pods/{UID}/etc-hosts"
    hosts.parent.mkdir(parents=True)
    hosts.write_text(text)
    found = [pod.pod for pod in kubelet_dir.pods(Host(root), [UID, "../../../etc", ""], 1)]
    assert found == ([name] if name else [])


def test_damaged_databases_leave_the_container_nameless(root: Path) -> None:
    database = root / "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db"
    database.parent.mkdir(parents=True)
    database.write_bytes(b"\xed\xda\x0c\xed" * 10_000)
    assert named(root) is None


def test_huge_or_broken_mountinfo_is_read_in_time(root: Path) -> None:
    line = "{0} 25 0:{0} / /run/x/{1}/rootfs rw - overlay overlay rw,lowerdir={2},upperdir=/u,workdir=/w\n"
    layers = ":".join(f"/snapshots/{number}/fs" for number in range(120))
    (root / "proc/1/mountinfo").write_text(
        MOUNTS
        + "".join(line.format(number, f"{number:064x}", layers) for number in range(1, 2001))
        + "9 9 bad - overlay x y\n"
        + " - overlay \n"
    )
    node = Node(Host(root))
    started = time.thread_time()
    facts = node.mounts()
    assert len(facts) == 2000
    assert all(isinstance(fact, OverlaySeen) and len(fact.lowerdirs) == 120 for fact in facts)
    assert node.mounts() == []
    assert time.thread_time() - started < 10


def test_one_device_at_several_mount_points_is_the_containers_root(root: Path) -> None:
    # Bind mounts of a container's root, before and after it in the file.
    text = MOUNTS + "".join(
        f"{number} 25 0:149 / {point} rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w\n"
        for number, point in enumerate(("/mnt/copy", f"/run/containerd/t/k8s.io/{ID}/rootfs", "/mnt/other"), 50)
    )
    (root / "proc/1/mountinfo").write_text(text)
    node = Node(Host(root))
    (seen,) = node.mounts()
    assert isinstance(seen, OverlaySeen) and seen.container_id == ID
    (root / "proc/1/mountinfo").write_text(text + "90 1 0:5 / /new rw - overlay overlay rw,lowerdir=/l\n")
    assert [fact.device for fact in node.mounts() if isinstance(fact, OverlaySeen)] == [5]


def test_root_of_a_container_of_another_runtime_is_known_by_its_config_json(root: Path) -> None:
    # CRI-O: the overlay's directory has the layer's name; root.path says whose it is. Layout from its documentation.
    merged = "/var/lib/containers/storage/overlay/" + "e" * 64 + "/merged"
    userdata = root / f"run/containers/storage/overlay-containers/{ID}/userdata"
    userdata.mkdir(parents=True)
    (userdata / "config.json").write_text(
        json.dumps(
            {
                "root": {"path": merged},
                "annotations": {
                    "io.kubernetes.pod.name": "cart",
                    "io.kubernetes.pod.namespace": "shop",
                    "io.kubernetes.pod.uid": UID,
                    "io.kubernetes.container.name": "main",
                    "io.kubernetes.cri-o.ContainerType": "container",
                    "io.kubernetes.cri-o.ImageName": "app:1",
                },
            }
        )
    )
    (root / "proc/1/mountinfo").write_text(
        MOUNTS + f"9 1 0:77 / {merged} rw - overlay overlay rw,lowerdir=l/A:l/B,upperdir=/u,workdir=/w\n"
    )
    facts = list(Node(Host(root)).scan())
    seen = [fact for fact in facts if isinstance(fact, ContainerSeen)]
    assert [(one.namespace, one.pod, one.container, one.image) for one in seen] == [("shop", "cart", "main", "app:1")]
    assert [fact.container_id for fact in facts if isinstance(fact, OverlaySeen)] == [ID]


CONTAINERDS = {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.sandbox-namespace": "shop",
    "io.kubernetes.cri.sandbox-name": "cart",
    "io.kubernetes.cri.sandbox-uid": UID,
    "io.kubernetes.cri.container-name": "main",
    "io.kubernetes.cri.image-name": "app:1",
    "io.kubernetes.cri.sandbox-id": "1" * 64,
}
CRIOS = {
    "io.kubernetes.cri-o.ContainerType": "sandbox",
    "io.kubernetes.pod.namespace": "kube-system",
    "io.kubernetes.pod.name": "etcd-0",
    "io.kubernetes.pod.uid": "2" * 32,
    "io.kubernetes.container.name": "POD",
    "io.kubernetes.cri-o.ImageName": "pause",
    "io.kubernetes.cri-o.SandboxID": "3" * 64,
}


def test_a_bundle_is_read_by_its_own_runtimes_annotations_alone(tmp_path: Path) -> None:
    # A pod's own annotations are passed on into the bundle where the runtime is set so: those of the other runtime too.
    path = tmp_path / "config.json"

    def read(annotations: dict[str, str], directory: str) -> tuple[str | None, ...]:
        path.write_text(json.dumps({"annotations": annotations}))
        bundle = containerd.read_bundle(str(path), f"{directory}/{ID}", ID, 1)
        assert bundle is not None
        seen = bundle.seen
        return seen.kind, seen.namespace, seen.pod, seen.container, seen.pod_uid, seen.image, seen.sandbox_id

    tasks = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
    whole = CONTAINERDS | CRIOS
    assert read(whole, tasks) == ("container", "shop", "cart", "main", UID, "app:1", "1" * 64)
    pause = ("sandbox", "kube-system", "etcd-0", None, "2" * 32, "pause", "3" * 64)
    assert read(whole, "/run/containers/storage/overlay-containers") == pause
    nobody = ("container", *[None] * 6)
    assert read(CRIOS, tasks) == nobody
    assert read(CONTAINERDS, "/run/containers/storage/overlay-containers") == nobody


def test_a_directory_behind_a_link_is_told_where_it_really_is(root: Path) -> None:
    (root / "data/kubelet").mkdir(parents=True)
    (root / "var/lib").mkdir(parents=True)
    (root / "var/lib/kubelet").symlink_to("/data/kubelet")
    node = Node(Host(root))
    (fact,) = [fact for fact in node.scan() if isinstance(fact, DirectorySeen)]
    assert (fact.role, fact.path) == ("kubelet", "/data/kubelet")
    assert not [fact for fact in node.scan() if isinstance(fact, DirectorySeen)]


@given(st.binary(max_size=300))
def test_no_config_json_raises(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        containerd.read_bundle(file.name, "/b", ID, 1)


def drop(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / "proc/1/mountinfo").write_text(""),
        lambda root: (root / "proc/1/mountinfo").write_bytes(b"\xff\x00garbage\n" * 100),
        lambda root: drop(root / "proc/1/mountinfo"),
    ],
)
def test_node_without_cgroups_or_proc_is_a_node_error(damage: Callable[[Path], object], root: Path) -> None:
    damage(root)
    with pytest.raises(NodeError) as failed:
        list(Node(Host(root)).scan())
    assert failed.value.why and failed.value.do


def test_mounts_that_cannot_be_read_at_first_are_an_error_and_later_no_difference(root: Path) -> None:
    node = Node(Host(root))
    assert node.mounts() == []
    drop(root / "proc/1/mountinfo")
    assert node.mounts() == []
    with pytest.raises(NodeError):
        Node(Host(root)).mounts()
    with pytest.raises(NodeError):
        Node(Host(root)).mounts_fd()
