"""Writes of real containers: each operation to each destination, against what the calls, /proc and stat say."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kubetrace.engines.source import KernelSource
from kubetrace.engines.support import preemptible
from kubetrace.tracers import find
from tests.vm import cri, images

from .conftest import SHELL, Tracer
from .writer import PAGES

WRITER = Path(__file__).parent / "writer.py"
LOG_LINES = 53
# where the container sees it -> what kubetrace calls it, medium, whether the kubelet counts it
DESTINATIONS = {
    "/app/data": ("writable layer", "writable layer", None, "disk", True),
    "/cache": ("emptyDir/cache", "emptyDir", "cache", "disk", True),
    "/scratch": ("emptyDir/scratch (memory)", "emptyDir", "scratch", "memory", False),
    "/data": ("hostPath /var/log/ledger", "hostPath", None, "disk", False),
    "/claim": ("persistent volume pvc-0a1b", "persistent volume", "pvc-0a1b", "disk", False),
}
CLAIM = "/var/lib/kubelet/pods/3f1c0de2-8a52-4f0a-9b55-0c6f3f6f0a11/volumes/kubernetes.io~csi/pvc-0a1b/mount"
# Mounts that take one another's number (unless the kernel gives none twice), in namespaces of their own.
REMOUNTED = {"one": 31, "two": 37}
REMOUNT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for name, size in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    if not os.fork():
        point = f"/var/log/{name}".encode()
        os.makedirs(point)
        # CLONE_NEWNS; MS_REC | MS_PRIVATE
        assert not libc.unshare(0x20000)
        assert not libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None)
        assert not libc.mount(b"tmpfs", point, b"tmpfs", 0, None)
        file = os.open(point + b"/file", os.O_WRONLY | os.O_CREAT)
        assert os.write(file, b"x" * size) == size
        os._exit(0)
    assert os.wait()[1] == 0
"""
OPERATIONS = ("write", "writev", "aio", "io-uring", "sendfile", "splice", "copy-file-range")


def procs_of(container: cri.Container) -> list[str]:
    roots = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory")
    paths = [f"{root}{container.cgroup_path}/cgroup.procs" for root in roots]
    return [path for path in paths if os.path.exists(path)]


