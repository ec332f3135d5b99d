"""Files without a name that are still open: they take disk, and no walk of any directory finds them.

A candidate is (pid, fd) from the kernel's iterator over open files (bpf/disk.bpf.c), or else from a look at every
/proc/PID/fd. Either way stat(2) of /proc/PID/fd/FD decides: a regular file with no link left. It counts once, whoever
else holds it too. What is only mapped, a loop device's or a swap file is not seen.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kubetrace.node.host import Host

_MOST_HELD: Final = 10_000
_MAX_NAME: Final = 4096
_CONTAINER = re.compile(r"([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A deleted file and who holds it. `device` as st_dev says it: an overlay's own, for a file in one.

    `path` is what it was called, as the process that opened it saw it; it says nothing of where it is on the node.
    """

    device: int
    inode: int
    bytes: int
    path: str
    pid: int
    fd: int
    comm: str
    holders: int
    container_id: str | None


def all_open(host: Host) -> Iterator[tuple[int, int]]:
    """Every open file of every process, as (pid, fd): the way that takes half a second for 40,000 of them."""
    for name in _names(str(host.proc)):
        if name.isdecimal():
            for fd in _names(f"{host.proc}/{name}/fd"):
                if fd.isdecimal():
                    yield int(name), int(fd)


def held_files(host: Host, candidates: Iterable[tuple[int, int]]) -> Iterator[HeldFile | None]:
    """Those of the candidates that are deleted and hold disk; None for each other one: it takes its time, too."""
    found: dict[tuple[int, int], HeldFile] = {}
    for pid, fd in candidates:
        path = f"{host.proc}/{pid}/fd/{fd}"
        try:
            status = os.stat(path)
        except OSError:
            yield None
            continue
        if status.st_nlink or not stat.S_ISREG(status.st_mode) or len(found) >= _MOST_HELD:
            yield None
            continue
        key = status.st_dev, status.st_ino
        known = found.get(key)
        if known is None:
            device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
            held = HeldFile(
                device,
                status.st_ino,
                status.st_blocks * 512,
                _link(path),
                pid,
                fd,
                _text(f"{host.proc}/{pid}/comm").strip(),
                1,
                _container(host, pid),
            )
        else:
            held = HeldFile(
                known.device,
                known.inode,
                known.bytes,
                known.path,
                known.pid,
                known.fd,
                known.comm,
                known.holders + (known.pid != pid),
                known.container_id,
            )
        found[key] = held
        yield held


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _link(path: str) -> str:
    try:
        return os.readlink(path).removesuffix(" (deleted)")[:_MAX_NAME]
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read(4096))
    except OSError:
        return ""


def _container(host: Host, pid: int) -> str | None:
    # the last one in its cgroup's path: a container in a container is attributed by its own
    for line in _text(f"{host.proc}/{pid}/cgroup").splitlines():
        found = _CONTAINER.findall(line.rpartition(":")[2])
        if found:
            return str(found[0])
    return None
