"""One declaration for each field of a tracer's events: column, cell, JSON key, metric and redaction follow from it.

    fields    what an event says                 --events, -o json, recordings, exports
    sums      what the events of a row come to   the table, the summary, `kubetrace agent`

A tracer whose events are told and added up needs no more than these; what else it does, it does in a method of its own.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

from kubetrace.errors import UsageError
from kubetrace.kit.identity import (
    COMM,
    CONTAINER,
    IMAGE_WIDE,
    NAMESPACE,
    NODE,
    PID,
    POD,
    QOS,
    identity_cells,
    identity_record,
    path_of,
    text_of,
)
from kubetrace.kit.tracer import SUM, Grouping, Metric, Tracer
from kubetrace.views.columns import Column
from kubetrace.views.units import format_bytes, format_count, format_duration, format_time

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.kit.context import Context
    from kubetrace.views.columns import Value

_CUT = b"\xe2\x80\xa6/"


@dataclass(frozen=True)
class Field:
    """What an event says under one key, from one member of its struct or from several."""

    name: str | Column
    """The column of --events, whose key is the key in JSON, CSV and exports too; or only that key."""
    member: str = ""
    """Of the struct, where its name is not the key."""
    says: Callable[[Any], Any] | None = None
    """An event's value; None: the member as it is."""
    of: Callable[[Any, Any], Any] | None = None
    """An event's value by whose it is, instead of `says`: given an Identity, or a Landing of a counted table."""
    shows: Callable[[Any], Value] | None = None
    """The cell, where it is not what JSON says."""
    ours: bool = False
    """Whether its texts are our own words or the kernel's: an export with --redact leaves them as they are."""
    also: Sequence[str] = ()
    """Further keys, told after this one: `says` (or `of`) gives a value for each, `shows` the cell."""
    only: Collection[str] = ()
    """Of a tracer whose events are of several kinds (Fielded.kinds): those that JSON tells this of; empty: all."""
    told: bool = True
    """Whether JSON has it at all."""

    @property
    def key(self) -> str:
        """In JSON, CSV and exports."""
        return self.name.key if isinstance(self.name, Column) else self.name

    @property
    def column(self) -> Column | None:
        """In --events."""
        return self.name if isinstance(self.name, Column) else None

    @property
    def is_moment(self) -> bool:
        """Whether its value is a moment of CLOCK_BOOTTIME: the wall clock's is told."""
        return self.column is not None and self.column.kind == "time"


_Composed = Callable[[Any, Any, "Context"], dict[str, Any]]


def _values(fields: Sequence[Field], *, shown: bool, object_type: str = "", owner: str = "") -> _Composed:
    """A function that gives an event's values by key: the cells of these fields where they are `shown`, else for JSON.

    An object has in front its `object_type`, when it was and whose: `of` itself, or its attribute `owner`. The function
    is composed once, as collections.namedtuple composes a class, since it is called for every event that is told.
    """
    names: dict[str, Any] = {"_time": format_time, "_identity": identity_record}
    before: list[str] = []
    items: list[str] = []
    if not shown:
        of = f"of.{owner}" if owner else "of"
        items = [
            f"'type': {object_type!r}, 'time': _time(context.wall_ns(event.time))",
            f"**_identity(event, {of}, context.node)",
        ]
    for at, field in enumerate(fields):
        keys = [field.key, *(() if shown else field.also)]
        value = _expression(field, at, names, shown=shown)
        if len(keys) > 1:
            parts = [f"_part{at}_{number}" for number in range(len(keys))]
            before.append(f"    {', '.join(parts)} = {value}\n")
            items += [f"{key!r}: {part}" for key, part in zip(keys, parts, strict=True)]
        else:
            items.append(f"{field.key!r}: {value}")
    exec(f"def values(event, of, context):\n{''.join(before)}    return {{{', '.join(items)}}}", names)
    composed: _Composed = names["values"]
    return composed


def _expression(field: Field, at: int, names: dict[str, Any], *, shown: bool) -> str:
    member = field.member or field.key
    if shown and field.shows is not None:
        names[f"_read{at}"] = field.shows
        value = f"_read{at}(event)"
    elif field.of is not None:
        names[f"_read{at}"] = field.of
        value = f"_read{at}(event, of)"
    elif field.says is not None:
        names[f"_read{at}"] = field.says
        value = f"_read{at}(event)"
    else:
        value = f"event.{_identifier(member)}"
    if field.also and shown and field.shows is None:
        value = f"{value}[0]"
    if field.is_moment:
        return f"context.wall_ns({value})" if shown else f"_time(context.wall_ns({value}))"
    return value


