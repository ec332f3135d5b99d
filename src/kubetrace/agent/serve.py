"""/metrics and /healthz over HTTP."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder

from kubetrace.errors import OutputError, UsageError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_TIMEOUT_S = 10
_AT_ONCE = 16


class Server:
    """Answers until it is closed. Raises OutputError where the address cannot be taken."""

    def __init__(self, address: str, registry: CollectorRegistry, health: Callable[[], tuple[bool, str]]) -> None:
        """`address` is HOST:PORT, [HOST]:PORT or :PORT for all; port 0 takes a free one (`url` says which)."""
        host, port = _split(address)
        slots = threading.BoundedSemaphore(_AT_ONCE)

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT_S
            server_version = "kubetrace"
            sys_version = ""

            def log_message(self, *_arguments: object) -> None:
                """Nothing: a scrape every few seconds is not news."""

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/healthz":
                    well, text = health()
                    self._answer(200 if well else 503, "text/plain; charset=utf-8", text.encode())
                elif path == "/metrics":
                    if not slots.acquire(blocking=False):
                        self._answer(503, "text/plain", b"too many scrapes at once\n")
                        return
                    try:
                        encode, kind = choose_encoder(self.headers.get("Accept") or "")
                        data = encode(registry)
                    finally:
                        slots.release()
                    self._answer(200, kind, data)
                else:
                    self._answer(404, "text/plain", b"/metrics, /healthz\n")

            def _answer(self, status: int, kind: str, data: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        class _Server(ThreadingHTTPServer):
            daemon_threads = True

            def server_bind(self) -> None:
                """Without the look-up of our own name that HTTPServer makes: a node may have no DNS."""
                socketserver.TCPServer.server_bind(self)
                self.server_name, self.server_port = host, self.server_address[1]

            def handle_error(self, request: object, client_address: object) -> None:
                """Nothing: a client that goes away is its own affair."""

        if ":" in host:
            _Server.address_family = socket.AF_INET6
        try:
            self._server = _Server((host, port), Handler)
        except OSError as error:
            raise OutputError(
                f"cannot listen on {address}: {error.strerror or error}.", do="--listen ADDRESS:PORT"
            ) from error
        shown = f"[{host}]" if ":" in host else host or "0.0.0.0"
        self.url = f"http://{shown}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{address!r} is not an ADDRESS:PORT.", do="--listen :9435")
    return host.removeprefix("[").removesuffix("]"), int(port)
