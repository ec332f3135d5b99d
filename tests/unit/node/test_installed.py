"""Where runtimes and kubelets keep what, by the daemons that run and the files that configure them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from kubetrace.attribution.facts import ContainerSeen, DirectorySeen, LabelsSeen, OverlaySeen
from kubetrace.node.host import Host
from kubetrace.node.installed import Places, usual
from kubetrace.node.survey import Node

USUAL = usual()
ID = "a" * 64
UID = "7cf5a5da-f0f8-45a3-a0e2-dabe5b08f504"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/mountinfo").write_text("30 24 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    return tmp_path


def runs(root: Path, pid: int, comm: str, *arguments: str, namespace: str = "", its_root: str | None = None) -> None:
    process = root / "proc" / str(pid)
    process.mkdir()
    (process / "comm").write_text(comm + "\n")
    (process / "cmdline").write_text("\0".join((comm, *arguments)) + "\0")
    if namespace:
        (process / "ns").mkdir()
        (process / "ns/mnt").symlink_to(namespace)
    if its_root is not None:
        (process / "root").symlink_to(its_root)


def write(root: Path, path: str, text: str) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def more(root: Path, kind: str) -> list[str]:
    """What is known beyond the usual places."""
    places: Places = Host(root).places
    return [path for path in getattr(places, kind) if path not in getattr(USUAL, kind)]


def test_on_a_node_without_any_the_usual_places_are_all(root: Path) -> None:
    assert Host(root).places == USUAL


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--root", "/srv/r", "--state", "/srv/s"), (["/srv/r"], ["/srv/s"])),
        (("--root=/srv/r/", "--state=/srv//s"), (["/srv/r"], ["/srv/s"])),
        (("-root", "/one", "--root", "/two"), (["/two"], [])),
        (("--root", "relative"), ([], [])),
        (("--root",), ([], [])),
        (("--root", "/"), ([], [])),
    ],
)
def test_containerds_arguments(arguments: Sequence[str], found: tuple[list[str], list[str]], root: Path) -> None:
    runs(root, 10, "containerd", *arguments)
    assert (more(root, "roots"), more(root, "states")) == found


@pytest.mark.parametrize("option", [("-c", "/srv/c.toml"), ("--config=/srv/c.toml",)])
def test_containerds_configuration_and_what_it_imports(option: Sequence[str], root: Path) -> None:
    write(root, "/srv/c.toml", 'version = 2\nimports = ["conf.d/*.toml"]\nroot = "/srv/r"\nstate = "/srv/s"\n')
    write(root, "/srv/conf.d/10.toml", 'state = "/srv/state"\nimports = ["/srv/c.toml"]\n')
    write(root, "/srv/conf.d/20.txt", 'state = "/not"\n')
    runs(root, 10, "containerd", *option)
    assert (more(root, "roots"), more(root, "states")) == (["/srv/r"], ["/srv/state"])


def test_containerds_usual_configuration_where_it_does_not_run(root: Path) -> None:
    write(root, "/etc/containerd/config.toml", 'root = "/data/containerd"\n')
    assert more(root, "roots") == ["/data/containerd"]


@pytest.mark.parametrize("text", ["root = ", "root = 7", "[root]\n", "\0", "root = '/a\0b'"])
def test_configuration_that_says_nothing(text: str, root: Path) -> None:
    write(root, "/etc/containerd/config.toml", text)
    assert Host(root).places == USUAL


def test_several_containerds_and_kubelets_at_once(root: Path) -> None:
    runs(root, 10, "containerd")
    runs(root, 11, "containerd", "-c", "/x", "--state", "/run/other", "--root", "/opt/k3s/agent/containerd")
    runs(root, 12, "kubelet", "--root-dir=/opt/kubelet")
    runs(root, 13, "kubelet", "--root-dir", "/srv/kubelet", "--config", "/srv/k.yaml", "--config-dir=/srv/k.d")
    write(root, "/srv/k.yaml", "kind: KubeletConfiguration\npodLogsDir: /srv/logs\n")
    write(root, "/srv/k.d/1.conf", json.dumps({"podLogsDir": "/srv/more-logs"}))
    assert (more(root, "roots"), more(root, "states")) == (["/opt/k3s/agent/containerd"], ["/run/other"])
    assert (more(root, "kubelets"), more(root, "logs")) == (
        ["/opt/kubelet", "/srv/kubelet"],
        ["/srv/logs", "/srv/more-logs"],
    )


@pytest.mark.parametrize(
    "text", ["podLogsDir: [", "podLogsDir: {a: b}", "podLogsDir:\n", "- podLogsDir", "podLogsDir: 7"]
)
def test_kubelets_configuration_that_says_nothing(text: str, root: Path) -> None:
    runs(root, 13, "kubelet", "--config", "/srv/k.yaml")
    write(root, "/srv/k.yaml", text)
    assert more(root, "logs") == []


def test_k3s_by_its_configuration_as_it_hides_its_arguments(root: Path) -> None:
    runs(root, 10, "k3s-server")
    write(root, "/etc/rancher/k3s/config.yaml", 'data-dir: /opt/k3s\nkubelet-arg: ["root-dir=/opt/kubelet"]\n')
    write(root, "/etc/rancher/rke2/config.yaml.d/a.yaml", "data-dir: /opt/rke2/\n")
    assert more(root, "roots") == ["/opt/k3s/agent/containerd", "/opt/rke2/agent/containerd"]
    assert more(root, "kubelets") == ["/opt/kubelet"]


def test_microk8s_by_its_files_of_arguments(root: Path) -> None:
    write(root, "/var/snap/microk8s/current/args/containerd", "--root /mnt/c\n--state /mnt/s\n")
    write(root, "/var/snap/microk8s/current/args/kubelet", "--root-dir=/mnt/k\n")
    assert [more(root, kind) for kind in ("roots", "states", "kubelets")] == [["/mnt/c"], ["/mnt/s"], ["/mnt/k"]]


def test_crio_by_its_configuration_and_additional_stores(root: Path) -> None:
    write(root, "/etc/containers/storage.conf", '[storage]\ngraphroot = "/g"\nrunroot = "/r"\n')
    write(root, "/etc/crio/crio.conf.d/10-x", '[crio]\nroot = "/crio/g"\nstorage_option = ["overlay.imagestore=/ro"]\n')
    with open(root / "etc/containers/storage.conf", "a") as file:
        file.write('[storage.options]\nadditionalimagestores = ["/usr/lib/store"]\n')
    runs(root, 10, "crio", "--runroot", "/crio/r")
    assert sorted(more(root, "storages")) == ["/crio/g", "/g", "/ro", "/usr/lib/store"]
    assert sorted(more(root, "runroots")) == ["/crio/r", "/r"]


def test_what_runs_in_a_container_is_not_the_nodes(root: Path) -> None:
    (root / "other").mkdir()
    runs(root, 10, "containerd", "--root", "/inner", its_root=str(root / "other"))
    runs(root, 11, "containerd", "--root", "/outer", its_root=str(root))
    assert more(root, "roots") == ["/outer"]


def test_mounts_tell_of_a_runtime_that_is_not_known_otherwise(root: Path) -> None:
    with open(root / "proc/1/mountinfo", "a") as file:
        file.write(
            f"31 24 8:1 /x /one/io.containerd.runtime.v2.task/k8s.io/{ID}/rootfs rw - ext4 /dev/sda rw\n"
            f"32 24 0:9 / /two/io.containerd.runtime.v2.task/k8s.io/{'b' * 64}/rootfs rw - overlay overlay "
            "rw,lowerdir=/l,upperdir=/data/io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs,workdir=/w\n"
            f"33 24 0:10 / /three/overlay/{ID}/merged rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w\n"
            f"34 24 0:11 / /four/pods/{UID}/volumes/kubernetes.io~secret/s rw - tmpfs tmpfs rw\n"
        )
    assert sorted(more(root, "states")) == ["/one", "/two"]
    assert [more(root, kind) for kind in ("roots", "storages", "kubelets")] == [["/data"], ["/three"], ["/four"]]


def test_a_mount_namespace_of_its_own_is_read_too(root: Path) -> None:
    mount_point = f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/rootfs"
    own = f"40 24 0:50 / {mount_point} rw - overlay overlay rw,lowerdir=/l"
    same = (root / "proc/1/mountinfo").read_text()
    (root / "proc/1/ns").mkdir()
    (root / "proc/1/ns/mnt").symlink_to("mnt:[1]")
    runs(root, 10, "crio", namespace="mnt:[2]")
    runs(root, 11, "kubelet", namespace="mnt:[2]")
    runs(root, 12, "containerd", namespace="mnt:[1]")
    # each mount has another id there
    (root / "proc/10/mountinfo").write_text(same.replace("30 24 ", "130 124 ") + own + "\n")
    host = Host(root)
    assert host.places.namespaces == [10]
    node = Node(host)
    facts = list(node.scan())
    assert [fact.container_id for fact in facts if isinstance(fact, OverlaySeen)] == [ID]
    # the daemon has ended, and its namespace with it: what was mounted there was not unmounted
    (root / "proc/10/mountinfo").unlink()
    assert node.mounts() == []


def test_directories_that_were_found_become_facts_once(root: Path) -> None:
    runs(root, 10, "containerd", "--root", "/srv/r", "--state", "/srv/s")
    for path in ("srv/r", "srv/s"):
        (root / path).mkdir(parents=True)
    node = Node(Host(root))
    told = [(fact.role, fact.path) for fact in node.scan() if isinstance(fact, DirectorySeen)]
    assert told == [("containerd", "/srv/r"), ("containerd", "/srv/s")]
    assert not [fact for fact in node.scan() if isinstance(fact, DirectorySeen)]


def test_a_runtime_that_comes_later_is_found_when_a_container_has_no_name(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(Host(root))
    list(node.scan())
    assert not any(
        isinstance(fact, ContainerSeen) for fact in node.cgroup_created(0, 7, f"/kubepods/podx-{ID}/{ID}", 1)
    )
    runs(root, 10, "containerd", "--state", "/srv/s")
    annotations = {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.sandbox-namespace": "shop",
    }
    bundle = f"/srv/s/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json"
    write(root, bundle, json.dumps({"annotations": annotations}))
    found = [fact for _ in range(3) for fact in node.resolve_again()]
    assert [fact.pod for fact in found if isinstance(fact, ContainerSeen)] == ["web-0"]


def test_hostile_names_of_processes_cost_nothing(root: Path) -> None:
    runs(root, 10, "containerd", "--root", "/" + "x" * 70_000)
    os.mkfifo(root / "etc-fifo")
    (root / "etc/containerd").mkdir(parents=True)
    (root / "etc/containerd/config.toml").symlink_to(root / "etc-fifo")
    for pid in range(100, 300):
        runs(root, pid, "containerd", "--root", f"/made/up/{pid}")
    places = Host(root).places
    assert len(places.roots) <= 64 and all(len(path) < 66_000 for path in places.roots)


def test_the_first_container_of_a_runtime_is_found_in_a_directory_that_was_not_there(root: Path) -> None:
    write(root, "/etc/crio/crio.conf", '[crio]\nrunroot = "/run/crio"\n')
    node = Node(Host(root))
    list(node.scan())
    names = {"io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop"}
    write(root, f"/run/crio/overlay-containers/{ID}/userdata/config.json", json.dumps({"annotations": names}))
    found = node.cgroup_created(0, 7, f"/kubepods/pod{UID}/crio-{ID}", 1)
    assert [fact.pod for fact in found if isinstance(fact, ContainerSeen)] == ["web-0"]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (json.dumps({"app": "web", "tier": "", "io.kubernetes.pod.uid": UID, "n": 1}), ("app=web", "tier=")),
        ("[]", None),
        ("{", None),
        (None, None),
    ],
)
def test_labels_of_crios_pods_are_those_of_its_sandbox(
    text: str | None, labels: tuple[str, ...] | None, root: Path
) -> None:
    sandbox = "b" * 64
    names = {"io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": UID}
    for identifier, kind in ((ID, "container"), (sandbox, "sandbox")):
        annotations: dict[str, object] = {
            **names,
            "io.kubernetes.cri-o.ContainerType": kind,
            "io.kubernetes.cri-o.SandboxID": sandbox,
            # of the container these are its own
            "io.kubernetes.cri-o.Labels": text if kind == "sandbox" else '{"other": "x"}',
        }
        bundle = f"/run/containers/storage/overlay-containers/{identifier}/userdata/config.json"
        write(root, bundle, json.dumps({"annotations": annotations}))
    node = Node(Host(root), labels=True)
    found = [fact.labels for fact in node.scan() if isinstance(fact, LabelsSeen)]
    assert found == ([] if labels is None else [labels])
