"""Operations on files by a container: each way of asking, in each kind of place, so and so often (filer.c)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kubetrace.engines.source import KernelSource
from kubetrace.engines.support import preemptible
from kubetrace.node.host import Host
from kubetrace.tracers.files import TRACER as FILES
from tests.vm import cri, images

from .conftest import Tracer
from .test_writes import procs_of

SOURCE = Path(__file__).parent / "filer.c"
# where the container sees it -> what kubetrace calls it, medium
DESTINATIONS = {
    "/tmp": ("writable layer", "disk"),
    "/cache": ("emptyDir/cache", "disk"),
    "/scratch": ("emptyDir/scratch (memory)", "memory"),
    "/data": ("hostPath /var/log/ledger", "disk"),
    "/claim": ("persistent volume pvc-0a1b", "disk"),
}
CLAIM = "/var/lib/kubelet/pods/3f1c0de2-8a52-4f0a-9b55-0c6f3f6f0a12/volumes/kubernetes.io~csi/pvc-0a1b/mount"
# What filer.c does in one directory: (operation, error) -> (succeeded, errors, expected failures).
WORK: Mapping[tuple[str, str | None], tuple[int, int, int]] = {
    # files, O_PATH, directories to be listed, the directory itself, the one that is fstat'ed
    ("open", None): (131 + 7 + 37 + 1 + 1, 0, 0),
    # creat, openat2, io_uring; mknod
    ("create", None): (101 + 53 + 29 + 17, 0, 0),
    ("mknod", None): (5, 0, 0),
    ("symlink", None): (19, 0, 0),
    ("link", None): (23, 0, 0),
    ("mkdir", None): (37 + 1, 0, 0),
    # stat, fstat, statx, io_uring
    ("stat", None): (211 + 97 + 43 + 11, 0, 0),
    ("list", None): (37 * 2, 0, 0),
    ("rename", None): (31 + 3, 0, 0),
    # one after the other, and by io_uring
    ("unlink", None): (53 + 7, 0, 0),
    ("unlink", "EISDIR"): (0, 0, 41),
    ("unlink", "EACCES"): (0, 23, 0),
    ("rmdir", None): (37, 0, 0),
    ("rmdir", "ENOTEMPTY"): (0, 0, 7),
}
TMPFILES = 13
# Of every directory together, in none of them.
NOWHERE: Mapping[tuple[str, str | None], tuple[int, int, int]] = {
    ("open-missing", None): (61, 0, 0),
    # stat twice, access
    ("lookup-missing", None): (127 * 2 + 47, 0, 0),
    ("open", "EISDIR"): (0, 0, 3),
    ("open", "EACCES"): (0, 11, 0),
}
# Files of the image that are removed (filer.c takes no more).
WHITEOUTS = 64
COUNTED = ("opens", "created", "missing", "stats", "lists", "removed", "renames", "mkdirs", "rmdirs", "links", "nodes")


@dataclass
class Run:
    """One run of the tracer over all work."""

    container: cri.Container
    refused_tmpfiles: int
    names: Mapping[str, int]
    objects: list[dict[str, Any]] = field(default_factory=list)

    def of(self, destination: str | None) -> dict[tuple[str, str | None], tuple[int, int, int]]:
        """(operation, error) -> (succeeded, errors, expected), of this container in this place."""
        found = {}
        for row in self.objects:
            if row["type"] == "files" and row["container_id"] == self.container.container_id:
                done = sum(row[f"{name}_total"] for name in (*COUNTED, "whiteouts"))
                if row["destination"] == destination:
                    found[row["operation"], row["error"]] = (done, row["errors_total"], row["expected_total"])
        return found

    @property
    def destinations(self) -> set[str | None]:
        mine = self.container.container_id
        return {row["destination"] for row in self.objects if row["type"] == "files" and row["container_id"] == mine}


def compiled(directory: Path) -> str:
    """The program that does the work."""
    made = str(directory / "filer")
    subprocess.run(["gcc", "-static", "-O1", "-o", made, str(SOURCE)], check=True)
    return made


@pytest.fixture(scope="module")
def filer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compiled(tmp_path_factory.mktemp("filer"))


def measure(node: cri.Node, filer: str, name: str, directory: Path, *options: str) -> Run:
    # on the node's disk, which /var/lib is not in the virtual machine
    for path in ("/var/log/ledger", CLAIM):
        os.makedirs(path, exist_ok=True)
        subprocess.run(["rm", "-rf", f"{path}/work"], check=True)
    pod = node.run_pod(
        "shop",
        name,
        volumes=[
            cri.Volume("empty-dir", "cache", "/cache"),
            cri.Volume("memory", "scratch", "/scratch"),
            cri.Volume("host-path", "data", "/data", host_path="/var/log/ledger"),
            cri.Volume("host-path", "claim", "/claim", host_path=CLAIM),
        ],
    )
    container = pod.start_container("app", images.WEB, ["sh", "-c", "exec sleep 100000"])
    tracer = Tracer(directory, "--by", "error", "-n", "shop", *options, command="files")
    try:
        done = subprocess.run(
            [filer, str(container.pid), ",".join(procs_of(container)), *DESTINATIONS, "/app/data/="],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    finally:
        objects = tracer.end()
    # as who looks afterwards counts them
    root = f"/proc/{container.pid}/root"
    names = {place: len(os.listdir(f"{root}{place}/work")) for place in DESTINATIONS}
    return Run(container, done.stderr.count("tmpfile:"), names, objects)


@pytest.fixture(scope="module")
def run(node: cri.Node, filer: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """All work under the tracer.

    A preempted program is not run for others on its CPU (docs/files.md). Where the tracer says that this has happened,
    its totals have no measure, and the work is done again.
    """
    for attempt in range(4):
        result = measure(node, filer, f"filer-{attempt}", tmp_path_factory.mktemp("files"))
        if attempt == 3 or not (preemptible() and result.objects[-1]["lost"]):
            break
        result.container.pod.remove()
    yield result
    result.container.pod.remove()


def expected_in(run: Run, place: str) -> dict[tuple[str, str | None], tuple[int, int, int]]:
    found = dict(WORK)
    # overlayfs refuses it on 5.10 and 6.1
    if place != "/tmp" or not run.refused_tmpfiles:
        found["tmpfile", None] = (TMPFILES, 0, 0)
    if place == "/tmp":
        removed, opened, listed, seen = (found[name, None][0] for name in ("unlink", "open", "list", "stat"))
        found["unlink", None] = (removed + WHITEOUTS, 0, 0)
        found["whiteout", None] = (WHITEOUTS, 0, 0)
        # opendir opens and stats, and reads once: there is more than it asks for
        found |= {("open", None): (opened + 1, 0, 0), ("list", None): (listed + 1, 0, 0)}
        found["stat", None] = (seen + 1, 0, 0)
    return found


@pytest.mark.parametrize("place", DESTINATIONS)
@pytest.mark.each_kernel
@pytest.mark.each_cgroup_mode
def test_each_operation_is_counted_once_where_it_happens(run: Run, place: str) -> None:
    assert run.of(DESTINATIONS[place][0]) == expected_in(run, place)


@pytest.mark.each_kernel
def test_what_is_not_there_is_nowhere(run: Run) -> None:
    expected = {key: tuple(len(DESTINATIONS) * count for count in counts) for key, counts in NOWHERE.items()}
    if run.refused_tmpfiles:
        expected["open", "ENOTSUP"] = (0, 0, run.refused_tmpfiles)
    assert run.of(None) == expected


@pytest.mark.each_kernel
def test_what_overlayfs_does_below_is_nobodys(run: Run) -> None:
    assert run.destinations == {None, *(text for text, _ in DESTINATIONS.values())}
    assert run.objects[-1]["lost"] == 0 or preemptible()


@pytest.mark.parametrize("place", DESTINATIONS)
@pytest.mark.each_kernel
def test_names_made_and_removed_are_those_that_are_there(run: Run, place: str) -> None:
    counts = {operation: done for (operation, _), (done, _, _) in run.of(DESTINATIONS[place][0]).items() if done}
    made = sum(counts[name] for name in ("create", "mknod", "symlink", "link", "mkdir")) - 1  # `work` itself
    removed = counts["unlink"] + counts["rmdir"] - counts.get("whiteout", 0)
    assert made - removed == run.names[place]


@pytest.mark.each_kernel
def test_a_place_says_what_it_is(run: Run) -> None:
    mediums = {row["destination"]: row["medium"] for row in run.objects if row["type"] == "files"}
    assert {text: mediums[text] for text, _ in DESTINATIONS.values()} == dict(DESTINATIONS.values())


DISKS = ("ext4", "xfs", "btrfs", "tmpfs")


@pytest.fixture
def disks() -> Iterator[list[str]]:
    """File systems of their own, mounted on the node."""
    images_at, points = Path("/var/log/files-disks"), []
    images_at.mkdir()
    subprocess.run(["modprobe", "-a", "loop", "xfs", "btrfs"], check=True)
    for name in DISKS:
        # others may go that way too, which they may not in pytest's directories
        point = images_at / f"{name}.d"
        point.mkdir()
        image = images_at / name
        if name == "tmpfs":
            subprocess.run(["mount", "-t", "tmpfs", "none", str(point)], check=True)
        else:
            with open(image, "wb") as file:
                file.truncate(400 << 20)
            subprocess.run([f"mkfs.{name}", "-q", str(image)], check=True)
            subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
        points.append(str(point))
    yield points
    for mounted in points:
        subprocess.run(["umount", mounted], check=True)
    shutil.rmtree(images_at)


@pytest.mark.one_kernel
def test_each_file_system_is_counted_alike(filer: str, disks: list[str], tmp_path: Path) -> None:
    group = Path("/sys/fs/cgroup/files-on-disks")
    group.mkdir()
    number = group.stat().st_ino
    tracer = Tracer(tmp_path, "--by", "process", command="files")
    try:
        subprocess.run([filer, "self", f"{group}/cgroup.procs", *disks], check=True)
    finally:
        objects = tracer.end()
        group.rmdir()
    # a row is told at each interval that changes it
    last = {(o["pid"], o["destination"]): o for o in objects if o["type"] == "files" and o["cgroup_id"] == number}
    rows = last.values()
    found = {key: sum(row[f"{key}_total"] for row in rows) for key in (*COUNTED, "errors", "expected")}
    each = {
        "opens": WORK["open", None][0],
        "created": WORK["create", None][0] + TMPFILES,
        "missing": 61 + 127 * 2 + 47,
        "stats": WORK["stat", None][0],
        "lists": WORK["list", None][0],
        "removed": WORK["unlink", None][0],
        "renames": WORK["rename", None][0],
        "mkdirs": WORK["mkdir", None][0],
        "rmdirs": WORK["rmdir", None][0],
        "links": WORK["link", None][0] + WORK["symlink", None][0],
        "nodes": WORK["mknod", None][0],
        "errors": 23 + 11,
        "expected": 41 + 7 + 3,
    }
    assert found == {key: count * len(disks) for key, count in each.items()}
    # one process on the node, in file systems that nobody has as a volume
    assert {row["destination"] for row in rows} <= {None, "host", f"tmpfs {disks[-1]}"}
    assert objects[-1]["lost"] == 0


@pytest.mark.one_kernel
def test_kprobes_count_the_same(node: cri.Node, filer: str, run: Run, tmp_path: Path) -> None:
    other = measure(node, filer, "filer-kprobe", tmp_path, "--hook", "kprobe")
    try:
        for destination in (None, *(text for text, _ in DESTINATIONS.values())):
            assert other.of(destination) == run.of(destination)
        assert other.objects[-1]["lost"] == 0
    finally:
        other.container.pod.remove()


MAKERS, EACH_MADE = 6, 2_000
MAKER = f"""
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
path = "/var/log/made-" + sys.argv[2]
for number in range({EACH_MADE}):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
    os.unlink(path)
