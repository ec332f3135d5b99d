"""Where writes land, over the mount tables of captured nodes: what is expected is written by hand."""

from __future__ import annotations

import pytest

from kubetrace.attribution import mountinfo
from kubetrace.attribution.destination import Destination, Destinations, Mounted, Owner, by_path
from kubetrace.attribution.directories import Directories
from kubetrace.attribution.facts import DirectorySeen, MountGone, MountSeen, OverlaySeen
from tests.nodes import captured

POD = "7cf5a5da-f0f8-45a3-a0e2-dabe5b08f504"
STATIC = "c3f7582e7e88f3ec974831d17e9a510b"
DISK = mountinfo.device_number(254, 0)


def destinations(node: str) -> Destinations:
    """All that the captured node's own mount table says."""
    made = Destinations()
    for mount in mountinfo.parse((captured.HERE / node / "proc" / "mounts-host-mountinfo").read_bytes()):
        if mount.fstype == "overlay":
            match = mount.mount_point.split("/")
            container_id = match[-2] if match[-1] == "rootfs" else None
            made.learn(OverlaySeen(mount.device, container_id, mount.mount_point, None, None, (), 10))
        else:
            made.learn(MountSeen(mount.device, mount.root, mount.mount_point, mount.fstype, mount.source, 10))
    return made


def mounted(device: int, fstype: str, root: str, point: str, *, node: bool = False, time_ns: int = 100) -> Mounted:
    return Mounted(device, fstype, "/dev/vda", root, point, node, False, time_ns)


@pytest.fixture
def node() -> Destinations:
    return destinations("v2-cgroupfs-apiserver")


@pytest.mark.parametrize(
    ("root", "point", "text", "volume", "counted"),
    [
        (f"/kubelet/pods/{STATIC}/volumes/kubernetes.io~empty-dir/cache", "/cache", "emptyDir/cache", "cache", True),
        (
            f"/kubelet/pods/{STATIC}/volumes/kubernetes.io~empty-dir/cache/sub/dir",
            "/x",
            "emptyDir/cache",
            "cache",
            True,
        ),
        (
            f"/kubelet/pods/{POD}/volumes/kubernetes.io~configmap/conf/..2026_11_23_14_51_45.2430572515/one",
            *("/etc/one", "configMap conf", "conf", True),
        ),
        (
            "/kubelet/pods/x/volumes/kubernetes.io~csi/pvc-0a1b/mount",
            *("/db", "persistent volume pvc-0a1b", "pvc-0a1b", False),
        ),
        (f"/kubelet/pods/{POD}/etc-hosts", "/etc/hosts", "kubelet", None, False),
        ("/hostdata/web-node1", "/data", "hostPath /run/disk/hostdata/web-node1", None, False),
        ("/kubelet/plugins", "/plugins", "hostPath /var/lib/kubelet/plugins", None, False),
        ("/log/app", "/logs", "hostPath /var/log/app", None, False),
    ],
)
def test_a_bind_mount_is_named_by_its_root(
    node: Destinations, root: str, point: str, text: str, volume: str | None, counted: bool
) -> None:
    found = node.of(mounted(DISK, "ext4", root, point), None)
    assert (found.text, found.volume, found.counted_as_ephemeral) == (text, volume, counted)
    assert found.medium == "disk"


@pytest.mark.parametrize(
    ("minor", "point", "text", "counted"),
    [
        (64, "/etc/creds", "secret creds", False),
        (65, "/var/run/secrets/kubernetes.io/serviceaccount", "projected kube-api-access-x7k2p", False),
        (51, "/etc/podinfo", "downwardAPI podinfo", False),
        (58, "/dev/shm2", "emptyDir/shm (memory)", False),
        (59, "/dev/shm", "tmpfs /dev/shm", False),
        (200, "/dev", "tmpfs /dev", False),
    ],
)
def test_a_tmpfs_is_named_by_where_the_node_has_it(
    node: Destinations, minor: int, point: str, text: str, counted: bool
) -> None:
    found = node.of(mounted(minor, "tmpfs", "/", point), None)
    assert (found.text, found.medium, found.counted_as_ephemeral) == (text, "memory", counted)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("/containerd/io.containerd.content.v1.content", "content store (image download)"),
        ("/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots", "snapshotter (image unpack)"),
        ("/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/8/fs/bin", "snapshotter (image unpack)"),
        # where its metadata.db is
        ("/containerd/io.containerd.snapshotter.v1.overlayfs", "containerd"),
        ("/containerd/tmpmounts", "snapshotter (image unpack)"),
        ("/containerd/io.containerd.metadata.v1.bolt", "containerd"),
        ("/kubelet", "kubelet"),
        (f"/kubelet/pods/{POD}/volumes/kubernetes.io~configmap/conf", "configMap conf"),
        (f"/log/pods/shop_web-node1_{STATIC}/web", "container log"),
        (None, "host"),
    ],
)
def test_what_the_node_writes_is_named_by_its_place(node: Destinations, place: str | None, text: str) -> None:
    found = node.of(mounted(DISK, "ext4", "/", "/var", node=True), place)
    assert (found.text, found.medium) == (text, "disk")


