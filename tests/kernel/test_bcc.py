"""Both engines at once on the same work: every event and every counter that one tells, the other tells too."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from kubetrace.engines.bcc import cache
from tests.vm import cri, images

from . import test_reads
from .conftest import BCC_COMMANDS, COMPILED_S, SHELL, Event, Tracer
from .test_files import compiled
from .test_writes import procs_of, write

# what cannot be the same for two who watch a thing
OWN = {"time", "duration_ns", "parents_duration_ns", "lifetime_ns", "startup_ns"}
TOTALS = ("writes_total", "bytes_total", "files_total", "fsyncs_total", "errors_total", "mapped_bytes_total")
COPY_UPS = """
echo >> /app/a/b/c/deep/deep.txt
chmod 600 /app/hundred-kib
: > /app/one-mib
echo >> /app/sparse
mv /app/rename-me /app/renamed
chown -h 1000:1000 /app/links/dangling
echo >> /app/links/second
for n in $(seq 100 122); do chmod 600 /app/data/$n.dat; done
"""


@dataclass
class Told:
    """What each engine told of each tracer, and the container that it is about."""

    objects: dict[tuple[str, str], list[Event]]
    container: cri.Container

    def of(self, engine: str, command: str) -> list[Event]:
        mine = self.container.container_id
        return [o for o in self.objects[engine, command] if o.get("container_id") == mine]


@pytest.fixture(scope="module")
def told(
    node: cri.Node, compilers: subprocess.Popen[bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Told]:
    _, errors = compilers.communicate(timeout=COMPILED_S)
    assert compilers.returncode == 0, errors.decode()
    kept = len(os.listdir(cache.directory()))
    tracers: dict[tuple[str, str], Tracer] = {}
    try:
        for command, options in BCC_COMMANDS.items():
            for engine in ("bcc", "libbpf"):
                directory = tmp_path_factory.mktemp(f"{engine}-{command}")
                tracers[engine, command] = Tracer(directory, "--engine", engine, *options, command=command)
    except BaseException:
        for tracer in tracers.values():
            tracer.kill()
        raise
    # what these run is what the compilers made
    assert len(os.listdir(cache.directory())) == kept >= len(BCC_COMMANDS)
    volumes = [cri.Volume("empty-dir", "cache", "/cache"), test_reads.CREDS]
    pod = node.run_pod("shop", "twice", volumes=volumes)
    container = pod.start_container("app", images.WEB, SHELL)
    assert container.exec(["sh", "-c", COPY_UPS])[2] == 0
    write(container.pid, procs_of(container), "/app/data", "/cache")
    filer = compiled(tmp_path_factory.mktemp("filer"))
    procs = ",".join(procs_of(container))
    subprocess.run([filer, str(container.pid), procs, "/tmp", "/cache"], capture_output=True, check=True)
    reader = test_reads.compiled(tmp_path_factory.mktemp("reader"))
    test_reads.read(reader, "gm", container, "/etc/creds/password")
    container.remove()
    yield Told({pair: tracer.end() for pair, tracer in tracers.items()}, container)
    pod.remove()


def same(event: Event) -> Event:
    return {key: value for key, value in event.items() if key not in OWN and not key.startswith("latency")}


@pytest.mark.one_kernel(full=("6.1", "6.12"))
def test_copy_ups_are_the_same(told: Told) -> None:
    by_bcc, by_libbpf = ([same(o) for o in told.of(engine, "copyup")] for engine in ("bcc", "libbpf"))
    assert by_bcc == by_libbpf
    # what the script does: 23 chmods, and as many others as by hand
    assert [o["path"] for o in by_bcc if o["path"].startswith("/app/data/1") and not o["is_parent"]] == [
        f"/app/data/{n}.dat" for n in range(100, 123)
    ]
    deep = next(o for o in by_bcc if o["path"] == "/app/a/b/c/deep/deep.txt")
    assert (deep["copied_bytes"], deep["parents"], deep["trigger"]) == (3003, 5, "open-write")
    assert deep["layer_index"] and deep["flags"] & os.O_APPEND


@pytest.mark.one_kernel(full=("6.1", "6.12"))
def test_counters_are_the_same(told: Told) -> None:
    rows = {}
    for engine in ("bcc", "libbpf"):
        last = {(o["destination"], o["operation"]): o for o in told.of(engine, "writes") if o["type"] == "writes"}
        rows[engine] = {
            key: {name: row[name] for name in (*TOTALS, "medium", "destination", "cgroup_id", "image")}
            for key, row in last.items()
        }
    assert rows["bcc"] == rows["libbpf"]
    operations = {operation for _, operation in rows["bcc"]}
    assert {"write", "writev", "aio", "io-uring", "sendfile", "splice", "copy-file-range", "mmap"} <= operations


@pytest.mark.one_kernel(full=("6.1", "6.12"))
def test_operations_on_files_are_the_same(told: Told) -> None:
    rows = {}
    for engine in ("bcc", "libbpf"):
        # a log is made before its container is known: whose it was then, is a matter of time
        last = {
            (o["destination"], o["operation"], o["error"]): o
            for o in told.of(engine, "files")
            if o["type"] == "files" and o["destination_kind"] != "container log"
        }
        rows[engine] = {
            key: {name: value for name, value in row.items() if name.endswith("_total")} for key, row in last.items()
        }
    assert rows["bcc"] == rows["libbpf"]
    # what filer.c does by io_uring is in these, and what it is refused
    assert rows["bcc"]["emptyDir/cache", "unlink", None]["removed_total"] == 60
    assert rows["bcc"]["emptyDir/cache", "unlink", "EACCES"]["errors_total"] == 23


@pytest.mark.one_kernel(full=("6.1", "6.12"))
def test_reads_of_a_secret_are_the_same(told: Told) -> None:
    for engine in ("bcc", "libbpf"):
        last = [o for o in told.of(engine, "reads") if o["comm"] == "reader"][-1]
        assert (last["way"], last["volume"], last["path"]) == ("own mount", "creds", "password")
        assert tuple(last[name] for name in test_reads.TOTALS) == test_reads.WORK


def without_moves(event: Event) -> Event:
    """Whoever is moved may execute itself meanwhile, and be found so by one of two programs only."""
    return {key: value for key, value in event.items() if event["event"] != "attached" or key != "comm"}


@pytest.mark.one_kernel(full=("6.1", "6.12"))
def test_events_of_cgroups_are_the_same(told: Told) -> None:
    by_bcc, by_libbpf = (
        sorted(
            json.dumps(same(without_moves(o)), sort_keys=True)
            for o in told.of(engine, "cgroups")
            if not o.get("path", "").startswith("/proc/self/")  # runc itself, while it is moved
        )
        for engine in ("bcc", "libbpf")
    )
    assert by_bcc == by_libbpf
    assert {"created", "attached", "exec", "exit", "removed"} <= {json.loads(o)["event"] for o in by_bcc}


@pytest.mark.one_kernel(full=("6.1", "6.12"))
def test_nothing_is_lost(told: Told) -> None:
    for pair, objects in told.objects.items():
        assert [o for o in objects if o["type"] == "lost"] == [], pair
        assert objects[-1]["lost"] == 0, pair
