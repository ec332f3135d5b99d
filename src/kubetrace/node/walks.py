"""How much is in directories, where nothing but looking at every file tells: by a process of its own, slowly.

The process runs only when nothing else wants the CPU (SCHED_IDLE), and takes a given share of one core at most: after
two milliseconds of it, it sleeps for as long as that share asks. Several directories are gone through in turns, so that
a small one does not wait for a million files. Nothing is opened but directories, no symbolic link is followed, no other
device is entered, times of access stay as they are, and an inode with several names counts once for each directory that
was asked for.

    stdin   one JSON object a line: {"id": number, "path": directory, "leave_out": [paths below it]}
    stdout  one JSON object a line: {"id", "bytes", "inodes", "unread", "state": "walking" | "done" | "gone"}

Bytes are st_blocks * 512, directories included, as du(1) counts them.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

# CPU time between two sleeps, entries between two looks at it, and seconds between two reports of one directory.
_SLICE_S: Final = 0.002
_ENTRIES: Final = 64
_REPORT_S: Final = 0.5
# Directories that are open at one time in one walk, and names of one inode that are remembered.
_MOST_DEEP: Final = 200
_MOST_LINKS: Final = 1_000_000
_AT_ONCE: Final = 4
# What the parent has asked for and not been told yet.
_MOST_ASKED: Final = 256
_LONGEST_SLEEP_S: Final = 1.0

_Tree = dict[str, Any]
_NOTHING: Final[_Tree] = {}

State = Literal["walking", "done", "gone"]


@dataclass(frozen=True, slots=True)
class Walked:
    """What was found so far, or (`done`) in all; `unread` directories could not be looked into."""

    key: Any
    bytes: int
    inodes: int
    unread: int
    state: State


class Walks:
    """The parent's end. Nothing is started before the first directory is asked for."""

    def __init__(self, share: float) -> None:
        """`share` of one core, such as 0.05."""
        self._share = share
        self._process: subprocess.Popen[bytes] | None = None
        self._keys: dict[int, Any] = {}
        self._number = 0
        self._rest = b""
        self.problem: str | None = None
        """Why there is no such process."""

    @property
    def room(self) -> int:
        """How many more directories can be asked for now."""
        return 0 if self.problem is not None else _MOST_ASKED - len(self._keys)

    def ask(self, key: Any, path: str, leave_out: Sequence[str] = ()) -> None:
        """Go through a directory (a path that this process can open); `results` tell of it by its key."""
        if self._process is None:
            self._start()
        if self._process is None or self._process.stdin is None:
            return
        self._number += 1
        self._keys[self._number] = key
        line = json.dumps({"id": self._number, "path": path, "leave_out": list(leave_out)}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except OSError as error:
            self._broken(f"the process that looks at files has ended: {error.strerror or error}")

    def results(self) -> list[Walked]:
        """What has become known since the last call, in its order."""
        if self._process is None or self._process.stdout is None:
            return []
        found: list[Walked] = []
        while True:
            try:
                data = os.read(self._process.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._broken("the process that looks at files has ended")
                break
            *lines, self._rest = (self._rest + data).split(b"\n")
            found += [walked for line in lines if (walked := self._read(line)) is not None]
        return found

    def _read(self, line: bytes) -> Walked | None:
        told = json.loads(line)
        key = self._keys.get(told["id"])
        if told["state"] != "walking":
            self._keys.pop(told["id"], None)
        return None if key is None else Walked(key, told["bytes"], told["inodes"], told["unread"], told["state"])

    def _start(self) -> None:
        # -I: neither the environment nor the working directory says what is imported
        here = os.path.abspath(__file__)
        code = f"import runpy; runpy.run_path({here!r}, run_name='__main__')"
        command = [sys.executable, "-I", "-S", "-c", code, str(self._share)]
        try:
            self._process = subprocess.Popen(
                # Ctrl-C is for the parent, which closes this one's input
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            self._broken(f"no process can be started to look at files: {error.strerror or error}")
            return
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def _broken(self, why: str) -> None:
        self.problem = why
        self._keys.clear()
        self.close()

    @property
    def cpu_ns(self) -> int:
        """CPU time that the process has taken; 0 where there is none."""
        if self._process is None:
            return 0
        try:
            return _cpu_ns(self._process.pid)
        except OSError:
            return 0

    def close(self) -> None:
        """End the process; harmless when called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        with contextlib.suppress(OSError):
            process.wait()
        for end in (process.stdin, process.stdout):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.close()


def _cpu_ns(pid: int) -> int:
    # proc(5), fields 14 and 15 of /proc/PID/stat, in clock ticks
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


# The process.


class Walk:
    """One directory, gone through piece by piece."""

    def __init__(self, path: str, leave_out: Sequence[str] = (), largest: int = 0) -> None:
        """Nothing is opened yet. So many of the `largest` directories are kept."""
        self.bytes = self.inodes = self.unread = 0
        self.gone = False
        self._path = path
        self._leave_out = _tree(leave_out)
        self._links: set[int] = set()
        self._device = -1
        self._most = largest
        self._largest: list[tuple[int, str]] = []

    @property
    def largest(self) -> list[tuple[str, int]]:
        """The directories with most bytes in files of their own, by their paths in this one (`/`: itself)."""
        return [(path, taken) for taken, path in sorted(self._largest, key=lambda one: (-one[0], one[1]))]

    def pieces(self) -> Generator[None]:
        """Go on for some entries, again and again until all is looked at."""
        try:
            top = _open(self._path, None)
        except OSError:
            self.gone = True
            return
        status = os.fstat(top)
        self._device = status.st_dev
        self.bytes, self.inodes = status.st_blocks * 512, 1
        yield from self._below(top, 0, self._leave_out, "")

    def _below(self, directory: int, depth: int, leave_out: _Tree, path: str) -> Generator[None]:
        # `directory` is closed here. What comes and goes meanwhile is looked at or not.
        below: list[str] = []
        own = 0
        try:
            try:
                entries = os.scandir(directory)
            except OSError:
                self.unread += 1
                return
            seen = 0
            with entries:
                while True:
                    try:
                        entry = next(entries, None)
                    except OSError:
                        self.unread += 1
                        break
                    if entry is None:
                        break
                    if leave_out.get(entry.name) != {}:
                        own += self._count(entry, below)
                    seen += 1
                    if not seen % _ENTRIES:
                        yield
            self._keep(path, own)
            for name in below:
                if depth >= _MOST_DEEP:
                    self.unread += 1
                    continue
                try:
                    inner = _open(name, directory)
                    if os.fstat(inner).st_dev != self._device:
                        os.close(inner)
                        continue
                except FileNotFoundError:
                    continue
                except OSError:
                    self.unread += 1
                    continue
                yield from self._below(inner, depth + 1, leave_out.get(name, _NOTHING), f"{path}/{name}")
            yield
        finally:
            os.close(directory)

    def _keep(self, path: str, own: int) -> None:
        if not own or not self._most:
            return
        heapq.heappush(self._largest, (own, path or "/"))
        if len(self._largest) > self._most:
            heapq.heappop(self._largest)

    def _count(self, entry: os.DirEntry[str], below: list[str]) -> int:
        # bytes of what is no directory
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return 0
        except OSError:
            self.unread += 1
            return 0
        if status.st_dev != self._device:
            return 0
        directory = stat.S_ISDIR(status.st_mode)
        if directory:
            below.append(entry.name)
        elif status.st_nlink > 1:
            if status.st_ino in self._links:
                return 0
            if len(self._links) < _MOST_LINKS:
                self._links.add(status.st_ino)
        taken = status.st_blocks * 512
        self.bytes += taken
        self.inodes += 1
        return 0 if directory else taken


def _tree(paths: Sequence[str]) -> _Tree:
    # name -> what is left out below it; {}: all of it
    tree: _Tree = {}
    for path in sorted(paths, key=len, reverse=True):
        at = tree
        *above, last = path.strip("/").split("/")
        for name in above:
            at = at.setdefault(name, {})
        at[last] = {}
    return tree


def _open(name: str, directory: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=directory)
    except PermissionError:
        # only the owner, or CAP_FOWNER, may leave the time of access as it is
        return os.open(name, flags, dir_fd=directory)


class _Budget:
    # Sleeps for what was used. Time that was waited for a disk counts as slept.

    def __init__(self, share: float) -> None:
        self._share = share
        self._cpu = time.thread_time()
        self._wall = time.monotonic()

    def pay(self) -> float:
        """Seconds to sleep now."""
        used = time.thread_time() - self._cpu
        if used < _SLICE_S:
            return 0.0
        owed = used / self._share - (time.monotonic() - self._wall)
        return min(max(0.0, owed), _LONGEST_SLEEP_S)

    def begin(self) -> None:
        self._cpu, self._wall = time.thread_time(), time.monotonic()


def _main(share: float) -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        os.nice(19)
    walking: dict[int, tuple[Walk, Iterator[None], float]] = {}
    waiting: list[tuple[int, Walk]] = []
    rest, budget = b"", _Budget(share)
    while True:
        busy = bool(walking or waiting)
        owed = budget.pay() if busy else 0.0
        ready, _, _ = select.select([0], [], [], owed if busy else None)
        if ready:
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                asked = json.loads(line)
                waiting.append((asked["id"], Walk(asked["path"], asked["leave_out"])))
        if owed and not ready:
            budget.begin()
        elif owed:
            continue
        elif not busy:
            budget.begin()
        while waiting and len(walking) < _AT_ONCE:
            number, walk = waiting.pop(0)
            walking[number] = walk, walk.pieces(), time.monotonic()
        for number, (walk, pieces, told) in list(walking.items()):
            ended = next(pieces, pieces) is pieces
            now = time.monotonic()
            if not ended and now - told < _REPORT_S:
                continue
            state = "walking" if not ended else "gone" if walk.gone else "done"
            _tell({"id": number, "bytes": walk.bytes, "inodes": walk.inodes, "unread": walk.unread, "state": state})
            if ended:
                del walking[number]
            else:
                walking[number] = walk, pieces, now


def _tell(record: dict[str, object]) -> None:
    data = json.dumps(record).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        _main(float(sys.argv[1]))
