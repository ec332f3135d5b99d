"""What the pipeline, the views and the command line ask of a tracer; and what a tracer is given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import click

    from kubetrace.attribution.attributor import Identity, Layer, Owners
    from kubetrace.attribution.facts import Fact
    from kubetrace.kit.counted import Counted, Lands, Row
    from kubetrace.node.files import Node
    from kubetrace.node.host import Host
    from kubetrace.stream.layout import Layout
    from kubetrace.stream.live import Gauges
    from kubetrace.views.columns import Column, Value

# How a measure of a new event joins that of its row.
SUM = "sum"
MAX = "max"
LAST = "last"


@dataclass(frozen=True)
class Grouping:
    """One row for each value of `key`; `notes` are shown behind it as they were last."""

    key: Sequence[Column]
    notes: Sequence[Column] = ()

    @property
    def columns(self) -> Sequence[Column]:
        """Those in front of the measures."""
        return (*self.key, *self.notes)


class Clock(Protocol):
    """What a tracer may know of the node when it describes an event."""

    node: str

    @property
    def counting(self) -> Lands | None:
        """The counters of a tracer that has some."""

    def wall_ns(self, boot_ns: int) -> int:
        """Nanoseconds since 1970 of a moment of CLOCK_BOOTTIME."""

    def layer(self, event: Any, identity: Identity) -> Layer | None:
        """The image layer that the event's `layer_index` means on its `device`; None where nothing is known."""


class Remedy(Protocol):
    """One line of advice."""

    def text(self, escape: Callable[[str | bytes], str]) -> str:
        """The line, every name of others escaped."""


class Advice(Protocol):
    """Collects what could be done better, and says it at the end."""

    def add(self, event: Any, identity: Identity, clock: Clock, count: int = 1) -> None:
        """Take one event in, or one that stands for `count` (Joins)."""

    def let_go(self, owners: Owners) -> None:
        """Forget what is light of pods that are not among the `owners` any more: so it does not grow with time."""

    def remedies(self) -> Sequence[Remedy]:
        """The worst first."""


class NoAdvice:
    """Of a tracer that has none to give."""

    def add(self, event: Any, identity: Identity, clock: Clock, count: int = 1) -> None:
        """Nothing."""

    def let_go(self, owners: Owners) -> None:
        """Nothing."""

    def remedies(self) -> Sequence[Remedy]:
        """None."""
        return ()


class Tracer(Protocol):
    """What the pipeline, the views and the command line ask of a tracer; everything else is its own."""

    name: str
    summary: str
    """One sentence on what the user will see."""
    explanation: str
    """The rest of --help: what is counted, what is not seen."""
    examples: Sequence[tuple[str, str]]
    """(command line, what it shows)."""
    streams: Mapping[str, str]
    """Ring buffer -> event struct."""
    optional: Mapping[str, str]
    """Program groups that may be missing -> what is then not seen."""
    groupings: Mapping[str, Grouping]
    """--by NAME -> what makes a row; the first is the default."""
    measures: Sequence[Column]
    """The columns behind the key, for every grouping."""
    event_columns: Sequence[Column]
    """The columns of --events."""
    sorts: Mapping[str, str]
    """--sort NAME -> the key of the column it sorts by; the first is the default. Descending, names ascending."""
    noun: tuple[str, str]
    """One of what is counted, and many."""
    needs_overlay: bool
    """Whether there is nothing to attach to before overlayfs is in the kernel."""

    def options(self) -> Sequence[click.Option]:
        """The tracer's own options."""

    def constants(self, options: Mapping[str, Any]) -> Mapping[str, int]:
        """What goes into the object's .rodata for these options."""

    def keeps(self, options: Mapping[str, Any]) -> Callable[[Any], bool] | None:
        """What these options leave of a recording's events, as the kernel would have; None: all. Raises UsageError."""

    def operations(self) -> Sequence[str]:
        """How each measure joins (SUM, MAX or LAST), in the order of `measures`."""

    def folded(self, event: Any) -> bool:
        """Whether the event is told by another one's row, and has none of its own."""

    def values(self, event: Any, clock: Clock) -> Sequence[Any]:
        """An event's measures."""

    def key_cells(self, event: Any, identity: Identity, clock: Clock) -> Mapping[str, Value]:
        """Every cell that a grouping's columns may ask for, by the column's key."""

    def event_cells(self, event: Any, identity: Identity, clock: Clock) -> Sequence[Value]:
        """The cells of `event_columns`."""

    def record(self, event: Any, identity: Identity, clock: Clock) -> dict[str, Any]:
        """The event as an object of JSON Lines; its keys are a contract."""

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """The tracer's own keys of the closing summary object, given the sums of all measures by key."""

    def advice(self) -> Advice:
        """A new collection of what to change, told behind the summary."""

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """The same for a person."""


