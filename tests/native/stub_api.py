"""As much of a Kubernetes API server as kubectl get, debug and delete ask for; a pod is a process of its command.

A pod has run to its end before kubectl sees it, so that kubectl shows its log instead of attaching (which needs a
kubelet): what is tested is what a real kubectl makes of our arguments, and that our JSON of pods is the API's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .conftest import DEADLINE_S

_RESOURCES = [
    {"name": "nodes", "singularName": "node", "namespaced": False, "kind": "Node", "verbs": ["get", "list"]},
    {
        "name": "pods",
        "singularName": "pod",
        "namespaced": True,
        "kind": "Pod",
        "verbs": ["get", "list", "create", "delete", "watch"],
    },
]


# Of k8s.io/api/core/v1/generated.proto: field number -> (JSON name, what it holds, whether it is repeated).
_FIELDS: dict[str, dict[int, tuple[str, str, bool]]] = {
    "Pod": {1: ("metadata", "Meta", False), 2: ("spec", "Spec", False)},
    "Meta": {1: ("name", "text", False), 2: ("generateName", "text", False)},
    "Spec": {
        1: ("volumes", "Volume", True),
        2: ("containers", "Container", True),
        10: ("nodeName", "text", False),
        11: ("hostNetwork", "bool", False),
        12: ("hostPID", "bool", False),
        13: ("hostIPC", "bool", False),
    },
    "Volume": {1: ("name", "text", False)},
    "Container": {
        1: ("name", "text", False),
        2: ("image", "text", False),
        3: ("command", "text", True),
        7: ("env", "Env", True),
        9: ("volumeMounts", "Mount", True),
        15: ("securityContext", "Security", False),
        16: ("stdin", "bool", False),
        17: ("stdinOnce", "bool", False),
        18: ("tty", "bool", False),
    },
    "Env": {1: ("name", "text", False), 2: ("value", "text", False)},
    "Mount": {1: ("name", "text", False), 3: ("mountPath", "text", False)},
    "Security": {2: ("privileged", "bool", False)},
}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def _wire(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protobuf message's varints and lengths, which is all that a pod has."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        value, at = _varint(data, at)
        if key & 7 == 2:
            yield key >> 3, data[at : at + value]
            at += value
        else:
            assert key & 7 == 0, key
            yield key >> 3, value


def _message(kind: str, data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, value in _wire(data):
        if (field := _FIELDS[kind].get(number)) is None:
            continue
        name, holds, repeated = field
        read: Any = value
        if holds == "bool":
            read = bool(value)
        elif isinstance(value, bytes):
            read = value.decode() if holds == "text" else _message(holds, value)
        if repeated:
            found.setdefault(name, []).append(read)
        else:
            found[name] = read
    return found


def pod_of(body: bytes) -> dict[str, Any]:
    """A pod as kubectl sends it: JSON, or protobuf in Kubernetes' envelope (runtime.Unknown; raw is field 2)."""
    if body.startswith(b"k8s\0"):
        return _message("Pod", next(v for number, v in _wire(body[4:]) if number == 2 and isinstance(v, bytes)))
    pod: dict[str, Any] = json.loads(body)
    return pod


class Api:
    """The server and what it holds; use as a context manager."""

    def __init__(self, *nodes: str) -> None:
        self.nodes = nodes
        self.pods: dict[str, dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        self.logs: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.unknown: list[str] = []
        api = self

        class Handler(_Handler):
            pass

        Handler.api = api
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Api:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def node(self, name: str) -> dict[str, Any]:
        return {
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", "kubernetes.io/hostname": name}},
        }

    def create(self, pod: dict[str, Any]) -> dict[str, Any]:
        """As the API server, the kubelet and the runtime together."""
        self.created.append(json.loads(json.dumps(pod)))
        metadata = pod["metadata"]
        name = metadata.setdefault("name", metadata.get("generateName", "pod-") + "abcde")
        metadata.update(namespace="default", uid="0" * 8, resourceVersion="1")
        (container,) = pod["spec"]["containers"]
        command = container["command"]
        assert command[0] == "kubetrace", command
        environment = {item["name"]: item["value"] for item in container.get("env", ())}
        reads, writes = os.pipe()
        os.write(writes, b"\n")  # kubectl's stdin
        try:
            done = subprocess.run(
                [sys.executable, "-c", "from kubetrace.commands.group import main; main()", *command[1:]],
                env={**os.environ, **environment},
                stdin=reads,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=DEADLINE_S,
            )
        finally:
            os.close(reads)
            os.close(writes)
        self.logs[name] = done.stdout
        terminated = {"exitCode": done.returncode, "reason": "Completed"}
        pod["status"] = {
            "phase": "Succeeded",
            "containerStatuses": [{"name": container["name"], "state": {"terminated": terminated}}],
        }
        self.pods[name] = {"kind": "Pod", "apiVersion": "v1", **pod}
        return self.pods[name]


class _Handler(BaseHTTPRequestHandler):
    api: Api
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        pass

    def _answer(self, body: object, status: int = 200) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _not_found(self) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        self._answer({**status, "message": f"{self.path} not found"}, 404)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        api = self.api
        pods = "/api/v1/namespaces/default/pods"
        match url.path:
            case "/version":
                self._answer({"major": "1", "minor": "32", "gitVersion": "v1.32.0"})
            case "/api":
                self._answer({"kind": "APIVersions", "versions": ["v1"]})
            case "/apis":
                self._answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
            case "/api/v1":
                self._answer({"kind": "APIResourceList", "groupVersion": "v1", "resources": _RESOURCES})
            case "/api/v1/nodes":
                items = [api.node(name) for name in api.nodes]
                self._answer({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": items})
            case path if path.startswith("/api/v1/nodes/") and path.rpartition("/")[2] in api.nodes:
                self._answer(api.node(path.rpartition("/")[2]))
            case path if path == pods and "watch" in query:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Connection", "close")
                self.end_headers()
                for pod in list(api.pods.values()):
                    self.wfile.write(json.dumps({"type": "ADDED", "object": pod}).encode() + b"\n")
                self.close_connection = True
            case path if path == pods:
                metadata = {"resourceVersion": "1"}
                items = list(api.pods.values())
                self._answer({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items})
            case path if path.endswith("/log") and path.split("/")[-2] in api.logs:
                self._answer(api.logs[path.split("/")[-2]])
            case path if path.startswith(f"{pods}/") and path.rpartition("/")[2] in api.pods:
                self._answer(api.pods[path.rpartition("/")[2]])
            case _:
                api.unknown.append(self.path)
                self._not_found()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if urlsplit(self.path).path == "/api/v1/namespaces/default/pods":
            self._answer(self.api.create(pod_of(body)), 201)
        else:
            self._not_found()

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name = urlsplit(self.path).path.rpartition("/")[2]
        if name in self.api.pods:
            self.api.deleted.append(name)
            self._answer(self.api.pods.pop(name))
        else:
            self._not_found()
