"""kubetrace who on captured nodes: every kind of query, what it prints, and how it fails."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kubetrace.attribution.facts import CgroupSeen
from kubetrace.commands.who import command
from kubetrace.errors import KubetraceError, UsageError
from kubetrace.node.host import Host
from kubetrace.node.lookup import Lookup
from tests.nodes import captured

CART = "069e7402774378d3aaa893de9da0742afbdf3ad256829817b2f226644e6c2cd0"
SANDBOX = "a9a2d3b5367a02ebfe65bc5116341d5c5bcfecee7be1f74e4cd68d845405e60d"
UID = "7cf5a5da-f0f8-45a3-a0e2-dabe5b08f504"
POD = f"/kubepods/burstable/pod{UID}"
SNAPSHOTS = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captured.build("v2-cgroupfs-apiserver", tmp_path_factory.mktemp("node"), directories=True)


def who(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--host-root", str(root)])


def records(root: Path, *queries: str) -> list[dict[str, Any]]:
    result = who(root, *queries, "-o", "json")
    if result.exception is not None:
        raise result.exception
    return [json.loads(line) for line in result.output.splitlines()]


def names(record: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
    return record["namespace"], record["pod"], record["container"]


IS_CART = ("shop", "cart-7d4b9c6f5d-x2x9z", "cart")


def test_pid(root: Path) -> None:
    (cart,) = records(root, "pid:971")
    assert names(cart) == IS_CART
    assert (cart["query"], cart["kind"], cart["attributed_by"]) == ("pid:971", "container", "cgroup")
    assert (cart["pod_uid"], cart["container_id"], cart["qos_class"]) == (UID, CART, "Burstable")
    assert (cart["image"], cart["names_from"]) == ("registry.local/shop/app:1.2.3", "config.json")
    assert cart["cgroup_id"] == os.stat(root / f"sys/fs/cgroup{POD}/{CART}").st_ino


def test_cgroup_id(root: Path) -> None:
    number = os.stat(root / f"sys/fs/cgroup{POD}/{CART}").st_ino
    (cart,) = records(root, f"cgroup:{number}")
    assert names(cart) == IS_CART
    assert (cart["query"], cart["cgroup_id"]) == (f"cgroup:{number}", number)
    (pod,) = records(root, f"cgroup:{os.stat(root / f'sys/fs/cgroup{POD}').st_ino}")
    assert (pod["kind"], *names(pod)) == ("pod", *IS_CART[:2], None)


def test_number_is_tried_as_pid_and_as_cgroup_id(root: Path) -> None:
    number = os.stat(root / f"sys/fs/cgroup{POD}/{CART}").st_ino
    process = root / "proc" / str(number)
    process.mkdir()
    agent = captured.HERE / "v2-cgroupfs-apiserver/proc/988/cgroup"
    (process / "cgroup").write_bytes(agent.read_bytes())
    try:
        found = records(root, str(number))
    finally:
        (process / "cgroup").unlink()
        process.rmdir()
    assert [(one["query"], one["pod"]) for one in found] == [
        (f"pid:{number}", "agent-node1"),
        (f"cgroup:{number}", "cart-7d4b9c6f5d-x2x9z"),
    ]


def test_container_id_whole_cut_and_as_kubectl_prints_it(root: Path) -> None:
    for query in (CART, CART[:8], CART[:12].upper(), f"containerd://{CART}"):
        (cart,) = records(root, query)
        assert names(cart) == IS_CART
    (sandbox,) = records(root, SANDBOX[:12])
    assert (sandbox["kind"], *names(sandbox)) == ("sandbox", *IS_CART[:2], None)


@pytest.mark.parametrize(
    ("path", "wanted", "how"),
    [
        (f"{SNAPSHOTS}/18/fs/app/logs/app.log", IS_CART, "overlay"),
        (f"{SNAPSHOTS}/18/work", IS_CART, "overlay"),
        (f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~empty-dir/cache/x", (*IS_CART[:2], None), "path"),
        (f"/var/lib/kubelet/pods/{UID}/etc-hosts", (*IS_CART[:2], None), "path"),
        (f"/var/log/pods/shop_cart-7d4b9c6f5d-x2x9z_{UID}/cart/0.log", IS_CART, "path"),
        (f"/var/log/pods/shop_cart-7d4b9c6f5d-x2x9z_{UID}", (*IS_CART[:2], None), "path"),
        (f"/var/log/containers/cart-7d4b9c6f5d-x2x9z_shop_cart-{CART}.log", IS_CART, "path"),
        (f"/sys/fs/cgroup{POD}/{CART}", IS_CART, "cgroup"),
        (f"/sys/fs/cgroup{POD}/{CART}/memory.max", IS_CART, "cgroup"),
        (f"/sys/fs/cgroup{POD}", (*IS_CART[:2], None), "cgroup"),
        (f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{CART}/rootfs/app", IS_CART, "path"),
        (f"/run/containerd/io.containerd.grpc.v1.cri/containers/{CART}/io", IS_CART, "path"),
    ],
)
def test_path(path: str, wanted: tuple[str, str, str | None], how: str, root: Path) -> None:
    (found,) = records(root, path)
    assert (found["query"], *names(found), found["attributed_by"]) == (path, *wanted, how)
    # As a shell in a debug pod sees it.
    (same,) = records(root, f"{root}{path}")
    assert names(same) == wanted


@pytest.mark.parametrize(
    "path",
    [
        f"/home/app/pods/{UID}/volumes/kubernetes.io~empty-dir/z",
        "/srv/pods/shop_cart-7d4b9c6f5d-x2x9z_" + UID + "/cart",
        "/srv/io.containerd.snapshotter.v1.overlayfs/snapshots/79/fs",
    ],
)
def test_a_path_outside_the_nodes_own_directories_is_nobodys(path: str, root: Path) -> None:
    with pytest.raises(KubetraceError, match="Nothing on this node"):
        records(root, path)


def test_a_path_in_a_volume_is_of_the_pod_whose_volume_it_is(root: Path) -> None:
    inside = "pods/kube-system_etcd-0_x/etcd/" + "a" * 64 + "/snapshots/79/fs"
    (cart,) = records(root, f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~empty-dir/cache/{inside}")
    assert names(cart) == (*IS_CART[:2], None)


def test_a_number_that_both_hierarchies_root_has_is_one_answer(tmp_path: Path) -> None:
    root = captured.build("hybrid-cgroupfs", tmp_path)
    lookup = Lookup(Host(root))
    # as on a real node, where both roots have the number 1
    lookup._attributor.learn(CgroupSeen(0, 1, "/", 0))
    lookup._attributor.learn(CgroupSeen(lookup._memory_hierarchy, 1, "/", 0))
    (answer,) = lookup.answers("cgroup:1")
    assert (answer.identity.kind, answer.identity.cgroup_path) == ("host", "/")


def test_log_directory_of_a_pod_that_has_no_cgroup_any_more(root: Path) -> None:
    uid = "03d0419e-e455-4f65-9f38-58202d218318"
    (found,) = records(root, f"/var/log/pods/jobs_short-28471234-abcde_{uid}/j/0.log")
    assert names(found) == ("jobs", "short-28471234-abcde", "j")
    assert (found["kind"], found["pod_uid"]) == ("pod", uid)


def test_path_inside_an_overlay_by_its_device(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path, directories=True)
    device = os.stat(tmp_path).st_dev
    mountinfo = root / "proc/1/mountinfo"
    mountinfo.write_text(mountinfo.read_text().replace(" 0:149 ", f" {os.major(device)}:{os.minor(device)} "))
    (root / "anywhere").mkdir()
    (root / "anywhere/file").write_text("")
    for path in ("/anywhere", "/anywhere/file"):
        (found,) = records(root, path)
        assert (*names(found), found["attributed_by"]) == (*IS_CART, "overlay")


def test_volume_that_is_a_file_system_of_its_own_by_its_device(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path, directories=True)
    device = os.stat(tmp_path).st_dev
    mountinfo = root / "proc/1/mountinfo"
    # 0:64 is the secret volume creds of shop/cart; the other lines may have this disk's number too.
    lines = [line for line in mountinfo.read_text().splitlines(True) if " 0:64 " in line or " cgroup2 " in line]
    mountinfo.write_text("".join(lines).replace(" 0:64 ", f" {os.major(device)}:{os.minor(device)} "))
    (root / "anywhere").mkdir()
    (found,) = records(root, "/anywhere")
    assert (*names(found), found["pod_uid"]) == (*IS_CART[:2], None, UID)


def test_snapshot_of_a_writable_layer_and_of_an_image_layer(root: Path) -> None:
    (cart,) = records(root, "snapshot:18")
    assert names(cart) == IS_CART
    # 4 is the top layer of registry.local/shop/app, which two containers run.
    layer = records(root, "snapshot:4")
    assert sorted(str(one["container"]) for one in layer) == ["app", "cart"]
    assert {one["query"] for one in layer} == {"snapshot:4 (image layer)"}


def test_snapshot_that_is_not_mounted_is_found_in_containerds_database(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path, directories=True)
    mountinfo = root / "proc/1/mountinfo"
    lines = mountinfo.read_text().splitlines(True)
    mountinfo.write_text("".join(line for line in lines if "overlay overlay" not in line))
    containerd = root / "var/lib/containerd"
    captured.database("metadata.db", containerd / "io.containerd.snapshotter.v1.overlayfs/metadata.db")
    (cart,) = records(root, "snapshot:3")
    assert (*names(cart), cart["attributed_by"]) == (*IS_CART, "snapshot")


LAYERED = {
    "registry.example/jobs/batch:7": (3, "RUN mkdir -p /app/logs && make install"),
    "registry.example/shop/web:1.4": (3, "RUN mkdir -p /app/logs && make install"),
    "registry.example/shop/web:1.4-debug": (3, None),
}


@pytest.mark.parametrize("query", ["snapshot:2", f"{SNAPSHOTS}/2/fs/app/main", f"{SNAPSHOTS}/2"])
def test_image_layer_is_shown_with_each_image_its_dockerfile_line_and_its_containers(
    query: str, tmp_path: Path
) -> None:
    root = captured.layered(tmp_path)
    found = records(root, query)
    layers = [one for one in found if one["kind"] == "layer"]
    assert [(one["image"], one["layer"], one["layers"]) for one in layers] == [
        (image, 2, total) for image, (total, _) in LAYERED.items()
    ]
    for one in layers:
        assert (one["query"], one["snapshot"], one["shared_by"], one["attributed_by"]) == (query, "2", 3, "snapshot")
        assert one["layer_digest"] == "sha256:d77244bbcaec581b143134554bbd0220de5508353d4cae5db97c90a35958e7ce"
        if one["image"].endswith("debug"):
            assert (one["created_by"], one["reason"]) == (None, "the image has no history")
        else:
            assert one["created_by"] == "RUN /bin/sh -c mkdir -p /app/logs && make install # buildkit"
    containers = [one for one in found if one["kind"] == "container"]
    assert sorted(one["container_id"][0] for one in containers) == ["a", "b"]
    assert all(one["created_by"] is None and one["shared_by"] is None for one in containers)


def test_table_of_an_image_layer_has_its_columns(tmp_path: Path) -> None:
    root = captured.layered(tmp_path)
    lines = who(root, f"{SNAPSHOTS}/5/fs", "snapshot:125").output.splitlines()
    assert lines[0].split()[-5:] == ["BY", "IMAGE", "LAYER", "DOCKERFILE", "LINE"]
    assert lines[1].split() == [
        *(f"{SNAPSHOTS}/5/fs", "layer", "-", "-", "-", "snapshot", "registry.example/plain/bare:1", "2", "of", "2"),
        *("(the", "image", "has", "no", "history)"),
    ]
    assert lines[3].split()[-7:] == ["120", "of", "120", "RUN", "build", "floor", "120"]
    wide = who(root, "snapshot:2", "-o", "wide").output
    assert "sha256:d77244bbcaec581b143134554bbd0220de5508353d4cae5db97c90a35958e7ce" in wide
    assert wide.count("registry.example/shop/web:1.4-debug") == 1


def test_writable_layer_is_no_image_layer(tmp_path: Path) -> None:
    root = captured.layered(tmp_path)
    for number in (130, 126):
        (found,) = records(root, f"snapshot:{number}")
        assert (found["kind"], found["container_id"]) == ("container", "a" * 64)


def test_exited_container_is_found_in_containerds_metadata(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path, directories=True)
    captured.database("meta.db", root / "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db")
    exited = "a4786d8731714af7d6d0c2bc8c13dd589cc0f20eacf35479830d65cc566cacce"
    (found,) = records(root, exited[:12])
    assert (*names(found), found["names_from"]) == ("many", "pod-23", "c23", "containerd metadata")
    assert (found["container_id"], found["cgroup_id"]) == (exited, None)
    # FOUND BY in the table
    assert found["attributed_by"] == "containerd metadata"


def test_pure_v1_node_answers_by_the_memory_hierarchy(tmp_path: Path) -> None:
    root = captured.build("v1-cgroupfs", tmp_path, directories=True)
    (worker,) = records(root, "pid:711")
    assert (worker["pod"], worker["container"], worker["attributed_by"]) == ("batch-node1", "worker", "memory cgroup")
    directory = root / "sys/fs/cgroup/memory" / worker["cgroup_path"].lstrip("/")
    assert worker["cgroup_id"] == os.stat(directory).st_ino
    (same,) = records(root, f"cgroup:{worker['cgroup_id']}")
    assert same["container_id"] == worker["container_id"]


def test_process_seen_from_another_cgroup_namespace(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path, directories=True)
    (root / "proc/971/cgroup").write_text(f"0::/../../..{POD}/{CART}\n")
    (found,) = records(root, "pid:971")
    assert names(found) == IS_CART


def test_host_process_shows_its_cgroup(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path, directories=True)
    (root / "sys/fs/cgroup/system.slice/sshd.service").mkdir(parents=True)
    (root / "proc/77").mkdir()
    (root / "proc/77/cgroup").write_text("0::/system.slice/sshd.service\n")
    (found,) = records(root, "pid:77")
    assert (found["kind"], found["cgroup_path"], found["pod"]) == ("host", "/system.slice/sshd.service", None)
    assert "/system.slice/sshd.service" in who(root, "pid:77").output


def test_host_process_of_a_hybrid_node_has_the_number_of_the_cgroup_that_is_shown(tmp_path: Path) -> None:
    root = captured.build("hybrid-cgroupfs", tmp_path, directories=True)
    directory = root / "sys/fs/cgroup/memory/system.slice/sshd.service"
    directory.mkdir(parents=True)
    (root / "proc/77").mkdir()
    (root / "proc/77/cgroup").write_text("3:memory:/system.slice/sshd.service\n0::/\n")
    (found,) = records(root, "pid:77")
    assert (found["cgroup_path"], found["cgroup_id"]) == ("/system.slice/sshd.service", os.stat(directory).st_ino)


def test_table_fits_and_names_its_columns(root: Path) -> None:
    result = who(root, "pid:971")
    assert result.output.splitlines() == [
        "QUERY    KIND       NAMESPACE  POD                    CONTAINER  FOUND BY",
        "pid:971  container  shop       cart-7d4b9c6f5d-x2x9z  cart       cgroup",
    ]


def test_wide_table_has_everything(root: Path) -> None:
    output = who(root, CART, "-o", "wide").output
    for text in (CART, UID, "Burstable", "registry.local/shop/app:1.2.3", "config.json", f"{POD}/{CART}"):
        assert text in output


def test_json_has_the_keys_of_an_identity(root: Path) -> None:
    (cart,) = records(root, CART)
    assert set(cart) >= {
        *("namespace", "pod", "container", "pod_uid", "container_id", "image", "qos_class", "node", "cgroup_id"),
        *("attributed_by", "names_from", "query", "kind"),
    }
    assert cart["node"] == Host(root).node_name()


def test_names_are_printed_escaped(tmp_path: Path) -> None:
    root = captured.build("v2-cgroupfs-apiserver", tmp_path, directories=True)
    config = root / f"run/containerd/io.containerd.runtime.v2.task/k8s.io/{CART}/config.json"
    spec = json.loads(config.read_text())
    spec["annotations"]["io.kubernetes.cri.sandbox-name"] = "evil\x1b[2J\n\u202e"
    config.write_text(json.dumps(spec))
    table = who(root, CART).output
    assert "\x1b" not in table and "\u202e" not in table and len(table.splitlines()) == 2
    line = who(root, CART, "-o", "json").output
    assert line.isascii() and "\x1b" not in line
    assert json.loads(line)["pod"] == "evil\x1b[2J\n\u202e"


@pytest.mark.parametrize(
    "query",
    [
        "99999999",
        "pid:4194305",
        "cgroup:18446744073709551615",
        "snapshot:999",
        "deadbeef",
        "/nowhere",
        "/var/log/\udcff",
        "/var/lib/kubelet/pods/00000000-0000-0000-0000-000000000000/volumes",
    ],
)
def test_what_is_not_found_says_so_and_what_to_do(query: str, root: Path) -> None:
    error = who(root, query).exception
    assert isinstance(error, KubetraceError)
    assert error.exit_status == 1
    assert repr(query) in error.what
    assert error.why and error.do


@pytest.mark.parametrize(
    "query", ["", "cart", "pid:x", "pid:", "cgroup:-1", "0a1b2c3", "relative/path", "/a\0b", "x:1"]
)
def test_what_is_no_query_is_a_usage_error(query: str, root: Path) -> None:
    with pytest.raises(UsageError):
        Lookup(Host(root)).answers(query)


def test_found_ones_are_printed_before_the_error(root: Path) -> None:
    result = who(root, CART, "deadbeef", "pid:971")
    assert result.output.count("cart-7d4b9c6f5d-x2x9z") == 2
    assert isinstance(result.exception, KubetraceError)
    assert "'deadbeef'" in result.exception.what and CART not in result.exception.what
