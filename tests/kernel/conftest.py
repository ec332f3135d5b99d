"""The kernel ring: a real kernel with real containerd, inside the VM (scripts/vm --node=quiet -- pytest tests/kernel).

One tracer runs for all tests; each test looks at the events of its own container. What is expected comes from stat of
the writable layer, from the runtime, or is written by hand.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubetrace.engines.support import preemptible
from tests.rings import matrix
from tests.vm import cri, images

Event = dict[str, Any]
SHELL = ["sh", "-c", "exec sleep infinity"]
DEADLINE_S = 240


# What test_bcc.py compiles by bcc: under emulation that takes minutes, of which the others need one CPU at a time.
BCC_COMMANDS = {
    "writes": ("--by", "operation"),
    "copyup": (),
    "cgroups": ("--min-stall", "0"),
    "files": ("--by", "error"),
    "reads": (),
}
COMPILED_S = 600


def marks_of(item: pytest.Item) -> list[matrix.Mark]:
    """The markers of this test that say where it runs."""
    return [matrix.Mark(mark.name, **mark.kwargs) for mark in item.iter_markers() if mark.name in matrix.MARKERS]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what belongs to another kernel or cgroup mode; what needs the compilers' results comes last."""
    for item in items:
        if wrong := matrix.fault(marks_of(item)):
            raise pytest.UsageError(f"{item.nodeid}: {wrong}")
    if place := matrix.here():
        elsewhere = [item for item in items if not matrix.runs_at(*place, marks_of(item))]
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if item not in elsewhere]
    items.sort(key=lambda item: item.path.name == "test_bcc.py")


