"""The running kernel's own types, and our few structs laid out as the kernel lays them out.

What libbpf does by relocation (CO-RE) is done here in the text that bcc compiles: a struct of bpf/kernel.bpf.h or
bpf/drift.bpf.h with preserve_access_index keeps its members, each moved to where the kernel has it. A member that the
kernel lacks is `volatile`, a struct that it lacks has kt_known[2]: bpf/bcc.bpf.h answers bpf_core_field_exists and its
like by these. Names after ___ are flavours, as for libbpf.

Types come from BTF: the kernel's own and its modules', or what bcc makes of the kernel's headers (bcc/headers.py).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kubetrace.engines.btf import MAGIC, TRAILER
from kubetrace.errors import LoadRefused

_STRUCT, _UNION, _ENUM, _TYPEDEF, _ENUM64 = 4, 5, 6, 8, 19
_QUALIFIERS = (8, 9, 10, 11, 18)
_ATTRIBUTE = r"__attribute__\(\(preserve_access_index\)\)"
_REGION = re.compile(
    rf"#pragma clang attribute push\({_ATTRIBUTE}, apply_to = record\)(.*?)#pragma clang attribute pop", re.DOTALL
)
_RECORD = re.compile(r"\bstruct\s+(\w+)\s*\{([^{}]*)\}\s*;")
_ALONE = re.compile(rf"\bstruct\s+(\w+)\s*\{{([^{{}}]*)\}}\s*{_ATTRIBUTE}\s*;")
_DECLARATION = re.compile(r"([\w\s*]*?[\s*])([A-Za-z_]\w*)((?:\s*\[[^\]]*\])*)")
_NOT_LAID_OUT = re.compile(r"\bstruct\s+(\w+)\s*\{(?! union \{)")
_ENUM_USE = re.compile(r"bpf_core_enum_value(?:_exists)?\(\s*enum (\w+),\s*(\w+)\s*\)")


class Blob:
    """One BTF blob, split (of a module) or not: where each type is, without making an object of any."""

    def __init__(self, data: bytes, base: Blob | None = None) -> None:
        """`base` is that of a module's. Raises LoadRefused for what is not BTF."""
        try:
            magic, _version, _flags, header, types, types_len, strings, strings_len = struct.unpack_from(
                "<HBBIIIII", data
            )
        except struct.error as error:
            raise LoadRefused("the kernel's types cannot be read.", why=str(error)) from error
        if magic != MAGIC:
            raise LoadRefused("the kernel's types cannot be read.", why="What should be BTF is none.")
        self.data, self.base = data, base
        self.strings = data[header + strings : header + strings + strings_len]
        self.first_id: int = base.next_id if base else 1
        self.first_string: int = base.first_string + len(base.strings) if base else 0
        self.at: list[int] = []
        at, end = header + types, header + types + types_len
        unpack, each = struct.Struct("<I").unpack_from, [TRAILER.get(kind, (0, 0)) for kind in range(32)]
        found = self.at
        while at < end:
            found.append(at)
            info = unpack(data, at + 4)[0]
            fixed, members = each[info >> 24 & 0x1F]
            at += 12 + fixed + members * (info & 0xFFFF)
        self.next_id: int = self.first_id + len(found)

    def name(self, offset: int) -> str:
        """The string there, counted from the base's first."""
        if offset < self.first_string and self.base:
            return self.base.name(offset)
        start = offset - self.first_string
        return self.strings[start : self.strings.index(b"\0", start)].decode(errors="replace")

    def type(self, number: int) -> tuple[Blob, int]:
        """Whose, and where; raises IndexError for void."""
        if number < self.first_id and self.base:
            return self.base.type(number)
        if not number:
            raise IndexError("void")
        return self, self.at[number - self.first_id]

    def offsets_of(self, name: str) -> set[int]:
        """Where the string table has this name as a whole: the last part of a longer string is not named so."""
        found = set()
        wanted, blob = b"\0" + name.encode() + b"\0", self
        while blob is not None:
            # a module's own strings begin with no NUL
            if blob.strings.startswith(wanted[1:]):
                found.add(blob.first_string)
            at = blob.strings.find(wanted)
            while at >= 0:
                found.add(blob.first_string + at + 1)
                at = blob.strings.find(wanted, at + 1)
            blob = blob.base  # type: ignore[assignment]
        return found


