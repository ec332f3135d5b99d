"""A real registry on loopback (the distribution project's), behind a proxy that can slow, cut, and refuse a blob.

    with Registry(directory, 5000) as registry:
        image = registry.push("team/app", "1", [Layer(...), ...])
        registry.rate = 20 << 20
        ...
        registry.log    what was asked for, with times and bytes

The proxy is what a runtime asks; it keeps the log that tests compare with.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import os
import socketserver
import subprocess
import tarfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

_PIECE = 64 << 10
_CONFIG = """version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: ROOT}, delete: {enabled: true}}
http: {addr: "127.0.0.1:PORT"}
"""


@dataclass(frozen=True)
class Layer:
    """One layer: the bytes that are sent, and the tar that they unpack to."""

    blob: bytes
    tar: bytes
    line: str
    kind: str = "tar+gzip"

    @property
    def digest(self) -> str:
        """Of the blob."""
        return _digest(self.blob)

    @property
    def diff_id(self) -> str:
        """Of the tar."""
        return _digest(self.tar)


def layer(
    line: str,
    files: Mapping[str, bytes],
    *,
    compressed: bool = True,
    mode: int = 0o644,
    link: Mapping[str, str] | None = None,
) -> Layer:
    """A layer with these files and symbolic links, named in the history by this line of a Dockerfile."""
    buffer = io.BytesIO()
    with tarfile.TarFile(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
        for name, target in (link or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    raw = buffer.getvalue()
    return Layer(gzip.compress(raw, 1, mtime=0), raw, line) if compressed else Layer(raw, raw, line, "tar")


@dataclass(frozen=True)
class Image:
    """One that was pushed; `name` is what a pod's specification says."""

    name: str
    digest: str
    config: str
    layers: Sequence[Layer]

    @property
    def raw(self) -> bytes:
        """The digest's bytes."""
        return bytes.fromhex(self.digest.removeprefix("sha256:"))

    @property
    def chain_ids(self) -> list[str]:
        """Of each layer with all those below it (image-spec, config.md)."""
        found: list[str] = []
        for one in self.layers:
            found.append(_digest(f"{found[-1]} {one.diff_id}".encode()) if found else one.diff_id)
        return found


@dataclass
class Asked:
    """One request for a blob, as the proxy answered it."""

    digest: str
    begun: float
    first: int
    ended: float = 0.0
    sent: int = 0
    status: int = 200


@dataclass
class Rules:
    """What the proxy does to blobs; each by digest."""

    rate: float = 0.0
    """Bytes a second for each connection; 0: as fast as it goes."""
    cut: dict[str, int] = field(default_factory=dict)
    """Once, after so many bytes, the connection ends."""
    refused: set[str] = field(default_factory=set)
    """These are not found."""
    held: dict[str, threading.Event] = field(default_factory=dict)
    """Half of the blob is sent, the rest when this is set."""


class Registry:
    """The registry and its proxy; `port` is the proxy's, the next one the registry's own."""

    def __init__(self, directory: Path, port: int, program: Path) -> None:
        """Not started yet."""
        self._directory, self._port, self._program = directory, port, program
        self.rules = Rules()
        self.log: list[Asked] = []

    def __enter__(self) -> Self:
        """Start both."""
        self._directory.mkdir(parents=True, exist_ok=True)
        config = self._directory / "config.yml"
        text = _CONFIG.replace("ROOT", str(self._directory / "store")).replace("PORT", str(self._port + 1))
        config.write_text(text)
        environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
        with open(self._directory / "log", "wb") as log:
            self._process = subprocess.Popen(
                [self._program, "serve", config], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
            )
        while True:
            with contextlib.suppress(OSError):
                self._ask("GET", "/v2/")
                break
            if self._process.poll() is not None:
                raise SystemExit((self._directory / "log").read_text())
            time.sleep(0.02)
        registry = self

        class Handler(_Proxy):
            owner: Registry = registry

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", self._port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop both."""
        self._server.shutdown()
        self._server.server_close()
        self._process.terminate()
        self._process.wait()

    def _ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self._port + 1, timeout=60)
        connection.request(method, path, body, {"Content-Type": kind or "application/octet-stream"})
        answer = connection.getresponse()
        answer.read()
        return answer

    def push(self, repository: str, tag: str, layers: Sequence[Layer]) -> Image:
        """Put an image there, as its client would."""
        config: dict[str, Any] = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
            "history": [{"created_by": one.line} for one in layers],
        }
        text = json.dumps(config).encode()
        for blob in (text, *(one.blob for one in layers)):
            if self._ask("HEAD", f"/v2/{repository}/blobs/{_digest(blob)}").status != 200:
                begun = self._ask("POST", f"/v2/{repository}/blobs/uploads/").headers["Location"]
                path = begun.partition(f":{self._port + 1}")[2] or begun
                answer = self._ask("PUT", f"{path}&digest={_digest(blob)}", blob)
                assert answer.status == 201, answer.status
        oci = "application/vnd.oci.image"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{oci}.manifest.v1+json",
            "config": {"mediaType": f"{oci}.config.v1+json", "digest": _digest(text), "size": len(text)},
            "layers": [
                {"mediaType": f"{oci}.layer.v1.{one.kind}", "digest": one.digest, "size": len(one.blob)}
                for one in layers
            ],
        }
        told = json.dumps(manifest).encode()
        answer = self._ask("PUT", f"/v2/{repository}/manifests/{tag}", told, f"{oci}.manifest.v1+json")
        assert answer.status == 201, answer.status
        return Image(f"127.0.0.1:{self._port}/{repository}:{tag}", _digest(told), _digest(text), list(layers))


class _Proxy(BaseHTTPRequestHandler):
    owner: Registry
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        owner, rules = self.owner, self.owner.rules
        digest = self.path.rpartition("/")[2] if "/blobs/" in self.path else ""
        asked = Asked(digest, time.time(), _first(self.headers.get("Range")))
        if digest and self.command == "GET":
            owner.log.append(asked)
        upstream = http.client.HTTPConnection("127.0.0.1", owner._port + 1, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() in ("accept", "range")}
        upstream.request(self.command, self.path, headers=headers)
        answer = upstream.getresponse()
        if digest in rules.refused:
            if (held := rules.held.get(digest)) is not None and self.command == "GET":
                held.wait()
            asked.status = 404
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked.status = answer.status
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "server", "date", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(OSError):
            self._send(answer, asked, int(answer.headers["Content-Length"]))
        asked.ended = time.time()

    def _send(self, answer: http.client.HTTPResponse, asked: Asked, length: int) -> None:
        rules = self.owner.rules
        begun = time.monotonic()
        while piece := answer.read(_PIECE):
            if asked.digest in rules.cut and asked.sent >= rules.cut[asked.digest]:
                del rules.cut[asked.digest]
                self.close_connection = True
                self.connection.shutdown(2)
                return
            if (held := rules.held.get(asked.digest)) is not None and asked.sent * 2 >= length:
                held.wait()
            self.wfile.write(piece)
            asked.sent += len(piece)
            if rules.rate and asked.digest:
                time.sleep(max(0.0, begun + asked.sent / rules.rate - time.monotonic()))


def _first(wanted: str | None) -> int:
    # Range: bytes=1234-
    return int(wanted.partition("=")[2].partition("-")[0]) if wanted else 0


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