@pytest.fixture(scope="session", autouse=True)
def compilers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[subprocess.Popen[bytes] | None]:
    """From the first test on, if there will be need: each tracer by bcc, once, where only idle time is taken.

    What they make is kept (engines/bcc/cache.py) for the one that test_bcc.py starts.
    """
    if not any(item.path.name == "test_bcc.py" for item in request.session.items):
        yield None
        return
    # of everything that is run from now on
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    each = [
        f"kubetrace {command} --engine bcc -o json --duration 0.1 {' '.join(options)}"
        for command, options in BCC_COMMANDS.items()
    ]
    made = subprocess.Popen(
        ["nice", "-n", "19", "sh", "-ec", "\n".join(each)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    yield made
    with contextlib.suppress(ProcessLookupError):
        os.killpg(made.pid, signal.SIGKILL)
    made.wait()


def losses(objects: list[Event]) -> int:
    """How many objects tell of losses: only where two preempted programs may keep a third from running."""
    lost = [o for o in objects if o["type"] == "lost"]
    assert objects[-1]["lost"] == (lost[-1]["lost"] if lost else 0)
    assert [o for o in lost if o["lost"] != o.get("missed_run") or not preemptible()] == []
    return len(lost)


class Tracer:
    """A running `kubetrace copyup -o json` (or another command's) whose objects can be waited for."""

    def __init__(self, directory: Path, *options: str, command: str = "copyup", ready_s: float = DEADLINE_S) -> None:
        self._ready = directory / "ready"
        # of the one before
        self._ready.unlink(missing_ok=True)
        self._errors = directory / "stderr"
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(
                ["kubetrace", command, "-o", "json", "--ready-file", str(self._ready), *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._queue: queue.Queue[Event] = queue.Queue()
        self.objects: list[Event] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._wait_until(self._ready.exists, "ready", ready_s)
        except BaseException:
            self.kill()
            raise

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._queue.put(json.loads(line))

    def _wait_until(self, done: Callable[[], bool], what: str, most_s: float) -> None:
        deadline = time.monotonic() + most_s
        while not done():
            assert self._process.poll() is None, f"kubetrace ended: {self.errors()}"
            assert time.monotonic() < deadline, f"not {what} after {most_s} s: {self.errors()}"
            time.sleep(0.02)

    def wait_for(self, wanted: Callable[[Event], bool]) -> Event:
        """The first object from now on that is wanted; those before it are kept in `objects`."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                found = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"never came; kubetrace said: {self.errors()}") from None
            self.objects.append(found)
            if wanted(found):
                return found

    def drain(self) -> None:
        """Take in what has come, without waiting."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.objects.append(self._queue.get_nowait())

    def errors(self) -> str:
        """What it wrote to stderr so far."""
        return self._errors.read_bytes().decode()

    @property
    def pid(self) -> int:
        """Of kubetrace."""
        return self._process.pid

    def kill(self) -> None:
        """For a test that is lost: what still runs would slow the others down."""
        self._process.kill()
        self._process.wait()

    def end(self) -> list[Event]:
        """Ctrl-C; every object it ever wrote, the summary last."""
        if self._process.poll() is None:
            self._process.send_signal(2)
        assert self._process.wait(DEADLINE_S) == 0, self.errors()
        self._reader.join(DEADLINE_S)
        while not self._queue.empty():
            self.objects.append(self._queue.get())
        return self.objects


class Case:
    """One container, and what the tracer says about it."""

    _numbers = itertools.count()

    def __init__(self, tracer: Tracer, container: cri.Container) -> None:
        self.tracer = tracer
        self.container = container
        self._files = (f"{number:03}.dat" for number in itertools.count())

    def run(self, script: str) -> list[Event]:
        """Run a shell script in the container as kubectl exec does; the copy-ups that it caused."""
        out, err, code = self.container.exec(["sh", "-c", script])
        assert code == 0, (out, err)
        return self.events()

    def events(self) -> list[Event]:
        """The container's copy-ups since the last call: everything that was before a marker of our own."""
        begin = len(self.tracer.objects)
        marker = f"/app/data/{next(self._files)}"
        out, err, code = self.container.exec(["sh", "-c", f"echo >> {marker}"])
        assert code == 0, (out, err)
        self.tracer.wait_for(lambda o: o.get("path") == marker and o["container_id"] == self.container.container_id)
        mine = [o for o in self.tracer.objects[begin:] if o.get("container_id") == self.container.container_id]
        return [o for o in mine if o["path"] not in ("/app/data", "/app", marker)]

    def upper(self, path: str) -> str:
        """Where the writable layer holds the container's path."""
        return self.container.upperdir + path


@pytest.fixture(scope="session")
def node() -> cri.Node:
    return cri.Node.connect()


@pytest.fixture(scope="session")
def tracer(node: cri.Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracer]:
    made = Tracer(tmp_path_factory.mktemp("tracer"))
    yield made
    objects = made.end()
    summary = objects[-1]
    assert summary["type"] == "summary"
    # nothing was lost and nothing stayed without an owner, over all tests together
    lost = losses(objects)
    assert summary["unattributed"] == 0
    assert summary["events"] == len(objects) - 1 - lost


@pytest.fixture(scope="session")
def pod(node: cri.Node) -> Iterator[cri.Pod]:
    made = node.run_pod("shop", "cart-7d4b9c6f5d-x2x9z", qos="burstable")
    yield made
    made.remove()


@pytest.fixture
def case(request: pytest.FixtureRequest, tracer: Tracer, pod: cri.Pod) -> Iterator[Case]:
    """A fresh container, its /app and /app/data copied up already, so that a test sees the parents of its own only."""
    name = "c" + str(next(Case._numbers))
    container = pod.start_container(name, images.WEB, SHELL)
    made = Case(tracer, container)
    made.events()
    yield made
    with contextlib.suppress(cri.NodeError):
        container.remove()


class Overlay:
    """An overlay made by hand, for lower files that an image cannot hold; the writer runs in a container's cgroup."""

    def __init__(self, directory: Path, container: cri.Container, upper_bytes: int, *, mounted: bool = True) -> None:
        self.lower, self.upper, self.merged = directory / "lower", directory / "rw" / "upper", directory / "merged"
        self._rw = directory / "rw"
        self._container = container
        for path in (self.lower, self._rw, self.merged):
            path.mkdir(parents=True)
        if mounted:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={upper_bytes}", "tmpfs", str(self._rw)], check=True)
            self.upper.mkdir()
            (self._rw / "work").mkdir()

    def mount(self, *more: str) -> None:
        """After the lower files were made; `more` are further mount options."""
        options = ",".join([f"lowerdir={self.lower}", f"upperdir={self.upper}", f"workdir={self._rw}/work", *more])
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(self.merged)], check=True)

    def run(self, code: str, *arguments: bytes) -> subprocess.CompletedProcess[bytes]:
        """Run Python code in the container's cgroup; sys.argv[1:] are the arguments."""
        roots = [r for r in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory") if os.path.isdir(r)]
        groups = [
            f"{root}{self._container.cgroup_path}/cgroup.procs"
            for root in roots
            if os.path.isdir(root + self._container.cgroup_path)
        ]
        enter = "".join(f'open({group!r}, "w").write("0")\n' for group in groups)
        return subprocess.run(
            ["python3", "-S", "-c", "import os, sys\n" + enter + code, *arguments], capture_output=True, check=False
        )

    def unmount(self) -> None:
        """The overlay and its tmpfs."""
        subprocess.run(["umount", str(self.merged)], check=False)
        subprocess.run(["umount", str(self._rw)], check=False)


@pytest.fixture
def overlay(case: Case, tmp_path: Path) -> Iterator[Overlay]:
    # /tmp of the guest is an overlay of the VM's own; the node's disk is not
    directory = Path("/var/lib/kubelet") / f"overlay-{tmp_path.name}"
    made = Overlay(directory, case.container, 16 << 20)
    yield made
    made.unmount()
