"""Where functions of the running kernel have their arguments, by its BTF: CO-RE does not relocate prototypes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping
from ctypes import c_uint32

from kubetrace.engines import support
from kubetrace.engines.library import library

# include/uapi/linux/btf.h
_KIND_PTR, _KIND_FUNC = 2, 12
RESULT = "return"
POINTER = "*"


class _Type(ctypes.Structure):
    """struct btf_type; of a function its prototype's number, of a prototype its result's."""

    _fields_ = [("name", c_uint32), ("info", c_uint32), ("type", c_uint32)]


class _Parameter(ctypes.Structure):
    """struct btf_param: those of a prototype are behind it."""

    _fields_ = [("name", c_uint32), ("type", c_uint32)]


def prototypes(functions: Iterable[str]) -> dict[str, dict[str, int]]:
    """Function -> {argument: its place}, `return` behind them, and `*`: whether the result is a pointer.

    Functions that the kernel's BTF does not have, and all of a kernel without BTF, are left out.
    """
    found: dict[str, dict[str, int]] = {}
    if not support.has_btf():
        return found
    calls = library()
    kernel = calls.btf__parse(os.fsencode(support.VMLINUX_BTF), None)
    if not kernel:
        return found
    try:
        for name in functions:
            number = calls.btf__find_by_name_kind(kernel, name.encode(), _KIND_FUNC)
            if number > 0:
                found[name] = _arguments(kernel, number)
    finally:
        calls.btf__free(kernel)
    return found


def _arguments(kernel: int, function: int) -> dict[str, int]:
    calls = library()
    at = calls.btf__type_by_id(kernel, _Type.from_address(calls.btf__type_by_id(kernel, function)).type)
    prototype = _Type.from_address(at)
    count = prototype.info & 0xFFFF
    parameters = (_Parameter * count).from_address(at + ctypes.sizeof(_Type))
    places = {calls.btf__name_by_offset(kernel, one.name).decode(): place for place, one in enumerate(parameters)}
    result = _Type.from_address(calls.btf__type_by_id(kernel, prototype.type)) if prototype.type else None
    is_pointer = result is not None and result.info >> 24 & 0x1F == _KIND_PTR
    return {**places, RESULT: count, POINTER: int(is_pointer)}


def placed(places: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    """The values of such variables (kit.tracer.Wiring) for this kernel; those that it does not tell are left out."""
    known = prototypes({function for function, _ in places.values()}) if places else {}
    return {
        variable: known[function][argument]
        for variable, (function, argument) in places.items()
        if argument in known.get(function, ())
    }
