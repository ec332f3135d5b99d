"""A tracer whose columns follow from its event struct alone: of kubetrace run, and of a recording that it made.

A member's type says what becomes of it (bpf/kubetrace.bpf.h, bpf/tracer.bpf.h):

    kt_count, kt_bytes     added up           kt_errno    counted where it is one; its name
    kt_duration_ns         the longest        enum        its name, without what all names begin with
    char[]                 a text             kt_boot_ns  a moment
    path with path_bytes and path_end         the path that kt_path_of fills in
    any other number       as it is           reserved    nothing

Those that attribute an event (KT_WHO) are the identity's columns.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from kubetrace.kit.tracer import MAX, SUM, Grouping, Tracer
from kubetrace.views.columns import Column
from kubetrace.views.units import format_bytes, format_count, format_duration, format_time

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.kit.context import Context
    from kubetrace.stream.layout import Field, Layout
    from kubetrace.views.columns import Value

PREFIX = "run:"
_WHO = ("time", "cgroup_id", "memory_cgroup_id", "memory_hierarchy", "device", "pid", "tid", "comm")
_NUMBERS = ("unsigned", "signed", "bool")
# What columns of ours are called already.
_TAKEN = {"events", "errors", "last", "namespace", "pod", "container", "image", "qos_class", "node", "type"}
# And what an export with --redact takes for words of ours (recording/redact.py): never a text of the user's tracer.
_PLAIN = {"time", "kind", "error", "attributed_by", "names_from", "device", "hook", "tracer", "operation", "kernel"}

_EVENTS = Column("events", "EVENTS", "count", help="how many")
_ERRORS = Column("errors", "ERRORS", "count", alarm=True, help="how many of them failed")
_LAST = Column("last", "LAST", "time", spare=True, help="when the last one was (local)")


class _Member:
    """One member of the struct as a column."""

    def __init__(self, field: Field, names: set[str]) -> None:
        self.field = field
        self.name = field.name
        self.is_path = field.name == "path" and {"path_bytes", "path_end"} <= names
        unit = field.unit
        self.sums = unit in ("count", "bytes") and not field.names
        self.longest = unit == "duration_ns"
        self.is_error = unit == "errno"
        suffix = {"bytes": "_bytes", "duration_ns": "_ns"}.get(unit, "")
        self.key = field.name if field.name.endswith(suffix) else field.name + suffix
        if self.key in _TAKEN or (field.kind == "bytes" and self.key in _PLAIN):
            self.key += "_value"
        kind: Any = {"count": "count", "bytes": "bytes", "duration_ns": "duration", "boot_ns": "time"}.get(unit)
        if self.is_path:
            kind = "path"
        elif field.kind == "bytes":
            kind = "name"
        elif kind is None or field.names:
            # names are those of a recording's header, when it is replayed: not our own words
            kind = "name" if field.names or self.is_error else "count"
        title = field.name.upper().replace("_", " ")
        self.column = Column(self.key, title, kind, alarm=self.is_error, help=_help(field))

    @property
    def labels(self) -> bool:
        """Whether rows can be told apart by it."""
        return not (self.sums or self.longest or self.is_error or self.field.unit == "boot_ns")

    def cell(self, event: Any, context: Context) -> Value:
        """For a table."""
        value = getattr(event, self.name)
        if self.is_path:
            path, cut = path_of(event)
            return b"\xe2\x80\xa6/" + path if cut else path
        if self.field.kind == "bytes":
            return text_of(value)
        if self.field.names:
            names = self.field.names
            return names[value] if value < len(names) else str(value)
        if self.is_error:
            return errno.errorcode.get(-value, str(-value)) if value else None
        if self.field.unit == "boot_ns":
            return context.wall_ns(value)
        return int(value)

    def said(self, event: Any, context: Context) -> Any:
        """For JSON."""
        if self.is_path:
            return path_of(event)[0]
        value = self.cell(event, context)
        if self.field.unit == "boot_ns":
            return format_time(int(value or 0))
        return bool(value) if self.field.kind == "bool" else value


def _help(field: Field) -> str:
    unit = {"bytes": "bytes", "duration_ns": "how long", "errno": "errno name", "boot_ns": "when"}.get(field.unit)
    return unit or ("one of " + ", ".join(field.names) if field.names else "as the struct has it")


class Derived(Tracer):
    """See `kit.tracer.Tracer` for what each member is. Raises UsageError for a struct without KT_WHO."""

    def __init__(self, name: str, stream: str, layout: Layout) -> None:
        """`name` begins with PREFIX."""
        names = {field.name for field in layout.fields}
        if missing := [member for member in _WHO if member not in names]:
            raise UsageError(
                f"struct {layout.name} cannot be attributed: it has no {', '.join(missing)}.",
                do="begin it with KT_WHO; (bpf/tracer.bpf.h), as in docs/own-tracer.md",
            )
        for field in layout.fields:
            if field.name in _WHO and (field.kind == "bytes") != (field.name == "comm"):
                raise UsageError(f"struct {layout.name}: {field.name} is not what KT_WHO makes it.")
        self.name = name
        self.summary = f"Show the events of {name.removeprefix(PREFIX)}, a tracer of your own, by pod."
        self.explanation = ""
        self.streams: Mapping[str, str] = {stream: layout.name}
        hidden = {*_WHO, "path_bytes", "path_end"}
        self._members = [
            _Member(field, names)
            for field in layout.fields
            if field.name not in hidden and not field.name.startswith("reserved")
        ]
        self._sums = [member for member in self._members if member.sums]
        self._longest = [member for member in self._members if member.longest]
        self._failing = [member for member in self._members if member.is_error]
        # a narrow terminal has room for the first of them
        amounts = [*(member.column for member in self._sums), *(_longest(member) for member in self._longest)]
        self.measures: Sequence[Column] = (
            _EVENTS,
            *amounts[:1],
            *(replace(column, spare=True) for column in amounts[1:]),
            *((_ERRORS,) if self._failing else ()),
            _LAST,
        )
        self.groupings: Mapping[str, Grouping] = self._groupings()
        self.event_columns: Sequence[Column] = (
            Column("time", "TIME", "time", help="when it was (local)"),
            NAMESPACE,
            POD,
            CONTAINER,
            PID,
            COMM,
            *(replace(m.column, spare=bool(i)) for i, m in enumerate(self._members) if not m.is_path),
            *(member.column for member in self._members if member.is_path),
        )
        keys = [column.key for column in self.measures]
        weight = keys[1] if self._sums or self._longest else "events"
        ordered = dict.fromkeys([weight, *keys, "namespace", "pod", "container"])
        self.sorts: Mapping[str, str] = {key: key for key in ordered}

    def _groupings(self) -> dict[str, Grouping]:
        pod = (NAMESPACE, POD)
        labels = [member for member in self._members if member.labels]
        found = {
            "container": Grouping((*pod, CONTAINER), (IMAGE_WIDE, QOS)),
            "pod": Grouping(pod, (QOS,)),
            "process": Grouping((*pod, CONTAINER, PID, COMM)),
            "node": Grouping((NODE,)),
        }
        own = {m.name: Grouping((*pod, CONTAINER, m.column)) for m in labels if m.name not in found}
        # what a text says is what one looks for first
        texts = [m.name for m in labels if m.name in own and (m.is_path or m.field.kind == "bytes" or m.field.names)]
        texts.sort(key=lambda name: name != "path")
        return {name: own[name] for name in texts[:1]} | found | own

    def operations(self) -> Sequence[str]:
        """In the order of `measures`."""
        sums, longest = [SUM] * len(self._sums), [MAX] * len(self._longest)
        return (SUM, *sums, *longest, *((SUM,) if self._failing else ()), MAX)

    def values(self, event: Any, context: Context) -> Sequence[Any]:
        """In the order of `measures`."""
        failed = any(getattr(event, member.name) for member in self._failing)
        return (
            1,
            *(int(getattr(event, member.name)) for member in self._sums),
            *(int(getattr(event, member.name)) for member in self._longest),
            *((int(failed),) if self._failing else ()),
            context.wall_ns(event.time),
        )

    def key_cells(self, event: Any, identity: Identity, context: Context) -> Mapping[str, Value]:
        """By column key."""
        return {
            **{member.key: member.cell(event, context) for member in self._members if member.labels},
            **identity_cells(event, identity),
            "pid": event.pid,
            "comm": text_of(event.comm),
            "node": context.node,
        }

    def event_cells(self, event: Any, identity: Identity, context: Context) -> Sequence[Value]:
        """In the order of `event_columns`."""
        cells: dict[str, Value] = {
            **{member.key: member.cell(event, context) for member in self._members},
            **self.key_cells(event, identity, context),
            "time": context.wall_ns(event.time),
        }
        return [cells[column.key] for column in self.event_columns]

    def record(self, event: Any, identity: Identity, context: Context) -> dict[str, Any]:
        """An object of the tracer's name."""
        return {
            "type": self.name.removeprefix(PREFIX),
            "time": format_time(context.wall_ns(event.time)),
            **identity_record(event, identity, context.node),
            "pid": event.pid,
            "tid": event.tid,
            "comm": text_of(event.comm),
            "device": f"{event.device >> 20}:{event.device & 0xFFFFF}" if event.device else None,
            **{member.key: member.said(event, context) for member in self._members},
        }

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """The measures but the last."""
        return {column.key: totals[column.key] for column in self.measures[1:-1]}

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """12 events, size 64 MiB, 1 error."""
        count = totals["events"]
        parts = [f"{format_count(count)} {self.noun[count != 1]}"]
        for member in self._sums:
            form = format_bytes if member.field.unit == "bytes" else format_count
            parts.append(f"{member.name} {form(totals[member.key])}")
        parts += [f"longest {m.name} {format_duration(totals[_longest(m).key])}" for m in self._longest]
        if self._failing and totals["errors"]:
            parts.append(f"{totals['errors']} error{'s' if totals['errors'] != 1 else ''}")
        return ", ".join(parts)


def _longest(member: _Member) -> Column:
    return Column(f"max_{member.key}", f"MAX {member.column.title}", "duration", help="the longest")
