"""The bolt reader on databases that containerd wrote, on torn and hostile ones, and while one is being written."""

from __future__ import annotations

import os
import random
import struct
import time
from pathlib import Path

import pytest

from kubetrace.attribution.facts import ContainerSeen
from kubetrace.node import containerd
from kubetrace.node.bolt import BoltError, Bucket, read
from tests.nodes import captured

CART = "069e7402774378d3aaa893de9da0742afbdf3ad256829817b2f226644e6c2cd0"
SANDBOX = "a9a2d3b5367a02ebfe65bc5116341d5c5bcfecee7be1f74e4cd68d845405e60d"
UID = "7cf5a5da-f0f8-45a3-a0e2-dabe5b08f504"


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captured.database("meta.db", tmp_path_factory.mktemp("bolt") / "meta.db")


def test_records_of_a_container_and_its_sandbox(meta: Path) -> None:
    assert containerd.metadata(str(meta), [CART, SANDBOX, "0" * 64], 5) == [
        ContainerSeen(
            CART, "container", "shop", "cart-7d4b9c6f5d-x2x9z", "cart", UID, None, None, "containerd metadata", 5
        ),
        ContainerSeen(
            SANDBOX, "sandbox", "shop", "cart-7d4b9c6f5d-x2x9z", None, UID, None, SANDBOX, "containerd metadata", 5
        ),
    ]


def test_all_records_over_many_pages(meta: Path) -> None:
    found = containerd.metadata(str(meta), None, 5)
    assert len(found) == 62
    assert {seen.pod for seen in found} == {f"pod-{number}" for number in range(1, 61)} | {"cart-7d4b9c6f5d-x2x9z"}
    # Each one is found by its key as well.
    assert {seen.container_id for seen in found} == {
        containerd.metadata(str(meta), [seen.container_id], 5)[0].container_id for seen in found
    }


def test_keys_before_between_and_after_the_others_are_not_found(meta: Path) -> None:
    def query(root: Bucket) -> list[bytes | None]:
        containers = root.bucket(b"v1", b"k8s.io", b"containers")
        assert containers is not None
        assert containers.bucket(CART.encode(), b"labels", b"nothing") is None
        assert containers.bucket(b"no", b"such") is None
        return [containers.get(key) for key in (b"", b"0", CART.encode(), CART.encode() + b"0", b"\xff" * 70)]

    # A bucket is not a value.
    assert read(meta, query) == [None] * 5


def test_snapshots_have_number_key_and_container(tmp_path: Path) -> None:
    path = captured.database("metadata.db", tmp_path / "metadata.db")
    found = {snapshot.number: snapshot for snapshot in containerd.snapshots(str(path))}
    assert sorted(found) == [1, 2, 3]
    assert found[1].key.endswith("/chain-1") and found[1].container_id is None and found[1].parent is None
    assert found[2].container_id == SANDBOX
    assert found[3].container_id == CART
    assert found[3].parent == found[1].key


@pytest.mark.parametrize("size", [0, 1, 15, 16, 79, 80, 4095, 4096, 8192, 16384, 100_000])
def test_truncated_database_is_a_bolt_error_or_an_older_state(size: int, meta: Path, tmp_path: Path) -> None:
    torn = tmp_path / "meta.db"
    torn.write_bytes(meta.read_bytes()[:size])
    with pytest.raises(BoltError):
        containerd.metadata(str(torn), None, 5)


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "zeros", "text", "loop"])
def test_what_is_no_database_is_a_bolt_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "zeros":
        path.write_bytes(bytes(1 << 20))
    elif kind == "text":
        path.write_text("bolt" * 9_999)
    elif kind == "loop":
        path.symlink_to(path)
    with pytest.raises(BoltError):
        containerd.metadata(str(path), None, 5)
    with pytest.raises(BoltError):
        containerd.snapshots(str(path))


def test_damaged_bytes_never_raise_anything_else_and_never_hang(meta: Path, tmp_path: Path) -> None:
    whole = meta.read_bytes()
    used = whole.rstrip(b"\0")
    path = tmp_path / "meta.db"
    chance = random.Random(20261123)
    outcomes = {"read": 0, "refused": 0}
    started = time.thread_time()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 4, 64, 512))):
            data[chance.randrange(8192, len(used))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            containerd.metadata(str(path), None, 5)
            containerd.metadata(str(path), [CART], 5)
            outcomes["read"] += 1
        except BoltError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 0
    assert time.thread_time() - started < 60


def fnv1a(data: bytes) -> int:
    value = 14695981039346656037
    for byte in data:
        value = ((value ^ byte) * 1099511628211) % 2**64
    return value


def meta_page(number: int, transaction: int, root: int, page_size: int = 4096) -> bytes:
    body = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, page_size, 0, root, 0, 2, 100, transaction)
    page = struct.pack("<QHHI", number, 4, 0, 0) + body + struct.pack("<Q", fnv1a(body))
    return page.ljust(page_size, b"\0")


