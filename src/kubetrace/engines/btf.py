"""Layouts of event structs out of an object's BTF (Documentation/bpf/btf.rst), by the standard library alone.

Give it what libbpf holds after bpf_object__open (btf__raw_data): the offsets of variables in the raw .BTF section are
still 0, libbpf fills them in.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from functools import cached_property

from kubetrace.errors import LoadRefused
from kubetrace.stream.layout import Field, Layout

MAGIC = 0xEB9F
# BTF_KIND_*
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT = range(1, 12)
_FUNC, _FUNC_PROTO, _VAR, _DATASEC, _FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = range(12, 20)
# bytes behind each btf_type: fixed, and per member
TRAILER = {
    _INT: (4, 0),
    _ARRAY: (12, 0),
    _STRUCT: (0, 12),
    _UNION: (0, 12),
    _ENUM: (0, 8),
    _FUNC_PROTO: (0, 8),
    _VAR: (4, 0),
    _DATASEC: (0, 12),
    _DECL_TAG: (4, 0),
    _ENUM64: (0, 12),
}
_INT_SIGNED, _INT_BOOL = 1, 4


@dataclass(frozen=True, slots=True)
class _Type:
    kind: int
    name: str
    size_or_type: int
    members: int
    kind_flag: bool
    at: int  # of what follows the btf_type


class Btf:
    """One BTF blob; type ids count from 1, 0 is void. Raises LoadRefused for what is not BTF."""

    def __init__(self, data: bytes) -> None:
        """`data`: the whole blob, header included."""
        try:
            magic, _version, _flags, header, types, types_len, strings, strings_len = struct.unpack_from(
                "<HBBIIIII", data
            )
        except struct.error as error:
            raise LoadRefused("the object carries no BTF.", why=str(error)) from error
        if magic != MAGIC:
            raise LoadRefused("the object carries no BTF.", why=f"magic {magic:#x} instead of {MAGIC:#x}")
        self._data = data
        self._types_at, self._types_end = header + types, header + types + types_len
        self._strings = data[header + strings : header + strings + strings_len]

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    @cached_property
    def _types(self) -> list[_Type]:
        found = [_Type(0, "void", 0, 0, False, 0)]
        at = self._types_at
        while at < self._types_end:
            name, info, size_or_type = struct.unpack_from("<III", self._data, at)
            kind, members = info >> 24 & 0x1F, info & 0xFFFF
            found.append(_Type(kind, self._name(name), size_or_type, members, bool(info >> 31), at + 12))
            fixed, each = TRAILER.get(kind, (0, 0))
            at += 12 + fixed + each * members
        return found

    def _find(self, kind: int, name: str) -> _Type:
        for candidate in self._types:
            if candidate.kind == kind and candidate.name == name:
                return candidate
        raise LoadRefused(
            f"the object's BTF has no {name}.", why="Object and Python package are of different versions."
        )

    def _resolve(self, type_id: int) -> tuple[_Type, str]:
        """The type behind typedefs and qualifiers, and the name of the outermost kt_ typedef (the unit)."""
        unit = ""
        found = self._types[type_id]
        while found.kind in (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG):
            if not unit and found.name.startswith("kt_"):
                unit = found.name.removeprefix("kt_")
            found = self._types[found.size_or_type]
        return found, unit

    def enum(self, name: str) -> dict[str, int]:
        """The enumerators of an enum, in their order."""
        found = self._find(_ENUM, name)
        entries = struct.iter_unpack("<Ii", self._data[found.at : found.at + 8 * found.members])
        return {self._name(entry): value for entry, value in entries}

    def _enum_names(self, found: _Type) -> tuple[str, ...]:
        """Of an enum that counts from 0: copyup_open_write is open-write, without what all names begin with."""
        names = self.enum(found.name)
        if list(names.values()) != list(range(len(names))):
            raise LoadRefused(f"enum {found.name} does not count from 0.", why="Events hold only such.")
        shared = os.path.commonprefix(list(names))  # noqa: RUF071 (of strings, not of paths)
        return tuple(name[shared.rfind("_") + 1 :].replace("_", "-") for name in names)

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        """Variable -> (offset, size in bytes) of a data section such as .rodata."""
        found = self._find(_DATASEC, section)
        entries = struct.iter_unpack("<III", self._data[found.at : found.at + 12 * found.members])
        return {self._types[type_id].name: (offset, size) for type_id, offset, size in entries}

    def definition(self, name: str) -> dict[str, int]:
        """Of a struct that declares a map by pointers to arrays (bpf/bcc.bpf.h): member -> elements of its array."""
        found = self._find(_STRUCT, name)
        values = {}
        for name_at, type_id, _bits in struct.iter_unpack("<III", self._data[found.at : found.at + 12 * found.members]):
            array = self._types[self._types[type_id].size_or_type]
            if array.kind != _ARRAY:
                raise LoadRefused(f"{name}.{self._name(name_at)} is not a pointer to an array.")
            values[self._name(name_at)] = int(struct.unpack_from("<III", self._data, array.at)[2])
        return values

    def layout(self, name: str) -> Layout:
        """The layout of `struct name`; nested structs are flattened as outer_inner. Bit-fields are refused."""
        found = self._find(_STRUCT, name)
        return Layout(name, found.size_or_type, tuple(self._fields(found, 0, "")))

    def _fields(self, parent: _Type, base: int, prefix: str) -> list[Field]:
        fields: list[Field] = []
        for name_at, type_id, bits in struct.iter_unpack(
            "<III", self._data[parent.at : parent.at + 12 * parent.members]
        ):
            name = prefix + self._name(name_at)
            if parent.kind_flag or bits % 8:
                raise LoadRefused(f"{parent.name}.{name} is a bit-field.", why="Events hold whole bytes only.")
            member, unit = self._resolve(type_id)
            offset = base + bits // 8
            if member.kind == _STRUCT:
                fields += self._fields(member, offset, f"{name}_")
            elif member.kind == _ARRAY:
                element_id, _index, count = struct.unpack_from("<III", self._data, member.at)
                element, _ = self._resolve(element_id)
                fields.append(Field(name, offset, element.size_or_type * count, "bytes", unit))
            elif member.kind == _ENUM:
                names = self._enum_names(member)
                fields.append(Field(name, offset, member.size_or_type, "unsigned", unit, names))
            elif member.kind == _INT:
                encoding = struct.unpack_from("<I", self._data, member.at)[0] >> 24 & 0xF
                kind = "bool" if encoding & _INT_BOOL else "signed" if encoding & _INT_SIGNED else "unsigned"
                fields.append(Field(name, offset, member.size_or_type, kind, unit))
            else:
                raise LoadRefused(f"{parent.name}.{name} is of a kind that events do not hold.")
        return fields
