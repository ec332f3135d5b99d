"""Names and layers on captured nodes with containerd 1.6 and 2.1, every snapshotter, and CRI-O's store (nodes/modern).

What is expected was made there (truth.json), and images.HISTORY is what the images were made with.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kubetrace.attribution.attributor import Attributor, Layer
from kubetrace.attribution.facts import ContainerSeen, Fact, ImageSeen, LayerSeen, OverlaySeen, from_json, to_json
from kubetrace.commands.who import command
from kubetrace.node.host import Host
from kubetrace.node.lookup import Lookup
from kubetrace.node.roots import other_roots
from kubetrace.node.survey import Node
from kubetrace.session.attach import unseen
from kubetrace.tracers import find
from tests.nodes import captured
from tests.vm import images

LINES = [str(step["created_by"]) for step in images.HISTORY if not step.get("empty_layer")]
Made = dict[str, Any]


@pytest.fixture(scope="module", params=captured.MODERN)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Made]]:
    root = tmp_path_factory.mktemp(request.param)
    return root, captured.modern(request.param, root)


def who(root: Path, *queries: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(command, [*queries, "--host-root", str(root), "-o", "json"])
    if result.exception is not None:
        raise result.exception
    return [json.loads(line) for line in result.output.splitlines()]


class Seen:
    """A node's facts, learned as a recording gives them back."""

    def __init__(self, root: Path) -> None:
        self.node = Node(Host(root))
        self.attributor = Attributor()
        self.overlays: dict[str, OverlaySeen] = {}
        self.learn(*self.node.scan())

    def learn(self, *facts: Fact) -> None:
        for fact in facts:
            self.attributor.learn(from_json(to_json(fact)))
            if isinstance(fact, OverlaySeen) and fact.container_id:
                self.overlays[fact.container_id] = fact

    def layers(self, one: Made, *indices: int) -> list[Layer]:
        overlay = self.overlays[one["container_id"]]
        self.learn(*self.node.layers(overlay.device), *self.node.layers_again())
        now = self.overlays[one["container_id"]].time_ns
        found = [self.attributor.layer(overlay.device, index, now, one["container_id"]) for index in indices]
        return [layer for layer in found if layer is not None]


def test_every_form_names_the_pod_and_its_image(node: tuple[Path, list[Made]]) -> None:
    root, truth = node
    queries = [one["queries"][form] for one in truth for form in ("id", "root", "cgroup", "log")]
    found = {answer["query"]: answer for answer in who(root, *queries)}
    for one in truth:
        for form in ("id", "root", "cgroup", "log"):
            answer = found[one["queries"][form]]
            assert (answer["pod"], answer["container"], answer["image"]) == (one["pod"], "app", one["image"])
            assert (answer["pod_uid"], answer["container_id"]) == (one["pod_uid"], one["container_id"])


def test_a_writable_layer_is_of_its_directory(node: tuple[Path, list[Made]]) -> None:
    root, truth = node
    wanted = [one for one in truth if one["snapshot"] is not None]
    for one, answer in zip(wanted, who(root, *(one["queries"]["writable"] for one in wanted)), strict=True):
        assert (answer["container_id"], answer["directory"]) == (one["container_id"], one["snapshot"])


def test_a_number_alone_is_listed_for_each_snapshotter(tmp_path: Path) -> None:
    truth = captured.modern("containerd-2.1", tmp_path)
    number = next(os.path.basename(one["snapshot"]) for one in truth if one["snapshotter"] == "overlayfs")
    writable = {one["snapshot"]: one["container_id"] for one in truth if os.path.basename(one["snapshot"]) == number}
    assert len(writable) > 1
    found = {answer["query"]: answer for answer in who(tmp_path, f"snapshot:{number}") if answer["kind"] == "container"}
    assert {path: found[path]["container_id"] for path in writable} == writable


