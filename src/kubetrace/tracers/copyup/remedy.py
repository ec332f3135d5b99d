"""What to change so that a file is not copied up: one line for each of the worst, from the rows alone.

The advice follows from what led to the copy-up, which program did it, and what else of the same container is written.
None is given that could break the program: see places.py. Names are untrusted and kept apart from our own words, so
that a view escapes them: `remedy.text(escape)`.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kubetrace.tracers.copyup import places
from kubetrace.views.units import format_bytes, format_count

# So many files (or directories with so many) of one directory are one matter.
_MANY: Final = 3
# Cells of a Dockerfile line that tell it from others.
_LINE: Final = 48
# Programs that are named.
_NAMED: Final = 2

_VERBS: Final = {
    "append": "append to",
    "open-write": "write to",
    "open-truncate": "replace",
    "truncate": "truncate",
    "chmod": "change the mode of",
    "chmod-same": "set the mode that they have already on",
    "chown": "change the owner of",
    "chown-same": "set the owner that they have already on",
    "utimes": "set the times of",
    "rename": "rename",
    "link": "make a hard link to",
    "xattr": "set an extended attribute of",
    "chattr": "set attributes (chattr) of",
    "unlink": "remove",
}
# What changes metadata only is to be made in the image: nothing of the file's content is needed for it.
_METADATA: Final = frozenset({"chmod", "chmod-same", "chown", "chown-same", "utimes", "link", "xattr", "chattr"})

# By how the kernel names their processes (comm, 15 bytes): how it begins.
_PACKAGES: Final = (
    *(b"apk", b"apt", b"aptitude", b"bundle", b"cargo", b"composer", b"conda", b"dnf", b"dpkg", b"gem", b"ldconfig"),
    *(b"mamba", b"microdnf", b"npm", b"pip", b"pnpm", b"poetry", b"rpm", b"unattended-upgr", b"update-alternat"),
    *(b"uv", b"yarn", b"yum"),
)
_UNPACKERS: Final = (b"bsdtar", b"cpio", b"git", b"rsync", b"tar", b"unzip")
# What makes a container before its own program runs: files that are mounted over need something to be mounted on.
_RUNTIMES: Final = (b"runc:[", b"crun", b"youki")


def is_runtime(comm: bytes) -> bool:
    """Whether a process of this name is the container runtime's, by the name that it gives itself."""
    return comm.rstrip(b"\0").startswith(_RUNTIMES)


@dataclass(frozen=True, slots=True)
class Offender:
    """What was copied up of one path for one reason.

    `trigger` is what `trigger_of` gives; `path` is inside the container and `line` the Dockerfile's
    (attributor.Layer.line), both untrusted, as are `program` (comm) and `whose`: the container, as the reader knows
    it. `layer` counts from the lowest layer of the image. `error` is an errno's name: of copy-ups that failed.
    """

    path: str | bytes
    trigger: str
    copies: int
    copied_bytes: int
    is_directory: bool = False
    layer: int | None = None
    line: str | None = None
    whose: str | None = None
    program: bytes = b""
    error: str | None = None
    size_bytes: int = 0

    @property
    def raw(self) -> bytes:
        """The path."""
        return os.fsencode(self.path)

    @property
    def directory(self) -> bytes:
        """In which something was written: the path itself, where it is one."""
        return self.raw if self.is_directory else posixpath.dirname(self.raw)


@dataclass(frozen=True, slots=True)
class Name:
    """Text that is not ours."""

    text: str | bytes


Part = str | Name


