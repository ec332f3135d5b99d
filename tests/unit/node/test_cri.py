"""CRI replies, encoded here from a captured node's lists, are read without generated code."""

from __future__ import annotations

import builtins
import json
from typing import Any

import pytest

from kubetrace.node import cri
from kubetrace.node.cri import LIST_CONTAINERS, LIST_SANDBOXES, CriError, containers, list_containers
from tests.nodes import captured
from tests.nodes.captured import TREES


def field(number: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def varint(value: int) -> bytes:
    raw = bytearray()
    while value > 0x7F:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*raw, value])


def number(at: int, value: int) -> bytes:
    return varint(at << 3) + varint(value)


def replies(tree: str) -> dict[str, bytes]:
    listed: dict[str, Any] = json.loads((captured.HERE / tree / "cri/v1-list.json").read_text())
    sandboxes = b"".join(
        field(
            1,
            field(1, item["id"])
            + field(
                2,
                field(1, item["metadata"]["name"])
                + field(2, item["metadata"]["uid"])
                + field(3, item["metadata"]["namespace"])
                + number(4, item["metadata"].get("attempt", 0)),
            )
            + number(3, 0)
            + number(4, int(item["created_at"]))
            + b"".join(field(5, field(1, key) + field(2, value)) for key, value in item["labels"].items()),
        )
        for item in listed["pods"]
    )
    found = b"".join(
        field(
            1,
            field(1, item["id"])
            + field(2, item["pod_sandbox_id"])
            + field(3, field(1, item["metadata"]["name"]) + number(2, 3))
            + field(4, field(1, item["image"]["image"]))
            + field(5, item["image_ref"])
            + number(6, 1)
            + number(7, int(item["created_at"]))
            + b"".join(field(8, field(1, key) + field(2, value)) for key, value in item["labels"].items()),
        )
        for item in listed["containers"]
    )
    return {LIST_SANDBOXES: sandboxes, LIST_CONTAINERS: found}


@pytest.mark.parametrize("tree", TREES)
def test_every_listed_container_has_the_names_of_its_pod(tree: str) -> None:
    answers = replies(tree)
    seen = {fact.container_id: fact for fact in list_containers(lambda method, request: answers[method], 5)}
    wanted = captured.expected(tree)
    assert seen.keys() == wanted.keys()
    for container_id, fact in seen.items():
        one = wanted[container_id]
        assert (fact.namespace, fact.pod, fact.container, fact.pod_uid, fact.kind) == (
            one.namespace,
            one.pod,
            one.container,
            one.pod_uid,
            one.kind,
        )
        # The kubelet creates containers by the image's id: the list has no name of it.
        assert fact.image is None
        assert (fact.source, fact.time_ns) == ("CRI", 5)


def test_image_named_by_the_user_is_kept() -> None:
    container = field(1, "c" * 64) + field(4, field(1, "sha256:00") + field(18, "registry.local/app:1"))
    (seen,) = list_containers(lambda method, _: field(1, container) if method == LIST_CONTAINERS else b"", 1)
    assert seen.image == "registry.local/app:1"


@pytest.mark.parametrize("reply", [b"\x0a", b"\x0a\xff", b"\x0a\x05abc", b"\xff" * 40, b"\x0b", b"\x80" * 11])
def test_reply_that_is_none_is_a_cri_error(reply: bytes) -> None:
    with pytest.raises(CriError):
        list_containers(lambda method, request: reply, 1)


def test_missing_grpcio_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "grpc":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(CriError) as failed:
        containers("/run/containerd/containerd.sock", 1)
    assert "grpcio" in failed.value.what
    assert failed.value.why and "pip install" in failed.value.do
    # no line of the doctor explains it
    assert failed.value.see == ""


def test_module_does_not_import_grpc_by_itself() -> None:
    assert not hasattr(cri, "grpc")