def _identifier(member: str) -> str:
    """The member's name. UsageError if it is not one that an attribute can have."""
    if member.isidentifier() and not iskeyword(member):
        return member
    # of a C file, or of a recording, whose layouts anybody may have written
    raise UsageError(
        f"{member[:40]!r} cannot be read.",
        why="A member's name has to be a name in Python, and not a word of its language.",
        do="call it otherwise, such as from_path instead of from",
    )


@dataclass(frozen=True)
class Sum:
    """A column of rows: what the events of one row come to."""

    column: Column
    read: str | Sequence[str] | Callable[[Any], int] = ""
    """An event's share: a member of the struct, several added up, or what is read of it; nothing: each event is one."""
    join: str = SUM
    """SUM, MAX or LAST."""
    metric: tuple[str, str] | None = None
    """Its name and help as `kubetrace agent` serves it; None: it is not served."""
    scale: float = 1.0
    """What a metric's value is multiplied by: Prometheus counts in bytes and seconds."""

    def members(self) -> Sequence[str] | None:
        """Those that it reads by their names; None: it is read by a function."""
        if callable(self.read):
            return None
        return (self.read,) if isinstance(self.read, str) and self.read else tuple(self.read)


_Shares = Callable[[Any, "Context", int], Sequence[Any]]


def _shares(sums: Sequence[Sum], alike: Mapping[str, str]) -> _Shares:
    """A function that gives what an event adds to each sum, composed once: a storm of events comes through it.

    An event that stands for several is told with their number. What is `alike` in them was joined before: the sum of a
    member is that of all of them, the largest is the largest. Whatever else is added up, they have in common.
    """
    names: dict[str, Any] = {}
    parts = []
    for at, one in enumerate(sums):
        members = one.members()
        if members is None:
            names[f"_read{at}"] = one.read
            share = f"_read{at}(event)"
        else:
            share = " + ".join(f"event.{_identifier(member)}" for member in members) or "1"
        if one.column.kind == "time":
            share = f"context.wall_ns({share})"
        if one.join == SUM and not (members and all(alike.get(member) == SUM for member in members)):
            share = "count" if share == "1" else f"({share}) * count"
        parts.append(share)
    exec(f"def shares(event, context, count):\n    return [{', '.join(parts)}]", names)
    composed: _Shares = names["shares"]
    return composed


def named(member: str) -> Callable[[Any], str]:
    """The name of an enum's value, as BTF has it."""
    return lambda event: event.NAMES[member][getattr(event, member)]


def error_of(event: Any, member: str = "error") -> str | None:
    """The name of a negative errno, such as ENOSPC; None where there was no error."""
    code = getattr(event, member)
    return errno.errorcode.get(-code, str(-code)) if code else None


def device_of(event: Any) -> str | None:
    """MAJOR:MINOR."""
    return f"{event.device >> 20}:{event.device & 0xFFFFF}"


def shown_path(event: Any) -> bytes:
    """The event's path; one that was cut begins with an ellipsis."""
    path, cut = path_of(event)
    return _CUT + path if cut else path


# What KT_WHO (bpf/who.bpf.h) and kt_path_of (bpf/path.bpf.h) fill in.
PROCESS = (Field(PID), Field("tid"), Field(COMM, says=lambda event: text_of(event.comm)))
DEVICE = Field("device", says=device_of, ours=True)
PATH_COLUMN = Column("path", "FILE", "path", weight=3, help="path inside the container")
PATH = Field(PATH_COLUMN, says=path_of, shows=shown_path, also=["path_truncated"])
ERROR = Field(Column("error", "ERROR", "text", min_width=6, alarm=True, help="errno name"), says=error_of, ours=True)
TIME_COLUMN = Column("time", "TIME", "time", help="when it was (local)")
EVENTS = Sum(Column("events", "EVENTS", "count", rate="EVENTS/s", help="how many"), metric=("events", "Events."))


