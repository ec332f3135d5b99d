"""The agent's HTTP server on loopback, beside clients that are slow, many or greedy."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from prometheus_client import CollectorRegistry

from kubetrace.agent import serve

PATIENCE_S = 120


@pytest.fixture
def server() -> Iterator[serve.Server]:
    with closing(serve.Server("127.0.0.1:0", CollectorRegistry(), lambda: (True, "well\n"))) as made:
        yield made


def connect(server: serve.Server) -> socket.socket:
    host, _, port = server.url.rpartition("/")[2].rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE_S)


def ask(server: serve.Server, path: str = "/healthz") -> tuple[int, str]:
    with urllib.request.urlopen(server.url + path, timeout=PATIENCE_S) as answer:
        return answer.status, answer.read().decode()


def test_many_slow_clients_hold_neither_places_nor_descriptors(server: serve.Server) -> None:
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    over = threading.Event()

    def feed() -> None:
        # a byte now and then, so that no receive takes long
        while not over.wait(0.5):
            for client in slow:
                with contextlib.suppress(OSError):
                    client.sendall(b"X")

    with ExitStack() as stack:
        slow: list[socket.socket] = []
        for number in range(300):
            slow.append(stack.enter_context(connect(server)))
            slow[-1].sendall(b"GET /metrics HTTP/1.1\r\nX")
            if number % 4 == 3:
                # accepted in turn: those before it have been
                assert ask(server) == (200, "well\n")
        feeding = threading.Thread(target=feed)
        feeding.start()
        stack.callback(feeding.join)
        stack.callback(over.set)
        assert ask(server) == (200, "well\n")
        assert ask(server, "/metrics")[0] == 200
        # the oldest were hung up on; a thread ends a moment later
        deadline = time.monotonic() + 60
        while threading.active_count() > before[1] + 1 + 64 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() <= before[1] + 1 + 64
        assert len(os.listdir("/proc/self/fd")) <= before[0] + 300 + 64


def test_a_request_has_a_deadline_however_often_a_byte_comes(
    server: serve.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_DEADLINE_S", 1.0)
    with connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        client.settimeout(0.05)
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                client.sendall(b"X")
                if client.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
        pytest.fail("the connection is still open")


def test_a_request_of_many_headers_is_cut_off(server: serve.Server) -> None:
    with connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        try:
            for number in range(64):
                client.sendall(b"X-%d: " % number + b"y" * 60_000 + b"\r\n")
            client.sendall(b"\r\n")
            while client.recv(4096):
                pass
        except ConnectionError:
            pass
    assert ask(server) == (200, "well\n")


def test_without_descriptors_the_server_waits_and_does_not_spin(server: serve.Server) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    host, _, port = server.url.rpartition("/")[2].rpartition(":")
    with socket.socket() as client:
        client.settimeout(PATIENCE_S)
        free = os.dup(client.fileno())
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            client.connect((host, int(port)))
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            used, begun = time.process_time(), time.monotonic()
            while time.monotonic() - begun < 2:
                time.sleep(0.1)
            # a loop that spins takes all of these two seconds
            assert time.process_time() - used < 0.5
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert client.recv(1 << 12).startswith(b"HTTP/1.0 200")
