"""A kubelet's settings, by the arguments of a process and its files, all written by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubetrace.node.host import Host
from kubetrace.node.kubelet_settings import settings

CONFIG = "/var/lib/kubelet/config.yaml"


class Node(Host):
    """A node whose /proc has the processes that a test writes."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._base = str(root)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (tmp_path / "proc").mkdir()
    return Node(tmp_path)


def process(node: Node, pid: int, comm: str, *arguments: str) -> None:
    base = Path(node.proc, str(pid))
    (base / "ns").mkdir(parents=True)
    (base / "comm").write_text(f"{comm}\n")
    (base / "cmdline").write_bytes(b"".join(os.fsencode(one) + b"\0" for one in (comm, *arguments)))
    (base / "root").symlink_to(node.root)


def written(node: Node, path: str, text: str) -> None:
    file = Path(f"{node.root}{path}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_no_kubelet_is_seen(node: Node) -> None:
    process(node, 7, "sh")
    assert settings(node) is None


def test_a_file_in_both_styles_of_yaml(node: Node) -> None:
    process(node, 7, "kubelet", "--config", CONFIG)
    written(
        node,
        CONFIG,
        "evictionHard: {nodefs.available: '10%', \"imagefs.available\": 15%} # why\n"
        "evictionSoft:\n  nodefs.available: 1Gi\nimageGCHighThresholdPercent: 80\nother: 1\n",
    )
    found = settings(node)
    assert found is not None and found.problem is None
    assert found.values == {
        "evictionHard": ({"nodefs.available": "10%", "imagefs.available": "15%"}, CONFIG),
        "evictionSoft": ({"nodefs.available": "1Gi"}, CONFIG),
        "imageGCHighThresholdPercent": (80, CONFIG),
    }


def test_json_a_drop_in_and_flags_win_in_this_order(node: Node) -> None:
    process(node, 7, "kubelet", f"--config={CONFIG}", "--config-dir=/etc/kubelet.d", "--image-gc-high-threshold=70")
    written(node, CONFIG, '{"evictionHard": {"nodefs.available": "10%"}, "imageGCHighThresholdPercent": 80}')
    written(node, "/etc/kubelet.d/10.conf", "evictionHard: {imagefs.available: 20%}\n")
    written(node, "/etc/kubelet.d/note.txt", "evictionHard: {imagefs.available: 30%}\n")
    found = settings(node)
    assert found is not None
    assert found.values == {
        "evictionHard": ({"nodefs.available": "10%", "imagefs.available": "20%"}, "/etc/kubelet.d/10.conf"),
        "imageGCHighThresholdPercent": ("70", "--image-gc-high-threshold"),
    }


@pytest.mark.parametrize("text", ["a: [", "- a list", None])
def test_a_file_that_cannot_be_read_is_a_problem(node: Node, text: str | None) -> None:
    process(node, 7, "kubelet", f"--config={CONFIG}", "--eviction-hard=nodefs.available<5%")
    if text is not None:
        written(node, CONFIG, text)
    found = settings(node)
    assert found is not None and found.problem is not None and CONFIG in found.problem
    assert set(found.values) == {"evictionHard"}


def test_a_file_of_gigabytes_is_not_read(node: Node) -> None:
    process(node, 7, "kubelet", f"--config={CONFIG}")
    written(node, CONFIG, "")
    os.truncate(f"{node.root}{CONFIG}", 1 << 33)
    found = settings(node)
    assert found is not None and "too large" in (found.problem or "").lower()


def test_k3s_passes_some_on_and_keeps_its_own_to_itself(node: Node) -> None:
    process(node, 9, "k3s-server", "server", "--kubelet-arg=eviction-hard=nodefs.available<3%")
    found = settings(node)
    assert found is not None and "k3s-server" in (found.problem or "")
    assert found.values == {"evictionHard": ("nodefs.available<3%", "--eviction-hard")}
