"""What kubetrace kubelet says of execs, connections and stops of a real container, on every kernel and cgroup mode."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.vm import cri, images

from .conftest import Event, Tracer, losses

PORT, CLOSED_PORT = 18_080, 18_099
# A process of the kubelet's name (prctl(2): PR_SET_NAME is 15) that connects seven times, and twice to nobody.
KUBELET = f"""
import ctypes, socket
ctypes.CDLL(None).prctl(15, b"kubelet")
def connect(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
        return True
    except ConnectionRefusedError:
        return False
while not connect({PORT}): pass
for _ in range(6): assert connect({PORT})
for _ in range(2): assert not connect({CLOSED_PORT})
"""
V2 = any(os.path.exists(f"/sys/fs/cgroup{name}/cgroup.procs") for name in ("", "/unified"))


@pytest.mark.each_kernel
@pytest.mark.each_cgroup_mode
def test_execs_connections_and_stops_are_told_as_they_were(node: cri.Node, tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, "-i", "200ms", command="kubelet")
    pod = node.run_pod("shop", "probed-0")
    app = pod.start_container("app", images.BATCH, ["sh", "-c", f"httpd -p {PORT}; exec sleep 1000"])
    begun = time.monotonic_ns()
    assert app.exec(["sh", "-c", "exit 3"])[2] == 3
    took = time.monotonic_ns() - begun
    subprocess.run([sys.executable, "-S", "-c", KUBELET], check=True)
    begun = time.monotonic_ns()
    app.stop(2)
    stopped = time.monotonic_ns() - begun
    mine = app.container_id

    def told(*events: str) -> list[Event]:
        return [o for o in tracer.objects if o.get("event") in events and o.get("container_id") == mine]

    tracer.wait_for(lambda o: o.get("event") == "exit" and o["container_id"] == mine)
    (start,) = told("start")
    assert start["command"] == f"sh -c 'httpd -p {PORT}; exec sleep 1000'"
    (one,) = told("exec")
    assert (one["command"], one["exit_code"], one["executed"]) == ("sh -c 'exit 3'", 3, True)
    assert one["duration_ns"] <= took
    assert 0 < one["runtime_cpu_ns"] <= one["cpu_ns"]
    (term,), (kill,), (end,) = told("stop"), told("kill"), told("exit")
    assert (term["signal"], term["ignored"], term["sender"]) == ("SIGTERM", True, "runc")
    assert 2_000_000_000 <= kill["duration_ns"] <= end["duration_ns"] <= stopped
    assert (end["exit_signal"], end["stopped"]) == ("SIGKILL", True)
    answered = [o for o in tracer.objects if o.get("event") == "connect" and o["port"] == PORT and o["connected"]]
    assert len(answered) == 7
    # v1 does not say in which cgroup a socket was made
    assert {(o["pod"], o["container"]) for o in answered} == {("probed-0", "app") if V2 else (None, None)}
    refused = [o for o in tracer.objects if o.get("event") == "connect" and o["port"] == CLOSED_PORT]
    assert [(o["error"], o["connected"]) for o in refused] == [("ECONNREFUSED", False)] * 2
    pod.remove()
    objects = tracer.end()
    assert {"create", "start", "kill"} <= {
        word for o in objects if o.get("event") == "run" for word in o["command"].split()
    }
    assert (objects[-1]["unattributed"], objects[-1]["events"]) == (0, len(objects) - 1 - losses(objects))
