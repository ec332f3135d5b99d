"""The native ring: the real engine, rings, pipeline and terminal; a tracepoint stands in for overlayfs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
# For what another process has to do first: a busy machine promises no time, so this only ends a test that hangs.
DEADLINE_S = 240
# The stand-in's system call, as the kernel's tracepoint sees it though there is none of this number: what anyone else
# calls at the same time, another run of these tests too, is none of ours.
STANDIN_CALL = (1 << 20) + os.getpid()
sys.path.insert(0, str(ROOT / "scripts"))
import compile_objects  # noqa: E402

from .image_builds import Builds  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at the image comes last: it is built meanwhile."""
    items.sort(key=lambda item: item.path.name == "test_image.py")


@pytest.fixture(scope="session", autouse=True)
def image_builds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builds | None]:
    """From the first test on, if there will be need."""
    if not any(item.path.name == "test_image.py" for item in request.session.items):
        yield None
        return
    builds = Builds(tmp_path_factory.mktemp("images"))
    yield builds
    builds.close()


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the stand-in as copyup.bpf.o, for KUBETRACE_OBJECTS."""
    directory = tmp_path_factory.mktemp("objects")
    compile_objects.compile_object(
        ROOT / "tests" / "native" / "standin.bpf.c",
        directory / "copyup.bpf.o",
        platform.machine(),
        "-I",
        str(ROOT / "bpf"),
        f"-DNR_GETPPID={STANDIN_CALL}",
    )
    return directory


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What bcc compiles is kept for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def environment(objects: Path) -> dict[str, str]:
    """For a kubetrace process that traces the stand-in."""
    return {**os.environ, "KUBETRACE_OBJECTS": str(objects), "LC_ALL": "C.UTF-8", "NODE_NAME": "node1"}


def until(true: Callable[[], object], what: object = "", process: subprocess.Popen[Any] | None = None) -> None:
    """Wait for a fact, for as long as the process that is to bring it about runs."""
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert process is None or process.poll() is None, process.communicate() if process is not None else ""
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.01)


@pytest.fixture
def workload(tmp_path: Path) -> Iterator[Workload]:
    """A process whose working directory and stand-in calls the test decides."""
    with Workload(tmp_path) as made:
        yield made


class Workload:
    """Each `fire(directory, n)` makes n stand-in copy-ups of a path, and returns when they are done."""

    SOURCE = """
import ctypes, os, sys
call = ctypes.PyDLL(None).syscall
for line in sys.stdin.buffer:
    count, _, name = line.rstrip(b"\\n").partition(b" ")
    os.chdir(bytes.fromhex(name.decode()))
    for _ in range(int(count)):
        call(int(sys.argv[1]))
    print("done", flush=True)
"""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __enter__(self) -> Workload:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", self.SOURCE, str(STANDIN_CALL)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def fire(self, path: bytes, count: int) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        os.makedirs(path, exist_ok=True)
        self._process.stdin.write(b"%d %s\n" % (count, path.hex().encode()))
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"done\n"
