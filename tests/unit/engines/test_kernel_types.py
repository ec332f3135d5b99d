"""Our structs, laid out as a kernel's BTF says; the BTF is written by hand here."""

from __future__ import annotations

import struct

import pytest

from kubetrace.engines.kernel_types import Blob, KernelTypes
from kubetrace.errors import LoadRefused

INT, PTR, STRUCT, UNION, ENUM, CONST, ENUM64 = 1, 2, 4, 5, 6, 10, 19
PUSH = "#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)"
POP = "#pragma clang attribute pop"


class Written:
    """A BTF blob in the making (Documentation/bpf/btf.rst)."""

    def __init__(self, first_string: int = 0) -> None:
        self.strings = b"" if first_string else b"\0"
        self.first = first_string
        self.types = b""

    def name(self, text: str) -> int:
        if not text:
            return 0
        at = self.first + len(self.strings)
        self.strings += text.encode() + b"\0"
        return at

    def add(
        self, kind: int, name: str, size: int, *members: tuple[int, ...], flag: bool = False, rest: bytes = b""
    ) -> None:
        self.types += struct.pack("<III", self.name(name), kind << 24 | flag << 31 | len(members), size) + rest
        for member in members:
            self.types += struct.pack(f"<{len(member)}I", *member)

    def blob(self) -> bytes:
        head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings))
        return head + self.types + self.strings


def kernel() -> bytes:
    btf = Written()
    btf.add(INT, "unsigned long", 8, rest=struct.pack("<I", 64))  # 1
    btf.add(UNION, "", 8, (btf.name("d_name"), 1, 0))  # 2
    btf.add(CONST, "", 2)  # 3
    btf.add(STRUCT, "dentry", 40, (btf.name("d_flags"), 1, 0), (0, 3, 64), (btf.name("d_inode"), 1, 24 * 8))  # 4
    btf.add(STRUCT, "bits", 8, (btf.name("one"), 1, 1 << 24), (btf.name("two"), 1, 32), flag=True)  # 5
    btf.add(ENUM, "cgroup_subsys_id", 4, (btf.name("cpuset_cgrp_id"), 0), (btf.name("memory_cgrp_id"), 4))  # 6
    btf.add(ENUM64, "wide", 8, (btf.name("LARGE"), 9, 1))  # 7
    btf.add(STRUCT, "empty", 0)  # 8
    return btf.blob()


def test_members_have_the_kernels_offsets_and_the_struct_its_size() -> None:
    types = KernelTypes.of_blob(kernel(), {"struct dentry"})
    text = types.apply(
        f"{PUSH}\nstruct dentry {{\n\tvoid *d_inode;\n\tunsigned long d_name;\n\tint gone;\n}};\n{POP}\n"
    )
    assert "struct { char kt_to_d_inode[24]; void * d_inode; } __attribute__((packed));" in text
    # through a union without a name, behind a qualifier
    assert "char kt_to_d_name[8]" in text
    assert "int volatile gone;" in text
    assert "char kt_known[1]; char kt_size[40];" in text
    assert text.count("\n") == 7


def test_a_flavour_is_the_same_struct() -> None:
    types = KernelTypes.of_blob(kernel(), {"struct dentry"})
    text = types.apply("struct dentry___old {\n\tint d_flags;\n} __attribute__((preserve_access_index));\n")
    assert text.startswith("struct dentry___old { union { struct { int d_flags; } __attribute__((packed));")


def test_a_struct_that_the_kernel_lacks_is_unknown() -> None:
    types = KernelTypes.of_blob(kernel(), {"struct nothing", "struct empty"})
    for name in ("nothing", "empty"):
        text = types.apply(f"struct {name} {{\n\tlong a, b;\n}} __attribute__((preserve_access_index));\n")
        assert "long volatile a; long volatile b; char kt_known[2]; char kt_size[2];" in text


def test_bit_fields_are_not_offsets() -> None:
    assert KernelTypes.of_blob(kernel(), {"struct bits"}).members("bits") == {"two": 4}


def test_enumerators_have_the_kernels_values() -> None:
    types = KernelTypes.of_blob(kernel(), {"enum cgroup_subsys_id", "enum wide"})
    text = types.apply(
        "enum cgroup_subsys_id {\n\tmemory_cgrp_id,\n\tnone_cgrp_id,\n};\n"
        "int a = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);\n"
        "int b = bpf_core_enum_value_exists(enum cgroup_subsys_id, none_cgrp_id);\n"
    )
    assert "memory_cgrp_id = 4," in text
    assert "kt_known_memory_cgrp_id = 1, kt_known_none_cgrp_id = 0," in text
    assert types.enumerators("wide") == {"LARGE": 9}


def test_a_modules_types_count_on_from_the_kernels() -> None:
    base = Blob(kernel())
    module = Written(len(base.strings))
    module.add(STRUCT, "ovl_layer", 32, (module.name("idx"), 1, 24 * 8))  # 9
    module.add(STRUCT, "ovl_path", 16, (0, 4, 0), (base.strings.index(b"d_flags"), 1, 64))  # 10
    types = KernelTypes([base, Blob(module.blob(), base)], {"struct ovl_layer", "struct ovl_path", "struct dentry"})
    assert types.members("ovl_layer") == {"idx": 24}
    assert types.members("ovl_path") == {"d_flags": 8, "d_name": 8, "d_inode": 24}
    assert types.size("dentry") == 40


@pytest.mark.parametrize("data", [b"", b"\x9f\xeb", b"\0" * 64])
def test_what_is_no_btf_is_refused(data: bytes) -> None:
    with pytest.raises(LoadRefused, match="types cannot be read"):
        KernelTypes.of_blob(data, ())


@pytest.mark.parametrize("member", ["int (*call)(void)", "struct { int a; } b", "int a : 3"])
def test_a_member_that_is_not_plain_is_refused(member: str) -> None:
    types = KernelTypes.of_blob(kernel(), ())
    text = f"struct x {{ {member}; }} __attribute__((preserve_access_index));"
    with pytest.raises(LoadRefused, match="cannot be laid out for bcc"):
        types.apply(text)
    with pytest.raises(LoadRefused, match="cannot be laid out for bcc"):
        types.apply(f"{PUSH}\nstruct x {{ {member}; }};\n{POP}\n")
