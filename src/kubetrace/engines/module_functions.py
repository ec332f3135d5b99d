"""Where the functions of overlayfs are in the BTF of its module, so that libbpf does not look for each of them.

libbpf (find_kernel_btf_id in libbpf.c, 1.1.2) looks for a function that the kernel's own BTF does not have in that
of every module in turn, in the order of their loading, and each time through all that the module's builds on, which is
the kernel's again: 1.5 ms for each pair of program and module.
Here the few thousand types of the one module are read, once, and programs of its functions are told their places as
they are loaded (libbpf_register_prog_handler). All others are left to libbpf.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Mapping
from ctypes import POINTER, c_int, c_long, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path

from kubetrace.engines.kernel_types import Blob
from kubetrace.engines.library import Libbpf, library
from kubetrace.errors import LoadRefused

_BTF = Path("/sys/kernel/btf")
MODULE = "overlay"
# include/uapi/linux/bpf.h, btf.h
_PROG_TRACING = 26
_ATTACH_TYPES = {"fentry": 24, "fexit": 25}
_KIND_FUNC = 12


class LoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts (libbpf's bpf.h) up to attach_btf_obj_fd; libbpf takes any shorter one."""

    _fields_ = [
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_int),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_ifindex", c_uint32),
        ("kern_version", c_uint32),
        ("attach_btf_id", c_uint32),
        ("attach_prog_fd", c_uint32),
        ("attach_btf_obj_fd", c_uint32),
    ]


_PREPARE = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(LoadOptions), c_long)


class _HandlerOptions(ctypes.Structure):
    """struct libbpf_prog_handler_opts (libbpf.h)."""

    _fields_ = [
        ("sz", c_size_t),
        ("cookie", c_long),
        ("prog_setup_fn", c_void_p),
        ("prog_prepare_load_fn", _PREPARE),
        ("prog_attach_fn", c_void_p),
    ]


class _BtfInfo(ctypes.Structure):
    """struct bpf_btf_info (include/uapi/linux/bpf.h); name since 5.11."""

    _fields_ = [
        ("btf", c_uint64),
        ("btf_size", c_uint32),
        ("id", c_uint32),
        ("name", c_uint64),
        ("name_len", c_uint32),
        ("kernel_btf", c_uint32),
    ]


class ModuleFunctions:
    """The places of overlayfs' functions for one libbpf; nothing of it where the kernel has them itself, or no BTF."""

    def __init__(self, libbpf: Libbpf) -> None:
        """Nothing is read yet."""
        self._libbpf = libbpf
        self._places: dict[str, int] = {}
        self._fd = self._number = 0
        self._registered: set[str] = set()
        self._prepare = _PREPARE(self._tell)  # must outlive the library's use of it

    def tell_of(self, sections: Iterable[str]) -> None:
        """To be called before an object is opened that has programs in these sections (fentry/FUNCTION and others)."""
        try:
            names = (_BTF / MODULE).read_bytes()
        except OSError:
            return
        # of other functions there is nothing to tell: the kernel's types, which take longer, are not counted for them
        wanted = [
            (section, kind, function)
            for section, (kind, _, function) in ((section, section.partition("/")) for section in sections)
            if kind in _ATTACH_TYPES and b"\0" + function.encode() + b"\0" in names
        ]
        places = self.places() if wanted else {}
        for section, kind, function in wanted:
            if section in self._registered or function not in places:
                continue
            options = _HandlerOptions(sz=ctypes.sizeof(_HandlerOptions), prog_prepare_load_fn=self._prepare)
            # exactly this section: libbpf's own handler stays that of all others
            number = self._libbpf.libbpf_register_prog_handler(
                section.encode(), _PROG_TRACING, _ATTACH_TYPES[kind], ctypes.byref(options)
            )
            if number >= 0:
                self._registered.add(section)

    def _tell(self, program: int, options: ctypes._Pointer[LoadOptions], _cookie: int) -> int:
        # Of libbpf, before it loads the program.
        function = self._libbpf.bpf_program__section_name(program).decode().partition("/")[2]
        if function not in self._places:
            return -errno.ENOENT
        options.contents.attach_btf_id = self._places[function]
        options.contents.attach_btf_obj_fd = self._fd
        return 0

    def places(self) -> Mapping[str, int]:
        """Function -> its type's id, read anew when the module was loaded again; none where it has no BTF."""
        number, fd = self._find_module()
        if fd and number == self._number:
            os.close(fd)
            return self._places
        if self._number:
            os.close(self._fd)
        self._places, self._fd, self._number = {}, fd, number
        if fd:
            with contextlib.suppress(OSError, struct.error, LoadRefused):
                self._places = self._functions()
        return self._places

    def _find_module(self) -> tuple[int, int]:
        """The BTF's number and a descriptor; zeros where the module has none, or we may not ask (CAP_SYS_ADMIN)."""
        number = c_uint32()
        while not self._libbpf.bpf_btf_get_next_id(number, ctypes.byref(number)):
            fd = int(self._libbpf.bpf_btf_get_fd_by_id(number))
            if fd < 0:
                continue
            name = ctypes.create_string_buffer(64)
            info = _BtfInfo(name=ctypes.addressof(name), name_len=len(name))
            size = c_uint32(ctypes.sizeof(info))
            failed = self._libbpf.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
            if not failed and info.kernel_btf and name.value == MODULE.encode():
                return number.value, fd
            os.close(fd)
        return 0, 0

    def _functions(self) -> dict[str, int]:
        """Name -> type id. Names that the kernel's own BTF has too are not in the module's strings: left to libbpf."""
        kernel = self._libbpf.btf__parse(os.fsencode(_BTF / "vmlinux"), None)
        if not kernel:
            return {}
        first_id = int(self._libbpf.btf__type_cnt(kernel))
        self._libbpf.btf__free(kernel)
        with open(_BTF / "vmlinux", "rb", buffering=0) as file:
            (first_string,) = struct.unpack("<20xI", file.read(24))
        blob = Blob((_BTF / MODULE).read_bytes())
        unpack, found = struct.Struct("<II").unpack_from, {}
        for number, at in enumerate(blob.at, first_id):
            name, info = unpack(blob.data, at)
            if info >> 24 & 0x1F == _KIND_FUNC and name >= first_string:
                found[blob.name(name - first_string)] = number
        return found


@cache
def module_functions() -> ModuleFunctions:
    """Those of the one loaded libbpf."""
    return ModuleFunctions(library())
