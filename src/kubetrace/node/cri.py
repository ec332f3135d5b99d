"""Asks a container runtime for its containers over the CRI socket; optional, needs grpcio.

The two list calls take an empty request, and of the replies only a few fields are wanted, so no generated code is
needed: bytes go out and come in, and a reader of protobuf's wire format finds the fields by the numbers of
kubernetes/cri-api, pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Final

from kubetrace.attribution.facts import ContainerSeen
from kubetrace.errors import NodeError
from kubetrace.node.containerd import from_labels

LIST_CONTAINERS: Final = "/runtime.v1.RuntimeService/ListContainers"
LIST_SANDBOXES: Final = "/runtime.v1.RuntimeService/ListPodSandbox"

_MAX_REPLY_BYTES: Final = 64 << 20

Call = Callable[[str, bytes], bytes]


class CriError(NodeError):
    """The runtime's socket cannot be asked: grpcio is missing, nobody answers, or the answer is not a CRI reply."""


def containers(socket: str, time_ns: int, *, timeout_s: float = 2.0) -> list[ContainerSeen]:
    """Every sandbox and container that the runtime at the unix socket `socket` knows, exited ones too.

    CriError if grpcio is not installed, the runtime does not answer within `timeout_s` seconds, or not in CRI v1.
    """
    try:
        import grpc
    except ImportError as error:
        raise CriError(
            "The CRI socket cannot be asked: the Python package grpcio is not installed.",
            why="It is an optional part of kubetrace; names are found without it.",
            do="pip install 'kubetrace[cri]', or leave --cri-socket out",
            check="",
        ) from error
    with grpc.insecure_channel(
        f"unix://{os.path.abspath(socket)}", options=[("grpc.max_receive_message_length", _MAX_REPLY_BYTES)]
    ) as channel:

        def call(method: str, request: bytes) -> bytes:
            unary: Any = channel.unary_unary(method, request_serializer=None, response_deserializer=None)
            reply = unary(request, timeout=timeout_s)
            return reply if isinstance(reply, bytes) else b""

        try:
            return list_containers(call, time_ns)
        except grpc.RpcError as error:
            details = error.details() if hasattr(error, "details") else str(error)
            raise CriError(
                f"The container runtime does not answer at {socket!r}: {details}",
                why="--cri-socket names the socket that the kubelet uses (its --container-runtime-endpoint).",
                do="--cri-socket /run/containerd/containerd.sock, or leave it out",
                check="runtime",
            ) from error


def list_containers(call: Call, time_ns: int) -> list[ContainerSeen]:
    """The runtime's sandboxes, then its containers with their sandbox's names; `call` is one unary gRPC call.

    CriError if a reply is not in protobuf's wire format.
    """
    found: list[ContainerSeen] = []
    for item in _messages(call(LIST_SANDBOXES, b""), 1):
        # PodSandbox: 1 id, 2 metadata {1 name, 2 uid, 3 namespace}, 5 labels
        metadata = _first(item, 2)
        found.append(
            ContainerSeen(
                container_id=_text(item, 1) or "",
                kind="sandbox",
                namespace=_text(metadata, 3),
                pod=_text(metadata, 1),
                container=None,
                pod_uid=_text(metadata, 2),
                image=None,
                sandbox_id=_text(item, 1),
                source="CRI",
                time_ns=time_ns,
            )
        )
    sandboxes = {sandbox.container_id: sandbox for sandbox in found}
    for item in _messages(call(LIST_CONTAINERS, b""), 1):
        # Container: 1 id, 2 pod_sandbox_id, 3 metadata {1 name}, 4 image {1 image, 18 user_specified_image}, 8 labels
        sandbox = sandboxes.get(_text(item, 2) or "")
        labels = from_labels(_labels(item, 8), _text(item, 1) or "", None, "CRI", time_ns)
        image = _first(item, 4)
        name = _text(image, 18) or _text(image, 1)
        found.append(
            ContainerSeen(
                container_id=_text(item, 1) or "",
                kind="container",
                namespace=sandbox.namespace if sandbox else labels.namespace,
                pod=sandbox.pod if sandbox else labels.pod,
                container=_text(_first(item, 3), 1) or labels.container,
                pod_uid=sandbox.pod_uid if sandbox else labels.pod_uid,
                # The kubelet creates containers by the image's id, which is not a name of it.
                image=None if name is None or name.startswith("sha256:") else name,
                sandbox_id=_text(item, 2),
                source="CRI",
                time_ns=time_ns,
            )
        )
    return [container for container in found if container.container_id]


# Protobuf's wire format: protobuf.dev/programming-guides/encoding


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    # The length-delimited fields (strings, messages, map entries); numbers are stepped over.
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire_type = tag & 7
        if wire_type == 0:
            _, at = _varint(message, at)
        elif wire_type == 2:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise CriError("The container runtime's reply is cut short.")
            yield tag >> 3, message[at : at + size]
            at += size
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
        else:
            raise CriError("The container runtime's reply is not a CRI reply.")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise CriError("The container runtime's reply is cut short.")


def _messages(message: bytes, number: int) -> Iterator[bytes]:
    return (value for field, value in _fields(message) if field == number)


def _first(message: bytes, number: int) -> bytes:
    return next(_messages(message, number), b"")


def _text(message: bytes, number: int) -> str | None:
    value = _first(message, number)
    return os.fsdecode(value) if value else None


def _labels(message: bytes, number: int) -> dict[bytes, str]:
    return {_first(entry, 1): os.fsdecode(_first(entry, 2)) for entry in _messages(message, number)}
