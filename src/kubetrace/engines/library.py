"""libbpf.so.1 through ctypes: the functions that are used here, with their types.

libbpf 1.x has a stable ABI, so the system's own library serves (Debian: libbpf1). Whatever libbpf and the verifier say
is kept in `Libbpf.log` and shown inside errors, never printed over a table.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any

from kubetrace.errors import LibraryMissing

_LOG_LINES = 2000
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class Libbpf:
    """The library's functions, with their types. Raises LibraryMissing when libbpf.so.1 cannot be loaded."""

    PRINT_CALLBACK = ctypes.CFUNCTYPE(c_int, c_int, c_void_p, c_void_p)
    RING_CALLBACK = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)

    def __init__(self) -> None:
        """Load the library and take over its messages."""
        try:
            self._library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        except OSError as error:
            raise LibraryMissing(
                "libbpf.so.1 cannot be loaded.",
                why=f"{error}. kubetrace loads its programs through the system's libbpf, 1.0 or newer.",
                do="apt-get install libbpf1",
            ) from error
        self.log: list[str] = []
        for name, result, *arguments in (
            ("bpf_object__open_file", c_void_p, c_char_p, c_void_p),
            ("bpf_object__load", c_int, c_void_p),
            ("bpf_object__close", None, c_void_p),
            ("bpf_object__btf", c_void_p, c_void_p),
            ("btf__raw_data", c_void_p, c_void_p, POINTER(c_uint32)),
            ("bpf_object__next_program", c_void_p, c_void_p, c_void_p),
            ("bpf_program__name", c_char_p, c_void_p),
            ("bpf_program__section_name", c_char_p, c_void_p),
            ("bpf_program__set_autoload", c_int, c_void_p, ctypes.c_bool),
            ("bpf_program__fd", c_int, c_void_p),
            ("bpf_program__attach", c_void_p, c_void_p),
            ("bpf_program__attach_trace", c_void_p, c_void_p),
            ("bpf_program__attach_perf_event", c_void_p, c_void_p, c_int),
            ("bpf_link__destroy", c_int, c_void_p),
            ("bpf_link__fd", c_int, c_void_p),
            ("bpf_iter_create", c_int, c_int),
            ("bpf_object__next_map", c_void_p, c_void_p, c_void_p),
            ("bpf_map__name", c_char_p, c_void_p),
            ("bpf_map__fd", c_int, c_void_p),
            ("bpf_map__max_entries", c_uint32, c_void_p),
            ("bpf_map__set_max_entries", c_int, c_void_p, c_uint32),
            ("bpf_map__type", c_int, c_void_p),
            ("bpf_map__key_size", c_uint32, c_void_p),
            ("bpf_map__value_size", c_uint32, c_void_p),
            ("bpf_map__initial_value", c_void_p, c_void_p, POINTER(c_size_t)),
            ("bpf_map_update_elem", c_int, c_int, c_void_p, c_void_p, c_uint64),
            ("bpf_map_lookup_elem", c_int, c_int, c_void_p, c_void_p),
            ("bpf_map_delete_elem", c_int, c_int, c_void_p),
            # for probes (probe.py) and the other engine (bcc/engine.py), which have no object
            ("bpf_prog_load", c_int, c_int, c_char_p, c_char_p, c_char_p, c_size_t, c_void_p),
            ("bpf_map_create", c_int, c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p),
            ("bpf_raw_tracepoint_open", c_int, c_char_p, c_int),
            ("libbpf_find_vmlinux_btf_id", c_int, c_char_p, c_int),
            ("bpf_btf_get_next_id", c_int, c_uint32, POINTER(c_uint32)),
            ("bpf_btf_get_fd_by_id", c_int, c_uint32),
            ("btf__parse", c_void_p, c_char_p, c_void_p),
            ("btf__type_cnt", c_uint32, c_void_p),
            ("btf__find_by_name_kind", c_int, c_void_p, c_char_p, c_uint32),
            ("btf__type_by_id", c_void_p, c_void_p, c_uint32),
            ("btf__name_by_offset", c_char_p, c_void_p, c_uint32),
            ("btf__free", None, c_void_p),
            ("libbpf_register_prog_handler", c_int, c_char_p, c_int, c_int, c_void_p),
            ("bpf_obj_get_info_by_fd", c_int, c_int, c_void_p, POINTER(c_uint32)),
            ("bpf_enable_stats", c_int, c_int),
            ("libbpf_num_possible_cpus", c_int),
            ("libbpf_version_string", c_char_p),
            ("libbpf_set_print", c_void_p, self.PRINT_CALLBACK),
            ("ring_buffer__new", c_void_p, c_int, self.RING_CALLBACK, c_void_p, c_void_p),
            ("ring_buffer__consume", c_int, c_void_p),
            ("ring_buffer__free", None, c_void_p),
        ):
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self._print = self.PRINT_CALLBACK(self._keep_message)  # must outlive the library's use of it
        self.libbpf_set_print(self._print)
        libc = ctypes.CDLL(None)
        self._vsnprintf = libc.vsnprintf
        self._vsnprintf.argtypes = (c_char_p, c_size_t, c_void_p, c_void_p)
        # glibc's only (malloc/malloc.h)
        self._trim, self._mallopt = getattr(libc, "malloc_trim", None), getattr(libc, "mallopt", None)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        # Only for what __init__ has not set; tells mypy that functions are there.
        raise AttributeError(name)

    def settle(self) -> None:
        """Hand to the kernel what loading took for a while (its whole BTF was unpacked, some 10 MiB), and then no more.

        A drain takes the memory of the one before: new pages cost more than all that is done with the records in them
        (110 ns of 236 for one of 128 bytes).
        """
        if self._trim is not None:
            self._trim(0)
        if self._mallopt is not None:
            self._mallopt(_M_MMAP_THRESHOLD, 32 << 20)
            self._mallopt(_M_TRIM_THRESHOLD, 32 << 20)

    def _keep_message(self, level: int, text: int, arguments: int) -> int:
        # level: LIBBPF_WARN 0, INFO 1, DEBUG 2. The verifier's log comes as one message of many lines.
        if level < 2:
            buffer = ctypes.create_string_buffer(1 << 16)
            # A va_list travels as a pointer on x86-64 and arm64 alike.
            self._vsnprintf(buffer, len(buffer), text, arguments)
            self.log += buffer.value.decode(errors="replace").splitlines()
            del self.log[:-_LOG_LINES]
        return 0


@cache
def library() -> Libbpf:
    """The one loaded libbpf."""
    return Libbpf()