def test_layers_of_every_overlay_are_the_images(node: tuple[Path, list[Made]]) -> None:
    root, truth = node
    seen = Seen(root)
    for one in truth:
        if one["root_type"] != "overlay":
            continue
        # erofs cannot be mounted idmapped, so containerd puts a layer of its own on top
        first = 2 if one["user"] and one["snapshotter"] == "erofs" else 1
        told = seen.layers(one, first, first + 1, first + 2)
        assert [(layer.image, layer.ordinal, layer.layers_total, layer.created_by) for layer in told] == [
            (one["image"], number, 3, LINES[number - 1]) for number in (3, 2, 1)
        ]
        if first == 2:
            (own,) = seen.layers(one, 1)
            assert (own.ordinal, own.created_by) == (None, None) and "user namespace" in str(own.reason)


@pytest.mark.parametrize("lowerdir", ["7:8:9", "/proc/self/fd/7:/proc/self/fd/8:/proc/self/fd/9", "+"])
@pytest.mark.parametrize("name", ["containerd-2.1", "crio"])
def test_layers_that_were_mounted_by_descriptors_are_those_of_the_metadata(
    name: str, lowerdir: str, tmp_path: Path
) -> None:
    truth = captured.modern(name, tmp_path)
    one = next(one for one in truth if one["snapshotter"] == "overlayfs" and not one["user"])
    mount_otherwise(tmp_path, one, "lowerdir+=/,lowerdir+=/,lowerdir+=/" if lowerdir == "+" else f"lowerdir={lowerdir}")
    told = Seen(tmp_path).layers(one, 1, 2, 3)
    assert [(layer.image, layer.ordinal, layer.created_by) for layer in told] == [
        (one["image"], number, LINES[number - 1]) for number in (3, 2, 1)
    ]


@pytest.mark.parametrize(
    ("lowerdir", "why"),
    [
        ("7:8:9", "by file descriptors"),
        ("/tmp/ovl-idmapped123/fs:/tmp/ovl-idmapped124/fs:/tmp/ovl-idmapped125/fs", "for a user namespace"),
    ],
)
def test_without_the_metadata_such_layers_are_unknown_because(lowerdir: str, why: str, tmp_path: Path) -> None:
    truth = captured.modern("containerd-2.1", tmp_path)
    one = next(one for one in truth if one["snapshotter"] == "overlayfs" and not one["user"])
    mount_otherwise(tmp_path, one, f"lowerdir={lowerdir}")
    database = tmp_path / Path(one["snapshot"]).parent.parent.relative_to("/") / "metadata.db"
    database.unlink()
    told = Seen(tmp_path).layers(one, 1, 2, 3)
    assert [(layer.ordinal, layer.created_by, layer.layer_digest) for layer in told] == [(None, None, None)] * 3
    assert all(why in str(layer.reason) for layer in told)


def test_a_mount_of_another_number_of_layers_than_the_metadata_has_is_unknown_because(tmp_path: Path) -> None:
    truth = captured.modern("containerd-2.1", tmp_path)
    one = next(one for one in truth if one["snapshotter"] == "overlayfs" and not one["user"])
    mount_otherwise(tmp_path, one, "lowerdir=7:8")
    told = Seen(tmp_path).layers(one, 1, 2)
    assert [(layer.ordinal, layer.created_by) for layer in told] == [(None, None)] * 2
    assert all("by file descriptors" in str(layer.reason) for layer in told)


def test_metadata_of_a_newer_format_is_unknown_because(tmp_path: Path) -> None:
    truth = captured.modern("containerd-2.1", tmp_path)
    one = next(one for one in truth if one["snapshotter"] == "overlayfs" and not one["user"])
    database = tmp_path / Path(one["snapshot"]).parent.parent.relative_to("/") / "metadata.db"
    data = bytearray(database.read_bytes())
    for page in (0, 4096):
        data[page + 20] = 3  # bbolt's version, behind the page's header and the magic number
    database.write_bytes(data)
    told = Seen(tmp_path).layers(one, 1, 2, 3)
    assert [layer.created_by for layer in told] == [None] * 3
    assert {layer.reason for layer in told} == {"containerd's snapshot database cannot be read"}


