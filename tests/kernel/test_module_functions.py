"""Where overlayfs' functions are in its module's BTF, against libbpf's own search."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from kubetrace.engines.libbpf import LoadedObject
from kubetrace.engines.library import library
from kubetrace.engines.module_functions import module_functions
from kubetrace.engines.source import object_path
from kubetrace.tracers import find

_KIND_FUNC = 12
_BTF = Path("/sys/kernel/btf")


def libbpfs_own(functions: set[str]) -> dict[str, int]:
    """What libbpf finds in the module's BTF."""
    libbpf = ctypes.CDLL("libbpf.so.1")
    libbpf.btf__parse.restype = libbpf.btf__parse_split.restype = ctypes.c_void_p
    libbpf.btf__parse_split.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
    libbpf.btf__find_by_name_kind.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32)
    kernel = libbpf.btf__parse(b"/sys/kernel/btf/vmlinux", None)
    module = libbpf.btf__parse_split(b"/sys/kernel/btf/overlay", kernel)
    found = {name: libbpf.btf__find_by_name_kind(module, name.encode(), _KIND_FUNC) for name in functions}
    return {name: number for name, number in found.items() if number > 0}


@pytest.mark.each_kernel
def test_places_are_those_that_libbpf_finds() -> None:
    places = module_functions().places()
    if not (_BTF / "overlay").exists():
        # 5.10 has no BTF of modules
        assert not places
        return
    assert {"ovl_copy_up_one", "ovl_setattr"} <= set(places)
    assert len(places) > 100
    assert libbpfs_own(set(places)) == places


@pytest.mark.each_kernel
def test_the_kernel_attaches_there() -> None:
    places = module_functions().places()
    hook = "fentry" if places else "kprobe"
    with LoadedObject(object_path("copyup"), hook=hook, optional=find("copyup").optional) as loaded:
        assert loaded.hooks["return"] == hook
        told = {program.function: _attach_btf_id(fd) for program, fd in loaded._loaded() if program.function in places}
    if places:
        assert "ovl_copy_up_one" in told
    assert told == {function: places[function] for function in told}


def _attach_btf_id(program: int) -> int:
    # struct bpf_prog_info: behind recursion_misses are verified_insns, attach_btf_obj_id and attach_btf_id (6.0)
    info, size = (ctypes.c_uint32 * 57)(), ctypes.c_uint32(57 * 4)
    assert not library().bpf_obj_get_info_by_fd(program, info, ctypes.byref(size))
    return info[56]
