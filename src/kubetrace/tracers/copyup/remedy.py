"""What to change so that a file is not copied up: one line for each of the worst, from the rows alone.

The advice follows from what led to the copy-up. Names in it are untrusted and kept apart from our own words, so that a
view escapes them: `remedy.text(escape)`.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from kubetrace.views.units import format_bytes, format_count

# So many files (or directories with so many) of one directory are one matter.
_MANY: Final = 3
# Cells of a Dockerfile line that tell it from others.
_LINE: Final = 48
# Where a volume would hide what every program needs.
_SYSTEM: Final = (
    b"/bin",
    b"/boot",
    b"/dev",
    b"/etc",
    b"/lib",
    b"/lib32",
    b"/lib64",
    b"/proc",
    b"/sbin",
    b"/sys",
    b"/usr",
)

_VERBS: Final = {
    "append": "append to",
    "open-write": "write to",
    "open-truncate": "replace",
    "truncate": "truncate",
    "chmod": "change the mode of",
    "chown": "change the owner of",
    "utimes": "set the times of",
    "rename": "rename",
    "link": "make a hard link to",
    "xattr": "set an extended attribute of",
    "unlink": "remove something in",
    "create": "make something in",
}
# The operation changes metadata only: nothing of the file's content is needed for it.
_METADATA: Final = frozenset({"chmod", "chown", "utimes", "rename", "link", "xattr", "unlink", "create"})


@dataclass(frozen=True, slots=True)
class Offender:
    """What was copied up of one path for one reason.

    `trigger` is what `trigger_of` gives; `path` is inside the container and `line` the Dockerfile's
    (attributor.Layer.line), both untrusted, as is `whose`: the container, as the reader knows it. `layer` counts from
    the lowest layer of the image.
    """

    path: str | bytes
    trigger: str
    copies: int
    copied_bytes: int
    is_directory: bool = False
    layer: int | None = None
    line: str | None = None
    whose: str | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """Text that is not ours."""

    text: str | bytes


Part = str | Name


@dataclass(frozen=True, slots=True)
class Remedy:
    """One line of advice: `parts` are our words and others' names, in order. `files` offenders are one in it."""

    copied_bytes: int
    copies: int
    files: int
    parts: tuple[Part, ...]

    def text(self, escape: Callable[[str | bytes], str]) -> str:
        """The line, every name escaped."""
        return "".join(part if isinstance(part, str) else escape(part.text) for part in self.parts)


@dataclass(slots=True)
class _Matter:
    # Offenders that are one: of one file, or (`inside` true) of several below the directory `path`.
    path: bytes
    trigger: str
    whose: str | None
    inside: bool
    is_directory: bool
    offenders: list[Offender]

    @property
    def copied_bytes(self) -> int:
        return sum(one.copied_bytes for one in self.offenders)

    @property
    def copies(self) -> int:
        return sum(one.copies for one in self.offenders)

    @property
    def directory(self) -> bytes:
        return self.path if self.inside or self.is_directory else posixpath.dirname(self.path)


def trigger_of(trigger: str, flags: int) -> str:
    """A copyup event's trigger, or "append" where the flags of an open-write have O_APPEND."""
    return "append" if trigger == "open-write" and flags & os.O_APPEND else trigger


def remedies(offenders: Iterable[Offender], top: int = 5) -> list[Remedy]:
    """The advice on the worst, at most `top` lines: by bytes copied, then copies, then names.

    Three files or more of one directory (and three such directories or more of one) are one matter if the same thing
    led to them in the same container. The same offenders give the same lines in whatever order they come. A file of
    which nothing was copied (it was empty, replaced or shared) has done no harm and is not named.
    """
    groups: dict[tuple[str | None, str], list[Offender]] = {}
    for offender in offenders:
        if offender.copied_bytes or (offender.is_directory and offender.trigger in _METADATA):
            groups.setdefault((offender.whose, offender.trigger), []).append(offender)
    matters = [matter for found in groups.values() for matter in _gathered(found)]
    matters.sort(key=lambda one: (-one.copied_bytes, -one.copies, one.whose or "", one.path, one.trigger))
    return [
        Remedy(matter.copied_bytes, matter.copies, len(matter.offenders), tuple(_sentence(matter)))
        for matter in matters[:top]
    ]


def _gathered(offenders: Sequence[Offender]) -> list[_Matter]:
    # From the deepest directory up: one with many matters in it becomes one matter of its parent. Never "/" itself,
    # of which nothing but itself is to be said.
    matters: dict[bytes, _Matter] = {}
    for one in offenders:
        path = os.fsencode(one.path)
        known = matters.setdefault(path, _Matter(path, one.trigger, one.whose, False, one.is_directory, []))
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
            put(_Matter(parent, inside[0].trigger, inside[0].whose, True, True, all_of_it))
    return done


def _sentence(matter: _Matter) -> Iterable[Part]:
    if matter.whose is not None:
        yield Name(matter.whose)
        yield ": "
    files = len({os.fsencode(one.path) for one in matter.offenders})
    yield f"{format_bytes(matter.copied_bytes) if matter.copied_bytes else 'only metadata'} copied"
    if matter.copies > files:
        yield f" in {format_count(matter.copies)} copy-ups"
    yield f" to {_VERBS.get(matter.trigger, 'change')} "
    if matter.inside:
        kinds = {one.is_directory for one in matter.offenders}
        noun = "files and directories" if len(kinds) == 2 else "directories" if True in kinds else "files"
        yield f"{format_count(files)} {noun} in "
    yield Name(matter.path)
    yield from _origin(matter.offenders)
    yield ": "
    yield from _advice(matter)


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


def _advice(matter: _Matter) -> Iterable[Part]:
    trigger, directory = matter.trigger, Name(matter.directory)
    them = "them" if len(matter.offenders) > 1 and matter.inside else "it"
    if trigger == "chmod":
        yield f"set the mode in the image: COPY --chmod=..., or RUN chmod in the layer that adds {them}"
    elif trigger == "chown":
        yield f"set the owner in the image: COPY --chown=..., or RUN chown in the layer that adds {them}"
    elif trigger == "xattr":
        yield f"set it in the image: RUN setcap or setfattr in the layer that adds {them}"
    elif trigger == "unlink":
        yield "remove it in the image, in the layer that adds it"
    elif trigger == "link":
        yield "make the link in the image, or a symbolic link, which copies nothing"
    elif _is_system(matter.directory):
        yield "make the change in the image, or mount a file over "
        yield "each" if matter.inside else Name(matter.path)
        yield " (ConfigMap or Secret with subPath)"
    elif trigger == "truncate":
        yield "open it with O_TRUNC (in a shell: > file), which copies nothing, or mount an emptyDir at "
        yield directory
    elif trigger in ("append", "open-truncate", "create"):
        yield "mount an emptyDir at "
        yield directory
    else:
        if trigger == "rename":
            yield f"give {them} the new name in the image, or "
        elif trigger == "utimes":
            yield f"leave {'its' if them == 'it' else 'their'} times alone (touch, cp -p, tar and rsync set them), or "
        yield "mount a volume at "
        yield directory
        yield ", filled by an init container"


def _is_system(directory: bytes) -> bool:
    return directory in (b"", b"/") or any((directory + b"/").startswith(one + b"/") for one in _SYSTEM)
