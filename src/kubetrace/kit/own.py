"""A tracer whose columns follow from its event struct alone: of kubetrace run, and of a recording that it made.

A member's type says what becomes of it (bpf/units.bpf.h, bpf/path.bpf.h):

    kt_count, kt_bytes     added up           kt_errno    counted where it is one; its name
    kt_duration_ns         the longest        enum        its name, without what all names begin with
    char[]                 a text             kt_boot_ns  a moment
    path with path_bytes and path_end         the path that kt_path_of fills in
    any other number       as it is           reserved    nothing

Those that attribute an event (KT_WHO) are the identity's columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubetrace.errors import UsageError
from kubetrace.kit.fields import EVENTS, PROCESS, Field, Fielded, Sum, device_of, error_of, shown_path
from kubetrace.kit.identity import COMM, CONTAINER, IMAGE_WIDE, NAMESPACE, NODE, PID, POD, QOS, path_of, text_of
from kubetrace.kit.tracer import MAX, SUM, Grouping
from kubetrace.views.columns import Column
from kubetrace.views.units import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from kubetrace.stream.layout import Field as Member
    from kubetrace.stream.layout import Layout

PREFIX = "run:"
_WHO = ("time", "cgroup_id", "memory_cgroup_id", "memory_hierarchy", "device", "pid", "tid", "comm")
_NUMBERS = ("unsigned", "signed", "bool")
# What columns of ours are called already.
_TAKEN = {"events", "errors", "last", "namespace", "pod", "container", "image", "qos_class", "node", "type"}
# And what other tracers' words of our own are called: in an export with --redact, no text of a user's tracer is.
_PLAIN = {"time", "kind", "error", "attributed_by", "names_from", "device", "hook", "tracer", "operation", "kernel"}

_ERRORS = Column("errors", "ERRORS", "count", alarm=True, help="how many of them failed")
_LAST = Column("last", "LAST", "time", spare=True, help="when the last one was (local)")


class _Member:
    """One member of the struct, and what becomes of it."""

    def __init__(self, field: Member, names: set[str]) -> None:
        self._field = field
        self.name = field.name
        self.is_path = field.name == "path" and {"path_bytes", "path_end"} <= names
        unit = field.unit
        self.sums = unit in ("count", "bytes") and not field.names
        self.longest = unit == "duration_ns"
        self.is_error = unit == "errno"
        self.is_text = self.is_path or field.kind == "bytes" or bool(field.names)
        # whether rows can be told apart by it
        self.labels = not (self.sums or self.longest or self.is_error or unit == "boot_ns")
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

    def field(self, *, spare: bool) -> Field:
        """It as a field of events."""
        shows = shown_path if self.is_path else (lambda event: int(self._says(event))) if self._is_bool else None
        return Field(replace(self.column, spare=spare), self.name, says=self._says, shows=shows)

    @property
    def _is_bool(self) -> bool:
        return self._field.kind == "bool" and not self._field.names and not self.is_error

    def _says(self, event: Any) -> Any:
        if self.is_path:
            return path_of(event)[0]
        value, names = getattr(event, self.name), self._field.names
        if self._field.kind == "bytes":
            return text_of(value)
        if names:
            return names[value] if value < len(names) else str(value)
        if self.is_error:
            return error_of(event, self.name)
        return bool(value) if self._is_bool else int(value)

    def sum(self, *, spare: bool) -> Sum:
        """It as a column of rows: added up, or the longest."""
        column = Column(f"max_{self.key}", f"MAX {self.column.title}", "duration", help="the longest")
        column = replace(column if self.longest else self.column, spare=spare)
        return Sum(column, lambda event: int(getattr(event, self.name)), MAX if self.longest else SUM)


def _help(field: Member) -> str:
    unit = {"bytes": "bytes", "duration_ns": "how long", "errno": "errno name", "boot_ns": "when"}.get(field.unit)
    return unit or ("one of " + ", ".join(field.names) if field.names else "as the struct has it")


class Derived(Fielded):
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
        self.object_type = name.removeprefix(PREFIX)
        self.summary = f"Show the events of {name.removeprefix(PREFIX)}, a tracer of your own, by pod."
        self.streams: Mapping[str, str] = {stream: layout.name}
        hidden = {*_WHO, "path_bytes", "path_end"}
        members = [
            _Member(field, names)
            for field in layout.fields
            if field.name not in hidden and not field.name.startswith("reserved")
        ]
        self._members = members
        self._failing = [member for member in members if member.is_error]
        paths = [member.key for member in members if member.is_path]
        self.fields = (
            *PROCESS,
            Field("device", says=lambda event: device_of(event) if event.device else None, ours=True),
            *(member.field(spare=bool(at) and not member.is_path) for at, member in enumerate(members)),
        )
        self.line = (
            *("time", "namespace", "pod", "container", "pid", "comm"),
            *(member.key for member in members if not member.is_path),
            *paths,
        )
        # a narrow terminal has room for the first of them
        amounts = [*(m for m in members if m.sums), *(m for m in members if m.longest)]
        failed = Sum(_ERRORS, lambda event: int(any(getattr(event, member.name) for member in self._failing)))
        self.sums = (
            EVENTS,
            *(member.sum(spare=bool(at)) for at, member in enumerate(amounts)),
            *((failed,) if self._failing else ()),
            Sum(_LAST, "time", MAX),
        )
        self.groupings = _groupings(members)
        keys = [one.column.key for one in self.sums]
        ordered = dict.fromkeys([keys[1] if amounts else "events", *keys, "namespace", "pod", "container"])
        self.sorts: Mapping[str, str] = {key: key for key in ordered}
        self.follow(self)

    def summary_record(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """The measures but the last."""
        return {column.key: totals[column.key] for column in self.measures[1:-1]}

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """12 events, size 64 MiB, 1 error."""
        count = totals["events"]
        parts = [f"{format_count(count)} {self.noun[count != 1]}"]
        for member in self._members:
            if member.sums:
                form = format_bytes if member.column.kind == "bytes" else format_count
                parts.append(f"{member.name} {form(totals[member.key])}")
        longest = [member for member in self._members if member.longest]
        parts += [f"longest {m.name} {format_duration(totals[f'max_{m.key}'])}" for m in longest]
        if self._failing and totals["errors"]:
            parts.append(f"{totals['errors']} error{'s' if totals['errors'] != 1 else ''}")
        return ", ".join(parts)


def _groupings(members: Sequence[_Member]) -> dict[str, Grouping]:
    pod = (NAMESPACE, POD)
    labels = [member for member in members if member.labels]
    found = {
        "container": Grouping((*pod, CONTAINER), (IMAGE_WIDE, QOS)),
        "pod": Grouping(pod, (QOS,)),
        "process": Grouping((*pod, CONTAINER, PID, COMM)),
        "node": Grouping((NODE,)),
    }
    own = {m.name: Grouping((*pod, CONTAINER, m.column)) for m in labels if m.name not in found}
    # what a text says is what one looks for first
    texts = [m.name for m in labels if m.name in own and m.is_text]
    texts.sort(key=lambda name: name != "path")
    return {name: own[name] for name in texts[:1]} | found | own