@dataclass(frozen=True, slots=True)
class Remedy:
    """One line of advice: `parts` are our words and others' names, in order. `files` offenders are one in it.

    `action`: "mount" (a volume at `mount`, filled from the image), "image" (do it when the image is built), "avoid" (it
    changes nothing), "elsewhere" (no volume can be mounted there) or "room" (it failed).
    """

    copied_bytes: int
    copies: int
    files: int
    parts: tuple[Part, ...]
    action: str
    whose: str | None = None
    mount: bytes | None = None
    programs: tuple[bytes, ...] = ()

    def text(self, escape: Callable[[str | bytes], str]) -> str:
        """The line, every name escaped."""
        return "".join(part if isinstance(part, str) else escape(part.text) for part in self.parts)

    def record(self) -> dict[str, Any]:
        """For a program that applies it; paths are bytes, as the kernel has them."""
        mount = {"kind": "volume", "path": self.mount, "filled": True} if self.mount is not None else None
        return {
            "container": self.whose,
            "action": self.action,
            "mount": mount,
            "copied_bytes": self.copied_bytes,
            "copies": self.copies,
            "files": self.files,
            "programs": list(self.programs),
        }


@dataclass(slots=True)
class _Matter:
    # Offenders that are one: of one path, or (`inside` true) of several in the directory `path`.
    path: bytes
    action: str
    offenders: list[Offender]
    inside: bool = False
    reason: str = ""

    @property
    def copied_bytes(self) -> int:
        return sum(one.copied_bytes for one in self.offenders)

    @property
    def copies(self) -> int:
        return sum(one.copies for one in self.offenders)

    @property
    def whose(self) -> str | None:
        return self.offenders[0].whose

    @property
    def mount(self) -> bytes | None:
        return self.path if self.action == "mount" else None

    def programs(self) -> tuple[bytes, ...]:
        """Those that did most come first."""
        done: Counter[bytes] = Counter()
        for one in self.offenders:
            done[one.program] += one.copied_bytes + 1
        return tuple(sorted((name for name in done if name), key=lambda name: (-done[name], name)))


def trigger_of(trigger: str, flags: int) -> str:
    """A copyup event's trigger, or "append" where the flags of an open-write have O_APPEND."""
    return "append" if trigger == "open-write" and flags & os.O_APPEND else trigger


def remedies(offenders: Iterable[Offender], top: int = 5) -> list[Remedy]:
    """The advice on the worst, at most `top` lines: what failed, then by bytes copied, copies, names.

    What one container writes in one program's directory is one matter, and so is what packages or archives unpack in
    it; of the rest, three files or more of one directory (and three such directories or more of one). The same
    offenders give the same lines in whatever order they come. A file of which nothing was copied (it was empty,
    replaced or shared) has done no harm and is not named, nor is a directory.
    """
    of_whom: dict[str | None, list[Offender]] = {}
    for offender in offenders:
        of_whom.setdefault(offender.whose, []).append(offender)
    matters = [matter for found in of_whom.values() for matter in _matters(found)]
    matters.sort(
        key=lambda one: (
            one.action != "room",
            -one.copied_bytes,
            -one.copies,
            one.whose or "",
            one.path,
            one.reason,
        )
    )
    return [
        Remedy(
            matter.copied_bytes,
            matter.copies,
            len(matter.offenders),
            tuple(_sentence(matter)),
            matter.action,
            matter.whose,
            matter.mount,
            matter.programs(),
        )
        for matter in matters[:top]
    ]


def _matters(offenders: Sequence[Offender]) -> Iterable[_Matter]:
    # of one container
    kinds: dict[tuple[str, str], list[Offender]] = {}
    data = {found for one in offenders if (found := places.data_of(one.raw)) is not None}
    written = data | {one.directory for one in offenders if one.trigger not in _METADATA}
    for one in offenders:
        if one.error is not None:
            kinds.setdefault(("room", one.error), []).append(one)
        elif one.copied_bytes:
            kinds.setdefault(_kind(one, data), []).append(one)
    for (kind, reason), alike in sorted(kinds.items()):
        if kind == "room":
            largest = max(alike, key=lambda one: (one.size_bytes, one.raw))
            yield _Matter(largest.raw, "room", alike, reason=reason)
        elif kind == "unpacked":
            yield _Matter(_common(alike), "image", alike, True, reason)
        elif kind == "metadata":
            yield from _gathered(alike, "avoid" if reason.endswith("-same") else "image", reason)
        else:
            yield from _placed(alike, written)