@runtime_checkable
class Joins(Tracer, Protocol):
    """A tracer of which many events that are alike can be counted as one, and told of with what many have in common."""

    alike: Mapping[str, str]
    """The fields in which such events differ -> how these join (SUM, MAX or LAST); all others are equal."""
    unmetered: Collection[str]
    """Of all fields those that none of its metrics and their labels depends on (Metered)."""

    own_cells: Collection[str]
    """The key cells that are an event's own; all others depend on its `kind` alone."""

    def joined_values(self, event: Any, clock: Clock, count: int) -> Sequence[Any]:
        """The measures of an event that stands for `count`: `values`, where that is one."""

    def kind(self, event: Any, identity: Identity, clock: Clock) -> tuple[Hashable, ...]:
        """Equal for events of one identity whose key cells are equal but for their own."""

    def cells_of(self, event: Any) -> Mapping[str, Value]:
        """The cells named in `own_cells`."""


@runtime_checkable
class Counts(Tracer, Protocol):
    """A tracer that counts in the kernel: its rows come from counters, not from events."""

    counted: Counted

    def with_options(self, options: Mapping[str, Any]) -> Tracer:
        """Itself with the columns that these options ask for."""

    def wiring(self, options: Mapping[str, Any], by: str, events: bool, host: Host) -> dict[str, Any]:
        """Further arguments for KernelSource: constants by grouping and node, map sizes, programs without work."""

    def prepare(self, store: Callable[[str, bytes, bytes], None], files: Node) -> None:
        """Fill the maps that tell the kernel about the node."""

    def others(self, by: str) -> Sequence[str]:
        """The groupings that a table can change over to: what the kernel was not asked to tell apart stays one."""

    def row_record(self, by: str, row: Row, clock: Clock, wall_ns: int, latency: bool) -> dict[str, Any]:
        """What one row has come to, as an object of JSON Lines."""


@dataclass(frozen=True)
class Metric:
    """A measure that only rises, as `kubetrace agent` serves it: kubetrace_TRACER_NAME_total."""

    name: str
    measure: str
    """The key of its column."""
    help: str
    scale: float = 1.0
    """What a value is multiplied by: Prometheus counts in bytes and seconds."""


@runtime_checkable
class Metered(Protocol):
    """A tracer with metrics for `kubetrace agent`."""

    metered_by: str
    """The grouping whose rows are served."""
    metric_labels: Sequence[str]
    """Of that grouping's columns."""
    metrics: Sequence[Metric]


def counted_of(tracer: Tracer) -> Counted | None:
    """What a tracer says of its counters; None for one whose rows are added up from events."""
    return tracer.counted if isinstance(tracer, Counts) else None


class Board(Protocol):
    """What a tracer remembers from one event to the next, for one run: rows that are more than sums of events."""

    def learn(self, fact: Fact) -> None:
        """What became known of the node."""

    def take(self, event: Any, identity: Identity) -> Iterable[tuple[Any, Identity]]:
        """The events that this one is for a reader: mostly itself; none; or what follows from a gauge's record."""

    def rows(self, by: str) -> Sequence[Sequence[Value]]:
        """The table under one of the tracer's groupings: key, notes and measures."""


@runtime_checkable
class Stateful(Protocol):
    """A tracer whose rows a board keeps; the others' are sums of `values`."""

    def gauges(self, host: Host) -> Gauges | None:
        """What to read at each interval."""

    def board(
        self, options: Mapping[str, Any], layouts: Mapping[str, Layout], missing: Collection[str], clock: Clock
    ) -> Board:
        """For one run with these options of its own (those left out have their defaults); `missing`: what is not seen.

        `layouts` by the names of the tracer's own streams.
        """
