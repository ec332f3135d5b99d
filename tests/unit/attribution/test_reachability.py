"""What images have of their own, share and free, in stores written by hand."""

from __future__ import annotations

from kubetrace.attribution.reachability import (
    ImageNamespace,
    StoreBlob,
    StoreContainer,
    StoreImage,
    StoreLease,
    StoreSnapshot,
    chain_of,
    freed_together,
    reach,
    shares,
    twins,
)

OVERLAY = "overlayfs"
NOW = 1_000
DIRECTORIES = 2 * 4096


def image(target: str, *, pinned: bool = False) -> StoreImage:
    return StoreImage(target, 5, pinned)


def layer(number: int, parent: str | None, size: int) -> StoreSnapshot:
    return StoreSnapshot(number, parent, "committed", size, 10)


def manifest(size: int, *layers: str, top: str) -> StoreBlob:
    return StoreBlob(size, layers, ((OVERLAY, top),))


def store(
    containers: dict[str, StoreContainer] | None = None, leases: dict[str, StoreLease] | None = None
) -> ImageNamespace:
    """app = base, big; other = base, last; a blob of app's own is 5,000 bytes, the rest is in whole blocks."""
    return ImageNamespace(
        "k8s.io",
        {
            "app:1": image("m-app"),
            "app@id": image("m-app"),
            "other:1": image("m-other"),
            "pause": image("m-p", pinned=True),
        },
        containers or {},
        {
            "m-app": manifest(5000, "b-base", "b-big", top="app"),
            "m-other": manifest(100, "b-base", "b-last", top="other"),
            "m-p": manifest(100, top="pause"),
            "b-base": StoreBlob(40_960),
            "b-big": StoreBlob(81_920),
            "b-last": StoreBlob(4096),
        },
        {
            (OVERLAY, "base"): layer(1, None, 100_000),
            (OVERLAY, "app"): layer(2, "base", 200_000),
            (OVERLAY, "other"): layer(3, "base", 30_000),
            (OVERLAY, "pause"): layer(4, None, 7000),
        },
        leases or {},
    )


def test_two_names_of_one_target_are_one_image_and_shared_layers_are_nobodys_own() -> None:
    found = shares(store(), NOW)
    app, other, pause = found.images
    assert app.names == ("app:1", "app@id") and other.names == ("other:1",)
    assert app.layers == 200_000 + DIRECTORIES and app.shared_layers == 100_000 + DIRECTORIES
    # 5,000 bytes take two blocks
    assert app.blobs == 8192 + 81_920 and app.shared_blobs == 40_960
    assert app.freed == app.layers + app.blobs
    assert other.freed == 30_000 + DIRECTORIES + 4096 + 4096
    assert pause.pinned and not app.pinned
    assert found.shared_layers == 100_000 + DIRECTORIES and found.shared_blobs == 40_960
    assert not found.orphan_snapshots and not found.orphan_blobs


def test_a_container_keeps_the_layers_of_its_image_and_not_the_blobs() -> None:
    made = StoreContainer("app:1", OVERLAY, "writable", {}, None)
    namespace = store({"c1": made})
    namespace.snapshots[OVERLAY, "writable"] = StoreSnapshot(9, "app", "active", None, None)  # type: ignore[index]
    app = shares(namespace, NOW).images[0]
    assert app.users == ("c1",)
    assert app.freed == app.blobs == 8192 + 81_920


def test_a_lease_holds_until_it_expires() -> None:
    lease = StoreLease(NOW + 1, ("m-app",), (), ())
    assert shares(store(leases={"l": lease}), NOW).images[0].freed == 0
    assert shares(store(leases={"l": lease}), NOW + 1).images[0].freed > 0
    assert shares(store(leases={"l": StoreLease(None, ("m-app",), (), ())}), NOW).images[0].freed == 0


def test_what_only_two_images_share_is_freed_with_both() -> None:
    namespace = store()
    both = freed_together(namespace, ["m-app", "m-other"], NOW)
    app, other, _ = shares(namespace, NOW).images
    assert both == app.freed + other.freed + 100_000 + DIRECTORIES + 40_960
    assert freed_together(namespace, [], NOW) == 0


def test_what_no_image_and_no_container_reaches_is_an_orphan() -> None:
    namespace = store(leases={"pull": StoreLease(NOW + 1, (), ((OVERLAY, "extract"),), ())})
    namespace.snapshots[OVERLAY, "extract"] = StoreSnapshot(8, "left", "active", None, None)  # type: ignore[index]
    namespace.snapshots[OVERLAY, "left"] = layer(7, None, 1000)  # type: ignore[index]
    namespace.blobs["b-left"] = StoreBlob(10)  # type: ignore[index]
    found = shares(namespace, NOW)
    assert found.orphan_snapshots == ((OVERLAY, "extract"), (OVERLAY, "left"))
    assert found.leased_snapshots == {(OVERLAY, "extract"), (OVERLAY, "left")}
    assert found.orphan_blobs == ("b-left",)


def test_what_points_to_itself_or_to_nothing_ends() -> None:
    namespace = ImageNamespace(
        "hostile",
        {"a": image("m"), "b": image("nowhere")},
        {},
        {"m": StoreBlob(1, ("m", "gone"), ((OVERLAY, "x"),))},
        {(OVERLAY, "x"): layer(1, "y", 5), (OVERLAY, "y"): layer(2, "x", 5)},
    )
    found, complete = reach(namespace, ["m"])
    assert found.snapshots == {(OVERLAY, "x"), (OVERLAY, "y")} and not complete
    assert [image.complete for image in shares(namespace, NOW).images] == [False, False]
    assert len(chain_of(namespace, (OVERLAY, "x"))) == 2


def test_one_content_on_two_parents_is_on_disk_twice() -> None:
    layers = {(OVERLAY, "a"): "diff-1", (OVERLAY, "b"): "diff-1", (OVERLAY, "c"): "diff-2"}
    assert twins(layers) == {(OVERLAY, "a"): ((OVERLAY, "b"),), (OVERLAY, "b"): ((OVERLAY, "a"),)}


def test_the_chain_of_a_snapshot_begins_with_the_lowest() -> None:
    assert chain_of(store(), (OVERLAY, "app")) == [(OVERLAY, "base"), (OVERLAY, "app")]