def _kind(one: Offender, data: Collection[bytes]) -> tuple[str, str]:
    for reason, programs in (("packages", _PACKAGES), ("archives", _UNPACKERS)):
        if _is_any(one.program, programs):
            return "unpacked", reason
    if one.trigger not in _METADATA or any(one.raw.startswith(directory + b"/") for directory in data):
        return "written", ""
    return "metadata", one.trigger


def _is_any(program: bytes, names: Sequence[bytes]) -> bool:
    # "pip3.11", "npm install" and "dpkg-deb" are; "tarantool", "gems" and "aptly" are not
    return any(program.startswith(name) and not program[len(name) :][:1].isalpha() for name in names)


def _placed(offenders: Sequence[Offender], written: Collection[bytes]) -> Iterable[_Matter]:
    # Data: by the volume that would take it; what none can take is gathered by directory.
    at: dict[bytes, list[Offender]] = {}
    left: dict[str, list[Offender]] = {}
    for one in offenders:
        place = places.place_for(one.directory, written)
        if place is not None:
            at.setdefault(place, []).append(one)
        else:
            left.setdefault("image" if places.is_system(one.directory) else "elsewhere", []).append(one)
    for place in sorted(at, reverse=True):
        # what a volume further up takes, needs none of its own
        outer = next((one for one in sorted(at) if place.startswith(one + b"/")), None)
        if outer is not None:
            at[outer] += at.pop(place)
    for place, found in at.items():
        yield _Matter(place, "mount", found, True)
    for action, found in left.items():
        by_trigger: dict[str, list[Offender]] = {}
        for one in found:
            by_trigger.setdefault(one.trigger, []).append(one)
        for trigger, alike in by_trigger.items():
            yield from _gathered(alike, action, trigger)


def _common(offenders: Sequence[Offender]) -> bytes:
    directories = [one.directory for one in offenders]
    return posixpath.commonpath(directories) if all(one.startswith(b"/") for one in directories) else b"/"


def _gathered(offenders: Sequence[Offender], action: str, trigger: str) -> list[_Matter]:
    # From the deepest directory up: one with many matters in it becomes one matter of its parent. Never "/" itself,
    # of which nothing but itself is to be said.
    matters: dict[bytes, _Matter] = {}
    for one in offenders:
        known = matters.setdefault(one.raw, _Matter(one.raw, action, [], reason=trigger))
        known.offenders.append(one)
    levels: dict[int, dict[bytes, list[_Matter]]] = {}

    def put(matter: _Matter) -> None:
        parent = posixpath.dirname(matter.path)
        levels.setdefault(matter.path.count(b"/"), {}).setdefault(parent, []).append(matter)

    for matter in matters.values():
        put(matter)
    done: list[_Matter] = []
    while levels:
        for parent, inside in levels.pop(max(levels)).items():
            if len(inside) < _MANY or parent in (b"", b"/"):
                done += inside
                continue
            # The directory may have been copied up for the same reason itself (chown -R).
            siblings = levels.get(parent.count(b"/"), {}).get(posixpath.dirname(parent), [])
            itself = [matter for matter in siblings if matter.path == parent]
            for matter in itself:
                siblings.remove(matter)
            all_of_it = [one for matter in (*itself, *inside) for one in matter.offenders]
            put(_Matter(parent, action, all_of_it, True, trigger))
    return done


def _sentence(matter: _Matter) -> Iterable[Part]:
    if matter.whose is not None:
        yield Name(matter.whose)
        yield ": "
    paths = {one.raw for one in matter.offenders}
    if matter.action == "room":
        yield f"{format_count(matter.copies)} cop{'ies' if matter.copies != 1 else 'y'}"
    else:
        yield f"{format_bytes(matter.copied_bytes)} copied"
        if matter.copies > len(paths):
            yield f" in {format_count(matter.copies)} copy-ups"
    yield from _by(matter.programs())
    triggers = {one.trigger for one in matter.offenders}
    yield f" to {_verb(triggers, len(paths))} "
    if matter.action == "room":
        if len(paths) > 1:
            yield f"{format_count(len(paths))} files, the largest "
        yield Name(matter.path)
        yield f" ({format_bytes(max(one.size_bytes for one in matter.offenders))})"
    elif len(paths) == 1:
        yield Name(next(iter(paths)))
    else:
        yield f"{format_count(len(paths))} files in "
        yield Name(matter.path if matter.inside else _common(matter.offenders))
    yield from _origin(matter.offenders)
    yield f" failed with {matter.reason}: " if matter.action == "room" else ": "
    yield from _advice(matter, triggers)


