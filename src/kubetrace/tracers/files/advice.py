"""What to change where a container does too much with too many files: one line for each, from the counters alone.

Names are untrusted and kept apart from our own words, so that a view escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kubetrace.views.units import format_count

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.attribution.destination import Destination

TITLE: Final = "What to do about it:"
# From so many on there is something to say, and so many lines are said.
MANY_FILES: Final = 1_000
MANY_INODES: Final = 100_000
MANY_MISSING: Final = 1_000
MANY_WHITEOUTS: Final = 50
_MOST: Final = 10
# Misses beside opens that are worth a search's end.
_MISSES_AN_OPEN: Final = 4


@dataclass(frozen=True, slots=True)
class Name:
    """Text that is not ours."""

    text: str


@dataclass(frozen=True, slots=True)
class FileRemedy:
    """One line of advice: `parts` are our words and others' names, in order; `count` is the number in it.

    `action`: "volume" (mount one there), "pack" (fewer, larger files), "search" (look in fewer places), "image" (remove
    them when the image is built).
    """

    count: int
    action: str
    whose: str
    destination: str | None
    parts: tuple[str | Name, ...]

    def text(self, escape: Callable[[str | bytes], str]) -> str:
        """The line, every name escaped."""
        return "".join(part if isinstance(part, str) else escape(part.text) for part in self.parts)

    def record(self) -> dict[str, Any]:
        """For a program that applies it."""
        return {
            "container": self.whose,
            "action": self.action,
            "destination": self.destination,
            "count": self.count,
        }


def remedies(
    counted: Iterable[tuple[Identity, Destination, Mapping[str, int]]],
) -> Sequence[FileRemedy]:
    """The worst first, at most ten: of each container and place the totals of its measures. Others are not advised."""
    found: list[FileRemedy] = []
    of_containers: dict[str, dict[str, int]] = {}
    for identity, destination, totals in counted:
        if identity.pod is None or identity.container is None or identity.host:
            continue
        whose = f"{identity.namespace}/{identity.pod}/{identity.container}"
        seen = of_containers.setdefault(whose, dict.fromkeys(("missing", "opens"), 0))
        for key in seen:
            seen[key] += totals[key]
        found += _in_place(whose, destination, totals)
    for whose, seen in of_containers.items():
        missing, opens = seen["missing"], seen["opens"]
        if missing >= MANY_MISSING and missing >= _MISSES_AN_OPEN * opens:
            each = f", {missing // opens} for each that it opened" if opens else ""
            parts = (
                Name(whose),
                f" looked for {format_count(missing)} files that are not there{each}: shorten what it searches (PATH, "
                "module, class and include paths), or what watches for a file.",
            )
            found.append(FileRemedy(missing, "search", whose, None, parts))
    return sorted(found, key=lambda one: -one.count)[:_MOST]


def _in_place(whose: str, destination: Destination, totals: Mapping[str, int]) -> Iterable[FileRemedy]:
    created, names, whiteouts = totals["created"], totals["names"], totals["whiteouts"]
    text = destination.text
    parts: tuple[str | Name, ...]
    if whiteouts >= MANY_WHITEOUTS:
        parts = (
            Name(whose),
            f" removed files of its image, which left {format_count(whiteouts)} whiteouts in its writable layer: "
            "remove them in the Dockerfile's step that adds them.",
        )
        yield FileRemedy(whiteouts, "image", whose, text, parts)
    if names >= MANY_INODES:
        parts = (
            Name(whose),
            f" has {format_count(names)} names more than before in ",
            Name(text),
            ", each an inode of its file system: pack them into fewer files, or remove what is not read again "
            "(--by directory shows where).",
        )
        yield FileRemedy(names, "pack", whose, text, parts)
    elif destination.kind == "writable layer" and created >= MANY_FILES:
        parts = (
            Name(whose),
            f" made {format_count(created)} files in its writable layer and removed {format_count(totals['removed'])}: "
            "give that directory an emptyDir or pack them (--by directory shows which).",
        )
        yield FileRemedy(created, "volume", whose, text, parts)
