"""Images by the databases and blobs that containerd 1.6 wrote (tests/nodes/layers-1.6), and what is meant by a name."""

from __future__ import annotations

import json
import os
import subprocess
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


# containers-storage.


def stored(tmp_path: Path) -> Host:
    """Two images over one base, and a container of the first."""
    root = tmp_path / "var/lib/containers/storage"
    base, web, batch, writable = (letter * 64 for letter in "abcd")
    layers = []
    for number, (layer, parent) in enumerate(((base, ""), (web, base), (batch, base), (writable, web))):
        (root / f"overlay/{layer}/diff/app").mkdir(parents=True)
        (root / f"overlay/{layer}/diff/app/file").write_bytes(b"x" * 8192 * (number + 1))
        (root / f"overlay/{layer}/link").write_text(f"LINK{number}")
        (root / "overlay/l").mkdir(exist_ok=True)
        (root / f"overlay/l/LINK{number}").symlink_to(f"../{layer}/diff")
        (root / "overlay-layers").mkdir(exist_ok=True)
        (root / f"overlay-layers/{layer}.tar-split.gz").write_bytes(b"y" * 5000)
        layers.append({"id": layer, "parent": parent, "compressed-size": 1000 + number})
    images = [
        {"id": letter * 64, "names": [f"registry.example/{name}:1"], "layer": layer}
        for letter, name, layer in (("1", "web", web), ("2", "batch", batch))
    ]
    for image in images:
        (root / f"overlay-images/{image['id']}").mkdir(parents=True)
        (root / f"overlay-images/{image['id']}/manifest").write_text("{}")
    (root / "overlay-containers").mkdir()
    containers = [{"id": "e" * 64, "layer": writable, "image": "1" * 64, "names": ["k8s_app_web-0_shop_u_0"]}]
    for name, entries in (("layers", layers), ("images", images), ("containers", containers)):
        (root / f"overlay-{name}/{name}.json").write_text(json.dumps(entries))
    made = Host(tmp_path)
    made._base = str(tmp_path)
    return made


def du(*paths: Path) -> int:
    told = subprocess.run(["du", "-s", "-c", "--block-size=1", *paths], stdout=subprocess.PIPE, check=True, text=True)
    return int(told.stdout.splitlines()[-1].split()[0])


def test_sizes_of_containers_storage_are_those_of_all_that_a_layer_has(tmp_path: Path) -> None:
    found = images_of(stored(tmp_path))
    root = tmp_path / "var/lib/containers/storage"

    def takes(letter: str) -> int:
        link = (root / f"overlay/{letter * 64}/link").read_text()
        return du(root / f"overlay/{letter * 64}", root / f"overlay/l/{link}") + du(
            root / f"overlay-layers/{letter * 64}.tar-split.gz"
        )

    def listed(digit: str) -> int:
        return du(root / f"overlay-images/{digit * 64}")

    web, batch = by_name(found)["registry.example/web:1"], by_name(found)["registry.example/batch:1"]
    assert {key[3][0]: layer.bytes for key, layer in found.layers.items()} == {x: takes(x) for x in "abc"}
    assert (web.unpacked, web.shared, web.own) == (takes("a") + takes("b"), takes("a"), takes("b") + listed("1"))
    assert (web.compressed, batch.compressed) == (2001, 2002)
    # the one a container was made of stays
    assert (web.frees, batch.frees, found.unused_frees) == (0, takes("c") + listed("2"), takes("c") + listed("2"))
    (user,) = web.users
    assert (user.pod, user.writable) == ("web-0", f"/var/lib/containers/storage/overlay/{'d' * 64}/diff")
    assert [key[3][0] for key in user.layers] == ["a", "b"]


def test_of_containers_storage_only_what_is_asked_for_is_looked_at(tmp_path: Path) -> None:
    found = images_of(stored(tmp_path), sized=["e" * 64])
    web, batch = by_name(found)["registry.example/web:1"], by_name(found)["registry.example/batch:1"]
    assert web.unpacked is not None and batch.unpacked is None
    assert sorted(key[3][0] for key in found.layers) == ["a", "b"]
    # others that have a layer are counted all the same
    assert {key[3][0]: len(layer.images) for key, layer in found.layers.items()} == {"a": 2, "b": 1}