def test_what_the_node_writes_into_a_tmpfs_volume_is_named_by_it(node: Destinations) -> None:
    # the kubelet fills a secret, which is a file system of its own
    found = node.of(mounted(64, "tmpfs", "/", "/kubelet/pods/x", node=True), None)
    assert (found.text, found.medium) == ("secret creds", "memory")


def test_a_log_names_its_pod_and_container() -> None:
    found = by_path("/var/log/pods/kube-system_dns-7d9_0a-1/coredns/3.log", Directories())
    assert found == Destination("container log", owner=Owner("kube-system", "dns-7d9", "0a-1", "coredns"))


def test_a_containers_root_is_its_writable_layer(node: Destinations) -> None:
    root = mountinfo.device_number(0, 149)
    found = node.of(mounted(root, "overlay", "/", "/"), None)
    assert (found.text, found.medium, found.counted_as_ephemeral) == ("writable layer", "disk", True)
    # a process of the node in it, through the node's own mount
    assert node.of(mounted(root, "overlay", "/", "/rootfs", node=True), None).kind == "writable layer"


@pytest.mark.parametrize(
    ("device", "fstype", "root"),
    [
        (253 << 20 | 3, "ext4", "/"),
        (45, "fuse.stargz", "/"),
        (DISK, "ext4", "/containerd/io.containerd.snapshotter.v1.native/snapshots/6"),
    ],
)
def test_a_containers_root_that_is_no_overlay_is_its_writable_layer(
    node: Destinations, device: int, fstype: str, root: str
) -> None:
    point = "/run/containerd/io.containerd.runtime.v2.task/k8s.io/" + "c" * 64 + "/rootfs"
    node.learn(MountSeen(device, root, point, fstype, "/dev/mapper/x", 10))
    found = node.of(mounted(device, fstype, root, "/"), None)
    assert (found.text, found.counted_as_ephemeral) == ("writable layer", True)


def test_a_bind_mount_of_the_nodes_own_overlay_is_a_host_path(node: Destinations) -> None:
    found = node.of(mounted(mountinfo.device_number(0, 43), "overlay", "/lib/data", "/data"), None)
    assert found.text == "hostPath /var/lib/data"


def test_a_csi_volume_is_named_by_where_the_kubelet_has_it() -> None:
    made = Destinations()
    at = "/var/lib/kubelet/pods/x/volumes/kubernetes.io~csi/pvc-77/mount"
    made.learn(MountSeen(8 << 20, "/", at, "xfs", "/dev/sda", 10))
    found = made.of(mounted(8 << 20, "xfs", "/", "/db"), None)
    assert (found.text, found.medium, found.counted_as_ephemeral) == ("persistent volume pvc-77", "disk", False)


def test_a_device_number_that_was_given_again_keeps_the_names_apart() -> None:
    made = Destinations()
    first = "/var/lib/kubelet/pods/x/volumes/kubernetes.io~secret/old"
    made.learn(MountSeen(77, "/", first, "tmpfs", "tmpfs", 100, 50))
    made.learn(MountGone(77, first, 200))
    made.learn(MountSeen(77, "/", first.replace("old", "new"), "tmpfs", "tmpfs", 300, 200))
    assert made.of(mounted(77, "tmpfs", "/", "/a", time_ns=150), None).name == "old"
    assert made.of(mounted(77, "tmpfs", "/", "/a", time_ns=350), None).name == "new"


def test_a_device_number_that_was_given_again_keeps_the_paths_apart() -> None:
    made = Destinations()
    made.learn(MountSeen(77, "/", "/run/old", "tmpfs", "tmpfs", 100, 50))
    made.learn(MountGone(77, "/run/old", 200))
    made.learn(MountSeen(77, "/", "/run/new", "tmpfs", "tmpfs", 300, 200))
    found = [made.of(mounted(77, "tmpfs", "/", "/x", node=True, time_ns=at), None).text for at in (150, 350)]
    assert found == ["tmpfs /run/old", "tmpfs /run/new"]
    made.learn(OverlaySeen(78, None, "/run/one", None, None, (), 100, 50))
    made.learn(OverlaySeen(78, None, "/run/two", None, None, (), 300, 200))
    paths = [made.path(mounted(78, "overlay", "/", "/x", node=True, time_ns=at), "/a") for at in (150, 350)]
    assert paths == ["/run/one/a", "/run/two/a"]


