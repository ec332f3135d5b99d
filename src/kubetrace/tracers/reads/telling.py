"""What the words of a reading are: whose volume, who read, and by which way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.views.columns import Value

NOT_TOLD: Final = "(not told)"
OTHERS: Final = "(others)"
# By which way a file was reached: words of ours.
OWN, EXECUTED, FOREIGN, ENTERED, NODE, ELSEWHERE, ON_NODE, PASSED, UNMOUNTED, NOT_KNOWN = (
    "own mount",
    "exec",
    "another's mount",
    "nsenter",
    "node's path",
    "/proc/PID/root",
    "/proc/1/root",
    "passed on",
    "unmounted",
    "(not known)",
)


@dataclass(frozen=True, slots=True)
class File:
    """A file that was read: in whose volume, and its path there without the version that it was then in."""

    pod_uid: str | None = None
    kind: str | None = None
    volume: str | None = None
    path: str = NOT_TOLD
    version: str | None = None
    in_memory: bool = True
    """Whether what is read of it is counted; else opens and mappings alone."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader has done to a file since the last record of it; `of_*` is all since tracing began.

    `reader` is who read, as the kernel's cgroup says; `known` what of the file is known. Times are of CLOCK_BOOTTIME.
    """

    time: int
    cgroup_id: int
    memory_cgroup_id: int
    reader: Identity
    file: File
    way: str
    comm: bytes
    pid: int | None
    rest: bool
    first: int
    last: int
    opens: int
    reads: int
    bytes: int
    maps: int
    opens_total: int
    reads_total: int
    bytes_total: int
    maps_total: int
    is_first: bool


def way_of(record: Any, reader: Identity, file: File) -> str:
    """By which way the reader has reached the file: whose mount it is that the file was opened through."""
    through: str = record.NAMES["through"][record.through]
    if through == "node":
        return NODE
    if through == "unmounted":
        return UNMOUNTED
    if through == "unknown":
        return NOT_KNOWN
    if through in ("own", "executed"):
        if reader.kind == "host":
            return ENTERED
        if file.pod_uid is not None and reader.pod_uid not in (None, file.pod_uid):
            return FOREIGN
        return EXECUTED if through == "executed" else OWN
    if not record.opens and not record.maps:
        return PASSED
    return ON_NODE if through.startswith("node") else ELSEWHERE


def reader_of(reader: Identity, file: File) -> str:
    """A container of the pod by its name; others by all that they are called."""
    if reader.kind == "host":
        return f"host {reader.cgroup_path or ''}".rstrip()
    if reader.kind == "unknown":
        return NOT_KNOWN
    name = reader.container or ("(sandbox)" if reader.kind == "sandbox" else None)
    if name is None:
        name = reader.container_id[:12] if reader.container_id else "(pod)"
    if file.pod_uid is None or file.pod_uid == reader.pod_uid:
        return name
    pod = reader.pod or f"pod:{reader.pod_uid}"
    return f"{reader.namespace}/{pod}/{name}" if reader.namespace else f"{pod}/{name}"


def volume_of(file: File) -> str | None:
    """Such as `secret db-creds`."""
    return f"{file.kind} {file.volume}" if file.volume is not None else None


def cells_of(told: Reading) -> Mapping[str, Value]:
    """What a reading says besides its identity, by column key."""
    return {
        "volume": volume_of(told.file),
        "path": told.file.path,
        "reader": reader_of(told.reader, told.file),
        "way": told.way,
        "comm": None if told.rest else told.comm,
        "pid": told.pid,
        "version": told.file.version,
    }
