"""The shape of what is told of a pull and of each of its layers: one record for each, whenever it has changed."""

from __future__ import annotations

from typing import Final

from kubetrace.stream.layout import Field, Layout
from kubetrace.tracers.pulls.phases import ALL

STREAM: Final = "pulls"
UNKNOWN: Final = -1
"""A moment or number that is not known, or not yet."""
WHATS: Final = ("pull", "layer")
STATES: Final = ("running", "done", "failed", "left")
"""left: what began it is not there any more, and it was not taken up again."""
REUSED: Final = ("no", "blob", "unpacked")
"""What of a layer was there before: nothing; its blob; all of it."""
NAMED_BY: Final = ("nothing", "label", "image")
"""Where the name is from: the repository's label of the manifest, without port and tag; the image's record."""

TEXT_BYTES: Final = 320
NUMBERS = (
    ("pull", ""),  # its number in this run
    ("position", ""),  # of a layer, from 0 on
    ("layers", ""),  # how many the image has; 0: not known yet
    ("begun", "boot_ns"),  # of the pull, in both kinds of records
    ("resolved", "boot_ns"),
    ("ended", "boot_ns"),
    ("download_begun", "boot_ns"),
    ("download_ended", "boot_ns"),
    ("unpack_begun", "boot_ns"),
    ("committed", "boot_ns"),
    ("bytes", "bytes"),  # that this pull downloaded
    ("total", "bytes"),
    ("resumed", "bytes"),  # of these, what an earlier pull left
    ("unpacked", "bytes"),  # on the disk, once it is committed (st_blocks)
    ("inodes", ""),
    ("snapshot", ""),  # its directory's number
    # what the board concludes, of the whole pull or of a layer: in nanoseconds
    *((name, "duration_ns") for name in ALL),
    ("downloading", "duration_ns"),  # of a pull: while anything was downloaded
    ("unpacker_cpu", "duration_ns"),  # of decompressors meanwhile
    ("moment", "boot_ns"),  # until when these are
)
WORDS = (
    ("what", WHATS),
    ("state", STATES),
    ("reused", REUSED),
    ("named_by", NAMED_BY),
    # another pull of the same layer: downloads it, unpacks it
    ("fetched_elsewhere", ()),
    ("unpacked_elsewhere", ()),
    ("phase", ALL),  # the board's: what it is at; of a pull, what took longest, of the layer at `position`
    ("text_bytes", ()),
)


def _layout() -> Layout:
    fields, at = [], 0
    for name, unit in (("time", "boot_ns"), ("cgroup_id", "cgroup_id"), ("memory_cgroup_id", "cgroup_id")):
        fields.append(Field(name, at, 8, "unsigned", unit))
        at += 8
    for name, unit in (("memory_hierarchy", "hierarchy"), ("device", "dev")):
        fields.append(Field(name, at, 4, "unsigned", unit))
        at += 4
    for name, unit in NUMBERS:
        fields.append(Field(name, at, 8, "signed", unit))
        at += 8
    for name, names in WORDS:
        fields.append(Field(name, at, 2, "unsigned", "", names))
        at += 2
    for name, size in (("digest", 32), ("text", TEXT_BYTES)):
        fields.append(Field(name, at, size, "bytes"))
        at += size
    return Layout("pulls", at, tuple(fields))


LAYOUT = _layout()
