"""Where operations land: what a tracer says of the counters that the kernel keeps, and what their rows hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.attribution.destination import Destination, Mounted
    from kubetrace.views.columns import Value


class Counters(Protocol):
    """What a tracer that counts says of its counters."""

    counters: Sequence[str]
    """Streams of counters; their records have the fields of the key first, `key_end` the last of them."""
    histogram: str
    """The stream of latency histograms by the same key: fields `longest` and `slots`."""
    mounts: str
    places: str
    shows_all: bool
    """Whether what is not a file is shown too."""
    key_end: str
    values: tuple[str, str, str, str]
    """The four fields of a value that only rise."""
    kinds: Mapping[str, int]
    """Operation -> which of a row's sums it is added to; those that are not here are added to the first."""

    sorted_by: Mapping[str, tuple[str, int]]
    """Measure -> where a row has its value for the order of a table: (`now` for totals or `window`, which of them);
    those that are not here are worked out for each row."""

    def details(self, by: str) -> Sequence[str]:
        """The fields that a row depends on besides whose it is, the operation, the destination and the path."""

    def timed(self, by: str, kind: int) -> bool:
        """Whether the latencies of operations of a kind are those of a row."""

    def totals(self, sums: Sequence[Sequence[int]]) -> Sequence[int]:
        """What a row's sums (of each kind, in the order of `values`) come to; the first is the number of operations."""

    def cells(self, by: str, event: Any, landing: Landing, node: str) -> Mapping[str, Value]:
        """Every cell that the grouping's columns ask for, by the column's key."""

    def measures_of(self, row: Row) -> Sequence[Value]:
        """A row's measures, in the order of the tracer's."""


class Landing:
    """Whose an operation is, and where it lands."""

    __slots__ = ("destination", "identity", "mounted", "path")

    def __init__(self, identity: Identity, destination: Destination, mounted: Mounted | None, path: str | None) -> None:
        """`path` is the file's, where it is known."""
        self.identity, self.destination, self.mounted, self.path = identity, destination, mounted, path

    def same_as(self, other: Landing) -> bool:
        """Whether nothing was concluded anew."""
        return (self.identity, self.destination, self.path) == (other.identity, other.destination, other.path)

    @property
    def open(self) -> bool:
        """Whether more may be known later."""
        identity = self.identity
        return (
            identity.nameless
            or self.destination.kind in ("other", "volume")
            # a volume whose mount has not been read yet
            or (self.destination.kind == "tmpfs" and self.mounted is not None and not self.mounted.node)
        )


class Row:
    """One line of a table: sums since the start, what they came to when rows were asked for last (`now`), and what the
    last interval added to the totals."""

    __slots__ = ("base", "elapsed_ns", "key", "landing", "longest", "now", "sample", "slots", "sums", "window")

    def __init__(
        self, sums: list[list[int]], zero: Sequence[int], sample: Any, landing: Landing, key: tuple[Any, ...]
    ) -> None:
        """`zero` are the totals of no operation at all, `key` the cells that make it."""
        self.sums = sums
        self.base = self.window = self.now = zero
        self.elapsed_ns = 0
        self.slots: list[int] = []
        self.longest = 0
        self.sample, self.landing, self.key = sample, landing, key
