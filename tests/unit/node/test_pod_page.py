"""What a directory takes, as du counts it; and whose a namespace is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from kubetrace.node.pod_page import Namespace, _whose, space


def du(path: Path) -> tuple[int, int]:
    found = []
    for options in (["--block-size=1"], ["--inodes"]):
        done = subprocess.run(["du", "-s", *options, str(path)], stdout=subprocess.PIPE, check=True, text=True)
        found.append(int(done.stdout.split()[0]))
    return found[0], found[1]


def test_a_directory_takes_what_du_says(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "x").write_bytes(b"x" * 300_000)
    os.link(deep / "x", tmp_path / "same")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "a" / os.fsdecode(b"\x1b[31m\xff")).write_bytes(b"y" * 5000)
    os.mkfifo(tmp_path / "pipe")
    found = space(str(tmp_path))
    assert found is not None and (found.bytes, found.inodes) == du(tmp_path) and found.whole
    # the file of two names is where it was met first
    assert {name for name, _ in found.largest} <= {"/a/b", "/a", "/"}
    assert found.largest[0][1] >= 300_000


def test_the_directories_with_most_are_named_the_largest_first(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}" / "file").write_bytes(b"x" * 8192 * (number + 1))
    found = space(str(tmp_path))
    assert found is not None and [name for name, _ in found.largest] == ["/d7", "/d6", "/d5", "/d4", "/d3"]


def test_what_is_no_directory_takes_nothing_that_is_known(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("none", "file", "link"):
        assert space(str(tmp_path / name)) is None


def test_a_namespace_is_the_nodes_the_pods_or_the_containers_own() -> None:
    found = _whose({"net": 1, "ipc": 2, "mnt": 3}, {"net": 9, "ipc": 2, "mnt": 8}, {"net": 1, "ipc": 5, "mnt": 5})
    assert found == (Namespace("net", 1, "node"), Namespace("ipc", 2, "pod"), Namespace("mnt", 3, "container"))