def test_what_is_in_no_namespace_is_told_by_its_file_system() -> None:
    made = Destinations()

    def kind(fstype: str) -> str:
        return made.of(Mounted(1, fstype, "", "/", "/", False, True, 0), None).kind

    assert [kind(t) for t in ("pipefs", "sockfs", "tmpfs", "anon_inodefs")] == [
        *("pipe", "socket", "memory file", "kernel")
    ]


def test_paths_are_those_of_the_container_and_of_the_node(node: Destinations) -> None:
    volume = mounted(DISK, "ext4", f"/kubelet/pods/{STATIC}/volumes/kubernetes.io~empty-dir/cache", "/cache")
    assert node.path(volume, volume.root + "/a/b") == "/cache/a/b"
    assert node.path(mounted(149, "overlay", "/", "/"), "/app/x") == "/app/x"
    assert node.path(mounted(64, "tmpfs", "/", "/etc/creds"), "/key") == "/etc/creds/key"
    assert node.path(mounted(DISK, "ext4", "/", "/", node=True), "/log/pods/a") == "/var/log/pods/a"


# What a container can make: directories in its volume, whatever they are called.
FORGED = (
    "/pods/kube-system_etcd-0_0123abcd/etcd",
    "/io.containerd.content.v1.content/blobs",
    "/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs",
    "/tmpmounts/x",
    f"/home/app/pods/{POD}/volumes/kubernetes.io~secret/creds",
    f"/kubelet/pods/{POD}/volume-subpaths/token/app/0",
    "/var/lib/kubelet/plugins",
    "/run/sandboxes/" + "a" * 64 + "/shm",
)


@pytest.mark.parametrize("root", FORGED)
def test_a_directory_in_a_volume_is_named_by_the_volume(node: Destinations, root: str) -> None:
    # a subPath of a volume on a disk of its own, and of an emptyDir on the node's
    at = f"/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~csi/pvc-77/mount"
    node.learn(MountSeen(8 << 20, "/", at, "xfs", "/dev/sda", 10))
    node.learn(MountSeen(8 << 20, root, f"/var/lib/kubelet/pods/{POD}/volume-subpaths/db/app/0", "xfs", "/dev/sda", 10))
    found = node.of(mounted(8 << 20, "xfs", root, "/db"), None)
    assert (found.text, found.owner) == ("persistent volume pvc-77", None)
    cache = f"/kubelet/pods/{STATIC}/volumes/kubernetes.io~empty-dir/cache"
    found = node.of(mounted(DISK, "ext4", cache + root, "/cache"), None)
    assert (found.text, found.owner) == ("emptyDir/cache", None)


@pytest.mark.parametrize("root", FORGED)
def test_a_file_system_that_the_node_does_not_have_is_a_volume_without_a_name(node: Destinations, root: str) -> None:
    found = node.of(mounted(7 << 20, "ext4", root, "/x"), None)
    assert (found.text, found.volume, found.owner) == ("volume", None, None)


@pytest.mark.parametrize("root", [root for root in FORGED if not root.startswith("/kubelet/")])
def test_a_directory_on_the_nodes_disk_is_a_host_path_whatever_its_name(node: Destinations, root: str) -> None:
    assert node.of(mounted(DISK, "ext4", root, "/x"), None).text == f"hostPath /run/disk{root}"


def test_a_containers_own_overlay_does_not_pass_for_an_image_being_unpacked(node: Destinations) -> None:
    found = node.of(mounted(77, "overlay", "/", "/io.containerd.snapshotter.v1.overlayfs/snapshots/5/fs"), None)
    assert found.kind == "writable layer"


@pytest.mark.parametrize("root", ["/data/kubelet", "/mnt/k8s/root"])
def test_a_kubelet_elsewhere_is_known_by_its_mounts_or_by_a_link(root: str) -> None:
    by_mounts, by_link = Destinations(), Destinations()
    for made in (by_mounts, by_link):
        made.learn(MountSeen(5, "/", "/", "ext4", "/dev/vda", 10))
    token = f"{root}/pods/{POD}/volumes/kubernetes.io~projected/kube-api-access-x"
    by_mounts.learn(MountSeen(9, "/", token, "tmpfs", "tmpfs", 10))
    by_link.learn(DirectorySeen("kubelet", root, 10))
    for made in (by_mounts, by_link):
        volume = f"{root}/pods/{POD}/volumes/kubernetes.io~empty-dir/cache"
        assert made.of(mounted(5, "ext4", volume, "/cache"), None).text == "emptyDir/cache"