def write(pid: int, procs: list[str], *directories: str) -> Any:
    order = json.dumps({"pid": pid, "procs": procs, "directories": directories})
    done = subprocess.run(["python3", "-S", str(WRITER), order], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@dataclass
class Run:
    """One run of the tracer over all work, and what the work itself says."""

    container: cri.Container
    done: dict[str, Any]
    objects: list[dict[str, Any]] = field(default_factory=list)
    log_bytes: int = 0

    @property
    def final(self) -> list[dict[str, Any]]:
        """The rows at the end: the last one of each."""
        last = {}
        for row in self.objects:
            if row["type"] == "writes":
                key = (row["container_id"], row["cgroup_id"], row["pod"], row["destination"], row["operation"])
                last[key] = row
        return list(last.values())

    @property
    def lost(self) -> int:
        """What the tracer says it did not see."""
        count: int = self.objects[-1]["lost"]
        return count

    def row(self, directory: str, operation: str) -> dict[str, Any]:
        text = DESTINATIONS[directory][0]
        found = [
            row
            for row in self.final
            if row["container_id"] == self.container.container_id
            and (row["destination"], row["operation"]) == (text, operation)
        ]
        assert len(found) == 1, (
            directory,
            operation,
            [(r["pod"], r["destination"], r["operation"]) for r in self.final],
        )
        return found[0]


@pytest.fixture(scope="module", params=["auto", "kprobe"])
def run(request: pytest.FixtureRequest, node: cri.Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """All work under the tracer by each hook.

    A preempted program is not run for others on its CPU (docs/writes.md). Where the tracer says that this has happened,
    its totals have no measure, and the work is done again: it may have been the writes of others, though.
    """
    hook: str = request.param
    for attempt in range(4):
        result = measure(node, f"ledger-{hook}-{attempt}", hook, tmp_path_factory.mktemp("writes"))
        if attempt == 3 or not (preemptible() and result.lost):
            break
        result.container.pod.remove()
    yield result
    result.container.pod.remove()


def measure(node: cri.Node, name: str, hook: str, directory: Path) -> Run:
    # on the node's disk, which /var/lib is not in the virtual machine
    os.makedirs("/var/log/ledger", exist_ok=True)
    pod = node.run_pod(
        "shop",
        name,
        volumes=[
            cri.Volume("empty-dir", "cache", "/cache"),
            cri.Volume("memory", "scratch", "/scratch"),
            cri.Volume("host-path", "data", "/data", host_path="/var/log/ledger"),
            cri.Volume("host-path", "claim", "/claim", host_path=CLAIM),
            cri.Volume("configmap", "settings", "/etc/settings", files={"color": "blue\n"}),
            cri.Volume("secret", "token", "/etc/token", files={"password": "hunter2\n"}),
        ],
    )
    tracer = Tracer(directory, "--by", "operation", "-L", "--hook", hook, command="writes")
    container = pod.start_container("app", images.WEB, SHELL)
    talker = pod.start_container(
        "talker", images.WEB, ["sh", "-c", f"for n in $(seq {LOG_LINES}); do echo line $n; done; exec sleep infinity"]
    )
    result = Run(container, write(container.pid, procs_of(container), *DESTINATIONS))
    # a copy-up moves bytes that are no user's write
    assert talker.exec(["sh", "-c", "echo x >> /app/big"])[2] == 0
    # the kubelet's part: a configMap and a secret are written from the node
    for kind, name in (("configmap", "settings"), ("secret", "token")):
        volume = next(v for v in pod.volumes if v.kind == kind)
        with open(f"{volume.directory(pod.uid)}/{name}.new", "w") as file:
            file.write("n" * 307)
    # what is gone before anyone looks
    brief = pod.start_container("brief", images.WEB, ["sh", "-c", "echo 1234567 > /app/brief"])
    assert brief.wait() == 0
    brief.remove()
    arguments = [str(argument) for pair in REMOUNTED.items() for argument in pair]
    subprocess.run(["python3", "-S", "-c", REMOUNT, *arguments], check=True)
    for name in REMOUNTED:
        os.rmdir(f"/var/log/{name}")
    result.log_bytes = os.stat(f"{pod.log_directory}/talker/0.log").st_size
    result.objects = tracer.end()
    return result


@pytest.mark.parametrize("directory", DESTINATIONS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.each_kernel
def test_an_operation_is_counted_once_with_the_bytes_it_returned(run: Run, directory: str, operation: str) -> None:
    returned = list(run.done[directory]["returned"][operation])
    assert all(size > 0 for size in returned)
    errors = 0
    if operation == "write":
        returned.append(9001)  # the file that others read from
        errors = 1  # and the write to a descriptor that is for reading
    row = run.row(directory, operation)
    assert (row["writes_total"], row["bytes_total"], row["errors_total"]) == (len(returned), sum(returned), errors)


@pytest.mark.parametrize("directory", DESTINATIONS)
@pytest.mark.each_kernel
def test_bytes_agree_with_proc_io_and_stat(run: Run, directory: str) -> None:
    done = run.done[directory]
    counted = sum(run.row(directory, name)["bytes_total"] for name in ("write", "writev"))
    assert counted - 9001 == done["wchar"]
    sizes = done["sizes"]
    assert (sizes["aio"], sizes["io-uring"]) == (509, 613)
    for name in ("sendfile", "splice"):
        assert run.row(directory, name)["bytes_total"] == sizes[name]


@pytest.mark.parametrize("directory", DESTINATIONS)
@pytest.mark.each_kernel
def test_truncations_allocations_and_syncs_have_no_bytes(run: Run, directory: str) -> None:
    for operation in ("truncate", "fallocate"):
        row = run.row(directory, operation)
        assert (row["writes_total"], row["bytes_total"]) == (len(run.done[directory]["returned"][operation]), 0)
    row = run.row(directory, "fsync")
    calls = len(run.done[directory]["returned"]["fsync"])
    assert (row["writes_total"], row["fsyncs_total"], row["bytes_total"]) == (0, calls, 0)


@pytest.mark.parametrize("directory", DESTINATIONS)
@pytest.mark.each_kernel
def test_what_the_kernel_does_not_do_is_refused_and_no_error(run: Run, directory: str) -> None:
    refused = {"refused-unsupported": 1, "refused-exdev": len(run.done[directory]["returned"]["refused-exdev"])}
    for operation, count in refused.items():
        if count:
            row = run.row(directory, operation)
            assert (row["writes_total"], row["errors_total"], row["refused_total"]) == (0, 0, count)


@pytest.mark.parametrize("directory", DESTINATIONS)
@pytest.mark.each_kernel
def test_pages_dirtied_through_a_mapping_are_estimated(run: Run, directory: str) -> None:
    row = run.row(directory, "mmap")
    assert (row["writes_total"], row["bytes_total"]) == (0, 0)
    assert row["mapped_bytes_total"] == PAGES * mmap.PAGESIZE


@pytest.mark.parametrize("directory", DESTINATIONS)
@pytest.mark.each_kernel
def test_a_destination_says_what_it_is(run: Run, directory: str) -> None:
    text, kind, volume, medium, counted = DESTINATIONS[directory]
    row = run.row(directory, "write")
    assert (row["destination"], row["destination_kind"], row["volume"]) == (text, kind, volume)
    assert (row["medium"], row["counted_as_ephemeral"]) == (medium, counted)
    assert (row["namespace"], row["container"]) == ("shop", "app")
    assert 0 < row["p50_ns"] <= row["p99_ns"] and row["max_ns"] > 0
    # source, write
    assert row["files_total"] == 2


@pytest.mark.each_kernel
def test_no_other_destination_is_the_containers(run: Run) -> None:
    mine = {row["destination"] for row in run.final if row["container_id"] == run.container.container_id}
    known = {text for text, *_ in DESTINATIONS.values()}
    # runc's own steps before the container's command
    assert {text for text in mine - known if not text.startswith(("tmpfs", "kubelet"))} == set()


@pytest.mark.each_kernel
def test_a_copy_up_is_no_write(run: Run) -> None:
    written = [
        (row["operation"], row["bytes_total"], row["fsyncs_total"])
        for row in run.final
        if (row["container"], row["destination"]) == ("talker", "writable layer")
    ]
    assert written == [("write", len("x\n"), 0)]


@pytest.mark.each_kernel
def test_a_log_is_its_containers_whoever_writes_it(run: Run) -> None:
    rows = [row for row in run.final if row["destination_kind"] == "container log" and row["container"] == "talker"]
    (row,) = [row for row in rows if row["operation"] == "write"]
    assert (row["bytes_total"], row["attributed_by"]) == (run.log_bytes, "path")
    assert (row["namespace"], row["pod"]) == ("shop", run.container.pod.name)
    assert (row["medium"], row["counted_as_ephemeral"]) == ("disk", True)


@pytest.mark.each_kernel
def test_volumes_that_the_node_writes_have_their_names(run: Run) -> None:
    found = {
        row["destination_kind"]: (row["volume"], row["medium"], row["bytes_total"], row["host"])
        for row in run.final
        if row["destination_kind"] in ("configMap", "secret") and row["bytes_total"]
    }
    assert found == {"configMap": ("settings", "disk", 307, True), "secret": ("token", "memory", 307, True)}


@pytest.mark.each_kernel
def test_a_container_that_is_gone_keeps_its_name(run: Run) -> None:
    found = [
        (row["pod"], row["destination"], row["operation"], row["bytes_total"])
        for row in run.final
        if row["container"] == "brief" and row["destination_kind"] != "tmpfs"
    ]
    assert found == [(run.container.pod.name, "writable layer", "write", 8)]


@pytest.mark.each_kernel
def test_a_mount_with_the_number_of_an_earlier_one_is_told_apart(run: Run) -> None:
    found = {
        os.path.basename(row["destination"]): row["bytes_total"]
        for row in run.final
        if row["destination"].startswith("tmpfs ") and os.path.basename(row["destination"]) in REMOUNTED
    }
    assert found == REMOUNTED


@pytest.mark.each_kernel
def test_intervals_add_up_to_the_totals(run: Run) -> None:
    sums: dict[Any, list[int]] = {}
    totals = {}
    for row in run.objects:
        if row["type"] == "writes" and row["container_id"] == run.container.container_id:
            key = (row["destination"], row["operation"])
            added = sums.setdefault(key, [0, 0])
            added[0] += row["writes"]
            added[1] += row["bytes"]
            totals[key] = [row["writes_total"], row["bytes_total"]]
    assert sums == totals


@pytest.mark.each_kernel
def test_the_summary_has_lost_nothing(run: Run) -> None:
    summary = run.objects[-1]
    assert (summary["type"], summary["tracer"], summary["unattributed"]) == ("summary", "writes", 0)
    # a program that is preempted keeps its CPU from running it for anybody else: counted, and told
    assert summary["lost"] == 0 or preemptible()
    assert summary["bytes_total"] == sum(row["bytes_total"] for row in run.final)


@pytest.fixture(scope="module")
def writing(node: cri.Node) -> Iterator[cri.Container]:
    pod = node.run_pod("shop", "files-0", volumes=[cri.Volume("empty-dir", "cache", "/cache")])
    yield pod.start_container("app", images.WEB, SHELL)
    pod.remove()


@pytest.mark.parametrize("hook", ["auto", "kprobe"])
@pytest.mark.each_kernel
def test_a_file_is_told_by_the_name_it_ended_with(writing: cri.Container, tmp_path: Path, hook: str) -> None:
    tracer = Tracer(tmp_path, "--by", "file", "-p", "files-0", "--hook", hook, command="writes")
    script = "cd {0} && echo 1 > index.lock && mv index.lock index && echo 12 >> index && mkdir {1} && mv index {1}/at"
    # the second has the inode of the first again, where the file system gives it: each has its own row
    script += " && echo 123 > one && rm one && echo 12345 > two"
    new = f"new-{hook}"
    for directory in ("/app", "/cache"):
        assert writing.exec(["sh", "-c", script.format(directory, new)])[2] == 0
    rows = [row for row in tracer.end() if row["type"] == "writes"]
    # at the end all rows are told once more; before, an interval may have ended between a write and its rename
    rows = [row for row in rows if row["time"] == rows[-1]["time"]]
    found = {(row["destination"], row["path"]): row["bytes_total"] for row in rows if row["bytes_total"]}
    expected: dict[tuple[str, str], int] = {}
    for destination, directory in (("writable layer", "/app"), ("emptyDir/cache", "/cache")):
        expected |= {
            (destination, f"{directory}/{new}/at"): 2 + 3,
            (destination, f"{directory}/one"): 4,
            (destination, f"{directory}/two"): 6,
        }
    assert {key: size for key, size in found.items() if not key[0].startswith(("tmpfs", "kubelet"))} == expected


@pytest.mark.each_kernel
def test_files_have_the_paths_that_the_container_sees(writing: cri.Container, tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, "--by", "file", "-p", "files-0", command="writes")
    script = "for n in $(seq 23); do echo $n > /cache/f$n; done; mkdir /cache/a; echo x > /cache/a/b"
    script += "; echo 12345 >> /app/config.ini"
    assert writing.exec(["sh", "-c", script])[2] == 0
    objects = tracer.end()
    found = {(row["destination"], row["path"]): row["bytes_total"] for row in objects if row["type"] == "writes"}
    expected = {("emptyDir/cache", f"/cache/f{n}"): len(f"{n}\n") for n in range(1, 24)}
    expected |= {("emptyDir/cache", "/cache/a/b"): 2, ("writable layer", "/app/config.ini"): 6}
    assert {key: size for key, size in found.items() if not key[0].startswith(("tmpfs", "kubelet"))} == expected
    assert {row["files_total"] for row in objects if row["type"] == "writes" and row["bytes_total"]} == {1}


# Enters the cgroups, and writes to what is not a file.
UNNAMED = """
import os, socket, sys
for procs in sys.argv[1:]:
    with open(procs, "w") as file:
        file.write("0")
out, back = socket.socketpair()
for _ in range(3):
    os.write(out.fileno(), b"s" * 31)
os.write(os.pipe()[1], b"p" * 37)
os.write(os.memfd_create("m"), b"m" * 41)
"""


@pytest.mark.one_kernel
def test_events_are_the_operations_themselves(writing: cri.Container, tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, "--all", "--events", "-n", "shop", command="writes")
    assert writing.exec(["sh", "-c", "for n in 1 2 3; do echo $n$n > /cache/events; done"])[2] == 0
    subprocess.run(["python3", "-S", "-c", UNNAMED, *procs_of(writing)], check=True)
    objects = tracer.end()
    unnamed = [
        (o["destination"], o["bytes"])
        for o in objects
        if o["type"] == "write" and o["comm"] == "python3" and o["destination_kind"] not in ("kernel", "host")
    ]
    assert unnamed == [*[("socket", 31)] * 3, ("pipe", 37), ("memory file", 41)]
    events = [o for o in objects if o["type"] == "write" and o["path"] == "/cache/events"]
    assert [(e["operation"], e["bytes"], e["error"]) for e in events] == [
        # the first open makes the file, the others truncate it
        *(("write", 3, None), ("truncate", 0, None), ("write", 3, None), ("truncate", 0, None), ("write", 3, None)),
    ]
    assert {(e["destination"], e["pod"], e["container"], e["comm"]) for e in events} == {
        ("emptyDir/cache", "files-0", "app", "sh")
    }
    assert all(e["duration_ns"] > 0 for e in events)


@pytest.mark.one_kernel
def test_the_table_shows_destinations_on_a_pipe(writing: cri.Container) -> None:
    process = subprocess.Popen(
        ["kubetrace", "writes", "-i", "500ms", "-p", "files-0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("kubetrace writes")
    assert writing.exec(["sh", "-c", "echo 1234567 > /cache/table"])[2] == 0
    process.send_signal(signal.SIGINT)
    out = process.stdout.read()
    assert process.wait() == 0
    table = out[out.rindex("NAMESPACE") :].splitlines()
    (row,) = [line.split() for line in table if "emptyDir/cache" in line]
    assert row[:7] == ["shop", "files-0", "app", "emptyDir/cache", "1", "8", "B"]


@pytest.mark.one_kernel
def test_a_recording_replays_to_the_same_rows(writing: cri.Container, tmp_path: Path) -> None:
    file = tmp_path / "writes.ktrace"
    tracer = Tracer(tmp_path, "-p", "files-0", "--record", str(file), command="writes")
    assert writing.exec(["sh", "-c", "for n in $(seq 53); do echo $n > /cache/recorded; done"])[2] == 0
    live = [row for row in tracer.end() if row["type"] == "writes"]
    done = subprocess.run(
        ["kubetrace", "replay", str(file), "-o", "json", "-p", "files-0", "--final"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    replayed = [row for row in map(json.loads, done.stdout.splitlines()) if row["type"] == "writes"]

    def totals(rows: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
        return {row["destination"]: (row["writes_total"], row["bytes_total"]) for row in rows}

    assert totals(replayed) == totals(live)
    # 53 writes, and a truncation for each open but the first
    assert totals(live)["emptyDir/cache"] == (53 + 52, 9 * 2 + 44 * 3)


@pytest.fixture
def own_group() -> Iterator[tuple[Path, bool]]:
    """A cgroup's directory, and whether it is in the v2 hierarchy: else in v1's memory controller's."""
    roots = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    v2 = [root for root in roots if os.path.exists(f"{root}/cgroup.controllers")]
    group = Path(*v2[:1] or ["/sys/fs/cgroup/memory"], "kubetrace-test")
    group.mkdir()
    yield group, bool(v2)
    group.rmdir()


@pytest.mark.each_kernel
def test_a_full_table_and_many_writers_keep_totals_exact(own_group: tuple[Path, bool]) -> None:
    """Three keys of room (the first of four slots is nobody's) for 41 files: what has no room is in the rest."""
    group, v2 = own_group
    tracer = find("writes")
    script = (
        "import mmap, os\n"
        f"open('{group}/cgroup.procs', 'w').write('0')\n"
        "files = [os.open(f'/var/log/full-{n}', os.O_WRONLY | os.O_CREAT) for n in range(41)]\n"
        "for n in range(41 * 29): os.pwrite(files[n % 41], b'x' * 31, 0)\n"
        "for n in range(5): os.fsync(files[40])\n"
        "memory = mmap.mmap(os.open('/var/log/full-40', os.O_RDWR), 31)\n"
        "memory[0] = 1\n"
    )
    source = KernelSource(
        "writes",
        tracer.streams,
        constants={"by_file": 1, "memory_on_v1": int(not v2), "latency": 1},
        optional=tracer.optional,
        sizes={"writes": 4},
    )
    try:
        writers = [subprocess.Popen(["python3", "-S", "-c", script]) for _ in range(3)]
        assert [writer.wait() for writer in writers] == [0, 0, 0]
        own = [
            (batch.stream, event.NAMES["operation"][event.operation], event)
            for batch in source.read("writes", "writes_rest", "latencies")
            for event in source.layouts[batch.stream].decode(batch.data)
            if (event.cgroup_id if v2 else event.memory_cgroup_id) == group.stat().st_ino
        ]
        counted = [(name, event) for stream, name, event in own if stream != "latencies"]
        # entering the cgroup is a write of a byte too, and ends inside it
        writes, entered = 3 * 41 * 29, 3
        written = [event for name, event in counted if name in ("write", "other")]
        # nothing is lost but what a preempted program keeps from running, and that is counted
        missed = source.losses()["missed_run"]
        assert missed == 0 or preemptible()
        assert 0 <= writes + entered - sum(e.count for e in written) <= missed
        if missed == 0:
            assert sum(e.bytes for e in written) == writes * 31 + entered
        rest = {name: event for stream, name, event in own if stream == "writes_rest"}
        assert set(rest) == {"other", "other-fsync", "other-mmap"}
        assert 15 - missed <= rest["other-fsync"].count <= 15
        # one for each process, and a fault may be taken twice: the count of pages is an estimate
        assert 3 - missed <= rest["other-mmap"].count <= 6
        assert rest["other-mmap"].bytes == rest["other-mmap"].count * 4096
        # pages that become dirty are not timed
        slots = [sum(struct.unpack("<32Q", event.slots)) for stream, _, event in own if stream == "latencies"]
        assert sum(slots) == sum(event.count for name, event in counted if name != "other-mmap")
        assert source.losses()["map_full"] == 0
    finally:
        source.close()


@pytest.mark.each_kernel
def test_processes_that_write_the_same_new_files_share_a_counter_for_each(own_group: tuple[Path, bool]) -> None:
    """Who comes first makes the counter: of 701 files that four processes write at once each has just one."""
    group, v2 = own_group
    places = Path("/var/log/shared")
    places.mkdir()
    files = [places / str(n) for n in range(701)]
    for file in files:
        file.touch()
    inodes = {file.stat().st_ino for file in files}
    device = places.stat().st_dev
    tracer = find("writes")
    script = (
        "import os\n"
        f"open('{group}/cgroup.procs', 'w').write('0')\n"
        f"for n in range(701): os.write(os.open(f'{places}/{{n}}', os.O_WRONLY | os.O_APPEND), b'x' * 7)\n"
    )
    try:
        source = KernelSource(
            "writes",
            tracer.streams,
            constants={"by_file": 1, "memory_on_v1": int(not v2)},
            optional=tracer.optional,
        )
        try:
            writers = [subprocess.Popen(["python3", "-S", "-c", script]) for _ in range(4)]
            # read while they are made, too: what comes then is whole, and comes again when it has changed
            found: dict[int, Any] = {}
            working = True
            while working:
                working = any(writer.poll() is None for writer in writers)
                for batch in source.read("writes"):
                    for event in source.layouts["writes"].decode(batch.data):
                        # the cgroup's own file is of another file system, with numbers like these
                        if event.device == os.major(device) << 20 | os.minor(device):
                            found[event.place] = event
                time.sleep(0.01)
                source.hurry()
            missed = source.losses()["missed_run"]
            assert [writer.wait() for writer in writers] == [0] * 4
            assert missed == 0 or preemptible()
        finally:
            source.close()
    finally:
        shutil.rmtree(places)
    # a place of this size is the inode's number, and its generation above
    counted = [event for place, event in found.items() if place & 0xFFFFFFFF in inodes]
    assert len(counted) == len(files)
    assert 0 <= 4 * len(files) - sum(event.count for event in counted) <= missed
    assert all(event.bytes == 7 * event.count and event.files == 1 for event in counted)


# One thread calls, another puts a pipe in the place of its file meanwhile: at the return the number is the pipe's.
REPLACED = """
import errno, os, random, sys, threading
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
real = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
source = os.open(sys.argv[2] + ".source", os.O_RDWR | os.O_CREAT)
os.ftruncate(source, 1 << 20)
_, pipe = os.pipe()
dice = random.Random(7)
synced = 0
for turn in range(60):
    fd = os.dup(real)
    begun = threading.Event()
    wait = dice.random() * 0.004

    def replace():
        begun.wait()
        threading.Event().wait(wait)
        os.dup2(pipe, fd)

    other = threading.Thread(target=replace)
    other.start()
    begun.set()
    try:
        if turn % 2:
            os.fsync(fd)
            synced += 1
        else:
            os.lseek(real, 0, os.SEEK_END)
            os.set_blocking(pipe, False)
            os.sendfile(fd, source, 0, 1 << 20)
    except OSError as error:
        # it was a pipe before the call began
        assert error.errno in (errno.EINVAL, errno.EAGAIN), error
    other.join()
    os.close(fd)
print(os.fstat(real).st_size, synced)
"""


@pytest.mark.one_kernel
def test_a_file_that_is_replaced_during_the_call_is_counted(own_group: tuple[Path, bool], tmp_path: Path) -> None:
    group, v2 = own_group
    tracer = find("writes")
    source = KernelSource(
        "writes", tracer.streams, constants={"by_file": 1, "memory_on_v1": int(not v2)}, optional=tracer.optional
    )
    try:
        command = ["python3", "-S", "-c", REPLACED, str(group), "/var/log/replaced"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        size, synced = map(int, said.stdout.split())
        inode = os.stat("/var/log/replaced").st_ino
        counted = {
            event.NAMES["operation"][event.operation]: event
            for batch in source.read("writes")
            for event in source.layouts["writes"].decode(batch.data)
            if event.place & 0xFFFFFFFF == inode and (event.cgroup_id if v2 else event.memory_cgroup_id)
        }
        missed = source.losses()["missed_run"]
    finally:
        source.close()
        os.unlink("/var/log/replaced")
        os.unlink("/var/log/replaced.source")
    assert size > 0 and synced > 0 and (missed == 0 or preemptible())
    # The file is looked up at the entry by our program, and a moment later by the kernel: between the two it may become
    # the pipe, which takes its 64 KiB once.
    assert -(64 << 10) <= size - counted["sendfile"].bytes <= missed << 20
    assert 0 <= synced - counted["fsync"].count <= missed
