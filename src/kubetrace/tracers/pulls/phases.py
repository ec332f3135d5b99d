"""From moments to phases: what each layer of a pull waited for, and what the pull as a whole did. Pure.

A runtime unpacks the layers of an image one after the other, from the bottom up (containerd core/unpack/unpacker.go),
and downloads several at once. So the sums of the layers' times say little: at each instant the pull waits for the layer
that the unpacker is at. That is its critical path, whose parts add up to the time that the pull took:

    resolve | for each layer in turn: slot, download (or another pull's), unpack | finish

All moments are nanoseconds of one clock; None is not known, or not yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALL = ("resolve", "slot", "download", "elsewhere", "lower", "unpack", "finish")
RESOLVE, SLOT, DOWNLOAD, ELSEWHERE, LOWER, UNPACK, FINISH = ALL
"""What is waited for: manifest and configuration; a free slot for the download; the download; that of another pull; the
layers below; the unpacking with its commit; the image's record."""


@dataclass(frozen=True, slots=True)
class Moments:
    """One layer's moments. `there`: it was unpacked before; the others: another pull downloads it, or unpacks it."""

    download_begun: int | None = None
    download_ended: int | None = None
    unpack_begun: int | None = None
    committed: int | None = None
    there: bool = False
    fetched_elsewhere: bool = False
    unpacked_elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """From `begin` to `end` something waited for `phase`; of a critical path, for that of layer `layer` (from 0)."""

    phase: str
    begin: int
    end: int
    layer: int | None = None

    @property
    def ns(self) -> int:
        """How long."""
        return self.end - self.begin


def of_layer(layer: Moments, begun: int, now: int) -> list[Part]:
    """What a layer did from `begun`, when its pull knew of it, to its commit or `now`; without gaps.

    [] for one that was there.
    """
    if layer.there:
        return []
    parts: list[Part] = []
    at = begun
    end = min(layer.committed, now) if layer.committed is not None else now

    def until(moment: int | None, phase: str) -> None:
        nonlocal at
        to = min(max(at, moment if moment is not None else end), end)
        if to > at:
            parts.append(Part(phase, at, to))
        at = to

    if layer.fetched_elsewhere:
        until(layer.download_ended, ELSEWHERE)
    else:
        # where only the end is known, what came before is told as the download's
        if layer.download_begun is not None or layer.download_ended is None:
            until(layer.download_begun, SLOT)
        if layer.download_begun is not None or layer.download_ended is not None:
            until(layer.download_ended, DOWNLOAD)
    if layer.download_ended is not None:
        if layer.unpacked_elsewhere:
            until(layer.committed, ELSEWHERE)
        else:
            until(layer.unpack_begun, LOWER)
            if layer.unpack_begun is not None:
                until(layer.committed, UNPACK)
    return parts


def critical(
    begun: int, resolved: int | None, layers: Sequence[Moments], ended: int | None, now: int, *, whole: bool = True
) -> list[Part]:
    """What the pull waited for, instant by instant, from `begun` to its end or `now`: the parts leave no gap.

    `whole`: all layers are known. The pull ends some milliseconds behind its last commit, with the image's record.
    """
    end = ended if ended is not None else now
    parts: list[Part] = []
    at = begun

    def until(moment: int | None, phase: str, layer: int | None = None) -> None:
        nonlocal at
        to = min(max(at, moment if moment is not None else end), end)
        if to > at:
            parts.append(Part(phase, at, to, layer))
        at = to

    until(resolved, RESOLVE)
    for number, layer in enumerate(layers):
        if layer.there:
            continue
        if layer.download_ended is None or layer.download_ended > at:
            if layer.fetched_elsewhere:
                until(layer.download_ended, ELSEWHERE, number)
            else:
                if layer.download_begun is not None or layer.download_ended is None:
                    until(layer.download_begun, SLOT, number)
                until(layer.download_ended, DOWNLOAD, number)
        until(layer.committed, ELSEWHERE if layer.unpacked_elsewhere else UNPACK, number)
    if whole:
        until(ended, FINISH)
    return parts


def sums(parts: Sequence[Part]) -> dict[str, int]:
    """Nanoseconds by phase, of those that there are."""
    found: dict[str, int] = {}
    for part in parts:
        found[part.phase] = found.get(part.phase, 0) + part.ns
    return found


def longest(parts: Sequence[Part]) -> tuple[str, int | None, int]:
    """The phase and layer that took most of a critical path, and how long: what one would have to make faster."""
    found: dict[tuple[str, int | None], int] = {}
    for part in parts:
        found[part.phase, part.layer] = found.get((part.phase, part.layer), 0) + part.ns
    if not found:
        return RESOLVE, None, 0
    (phase, layer), ns = max(found.items(), key=lambda item: item[1])
    return phase, layer, ns


def union(parts: Iterable[Part]) -> int:
    """Nanoseconds in which at least one of them was."""
    total, reached = 0, None
    for part in sorted(parts, key=lambda one: one.begin):
        begin = part.begin if reached is None else max(part.begin, reached)
        total += max(0, part.end - begin)
        reached = part.end if reached is None else max(reached, part.end)
    return total