class KernelTypes:
    """Structs and enums by name, out of one or more BTF blobs; the first that knows a name answers."""

    def __init__(self, blobs: Sequence[Blob], wanted: Iterable[str] = ()) -> None:
        """`wanted`: what will be asked for, such as `struct dentry`; others are not found."""
        self._blobs = blobs
        self._where: dict[tuple[str, bool], tuple[Blob, int]] = {}
        self._index({name.rpartition(" ")[2] for name in wanted})

    @classmethod
    def of_kernel(cls, directory: Path, wanted: Iterable[str]) -> KernelTypes:
        """From /sys/kernel/btf: vmlinux, and those modules that kubetrace hooks. Raises OSError."""
        base = Blob((directory / "vmlinux").read_bytes())
        blobs = [base]
        if (directory / "overlay").exists():
            blobs.append(Blob((directory / "overlay").read_bytes(), base))
        return cls(blobs, wanted)

    @classmethod
    def of_blob(cls, data: bytes, wanted: Iterable[str]) -> KernelTypes:
        """From one blob, such as bcc makes of headers."""
        return cls([Blob(data)], wanted)

    def _index(self, wanted: set[str]) -> None:
        for blob in self._blobs:
            names = {offset: name for name in wanted for offset in blob.offsets_of(name)}
            unpack = struct.Struct("<II").unpack_from
            for at in blob.at:
                name_at, info = unpack(blob.data, at)
                if name_at not in names:
                    continue
                kind = info >> 24 & 0x1F
                if kind in (_STRUCT, _UNION, _ENUM, _ENUM64) and info & 0xFFFF:
                    self._where.setdefault((names[name_at], kind in (_ENUM, _ENUM64)), (blob, at))

    def size(self, name: str) -> int | None:
        """Of a struct in bytes; None where the kernel has none of that name."""
        found = self._where.get((name, False))
        return None if found is None else int(struct.unpack_from("<I", found[0].data, found[1] + 8)[0])

    def members(self, name: str) -> dict[str, int]:
        """Member -> offset in bytes; those of unnamed structs and unions inside count as its own. Not bit-fields."""
        found = self._where.get((name, False))
        return {} if found is None else dict(self._members(*found, 0))

    def _members(self, blob: Blob, at: int, base: int) -> Iterable[tuple[str, int]]:
        info = struct.unpack_from("<I", blob.data, at + 4)[0]
        for index in range(info & 0xFFFF):
            name_at, type_id, bits = struct.unpack_from("<III", blob.data, at + 12 + 12 * index)
            width, bits = (bits >> 24, bits & 0xFFFFFF) if info >> 31 else (0, bits)
            if width or bits % 8:
                continue
            if name := blob.name(name_at):
                yield name, base + bits // 8
                continue
            owner, inner = self._resolve(blob, type_id)
            if struct.unpack_from("<I", owner.data, inner + 4)[0] >> 24 & 0x1F in (_STRUCT, _UNION):
                yield from self._members(owner, inner, base + bits // 8)

    def _resolve(self, blob: Blob, type_id: int) -> tuple[Blob, int]:
        owner, at = blob.type(type_id)
        while True:
            info, target = struct.unpack_from("<II", owner.data, at + 4)
            if info >> 24 & 0x1F not in _QUALIFIERS:
                return owner, at
            owner, at = owner.type(target)

    def enumerators(self, name: str) -> dict[str, int]:
        """Of an enum; empty where the kernel has none of that name."""
        found = self._where.get((name, True))
        if found is None:
            return {}
        blob, at = found
        info = struct.unpack_from("<I", blob.data, at + 4)[0]
        wide = info >> 24 & 0x1F == _ENUM64
        size, form = (12, "<III") if wide else (8, "<Ii")
        values = {}
        for index in range(info & 0xFFFF):
            name_at, value = struct.unpack_from(form, blob.data, at + 12 + size * index)[:2]
            values[blob.name(name_at)] = value
        return values

    # -- the text ---------------------------------------------------------------------------------------------------

    def apply(self, text: str) -> str:
        """The text with every such struct laid out, and every enumerator that is asked for given its value."""
        text = _REGION.sub(self._region, text)
        text = _ALONE.sub(self._record, text)
        if "preserve_access_index" in text:
            raise LoadRefused(
                "a struct of the kernel cannot be laid out for bcc.",
                why="One with preserve_access_index has a struct, union or enum written inside it.",
            )
        return self._enums(text)

    def _region(self, match: re.Match[str]) -> str:
        text = _RECORD.sub(self._record, match[1])
        if left := _NOT_LAID_OUT.search(text):
            raise LoadRefused(f"struct {left[1]} cannot be laid out for bcc.", why="It has braces inside.")
        return text

    def _record(self, match: re.Match[str]) -> str:
        name, body = match[1], match[2]
        kernel_name = name.partition("___")[0]
        offsets, size = self.members(kernel_name), self.size(kernel_name)
        parts = []
        for declaration in filter(str.strip, body.split(";")):
            for kind, member, array in _declared(declaration, name):
                offset = offsets.get(member)
                if array.strip().startswith("[]"):
                    array = "[1]"
                if offset is None:
                    parts.append(f"{kind} volatile {member}{array};")
                elif offset:
                    parts.append(
                        f"struct {{ char kt_to_{member}[{offset}]; {kind} {member}{array}; }} __attribute__((packed));"
                    )
                else:
                    parts.append(f"struct {{ {kind} {member}{array}; }} __attribute__((packed));")
        known = f"char kt_known[{2 if size is None else 1}]; char kt_size[{size or 2}];"
        lines = "\n" * match[0].count("\n")
        return f"struct {name} {{ union {{ {' '.join(parts)} {known} }}; }} __attribute__((packed));{lines}"

    def _enums(self, text: str) -> str:
        asked: dict[str, set[str]] = {}
        for match in _ENUM_USE.finditer(text):
            asked.setdefault(match[1], set()).add(match[2])
        for name, values in asked.items():
            kernel = self.enumerators(name.partition("___")[0])

            def put(match: re.Match[str], values: set[str] = values, kernel: Mapping[str, int] = kernel) -> str:
                body = match[2]
                for value in values:
                    if value in kernel:
                        body = re.sub(rf"\b{value}\b(\s*=\s*[^,}}]*)?", f"{value} = {kernel[value]}", body)
                known = " ".join(f"kt_known_{value} = {int(value in kernel)}," for value in sorted(values))
                return f"{match[1]}{body}{match[3]} enum {{ {known} }};"

            text = re.sub(rf"(\benum {name}\s*\{{)([^{{}}]*)(\}};)", put, text)
        return text


def _declared(declaration: str, struct_name: str) -> list[tuple[str, str, str]]:
    """`unsigned long cx, dx` -> (type, name, array) for each."""
    first, *others = declaration.split(",")
    match = _DECLARATION.fullmatch(first.strip())
    if match is None:
        raise LoadRefused(
            f"struct {struct_name} cannot be laid out for bcc.", why=f"{declaration.strip()} is not a plain member."
        )
    found = [(match[1].strip(), match[2], match[3])]
    base = match[1].rstrip("* \t\n")
    for other in others:
        inner = re.fullmatch(r"\s*(\**)\s*(\w+)((?:\s*\[[^\]]*\])*)\s*", other)
        if inner is None:
            raise LoadRefused(
                f"struct {struct_name} cannot be laid out for bcc.", why=f"{other} is not a plain member."
            )
        found.append((f"{base} {inner[1]}".strip(), inner[2], inner[3]))
    return found


def asked_for(text: str) -> set[str]:
    """The kernel's types that a text lays out or asks for, such as `struct dentry`."""
    regions = " ".join(match[1] for match in _REGION.finditer(text))
    records = {match[1] for match in _RECORD.finditer(regions)} | {match[1] for match in _ALONE.finditer(text)}
    enums = {match[1] for match in _ENUM_USE.finditer(text)}
    return {f"struct {name.partition('___')[0]}" for name in records} | {f"enum {name}" for name in enums}