def _by(programs: Sequence[bytes]) -> Iterable[Part]:
    for number, name in enumerate(programs[:_NAMED]):
        yield " by " if not number else " and " if len(programs) == _NAMED else ", "
        yield Name(name)
    if len(programs) > _NAMED:
        yield f" and {len(programs) - _NAMED} more"


def _verb(triggers: Collection[str], paths: int) -> str:
    (trigger,) = triggers if len(triggers) == 1 else ("open-write" if triggers & _VERBS.keys() else "",)
    verb = _VERBS.get(trigger, "change")
    return verb.replace("they have", "it has") if paths == 1 else verb


def _origin(offenders: Sequence[Offender]) -> Iterable[Part]:
    # The layer and its line, if it is one; the numbers of up to three.
    layers = sorted({one.layer for one in offenders if one.layer is not None})
    if not layers or any(one.layer is None for one in offenders):
        return
    if len(layers) > 1:
        numbers = ", ".join(map(str, layers[:-1])) + f" and {layers[-1]}"
        yield f" (image layers {numbers})" if len(layers) <= 3 else f" ({len(layers)} image layers)"
        return
    yield f" (image layer {layers[0]}"
    line = next((one.line for one in offenders if one.line), None)
    if line is not None and all(one.line == line for one in offenders):
        yield ", "
        yield Name(line if len(line) <= _LINE else line[: _LINE - 1].rstrip() + "…")
    yield ")"


# What is to be done in the image, by what was done in the container.
_IN_IMAGE: Final[Mapping[str, str]] = {
    "packages": "install packages when the image is built (RUN in the Dockerfile), not when the container starts",
    "archives": "unpack or check out when the image is built, or into a volume",
    "chmod": "set the mode in the image: COPY --chmod=..., or RUN chmod in the layer that adds {them}",
    "chown": "set the owner in the image: COPY --chown=..., or RUN chown in the layer that adds {them}",
    "xattr": "set it in the image: RUN setcap or setfattr in the layer that adds {them}",
    "utimes": "leave {their} times alone, or set them in the image",
    "link": "make the link in the image",
}
_AVOID: Final[Mapping[str, str]] = {
    "chmod-same": "nothing is changed, so leave it out: find ... ! -perm MODE -exec chmod MODE {} +",
    "chown-same": "nothing is changed, so leave it out: find ... ! -user OWNER -exec chown OWNER {} +",
}
_FAILED: Final[Mapping[str, str]] = {
    "ENOSPC": "the disk with the writable layers is full; make room there",
    "EDQUOT": "the quota of the writable layer is used up",
}


def _advice(matter: _Matter, triggers: Collection[str]) -> Iterable[Part]:
    many = len({one.raw for one in matter.offenders}) > 1
    if matter.action == "room":
        yield _FAILED.get(matter.reason, "the program was told that error; see the kernel's log")
    elif matter.action == "avoid":
        yield _AVOID[matter.reason]
    elif matter.action == "mount":
        if triggers == {"truncate"}:
            yield "open it with O_TRUNC (in a shell: > file), which copies nothing, or "
        yield "mount a volume at "
        yield Name(matter.path)
        yield ", filled by an init container"
    elif matter.action == "elsewhere":
        yield f"let {'them' if many else 'it'} be written in a directory of {'their' if many else 'its'} own, with a "
        yield "volume there"
    elif matter.reason in _IN_IMAGE:
        yield _IN_IMAGE[matter.reason].format(them="them" if many else "it", their="their" if many else "its")
    else:
        yield "make the change in the image"
