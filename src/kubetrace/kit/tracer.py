"""What a tracer is: its declarations, and what a run asks of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import click

    from kubetrace.attribution.attributor import Identity, Owners
    from kubetrace.attribution.destination import Destination
    from kubetrace.attribution.facts import Fact
    from kubetrace.kit.context import Context
    from kubetrace.kit.landing import Counters, Row
    from kubetrace.node.host import Host
    from kubetrace.node.survey import Node
    from kubetrace.stream.layout import Layout
    from kubetrace.stream.live import Gauges, Kernel
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


@dataclass(frozen=True)
class Overview:
    """A column of the table that several tracers share, with one row for each pod (kubetrace top).

    What of it is bad, its column says: `alarm`, a `limit`, a percentage; of the others who has most comes first.
    """

    column: Column
    measure: str
    """The key of the measure that it shows."""
    by: str = "pod"
    """The grouping whose rows it is read from; it has `namespace` and `pod`."""
    only: Callable[[Mapping[str, Value]], bool] | None = None
    """Which of these rows, by the cells in front of the measures; None: all."""
    join: str = SUM
    """How several rows of a pod come to one: SUM or MAX."""
    weight: float = 1.0
    """Of an alarm: how bad it is beside others. A process that was killed is worse than a write that failed."""


class Remedy(Protocol):
    """One line of advice."""

    def text(self, escape: Callable[[str | bytes], str]) -> str:
        """The line, every name of others escaped."""

    def record(self) -> Mapping[str, Any]:
        """The same for a program that applies it."""


class Advice(Protocol):
    """Collects what could be done better, and says it at the end."""

    title: str
    """The line in front of the remedies."""

    def add(self, event: Any, identity: Identity, context: Context, count: int = 1) -> None:
        """Note one event, or one that stands for `count` alike ones."""

    def forget_ended(self, owners: Owners) -> None:
        """Forget what matters little of pods that are not among the `owners` any more, so that memory is bounded."""

    def remedies(self) -> Sequence[Remedy]:
        """The worst first."""


@dataclass(frozen=True)
class Metric:
    """A measure that only rises, as `kubetrace agent` serves it: kubetrace_TRACER_NAME_total."""

    name: str
    measure: str
    """The key of its column."""
    help: str
    scale: float = 1.0
    """What a value is multiplied by: Prometheus counts in bytes and seconds."""


@dataclass(frozen=True)
class Standing:
    """A number as it stands, as `kubetrace agent` serves it: kubetrace_TRACER_NAME, a gauge."""

    name: str
    by: str
    """The grouping whose rows it is of."""
    labels: Sequence[str]
    """Of that grouping's columns: their keys. Rows that have these alike are one."""
    measure: str
    """The key of its column."""
    help: str
    scale: float = 1.0
    """What a value is multiplied by: Prometheus counts in bytes and seconds."""
    join: str = SUM
    """SUM, or LAST: then what finds no place of its own is left out, as a sum would say nothing."""


@dataclass(frozen=True)
class Wiring:
    """What the engine is told of a tracer for one run (engines.source.KernelSource)."""

    constants: Mapping[str, int] = field(default_factory=dict)
    """Name of a `const volatile` variable of the object -> its value."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Map -> its number of entries, or of bytes for a ring."""
    unneeded: Collection[str] = ()
    """Programs that have nothing to do."""
    places: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Such a variable -> a function of the kernel and its argument: its place, from 0, as the kernel's BTF has it.

    The argument `return` is the result, which is behind them all; `*` says whether that is a pointer (1 or 0). What the
    kernel's BTF does not say leaves the variable as it is."""


class Board(Protocol):
    """What a tracer remembers from one event to the next, for one run: rows that are more than sums of events."""

    def learn(self, fact: Fact) -> None:
        """What became known of the node."""

    def take(self, event: Any, identity: Identity) -> Iterable[tuple[Any, Identity]]:
        """The events that this one is for a reader: mostly itself; none; or what follows from a gauge's record."""

    def rows(self, by: str) -> Sequence[Sequence[Value]]:
        """The table under one of the tracer's groupings: key, notes and measures."""


