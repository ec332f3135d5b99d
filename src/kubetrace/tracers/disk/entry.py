"""The records of the stream `entries`: what one look at the node's disks found.

    filesystem  how full one is: capacity, available, inodes; and what the kubelet could free on it by itself
    threshold   a number at which the kubelet acts, with where it is set; or that it is not known, and why
    part        something that takes room: whose it is, where, how much, how that is known and when
    gone        an entry of before, by its number, is not there any more

An entry is told when it is new or has changed. Numbers that are not known are UNKNOWN.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any, Final

from kubetrace.stream.layout import RING_HEADER_BYTES, Field, Layout

STREAM: Final = "entries"
UNKNOWN: Final = -1
NO_GROWTH: Final = -(1 << 62)
"""A growth that is not known."""

WHATS: Final = ("filesystem", "threshold", "part", "gone")
KINDS: Final = (
    "",
    "image layers",
    "image blobs",
    "writable layer",
    "log",
    "emptyDir",
    "volume",
    "image volume",
    "deleted, open",
    "core dumps",
    "pull",
    "orphan",
    "kubelet",
    "runtime",
    "node logs",
    "node",
    "the rest",
)
"""Of a part."""
ACTIONS: Final = ("", "image GC", "evicts", "evicts after", "not known", "full")
"""Of a threshold: what the kubelet does there. `full`: nobody acts, the disk is."""
HOWS: Final = ("", "statvfs", "metadata", "walk", "iterator", "/proc", "stat", "difference")
"""How a figure is known."""
STATES: Final = ("", "walking", "whole", "part")
"""Of a walk: going on, done, or done but for directories that could not be looked into."""
ROLES: Final = (("nodefs", 1), ("imagefs", 2), ("containerfs", 4), ("logs", 8))
"""What a file system is to the kubelet, as bits."""

_HEAD: Final = (
    ("time", 8, "boot_ns"),
    ("cgroup_id", 8, "cgroup_id"),
    ("memory_cgroup_id", 8, "cgroup_id"),
    ("memory_hierarchy", 4, "hierarchy"),
    ("device", 4, "dev"),  # always 0: `disk` says which one
)
_ENUMS: Final = (("what", WHATS), ("kind", KINDS), ("action", ACTIONS), ("how", HOWS), ("state", STATES))
_SMALL: Final = (
    ("entry", ""),  # its number, the same for as long as it is there
    ("disk", "dev"),
    ("roles", ""),
    ("users", ""),  # containers of an image, processes that hold a file
    ("pid", ""),
)
_LARGE: Final = (
    ("as_of", "boot_ns"),  # when the figures were taken
    ("bytes", "bytes"),
    ("inodes", ""),
    ("capacity", "bytes"),
    ("available", "bytes"),
    ("inodes_total", ""),
    ("inodes_free", ""),
    ("least", ""),  # bytes or inodes that have to be available
    ("grace", "duration_ns"),
    ("shared", "bytes"),  # of an image, what others have too
    ("frees", "bytes"),  # what its removal would free; of a file system, what the kubelet can
    ("percent", ""),  # of a threshold: hundredths of a percent
    ("growth", ""),  # bytes or inodes in a second, as the board concludes
    ("left", "duration_ns"),  # until the kubelet acts, likewise
)
_TEXTS: Final = (
    ("namespace", 64),
    ("pod", 256),
    ("container", 64),
    ("pod_uid", 64),
    ("container_id", 72),
    ("name", 120),
    ("path", 200),
)


def _layout() -> Layout:
    fields: list[Field] = []
    at = 0

    def add(name: str, size: int, kind: str, unit: str = "", names: tuple[str, ...] = ()) -> None:
        nonlocal at
        fields.append(Field(name, at, size, kind, unit, names))
        at += size

    for name, size, unit in _HEAD:
        add(name, size, "unsigned", unit)
    for name, names in _ENUMS:
        add(name, 4, "unsigned", "", names)
    for name, unit in _SMALL:
        add(name, 4, "unsigned", unit)
    for name, unit in _LARGE:
        add(name, 8, "signed", unit)
    for name, size in _TEXTS:
        add(name, size, "bytes")
    return Layout("disk_entry", at, tuple(fields))


LAYOUT: Final = _layout()
_PACK = struct.Struct(f"<{RING_HEADER_BYTES}x{LAYOUT.format[1:]}").pack
_NUMBERS: Final[Mapping[str, Mapping[str, int]]] = {
    name: {text: number for number, text in enumerate(names)} for name, names in _ENUMS
}
_DEFAULTS: Mapping[str, Any] = {
    field.name: b"" if field.kind == "bytes" else UNKNOWN if field.kind == "signed" else 0 for field in LAYOUT.fields
}
_DEFAULTS = {**_DEFAULTS, "growth": NO_GROWTH}
_SIZES: Final = dict(_TEXTS)
_CUT: Final = "…".encode()


def pack(**values: Any) -> bytes:
    """A record of a batch. Enums are given by their names; a text that does not fit loses its beginning."""
    record = dict(_DEFAULTS)
    for name, value in values.items():
        if name in _NUMBERS:
            value = _NUMBERS[name][value]
        elif name in _SIZES:
            value = _fitted(value, _SIZES[name])
        record[name] = value
    return _PACK(*record.values())


def _fitted(text: str | None, size: int) -> bytes:
    data = os.fsencode(text or "")
    return data if len(data) <= size else _CUT + data[len(data) - size + len(_CUT) :]


def text_of(value: bytes) -> str:
    """A text of a record."""
    return os.fsdecode(value.rstrip(b"\0"))


# What a decoded record says.


def what(event: Any) -> str:
    """filesystem, threshold, part or gone."""
    return str(event.NAMES["what"][event.what])


def kind_of(event: Any) -> str:
    """Of a part."""
    return str(event.NAMES["kind"][event.kind])


def known(number: int) -> int | None:
    """None for UNKNOWN."""
    return None if number == UNKNOWN else number


def roles(event: Any) -> str:
    """What a file system is to the kubelet: nodefs imagefs."""
    return " ".join(name for name, bit in ROLES if event.roles & bit and name != "logs")


def of_inodes(event: Any) -> bool:
    """Whether a threshold is about inodes."""
    return text_of(event.name).startswith(("nodefs.inodes", "imagefs.inodes"))


def action(event: Any, available: int | None) -> str:
    """What the kubelet does at a threshold, and whether it does so now."""
    said = str(event.NAMES["action"][event.action])
    if said == "evicts after":
        said = "evicts"
    if said == "not known" or available is None or event.least == UNKNOWN:
        return said
    now = available <= 0 if said == "full" else available < event.least
    return f"{said} now" if now else said
