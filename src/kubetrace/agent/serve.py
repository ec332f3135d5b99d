"""/metrics and /healthz over HTTP, by the standard library's server, for clients of whom any may be slow or hostile.

Its handler gives each receive a time of its own and each connection a thread, so a byte every few seconds holds one for
ever; waitress, cheroot and the like time out the same way. Here the whole of a connection has a deadline, and so many
connections a place: a new one takes that of the oldest which has not asked for anything yet.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast

from prometheus_client.exposition import choose_encoder

from kubetrace.errors import OutputError, UsageError

if TYPE_CHECKING:
    from io import BufferedIOBase

    from prometheus_client import CollectorRegistry

# For a request and its answer together.
_DEADLINE_S = 10.0
_MOST_CONNECTIONS = 64
_MOST_REQUEST_BYTES = 16 << 10
_AT_ONCE = 16
# accept(2) has no descriptor or memory left: the connection stays ready, and would be tried again at once.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE_S = 0.2


class _Little:
    # The beginning of a stream, by lines: the library takes a hundred headers of 64 KiB each.
    def __init__(self, stream: BufferedIOBase, most: int) -> None:
        self._stream, self._left = stream, most

    def readline(self, limit: int) -> bytes:
        line = self._stream.readline(min(limit, self._left))
        self._left -= len(line)
        return line

    def close(self) -> None:
        self._stream.close()


class _Server(ThreadingHTTPServer):
    """Bounded in connections, and in the time of each."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._lock = threading.Lock()
        # Connections by their beginning, oldest first: those that have not asked yet, and those that are answered.
        self._silent: dict[socket.socket, float] = {}
        self._answered: dict[socket.socket, float] = {}
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Without the look-up of our own name that HTTPServer makes: a node may have no DNS."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept; where there are no descriptors, after a pause."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                time.sleep(_PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, if there is a place."""
        with self._lock:
            if len(self._silent) + len(self._answered) >= _MOST_CONNECTIONS:
                oldest = next(iter(self._silent), None)
                if oldest is not None:
                    self._silent.pop(oldest)
                    _hang_up(oldest)
            # its thread may not have ended yet
            full = threading.active_count() > 2 * _MOST_CONNECTIONS
            if not full:
                self._silent[request] = time.monotonic()
        if full:
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def asked(self, request: socket.socket) -> None:
        """It is answered now, and no other takes its place."""
        with self._lock:
            begun = self._silent.pop(request, None)
            if begun is not None:
                self._answered[request] = begun

    def service_actions(self) -> None:
        """Twice a second: whose time is over is hung up on."""
        with self._lock:
            late = time.monotonic() - _DEADLINE_S
            for connections in (self._silent, self._answered):
                for request in [request for request, begun in connections.items() if begun < late]:
                    connections.pop(request)
                    _hang_up(request)

    def shutdown_request(self, request: Any) -> None:
        """It is over."""
        with self._lock:
            self._silent.pop(request, None)
            self._answered.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a client that goes away is its own affair."""


class _ServerOf6(_Server):
    address_family = socket.AF_INET6


def _hang_up(request: socket.socket) -> None:
    # Its thread's receive or send ends at once; the descriptor is that thread's to close.
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class Server:
    """Answers until it is closed. Raises OutputError where the address cannot be taken."""

    def __init__(self, address: str, registry: CollectorRegistry, health: Callable[[], tuple[bool, str]]) -> None:
        """`address` is HOST:PORT, [HOST]:PORT or :PORT for all; port 0 takes a free one (`url` says which)."""
        host, port = _split(address)
        slots = threading.BoundedSemaphore(_AT_ONCE)

        class Handler(BaseHTTPRequestHandler):
            timeout = _DEADLINE_S
            server: _Server
            server_version = "kubetrace"
            sys_version = ""

            def log_message(self, *_arguments: object) -> None:
                """Nothing: a scrape every few seconds is not news."""

            def setup(self) -> None:
                super().setup()
                self.rfile = cast("BufferedIOBase", _Little(self.rfile, _MOST_REQUEST_BYTES))

            def do_GET(self) -> None:
                self.server.asked(self.connection)
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

        kind = _ServerOf6 if ":" in host else _Server
        try:
            self._server = kind((host, port), Handler)
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
