"""What the pipeline asks of a tracer's rows, whatever keeps them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Owners
    from kubetrace.attribution.facts import Fact
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Remedy, Tracer
    from kubetrace.stream.layout import Batch, Layout
    from kubetrace.stream.steps import Joining
    from kubetrace.views.columns import Column, Value

# Given each event that is asked for, and whose it is (an Identity, or a Landing of a counted table).
Tell = Callable[[Any, Any], None]


@dataclass
class Counts:
    """What the foot and the summary say. `events` matched the selection; `folded` of them are part of another's row."""

    events: int = 0
    folded: int = 0
    unattributed: int = 0
    losses: dict[str, int] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """All kinds together."""
        return sum(self.losses.values())


@dataclass(frozen=True)
class Run:
    """What is asked of a table in one run."""

    tracer: Tracer
    context: Context
    layouts: Mapping[str, Layout]
    """Of the tracer's own streams, by their names."""
    groupings: Sequence[str] = ()
    """Those kept from the start: a table can change over to any of them and lose nothing."""
    by: str = ""
    """The grouping that counters begin with."""
    tells: bool = False
    """Whether each event is told: then none is joined with another."""
    keep: Callable[[Any], bool] | None = None
    """Which events count; None: all."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """The tracer's own options."""
    missing: Collection[str] = ()
    """What is not seen."""
    recent: int = 0
    """How many of the last events are remembered, for who wants to see those of a row."""
    metered: bool = False
    """Only the tracer's metrics are asked for, so that what these do not depend on is not looked at."""


class Rows(Protocol):
    """The rows of one grouping, as a view asks for them."""

    columns: Sequence[Column]

    def __len__(self) -> int:
        """Number of rows."""

    def rows(self, sort_key: str, top: int | None) -> list[tuple[Value, ...]]:
        """Sorted rows, at most `top` (tables/sorting.py); equal ones in the order of arrival."""

    def page(
        self, order: str, begin: int, end: int, wanted: Callable[[Sequence[Any]], bool] | None = None
    ) -> tuple[list[tuple[Value, ...]], int]:
        """(rows `begin` to `end` of the sorted ones that are `wanted`, how many are); few of many without a sort.

        `wanted` is given a row's cells in front of the measures, once for each row: ask with the same object again.
        """


@runtime_checkable
class Baselined(Protocol):
    """A table whose records are numbers since tracing began, of which only the difference counts."""

    def read(self, batches: Sequence[Batch]) -> None:
        """See `Table.read`."""

    def start_over(self, elapsed_ns: int) -> None:
        """What was read so far, until that time, is where counting begins."""


class Table(Protocol):
    """The rows of one tracer in one run. A step is read, then completed by what the node is asked, then counted."""

    counts: Counts
    tells_rows: bool
    """Whether it is rows that are told as lines and objects, once an interval; else each event, as it comes."""

    @property
    def joiners(self) -> Mapping[str, Joining]:
        """Stream -> what may join its alike records while they are read."""

    def learn(self, facts: Iterable[Fact]) -> None:
        """Note what became known of the node; the attribution has learned it already."""

    def read(self, batches: Sequence[Batch]) -> None:
        """Decode what has come, and look up whose it is. Batches name the tracer's own streams."""

    def nameless(self) -> Collection[str]:
        """The kinds of those whose name is not known ("unknown": nothing is)."""

    def look_again(self) -> None:
        """Look up again whose what was read is: more was learned."""

    def unknown_layers(self) -> Iterable[int]:
        """Device numbers of overlays whose image layers nobody has looked at, of what was read."""

    def count(self, tell: Tell | None) -> None:
        """Count what was read, and tell each event that is asked for."""

    def tick(self, elapsed_ns: int) -> None:
        """An interval is over: rates are those of it until the next."""

    def fold_ended(self, owners: Owners) -> None:
        """Of pods that are not among the owners any more only the heavy keep rows of their own."""

    def rows(self, by: str) -> Rows:
        """The rows of a grouping."""

    def recent(self, since: int) -> tuple[int, Sequence[tuple[Any, Any, int]]]:
        """(how many events were remembered so far, those behind the first `since` that still are, the newest last).

        Each is (event, whose it is as it is told, how many alike it stands for).
        """

    def records(self, *, last: bool, wall_ns: int) -> Iterable[dict[str, Any]]:
        """Where rows are told, those that changed in the last interval as JSON objects; the `last` time all."""

    def total(self) -> dict[str, Any]:
        """Every measure over all that was counted, by its column's key."""

    def remedies(self) -> tuple[str, Sequence[Remedy]]:
        """What could be done better, the worst first, and the line that goes in front."""

    def __len__(self) -> int:
        """How much is remembered for as long as the run lasts."""