"""


@pytest.mark.parametrize("hook", ["auto", "kprobe"])
@pytest.mark.one_kernel(on="7.2")
def test_a_crowds_files_are_counted_once_each(hook: str) -> None:
    wiring = FILES.wiring({"only": "create,unlink"}, "pod", False, Host(Path("/")))
    group = Path("/sys/fs/cgroup/crowd-of-makers")
    group.mkdir()
    source = KernelSource(
        "files",
        FILES.streams,
        optional=FILES.optional,
        hook=hook,
        constants=wiring.constants,
        sizes=wiring.sizes,
        unneeded=wiring.unneeded,
        places=wiring.places,
    )
    try:
        arguments = ["python3", "-S", "-c", MAKER, str(group)]
        crowd = [subprocess.Popen([*arguments, str(one)]) for one in range(MAKERS)]
        assert [one.wait() for one in crowd] == [0] * MAKERS
        counted = dict.fromkeys(("create", "unlink"), 0)
        for batch in source.read("files"):
            for event in source.layouts["files"].decode(batch.data):
                operation = event.NAMES["operation"][event.operation]
                if event.cgroup_id == group.stat().st_ino and operation in counted:
                    counted[operation] += event.count
        losses = source.losses()
    finally:
        source.close()
        group.rmdir()
    lost = losses.pop("missed_run")
    assert sum(losses.values()) == 0, losses
    made = MAKERS * EACH_MADE
    print(f"{2 * made - sum(counted.values())} of {2 * made} not counted, {lost} told as lost")
    assert lost == 0 or (preemptible() and hook == "auto")
    assert 0 <= 2 * made - sum(counted.values()) <= lost
    assert lost < made // 4
