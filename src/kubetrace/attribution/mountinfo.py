"""Reads mountinfo (proc(5)) and the options of overlay mounts in it.

Names come back as str with undecodable bytes as surrogates (os.fsdecode), as everywhere in Python's os module.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# The kernel writes space, tab, newline, backslash and '#' of a name (fs/proc_namespace.c, mangle) and also ',' and '='
# of an option's value (include/linux/seq_file.h, seq_show_option) as three octal digits.
_OCTAL = re.compile(rb"\\([0-7]{3})")
_QUOTED = re.compile(r"\\(.)", re.DOTALL)
# A layer ends at a colon that no backslash quotes (Documentation/filesystems/overlayfs.rst). The kernel shows that
# backslash as \134, and a colon that is part of a name as \072 (fs/overlayfs/params.c, since 6.8), so layers are told
# apart before the escapes are undone.
_LAYER = re.compile(r"(?:\\134(?:\\[0-7]{3}|[^\\])|\\[0-7]{3}|\\|[^:\\])+", re.DOTALL)

_IDMAPPED = re.compile(r"/(?:[^/]+/)*ovl-idmapped[^/]*/([0-9]+/fs)")

# File systems that are the kernel's own interface: nothing is stored in them.
KERNEL_FSTYPES = frozenset(
    (
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "fusectl"),
        *("mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs"),
    )
)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo. `device` is the kernel's dev_t of the superblock: major << 20 | minor.

    `root` is relative to the file system, `mount_point` to the root of the process whose file it is; `super_options`
    are the superblock's, still escaped (the commas inside values would be lost otherwise).
    """

    mount_id: int
    device: int
    root: str
    mount_point: str
    fstype: str
    source: str
    super_options: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """The layers of an overlay mount, as given when it was mounted (relative ones stay relative).

    `lowerdirs` has the topmost layer first; data-only layers (`datadir+`, or after `::`) are the last ones.
    """

    lowerdirs: tuple[str, ...]
    upperdir: str | None
    workdir: str | None


def device_number(major: int, minor: int) -> int:
    """The kernel's own dev_t of a device (include/linux/kdev_t.h, MKDEV: 12 and 20 bits)."""
    return major << 20 | minor


def parse(text: bytes) -> Iterator[Mount]:
    """The mounts in a mountinfo file, in its order (a later line at the same mount point covers an earlier one).

    A line that is not in the file's format is left out; nothing is raised.
    """
    for line in text.split(b"\n"):
        mount = parse_line(line)
        if mount is not None:
            yield mount


def parse_line(line: bytes) -> Mount | None:
    """One mountinfo line; None if it is not such a line.

    Fields: mount id, parent id, major:minor, root, mount point, options, optional fields up to "-", type, source,
    superblock options (fs/proc_namespace.c, show_mountinfo).
    """
    fields = line.split(b" ")
    try:
        dash = fields.index(b"-", 6)
        major, _, minor = fields[2].partition(b":")
        return Mount(
            mount_id=int(fields[0]),
            device=device_number(int(major), int(minor)),
            root=unescape(fields[3]),
            mount_point=unescape(fields[4]),
            fstype=unescape(fields[dash + 1]),
            source=unescape(fields[dash + 2]) if len(fields) > dash + 2 else "",
            super_options=_decode(fields[dash + 3]) if len(fields) > dash + 3 else "",
        )
    except (ValueError, IndexError):
        return None


def unescape(name: bytes) -> str:
    r"""A name with the kernel's octal escapes (``\040`` for a space) undone."""
    if b"\\" in name:
        name = _OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), name)
    return _decode(name)


def overlay_options(super_options: str) -> Overlay:
    r"""The layers in an overlay's superblock options as mountinfo shows them (still octal-escaped).

    Both shapes are read: ``lowerdir=a:b`` of mount(2), where a backslash quotes ``:``, ``,`` and itself, and
    ``lowerdir+=a,lowerdir+=b`` (also ``datadir+=``) of the new mount API, whose values are taken as they are
    (fs/overlayfs/params.c, ovl_show_options). Nothing is raised: what is missing is None or empty.
    """
    lower: list[str] = []
    data: list[str] = []
    upperdir = workdir = None
    for option in super_options.split(","):
        name, equals, raw = option.partition("=")
        if not equals:
            continue
        value = _unescaped(raw)
        if name == "lowerdir":
            lower.extend(_unquote(_unescaped(layer)) for layer in _LAYER.findall(raw))
        elif name == "lowerdir+":
            lower.append(value)
        elif name == "datadir+":
            data.append(value)
        elif name == "upperdir":
            upperdir = _unquote(value)
        elif name == "workdir":
            workdir = _unquote(value)
    return Overlay(tuple(lower + data), upperdir, workdir)


def told_directory(option: str) -> str:
    """A directory as overlayfs keeps the option of mount(2): a backslash quotes what would end it."""
    return _unquote(option)


def absolute_lowerdirs(lowerdirs: Sequence[str], upperdir: str | None, workdir: str | None) -> tuple[str, ...]:
    """The lower directories as absolute paths, as far as that can be known.

    containerd and docker shorten them to be relative to the directory that holds all layers when the options would not
    fit into one page (containerd mount/mount_linux.go, compactLowerdirOption); upperdir and workdir stay absolute and
    are `<directory>/<layer>/<name>`. In a user namespace containerd mounts that directory elsewhere, idmapped, and
    names the layers there (core/mount/mount_idmapped_linux.go): it is the same one. Podman's numbers are of file
    descriptors that it had (containers/storage drivers/overlay/mount.go): those stay as they are, nobody's path.
    """
    base = next(
        (os.path.dirname(os.path.dirname(one.rstrip("/"))) for one in (upperdir, workdir) if one and one[0] == "/"), ""
    )

    def absolute(layer: str) -> str:
        if idmapped := _IDMAPPED.fullmatch(layer):
            layer = idmapped[1]
        return os.path.normpath(os.path.join(base, layer)) if layer[:1] != "/" and not layer.isdecimal() else layer

    return tuple(map(absolute, lowerdirs)) if base else tuple(lowerdirs)


def _unescaped(text: str) -> str:
    return unescape(text.encode("utf-8", "surrogateescape"))


def _unquote(value: str) -> str:
    return _QUOTED.sub(r"\1", value) if "\\" in value else value


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
