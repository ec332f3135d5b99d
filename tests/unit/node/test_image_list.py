"""Images by the databases and blobs that containerd 1.6 wrote (tests/nodes/layers-1.6), and what is meant by a name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubetrace.attribution.waste import LayerFile
from kubetrace.node.host import Host
from kubetrace.node.image_list import ImageOfNode, ImagesOfNode, difference, images_of, named
from kubetrace.node.layer_files import LayerFiles
from tests.nodes import captured

WEB, DEBUG, TOWER = (
    "registry.example/shop/web:1.4",
    "registry.example/shop/web:1.4-debug",
    "registry.example/deep/tower:120",
)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    captured.layered(tmp_path)
    made = Host(tmp_path)
    made._base = str(tmp_path)
    return made


def by_name(found: ImagesOfNode) -> dict[str, ImageOfNode]:
    return {image.name: image for image in found.images}


def test_lines_of_the_dockerfile_stand_beside_their_layers(host: Host) -> None:
    found = images_of(host)
    assert set(by_name(found)) == {
        *(WEB, DEBUG, TOWER, "registry.example/jobs/batch:7", "registry.example/plain/bare:1")
    }
    web = by_name(found)[WEB]
    # an index of several platforms: this machine's is the one that was unpacked
    assert len(web.layers) == len(web.lines) == 3 and all(web.lines)
    assert [found.layers[key].number for key in web.layers] == [1, 2, 3]
    assert len(by_name(found)[TOWER].layers) == 120
    bare = by_name(found)["registry.example/plain/bare:1"]
    assert bare.lines_problem is not None and set(bare.lines) == {None}


def test_what_two_images_share_is_by_layer(host: Host) -> None:
    found = images_of(host)
    web, batch = by_name(found)[WEB], by_name(found)["registry.example/jobs/batch:7"]
    parts = difference(found, web, batch)
    assert parts.shared == tuple(web.layers[:2]) and not parts.twice
    assert parts.only_first == (web.layers[2],) and parts.only_second == (batch.layers[2],)
    # ctr.txt: its container is on snapshots 4, 2 and 1
    assert [found.layers[key].number for key in batch.layers] == [1, 2, 4]
    assert not difference(found, web, by_name(found)[DEBUG]).only_first


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (WEB, [WEB]),
        ("shop/web:1.4", [WEB]),
        ("web:1.4-debug", [DEBUG]),
        ("shop/web", [WEB, DEBUG]),
        ("sha256:0d010889c5c2", [WEB]),
        ("e357a740", [DEBUG]),
        ("e357", []),
        ("eb:1.4", []),
        ("nothing", []),
    ],
)
def test_an_image_is_meant_by_its_name_its_end_or_its_id(host: Host, query: str, names: list[str]) -> None:
    assert [image.name for image in named(images_of(host), query)] == names


def test_blobs_that_are_gone_or_no_json_leave_the_sizes(host: Host) -> None:
    blobs = Path(host.path("/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256"))
    for number, blob in enumerate(sorted(blobs.iterdir())):
        if number % 2:
            blob.unlink()
        else:
            blob.write_bytes(b"[" * 100_000)
    found = images_of(host)
    assert len(found.images) == 5
    assert all(image.lines_problem for image in found.images)
    assert all(image.unpacked for image in found.images)


def test_layers_that_cannot_be_read_are_a_problem_of_the_waste(host: Host) -> None:
    found = images_of(host, wasted=True)
    assert all("cannot be read" in (image.waste_problem or "") for image in found.images)


def test_names_in_a_layer_are_each_told_once(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_bytes(b"x" * 5000)
    os.link(tmp_path / "a/file", tmp_path / "a/b/again")
    (tmp_path / "link").symlink_to("/")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_bytes(b"")
    reading = LayerFiles(str(tmp_path))
    found = {one.path: one for one in reading.names()}
    assert {path: one.kind for path, one in found.items()} == {
        b"a": "directory",
        b"a/b": "directory",
        b"a/file": "file",
        b"a/b/again": "file",
        b"link": "file",
        b"\xff": "file",
    }
    status = (tmp_path / "a/file").stat()
    assert found[b"a/file"] == LayerFile(
        b"a/file", "file", status.st_ino, 2, status.st_blocks * 512, 5000, status.st_mtime_ns
    )
    assert not reading.unread


def test_a_layer_deeper_than_any_says_that_it_was_not_read_to_the_end(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    reading = LayerFiles(str(tmp_path))
    assert sum(1 for _ in reading.names()) == 201 and reading.unread == 1