def leaf_page(number: int, items: dict[bytes, bytes], page_size: int = 4096) -> bytes:
    elements = data = b""
    for index, (key, value) in enumerate(sorted(items.items())):
        at = 16 * (len(items) - index) + len(data)
        elements += struct.pack("<IIII", 0, at, len(key), len(value))
        data += key + value
    return (struct.pack("<QHHI", number, 2, len(items), 0) + elements + data).ljust(page_size, b"\0")


def branch_page(number: int, children: list[tuple[bytes, int]], page_size: int = 4096) -> bytes:
    elements = data = b""
    for index, (key, child) in enumerate(children):
        elements += struct.pack("<IIQ", 16 * (len(children) - index) + len(data), len(key), child)
        data += key
    return (struct.pack("<QHHI", number, 1, len(children), 0) + elements + data).ljust(page_size, b"\0")


def value_of(path: Path, key: bytes) -> bytes | None:
    return read(path, lambda root: root.get(key))


def test_newest_whole_meta_page_is_the_state(tmp_path: Path) -> None:
    path = tmp_path / "db"
    old, new = leaf_page(3, {b"k": b"old"}), leaf_page(4, {b"k": b"new"})
    path.write_bytes(meta_page(0, 8, 4) + meta_page(1, 7, 3) + bytes(4096) + old + new)
    assert value_of(path, b"k") == b"new"
    # The newer one is torn: the transaction before it stands.
    torn = bytearray(path.read_bytes())
    torn[40] ^= 1
    path.write_bytes(torn)
    assert value_of(path, b"k") == b"old"


@pytest.mark.parametrize("page_size", [1024, 4096, 16384, 65536])
def test_every_page_size_also_when_the_first_meta_page_is_gone(page_size: int, tmp_path: Path) -> None:
    path = tmp_path / "db"
    pages = bytes(page_size) + meta_page(1, 7, 3, page_size) + bytes(page_size)
    path.write_bytes(pages + leaf_page(3, {b"k": b"v"}, page_size))
    assert value_of(path, b"k") == b"v"


def test_branches_lead_to_the_right_leaf(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.write_bytes(
        meta_page(0, 2, 3)
        + meta_page(1, 1, 3)
        + bytes(4096)
        + branch_page(3, [(b"b", 4), (b"m", 5)])
        + leaf_page(4, {b"b": b"1", b"c": b"2"})
        + leaf_page(5, {b"m": b"3", b"z": b"4"})
    )
    assert [value_of(path, key) for key in (b"b", b"c", b"m", b"z")] == [b"1", b"2", b"3", b"4"]
    assert [value_of(path, key) for key in (b"a", b"d", b"n", b"zz")] == [None] * 4


def test_a_tree_that_leads_to_itself_ends(tmp_path: Path) -> None:
    path = tmp_path / "db"
    loop = branch_page(3, [(bytes([number]), 3) for number in range(200)])
    path.write_bytes(meta_page(0, 2, 3) + meta_page(1, 1, 3) + bytes(4096) + loop)
    started = time.thread_time()
    with pytest.raises(BoltError):
        value_of(path, b"k")
    with pytest.raises(BoltError):
        read(path, lambda root: list(root.items()))
    assert time.thread_time() - started < 10


def test_a_transaction_during_the_read_makes_it_read_again(tmp_path: Path) -> None:
    path = tmp_path / "db"
    old, new = leaf_page(3, {b"k": b"old"}), leaf_page(4, {b"k": b"new"})
    path.write_bytes(meta_page(0, 6, 3) + meta_page(1, 7, 3) + bytes(4096) + old + new)
    asked = []

    def query(root: Bucket) -> bytes | None:
        asked.append(root.get(b"k"))
        if len(asked) == 1:
            path.write_bytes(meta_page(0, 8, 4) + path.read_bytes()[4096:])
        return asked[-1]

    assert read(path, query) == b"new"
    assert asked == [b"old", b"new"]


def test_a_database_that_changes_all_the_time_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "db"
    rest = bytes(4096) + leaf_page(3, {b"k": b"v"})
    transaction = iter(range(10, 100))

    def query(root: Bucket) -> None:
        path.write_bytes(meta_page(0, next(transaction), 3) + meta_page(1, 1, 3) + rest)

    query(Bucket.__new__(Bucket))
    with pytest.raises(BoltError):
        read(path, query)