class Fielded(Tracer):
    """A tracer that is made of its fields and sums. See `kit.tracer.Tracer` for the other members.

    With --by it has the groupings container, pod and node, and one for each field in `labels`; the first is the
    default.
    """

    fields: Sequence[Field] = ()
    sums: Sequence[Sum] = (EVENTS,)
    labels: Sequence[str] = ()
    """The keys of fields by which rows can be told apart, beside the container's."""
    line: Sequence[str | Column] = ()
    """The columns of --events in their order, or their keys; empty: time, whose it is, then the fields as they come."""
    time_column: Column = TIME_COLUMN
    owner: str = ""
    """Where an event's table finds more than an Identity: the attribute that has it."""
    object_type: str = ""
    """The type of its JSON objects, where that is not its name."""
    kinds: Sequence[str] = ()
    """Of a tracer whose events are of several kinds: their names; `kind_of` says which an event is."""
    _cells: tuple[_Composed, _Composed]
    """What `follow` composes: the cells that groupings have, and those of --events."""
    _said: Mapping[str, _Composed]
    """And what JSON says, by the kind of event."""
    _share: _Shares
    """And what an event adds to each of `sums`."""

    def __init_subclass__(cls, **more: Any) -> None:
        """What follows from the declarations is made with the class."""
        super().__init_subclass__(**more)
        if cls.fields:
            cls.follow(cls)

    @staticmethod
    def follow(made: Any) -> None:
        """Set what follows from `fields` and `sums`, unless it is declared by itself: on a class, or on a tracer."""
        own = vars(made)
        columns = {field.key: field.column for field in made.fields if field.column is not None}
        said = {**{column.key: column for column in (NAMESPACE, POD, CONTAINER, NODE, made.time_column)}, **columns}
        order = made.line or ("time", "namespace", "pod", "container", *columns)
        made.event_columns = [one if isinstance(one, Column) else said[one] for one in order]
        if "measures" not in own:
            made.measures = [one.column for one in made.sums]
        if "groupings" not in own:
            whose = (NAMESPACE, POD, CONTAINER)
            made.groupings = {key: Grouping((*whose, columns[key])) for key in made.labels} | {
                "container": Grouping(whose, (IMAGE_WIDE, QOS)),
                "pod": Grouping((NAMESPACE, POD), (QOS,)),
                "node": Grouping((NODE,)),
            }
        if "sorts" not in own:
            names = dict.fromkeys([*(one.column.key for one in made.sums), "namespace", "pod", "container"])
            made.sorts = {name: name for name in names}
        if "ours" not in own:
            made.ours = {field.key for field in made.fields if field.ours}
        grouped = {column.key for grouping in made.groupings.values() for column in grouping.columns}
        with_column = [field for field in made.fields if field.column is not None]
        made._cells = (
            _values([field for field in with_column if field.key in grouped], shown=True),
            _values(with_column, shown=True),
        )
        made._said = {
            kind: _values(
                [field for field in made.fields if field.told and (not field.only or kind in field.only)],
                shown=False,
                object_type=made.object_type or made.name,
                owner=made.owner,
            )
            for kind in ("", *made.kinds)
        }
        made._share = staticmethod(_shares(made.sums, made.alike))
        served = [(*one.metric, one) for one in made.sums if one.metric]
        if "metrics" not in own:
            made.metrics = [Metric(name, one.column.key, told, one.scale) for name, told, one in served]
        if served and "metered_by" not in own:
            made.metered_by, made.metric_labels = "container", ("namespace", "pod", "container")

    def kind_of(self, event: Any) -> str:
        """Which of `kinds` an event is."""
        return ""

    def operations(self) -> Sequence[str]:
        """How each measure joins."""
        return [one.join for one in self.sums] if self.table == "summed" else super().operations()

    def values(self, event: Any, context: Context) -> Sequence[Any]:
        """In the order of `measures`; a moment is told as the wall clock has it."""
        return self._share(event, context, 1)

    def joined_values(self, event: Any, context: Context, count: int) -> Sequence[Any]:
        """The same of an event that stands for `count`."""
        return self._share(event, context, count)

    def key_cells(self, event: Any, identity: Identity, context: Context) -> Mapping[str, Value]:
        """By column key."""
        return {**self._cells[0](event, identity, context), **identity_cells(event, identity), "node": context.node}

    def event_cells(self, event: Any, of: Any, context: Context) -> Sequence[Value]:
        """In the order of `event_columns`."""
        cells: dict[str, Value] = {
            **identity_cells(event, getattr(of, self.owner) if self.owner else of),
            **self._cells[1](event, of, context),
            "node": context.node,
            "time": context.wall_ns(event.time),
        }
        return [cells[column.key] for column in self.event_columns]

    def record(self, event: Any, of: Any, context: Context) -> dict[str, Any]:
        """An object of JSON Lines: when, whose, and the fields as they are declared."""
        kind = self.kind_of(event) if self.kinds else ""
        return self._said.get(kind, self._said[""])(event, of, context)

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """Each sum by its key."""
        return {one.column.key: totals[one.column.key] for one in self.sums if one.column.kind != "time"}

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """12 events, 64 MiB copied, 1 error."""
        count = totals[self.sums[0].column.key]
        said = [f"{format_count(count)} {self.noun[count != 1]}"]
        for one in self.sums[1:]:
            form = {"bytes": format_bytes, "duration": format_duration}.get(one.column.kind, format_count)
            if one.column.kind != "time" and totals[one.column.key]:
                said.append(f"{one.column.title.lower()} {form(totals[one.column.key])}")
        return ", ".join(said)
