"""Cgroup paths of runtimes and drivers, written out by hand."""

from __future__ import annotations

import time

import pytest

from kubetrace.attribution.cgroup_path import CgroupPath, parse

ID = "069e7402774378d3aaa893de9da0742afbdf3ad256829817b2f226644e6c2cd0"
OTHER = "f" * 64
UID = "7cf5a5da-f0f8-45a3-a0e2-dabe5b08f504"
SLICE_UID = "7cf5a5da_f0f8_45a3_a0e2_dabe5b08f504"
HASH = "c3f7582e7e88f3ec974831d17e9a510b"


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (f"/kubepods/pod{UID}/{ID}", (ID, UID, "Guaranteed")),
        (f"/kubepods/burstable/pod{UID}/{ID}", (ID, UID, "Burstable")),
        (f"/kubepods/besteffort/pod{HASH}/{ID}", (ID, HASH, "BestEffort")),
        (
            f"/kubepods.slice/kubepods-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope",
            (ID, UID, "Guaranteed"),
        ),
        (
            "/kubepods.slice/kubepods-burstable.slice/"
            f"kubepods-burstable-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope",
            (ID, UID, "Burstable"),
        ),
        (
            f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{HASH}.slice/crio-{ID}.scope",
            (ID, HASH, "BestEffort"),
        ),
        (f"/kubepods/burstable/pod{UID}/crio-{ID}", (ID, UID, "Burstable")),
        (
            f"/kubepods.slice/kubepods-pod{SLICE_UID}.slice/crio-{ID}.scope/container",
            (ID, UID, "Guaranteed"),
        ),
        (
            f"/kubepods.slice/kubepods-pod{SLICE_UID}.slice/crio-conmon-{ID}.scope",
            (None, UID, "Guaranteed"),
        ),
        (f"/system.slice/crio-conmon-{ID}.scope", (None, None, None)),
        (f"/kubepods.slice/kubepods-pod{SLICE_UID}.slice/docker-{ID}.scope", (ID, UID, "Guaranteed")),
        (f"/docker/{ID}", (ID, None, None)),
        (f"/system.slice/docker-{ID}.scope", (ID, None, None)),
        (f"/docker/{OTHER}/kubelet/kubepods/besteffort/pod{UID}/{ID}", (ID, UID, "BestEffort")),
        (
            f"/docker/{OTHER}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/"
            f"kubelet-kubepods-burstable-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope",
            (ID, UID, "Burstable"),
        ),
        (f"/docker/{OTHER}/system.slice/kubelet.service", (OTHER, None, None)),
        (f"/kubepods/burstable/pod{UID}/{ID}/docker/{OTHER}", (ID, UID, "Burstable")),
        (f"/kubepods-burstable-pod{SLICE_UID}.slice:cri-containerd:{ID}", (ID, UID, "Burstable")),
        (f"/custom/pod{UID}/{ID}", (ID, UID, None)),
        (f"/kubepods/burstable/pod{UID}", (None, UID, "Burstable")),
        ("/kubepods/burstable", (None, None, None)),
        ("/", (None, None, None)),
        ("", (None, None, None)),
        ("/system.slice/containerd.service", (None, None, None)),
        (f"/system.slice/run-containerd-{ID}-rootfs.mount", (None, None, None)),
        (f"/system.slice/var-lib-x-{ID}.mount", (None, None, None)),
        # a static pod may have any UID, below the kubelet's own cgroups
        (f"/kubepods/podnouid/{ID[:63]}", (None, None, None)),
        (f"/kubepods/podno-such-uid/{ID[:63]}", (None, "no-such-uid", "Guaranteed")),
        (f"/kubepods/burstable/podmy.static_Pod-1/{ID}", (ID, "my.static_Pod-1", "Burstable")),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podmy_static_pod.slice/"
            f"cri-containerd-{ID}.scope",
            (ID, "my-static-pod", "BestEffort"),
        ),
        (
            f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podstatic_web.slice/crio-{ID}.scope",
            (ID, "static-web", "Guaranteed"),
        ),
        (f"/system.slice/podman-podcast.slice/{ID}", (ID, None, None)),
        (f"/user.slice/podnouid/{ID}", (ID, None, None)),
        # Kata's, in the pod's cgroup and apart
        (f"/kubepods/burstable/pod{UID}/kata_{ID}", (ID, UID, "Burstable")),
        (f"/kata_overhead/{ID}", (ID, None, None)),
        (f"/xkata_{ID}", (None, None, None)),
        (f"/kubepods/burstable/pod{UID}\n/{ID}\n", (None, None, None)),
        (f"/x{ID}", (None, None, None)),
        (f"/{ID.upper()}", (None, None, None)),
    ],
)
def test_path_says_container_pod_and_qos(path: str, wanted: tuple[str | None, str | None, str | None]) -> None:
    assert parse(path) == CgroupPath(*wanted)  # type: ignore[arg-type]


def test_deep_and_long_paths_take_no_time() -> None:
    started = time.thread_time()
    assert parse("/a" * 100_000) == CgroupPath(None, None, None)
    parse("/" + "pod-" * 50_000 + "a" * 64)
    parse("/" + "0" * 200_000)
    assert time.thread_time() - started < 2
