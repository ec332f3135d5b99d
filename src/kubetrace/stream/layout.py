"""The shape of a stream's records, as the C struct declares it: Layout <-> struct format <-> JSON. No BPF here.

A layout comes from a compiled object's BTF (engines/btf.py) or from a recording's header; both give the same decoded
events. Field names are the C struct's, units are the names of its typedefs (bpf/units.bpf.h: kt_bytes, ...).
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# A batch holds records as the kernel's ring buffer does, each behind an 8-byte header (length and flags, page offset):
# taking the headers out would cost more than decoding past them.
RING_HEADER_BYTES = 8

# (kind, size in bytes) -> code of the struct module, little endian
_CODES = {
    ("unsigned", 1): "B",
    ("unsigned", 2): "H",
    ("unsigned", 4): "I",
    ("unsigned", 8): "Q",
    ("signed", 1): "b",
    ("signed", 2): "h",
    ("signed", 4): "i",
    ("signed", 8): "q",
    ("bool", 1): "?",
}


@dataclass(frozen=True, slots=True)
class Batch:
    """What the kernel said: the raw bytes of many records of one stream.

    `counts`, where records were joined as they were read (engines.ring): how many each of these stands for.
    """

    stream: str
    data: bytes
    counts: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """One member of an event: `kind` is unsigned, signed, bool or bytes; offset and size are in bytes.

    `names` are those of an enum's values, from 0 on; empty for a number that is none.
    """

    name: str
    offset: int
    size: int
    kind: str
    unit: str = ""
    names: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        """The struct module's code; raises ValueError for a member that has none."""
        if self.kind == "bytes":
            return f"{self.size}s"
        try:
            return _CODES[self.kind, self.size]
        except KeyError:
            raise ValueError(f"field {self.name}: no {self.kind} number has {self.size} bytes") from None


class _Names(dict[int, str]):
    # By number, as a record may hold any: one of a later version's object, or of a file that was changed.

    __slots__ = ()

    def __missing__(self, number: int) -> str:
        return "unknown"


@dataclass(frozen=True)
class Layout:
    """All members of one event struct; `size` is that of the whole record in bytes."""

    name: str
    size: int
    fields: tuple[Field, ...]

    @cached_property
    def format(self) -> str:
        """The struct format of one record: little endian, gaps as pad bytes.

        Raises ValueError when members overlap or reach past the record (a damaged recording).
        """
        parts, at = ["<"], 0
        for field in self.fields:
            if field.offset < at:
                raise ValueError(f"{self.name}.{field.name} overlaps the member before it")
            if field.offset > at:
                parts.append(f"{field.offset - at}x")
            parts.append(field.code)
            at = field.offset + field.size
        if at > self.size:
            raise ValueError(f"{self.name} has {self.size} bytes, its members reach {at}")
        if self.size > at:
            parts.append(f"{self.size - at}x")
        return "".join(parts)

    @cached_property
    def event_type(self) -> type[Any]:
        """A named tuple with the struct's own member names; `NAMES` has the names of enum members' values.

        A number that has no name is "unknown".
        """
        fields = namedtuple(self.name, [field.name for field in self.fields])  # type: ignore[misc]
        names = {field.name: _Names(enumerate(field.names)) for field in self.fields if field.names}
        return type(self.name, (fields,), {"__slots__": (), "NAMES": names})

    @property
    def stride(self) -> int:
        """Bytes from one record of a batch to the next: the record behind its ring header."""
        return RING_HEADER_BYTES + self.size

    @cached_property
    def _record(self) -> struct.Struct:
        return struct.Struct(f"<{RING_HEADER_BYTES}x{self.format[1:]}")

    def decode(self, data: bytes | memoryview) -> Iterator[Any]:
        """Every record of a batch; raises ValueError unless that is a whole number of records."""
        if len(data) % self.stride:
            raise ValueError(f"{len(data)} bytes are not a whole number of {self.stride}-byte {self.name} records")
        return map(self.event_type._make, self._record.iter_unpack(data))

    def decode_one(self, data: bytes | memoryview, at: int) -> Any:
        """The record that is `at` (from 0) in a batch; raises struct.error where that has fewer."""
        return self.event_type._make(self._record.unpack_from(data, at * self.stride))

    def to_json(self) -> dict[str, Any]:
        """For a recording's header."""
        return {
            "name": self.name,
            "size": self.size,
            "fields": [[f.name, f.offset, f.size, f.kind, f.unit, *f.names] for f in self.fields],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Layout:
        """The inverse of to_json; raises ValueError for anything else."""
        try:
            fields = tuple(
                Field(str(name), int(offset), int(size), str(kind), str(unit), tuple(map(str, names)))
                for name, offset, size, kind, unit, *names in data["fields"]
            )
            layout = cls(str(data["name"]), int(data["size"]), fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a layout: {error}") from error
        if not 0 < layout.size <= 1 << 20 or any(f.size < 0 or f.offset < 0 for f in fields):
            raise ValueError(f"not a layout: {layout.name} of {layout.size} bytes")
        _ = layout.format
        return layout