def test_one_of_two_roots_without_its_metadata_does_not_take_the_other_ones(tmp_path: Path) -> None:
    truth = captured.modern("containerd-2.1", tmp_path)
    shutil.rmtree(tmp_path / "srv/cr/root/io.containerd.snapshotter.v1.overlayfs")
    for one in truth:
        if one["place"] == "custom" and one["snapshotter"] == "overlayfs" and not one["user"]:
            told = Seen(tmp_path).layers(one, 1, 2, 3)
            assert [layer.created_by for layer in told] == [None] * 3
            assert all(layer.reason for layer in told)


def test_of_equal_images_none_is_named_where_the_containers_own_is_not_known(tmp_path: Path) -> None:
    """web and batch are made of the same layers, so that their files say nothing of which one a container is of."""
    truth = captured.modern("containerd-2.1", tmp_path)
    one = next(one for one in truth if one["snapshotter"] == "overlayfs" and not one["user"])
    seen = Seen(tmp_path)
    overlay = seen.overlays[one["container_id"]]
    attributor = Attributor()
    for fact in [overlay, *seen.node.layers(overlay.device), *seen.node.layers_again()]:
        if isinstance(fact, OverlaySeen | LayerSeen | ImageSeen):
            attributor.learn(fact)
    layer = attributor.layer(overlay.device, 1, overlay.time_ns)
    assert layer is not None
    # both have the same line there, so that one is known
    assert (layer.image, layer.created_by, layer.position) == (None, LINES[2], "3 of 3")
    assert "which one the container is of is not known" in str(layer.reason)
    attributor.learn(replace(container(one["container_id"]), image=images.BATCH))
    named = attributor.layer(overlay.device, 1, overlay.time_ns)
    assert named is not None and (named.image, named.reason) == (images.BATCH, None)


def test_root_that_is_no_overlay_is_shown_with_its_type(tmp_path: Path) -> None:
    truth = captured.modern("containerd-2.1", tmp_path)
    for one in truth:
        if one["root_type"] == "overlay":
            continue
        (pod,) = who(tmp_path, f"shop/{one['pod']}")
        (own,) = [found for found in pod["containers"] if found["container_id"] == one["container_id"]]
        assert (own["root"], own["root_type"], own["upperdir"]) == (one["root"], one["root_type"], one["writable"])
    table = CliRunner().invoke(command, [f"shop/{one['pod']}", "--host-root", str(tmp_path)]).output
    assert "no overlay: nothing is copied up" in table


def test_crios_image_is_the_one_that_the_pod_asks_for(tmp_path: Path) -> None:
    (one, *_) = captured.modern("crio", tmp_path)
    (answer,) = who(tmp_path, one["container_id"])
    assert answer["image"] == one["image"]
    bundle = next(tmp_path.glob(f"**/overlay-containers/{one['container_id']}/userdata/config.json"))
    spec = json.loads(bundle.read_text())
    # as the kubelet asks by an image's id
    spec["annotations"]["io.kubernetes.cri-o.Image"] = "a" * 64
    bundle.write_text(json.dumps(spec))
    (answer,) = who(tmp_path, one["container_id"])
    assert answer["image"] == spec["annotations"]["io.kubernetes.cri-o.ImageName"] != one["image"]


