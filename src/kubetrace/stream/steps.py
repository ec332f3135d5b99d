"""What a source hands on, live or from a recording: steps, each with all that came since the one before.

A run is a sequence of steps and nothing else is told to whatever is above the bytes, its time included; so a replay of
the same steps shows what the live run showed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kubetrace.stream.layout import Batch

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Fact
    from kubetrace.stream.layout import Layout

# A step is decoded at once: these bound what that takes, however much was waiting in the rings.
STEP_ROWS = 16_384
STEP_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Tick:
    """The time of a step, in nanoseconds: since the run began, since 1970, and of kubetrace's own CPU since then."""

    elapsed_ns: int
    wall_ns: int
    cpu_ns: int


@dataclass(frozen=True, slots=True)
class Step:
    """Facts, then records, then losses, then a tick; each may be missing.

    `facts` were learned before the first of these records is looked at. `batches` name their stream as `stream_key`
    does. `losses`: tracer -> kind -> count since the start, when one has changed. Steps without a tick are parts of one
    reading of the rings.
    """

    facts: Sequence[Fact] = ()
    batches: Sequence[Batch] = ()
    losses: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    tick: Tick | None = None


class Joining(Protocol):
    """Takes alike records as one, while they are read (tables.joining.Joiner)."""

    def add(self, data: bytes | memoryview) -> None:
        """Take these in; nothing of `data` is kept."""

    def take(self) -> tuple[bytes, Sequence[int]]:
        """(fewer records, how many each stands for) since the last call."""


def stream_key(tracer: str, stream: str) -> str:
    """The name of a tracer's stream among those of several tracers."""
    return f"{tracer}/{stream}"


def split(batches: Iterable[Batch], layouts: Mapping[str, Layout]) -> Iterator[list[Batch]]:
    """The same records in lists of at most STEP_ROWS records and STEP_BYTES bytes; no record is cut."""
    part: list[Batch] = []
    rows, size = STEP_ROWS, STEP_BYTES
    for batch in batches:
        stride, at = layouts[batch.stream].stride, 0
        records = len(batch.data) // stride
        while at < records:
            take = min(rows, size // stride, records - at)
            if take <= 0 and part:
                yield part
                part, rows, size = [], STEP_ROWS, STEP_BYTES
                continue
            end = at + take
            part.append(
                batch
                if take == records
                else Batch(
                    batch.stream,
                    batch.data[at * stride : end * stride],
                    batch.counts[at:end] if batch.counts is not None else None,
                )
            )
            at = end
            rows -= take
            size -= take * stride
    if part:
        yield part