def test_a_tmpfs_in_a_volume_makes_no_kubelet_of_it() -> None:
    made = Destinations()
    made.learn(MountSeen(5, "/", "/", "ext4", "/dev/vda", 10))
    volume = f"/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~empty-dir/a"
    inside = f"{volume}/pods/{STATIC}/volumes/kubernetes.io~secret/b"
    made.learn(MountSeen(9, "/", inside, "tmpfs", "tmpfs", 10))
    found = made.of(mounted(5, "ext4", f"{volume}/pods/{STATIC}/volumes/kubernetes.io~secret/c", "/x"), None)
    assert found.text == "emptyDir/a"


SANDBOX = "a" * 64
CLAIM = "pvc-0a1b2c3d-0000-4000-8000-000000000001_shop_data-db-0"


@pytest.mark.parametrize(
    ("fstype", "source", "root", "point", "text", "volume", "medium", "counted"),
    [
        # a VOLUME of the Dockerfile that the pod has no volume for
        (
            *("ext4", "/dev/vda", f"/cr/io.containerd.grpc.v1.cri/containers/{SANDBOX}/volumes/9f8e/x", "/data"),
            *("image VOLUME /data (in no quota)", None, "disk", False),
        ),
        # k3s' own provisioner: beside its containerd, and the upstream one's place
        (
            *("ext4", "/dev/vda", f"/k3s/storage/{CLAIM}/sub", "/db"),
            *("local-path claim shop/data-db-0 (node's disk)", None, "disk", False),
        ),
        (
            *("ext4", "/dev/vda", f"/local/{CLAIM}", "/db"),
            *("local-path claim shop/data-db-0 (node's disk)", None, "disk", False),
        ),
        # named so by whoever may choose a hostPath
        ("ext4", "/dev/vda", f"/home/{CLAIM}", "/db", f"hostPath /home/{CLAIM}", None, "disk", False),
        # what a CSI driver mounts inline, of a secret store
        ("tmpfs", "tmpfs", "/", "/vault", "CSI volume vault (memory)", "vault", "memory", False),
        ("overlay", "overlay", "/", "/tools", "image volume", None, "disk", False),
        ("ext4", "/dev/loop7", "/", "/", "writable layer", None, "disk", True),
        (
            "ext4",
            "/dev/vda",
            "/cr/io.containerd.snapshotter.v1.native/snapshots/6",
            "/",
            "writable layer",
            None,
            "disk",
            True,
        ),
    ],
)
def test_what_containerd_2_and_k3s_mount(
    fstype: str, source: str, root: str, point: str, text: str, volume: str | None, medium: str, counted: bool
) -> None:
    made = Destinations()
    made.learn(DirectorySeen("containerd", "/srv/cr", 5))
    made.learn(DirectorySeen("containerd", "/opt/k3s/agent/containerd", 5))
    for device, at, bound in (
        (1, "/", "/"),
        (1, "/srv/cr", "/cr"),
        (1, "/opt/k3s", "/k3s"),
        (1, "/opt/local-path-provisioner", "/local"),
        (2, f"/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~csi/vault/mount", "/"),
        (4, f"/run/two/io.containerd.runtime.v2.task/k8s.io/{'b' * 64}/rootfs", "/"),
        (
            1,
            f"/run/two/io.containerd.runtime.v2.task/k8s.io/{'c' * 64}/rootfs",
            "/cr/io.containerd.snapshotter.v1.native/snapshots/6",
        ),
    ):
        kind = "tmpfs" if device == 2 else "ext4"
        made.learn(MountSeen(device, bound, at, kind, "/dev/vda", 10))
    volumes = f"/srv/cr/io.containerd.grpc.v1.cri/image-volumes/{SANDBOX}/{'d' * 64}"
    made.learn(OverlaySeen(3, None, volumes, "/u", "/w", ("/l",), 10))
    device = {"/dev/vda": 1, "tmpfs": 2, "overlay": 3, "/dev/loop7": 4}[source]
    found = made.of(Mounted(device, fstype, source, root, point, False, False, 100), None)
    assert (found.text, found.volume, found.medium, found.counted_as_ephemeral) == (text, volume, medium, counted)


def test_what_crio_keeps_is_told_apart() -> None:
    layer = f"/var/lib/containers/storage/overlay/{SANDBOX}"
    for path, kind in (
        (f"{layer}/diff/etc", "snapshotter"),
        (f"{layer}/merged/etc", "writable layer"),
        ("/var/lib/containers/storage/overlay-images/images.json", "containers-storage"),
        ("/var/tmp/container_images_storage2843/1", "content store"),
        (f"/run/containers/storage/overlay-containers/{SANDBOX}/userdata", "containers-storage"),
    ):
        found = by_path(path, Directories())
        assert found is not None and found.kind == kind