def test_crios_container_without_a_bundle_is_named_by_its_store(tmp_path: Path) -> None:
    truth = captured.modern("crio", tmp_path)
    for bundle in tmp_path.glob("**/overlay-containers/*/userdata/config.json"):
        bundle.unlink()
    for one in truth:
        (answer,) = who(tmp_path, one["container_id"])
        assert (answer["pod"], answer["container"], answer["pod_uid"]) == (one["pod"], "app", one["pod_uid"])
        assert (answer["names_from"], answer["image"]) == ("containers-storage", one["image"])
        if one["writable"] is not None:
            (answer,) = who(tmp_path, one["queries"]["writable"])
            assert answer["container_id"] == one["container_id"]


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '[{"id": 1}]', '[{"id": "../x", "layer": []}]', "[" * 100_000])
def test_damaged_lists_of_a_store_are_empty(text: str, tmp_path: Path) -> None:
    truth = captured.modern("crio", tmp_path)
    for name in ("layers", "images", "containers"):
        for path in tmp_path.glob(f"**/overlay-{name}/{name}.json"):
            path.write_text(text)
    lookup = Lookup(Host(tmp_path))
    for one in truth:
        (answer,) = lookup.answers(one["container_id"])
        assert answer.identity.pod == one["pod"]
        if one["root_type"] == "overlay":
            told = Seen(tmp_path).layers(one, 1, 2, 3)
            assert all(layer.created_by is None and layer.reason for layer in told)
            break


def mount_otherwise(root: Path, one: Made, lowerdirs: str) -> None:
    """As if the container's overlay had been mounted with other words for its layers."""
    path = root / "proc/1/mountinfo"
    lines = path.read_text().splitlines(True)
    (at,) = [number for number, line in enumerate(lines) if f" {one['root']} " in line]
    head, _, options = lines[at].partition("lowerdir=")
    lines[at] = f"{head}{lowerdirs}{options[options.index(',upperdir=') :]}"
    path.write_text("".join(lines))


def container(container_id: str) -> ContainerSeen:
    return ContainerSeen(container_id, "container", "shop", "p", "app", "u", None, None, "config.json", 1)


def test_roots_that_are_no_overlay_are_counted_for_who_looks_for_copy_ups(tmp_path: Path) -> None:
    captured.modern("containerd-2.1", tmp_path)
    host = Host(tmp_path)
    # a container and its sandbox, in two places each; the disk that all others are on is no root
    assert other_roots(host) == {"native": 4, "ext4": 4}
    assert unseen(find("copyup"), host) == [
        "8 containers' roots are no overlay (native 4, ext4 4): nothing is copied up there"
    ]
    assert unseen(find("writes"), host) == []


def test_roots_of_fuse_overlayfs_are_told_apart(tmp_path: Path) -> None:
    captured.modern("crio", tmp_path)
    assert unseen(find("copyup"), Host(tmp_path)) == [
        "2 containers' roots are no overlay (fuse.fuse-overlayfs 2): what fuse copies up is not seen"
    ]


def test_layers_of_an_additional_store_are_found_by_a_container_of_another(tmp_path: Path) -> None:
    (one, *_) = captured.modern("crio", tmp_path)
    # the image is in a store that is read only, the container's writable layer in CRI-O's own
    own, store = tmp_path / "var/lib/containers/storage", tmp_path / "usr/lib/store"
    (store / "overlay-layers").mkdir(parents=True)
    layers = json.loads((own / "overlay-layers/layers.json").read_text())
    for where, kept in ((store, True), (own, False)):
        some = [layer for layer in layers if ("diff-digest" in layer) == kept]
        (where / "overlay-layers/layers.json").write_text(json.dumps(some))
    shutil.move(own / "overlay-images", store / "overlay-images")
    config = tmp_path / "etc/containers/storage.conf"
    config.parent.mkdir(parents=True)
    config.write_text('[storage.options]\nadditionalimagestores = ["/usr/lib/store"]\n')
    told = Seen(tmp_path).layers(one, 1, 2, 3)
    assert [(layer.image, layer.ordinal, layer.created_by) for layer in told] == [
        (one["image"], number, LINES[number - 1]) for number in (3, 2, 1)
    ]
    top = next(layer["id"] for layer in layers if layer.get("parent") and "diff-digest" in layer)
    found = who(tmp_path, f"/usr/lib/store/overlay/{top}/diff/etc")
    assert {answer["image"] for answer in found if answer["kind"] == "layer"} == {images.WEB, images.BATCH}