@runtime_checkable
class StartsOver(Protocol):
    """A board of numbers since tracing began: those so far can be where counting begins (replay --from)."""

    def start_over(self) -> None:
        """They are."""


class Tracer:
    """What the pipeline, the views and the commands ask of a tracer, with defaults; everything else is its own.

    Its `table` says what keeps its rows (tables/): "summed" adds up its events, "counted" reads counters that the
    kernel keeps (`counters` describes them), "board" hands each event to a board of the tracer's own (`board`).
    """

    name: str
    summary: str
    """One sentence on what the user will see."""
    explanation: str = ""
    """The rest of --help: what is counted, what is not seen."""
    examples: Sequence[tuple[str, str]] = ()
    """(command line, what it shows)."""
    streams: Mapping[str, str]
    """Ring buffer -> event struct."""
    for_board: Collection[str] = ()
    """Of a board's streams, those read off the node among them, the ones whose records are for the board alone: none of
    them is told, shown or added up."""
    optional: Mapping[str, str | None] = {}
    """Program groups that may be missing -> what is then not seen. None: where the kernel has no such function, there
    is nothing to be seen either."""
    unhooked: str = ""
    """What is not seen where no program is in the kernel (--hook none); empty: nothing would be seen."""
    groupings: Mapping[str, Grouping]
    """--by NAME -> what makes a row; the first is the default."""
    measures: Sequence[Column]
    """The columns behind the key, for every grouping."""
    event_columns: Sequence[Column]
    """The columns of --events."""
    sorts: Mapping[str, str]
    """--sort NAME -> the key of the column it sorts by; the first is the default. Descending, names ascending."""
    noun: tuple[str, str] = ("event", "events")
    """One of what is counted, and many."""
    once: bool = False
    """Whether one look at everything is an answer (--once)."""
    needs_overlay: bool = False
    """Whether there is nothing to attach to before overlayfs is in the kernel."""
    ours: Collection[str] = ()
    """The keys of its JSON objects whose texts are our own words or the kernel's: an export with --redact leaves these
    as they are, and no others."""
    table: Literal["summed", "counted", "board"] = "summed"

    # For `kubetrace agent`; a tracer without metrics is not served.
    metered_by: str = ""
    """The grouping whose rows are served."""
    metric_labels: Sequence[str] = ()
    """Of that grouping's columns."""
    metrics: Sequence[Metric] = ()
    standings: Sequence[Standing] = ()
    """What is served as it stands, beside what only rises."""

    # For a summed table: many events that are alike are counted as one, and what many have in common is looked up once.
    alike: Mapping[str, str] = {}
    """The fields in which such events differ -> how these join (SUM, MAX or LAST); all others are equal. Empty: no
    event is joined with another."""
    unmetered: Collection[str] = ()
    """Of all fields those that none of the metrics and their labels depends on."""
    own_cells: Collection[str] = ()
    """The key cells that are an event's own; all others depend on its `kind` alone."""

    counters: Counters
    """For a counted table."""

    of_others: bool = False
    """For a board: whether what one pod does may be another's, so that the board says of each event whose it is."""

    overlays: Mapping[str, str] = {}
    """A stream that tells which overlay a device number is of -> the struct of its records: time, device,
    upperdir_bytes and upperdir. It becomes facts (OverlayTold), and is in no recording itself."""

    overview: Sequence[Overview] = ()
    """What it has to say of a pod beside other tracers. Empty: it is not asked."""
    unasked: bool = True
    """Whether `kubetrace top` runs it where nobody names it, if it has an overview."""

    def options(self) -> Sequence[click.Option]:
        """The tracer's own options."""
        return ()

    def tells(self, options: Mapping[str, Any]) -> bool:
        """Whether these options ask for a line for each event, as --events does."""
        return False

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """Itself with the columns that these options ask for."""
        return self

    def as_recorded(self, texts: Mapping[str, str]) -> Self:
        """Itself as it was recorded: `texts` are its options' values in the recording's header."""
        return self

    def constants(self, options: Mapping[str, Any]) -> Mapping[str, int]:
        """What goes into the object's .rodata for these options. Raises UsageError."""
        return {}

    def wiring(self, options: Mapping[str, Any], by: str, events: bool, host: Host) -> Wiring:
        """What the engine is told for this grouping on this node; `events`: each is told."""
        return Wiring()

    def prepare(self, store: Callable[[str, bytes, bytes], None], files: Node) -> None:
        """Fill the maps that tell the kernel about the node: `store` takes map, key and value."""

    def gauges(self, host: Host, kernel: Kernel) -> Gauges | None:
        """What is read off the node at each interval; None: nothing. `kernel`: the tracer's own programs, attached."""
        return None

    def keeps(self, options: Mapping[str, Any]) -> Callable[[Any], bool] | None:
        """What these options leave of a recording's events, as the kernel would have; None: all. Raises UsageError."""
        return None

    def others(self, by: str) -> Sequence[str]:
        """The groupings that a table can change over to from this one."""
        return list(self.groupings)

    def finer(self, by: str, among: Sequence[str]) -> str | None:
        """The grouping, `among` those that there are, that tells the rows of this one apart: what one sees who opens a
        row. None: its single events.

        By default the next finer: a pod's containers, a container's files. Of several the first that is declared.
        """
        known = {column.key for column in self.groupings[by].key}
        found = [
            name
            for name in among
            if known < {column.key for column in self.groupings[name].key} or (known == {"node"} and name == "pod")
        ]
        return min(found, key=lambda name: len(self.groupings[name].key), default=None)

    def only_recorded(self, options: Mapping[str, Any]) -> Mapping[str, tuple[str, str]]:
        """Of these options those that a replay cannot make up for: name -> (what is not recorded without, the flag)."""
        return {}

    def operations(self) -> Sequence[str]:
        """How each measure joins (SUM, MAX or LAST), in the order of `measures`."""
        return (SUM,) * len(self.measures)

    def folded(self, event: Any) -> bool:
        """Whether the event is told by another one's row, and has none of its own."""
        return False

    def values(self, event: Any, context: Context) -> Sequence[Any]:
        """An event's measures."""
        raise NotImplementedError

    def joined_values(self, event: Any, context: Context, count: int) -> Sequence[Any]:
        """The measures of an event that stands for `count`: `values`, where that is one."""
        raise NotImplementedError

    def kind(self, event: Any, identity: Identity, context: Context) -> tuple[Hashable, ...]:
        """Equal for events of one identity whose key cells are equal but for their own."""
        raise NotImplementedError

    def key_cells(self, event: Any, identity: Identity, context: Context) -> Mapping[str, Value]:
        """Every cell that a grouping's columns may ask for, by the column's key."""
        raise NotImplementedError

    def cells_of(self, event: Any) -> Mapping[str, Value]:
        """The cells named in `own_cells`."""
        raise NotImplementedError

    def event_cells(self, event: Any, of: Any, context: Context) -> Sequence[Value]:
        """The cells of `event_columns`. `of` is whose the event is, as its table found: an Identity, or a Landing."""
        raise NotImplementedError

    def record(self, event: Any, of: Any, context: Context) -> dict[str, Any]:
        """The event as an object of JSON Lines; its keys are a contract. `of` as for `event_cells`."""
        raise NotImplementedError

    def row_record(self, by: str, row: Row, context: Context, wall_ns: int) -> dict[str, Any]:
        """For a counted table: what one row has come to, as an object of JSON Lines."""
        raise NotImplementedError

    def board(
        self, options: Mapping[str, Any], layouts: Mapping[str, Layout], missing: Collection[str], context: Context
    ) -> Board:
        """For one run with these options of its own (those left out have their defaults); `missing`: what is not seen.

        `layouts` by the names of the tracer's own streams.
        """
        raise NotImplementedError

    def advice(self) -> Advice | None:
        """A new collection of what to change, told behind the summary; None: there is none to give."""
        return None

    def remedies_of(
        self, counted: Iterable[tuple[Identity, Destination, Sequence[Sequence[int]]]]
    ) -> tuple[str, Sequence[Remedy]]:
        """For a counted table: what to change, the worst first, and the line in front; of each container and place its
        sums (of each kind, see `kit.landing.Counters.totals`)."""
        return "", ()

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """The tracer's own keys of the closing summary object, given the sums of all measures by key."""
        raise NotImplementedError

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """The same for a person."""
        raise NotImplementedError
