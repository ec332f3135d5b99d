"""Compile a text by bcc, in a process of its own: LLVM's 100 MB and its messages end with it.

Run as a script by engine.py, with the standard library alone: the text on stdin, flags as arguments; on stdout the
BTF and the instructions of each program as JSON, on stderr what clang says. bcc's package and the kernel's headers are
named by KUBETRACE_BCC and BCC_KERNEL_SOURCE.

Only bcc/libbcc.py is imported, the declarations of libbcc's functions as this version has them; bcc/__init__.py would
take seconds on a slow machine for what is not used here.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import json
import os
import platform
import struct
import sys
import types

_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
# include/uapi/linux/bpf.h
_OBJ_GET_INFO_BY_FD, _BTF_GET_FD_BY_ID = 15, 19
_PROG_TYPE_RAW_TRACEPOINT = 17
_PROG_INFO_BTF_ID = 128
# A program of no use but this: bcc hands the module's BTF to the kernel with it, and gives it to nobody else.
_NOTHING = "\nint kt_nothing(void *ctx) { return 0; }\n"


def _bpf(command: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = libc.syscall(ctypes.c_long(_BPF_SYSCALL[platform.machine()]), command, buffer, len(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _info(fd: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    _bpf(_OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, len(buffer), ctypes.addressof(buffer)))


def _btf_of(program: int) -> bytes:
    about = ctypes.create_string_buffer(232)
    _info(program, about)
    number = struct.unpack_from("<I", about, _PROG_INFO_BTF_ID)[0]
    if not number:
        return b""
    fd = _bpf(_BTF_GET_FD_BY_ID, struct.pack("<IIII", number, 0, 0, 0))
    about = ctypes.create_string_buffer(16)
    _info(fd, about)
    data = ctypes.create_string_buffer(struct.unpack_from("<I", about, 8)[0])
    about = ctypes.create_string_buffer(struct.pack("<QII", ctypes.addressof(data), len(data), 0), 16)
    _info(fd, about)
    return data.raw


def _libbcc() -> ctypes.CDLL:
    package = types.ModuleType("bcc")
    package.__path__ = [os.environ["KUBETRACE_BCC"]]
    sys.modules["bcc"] = package
    library: ctypes.CDLL = importlib.import_module("bcc.libbcc").lib
    return library


def main() -> int:
    """The exit status: 1 when the text does not compile or the kernel does not take its BTF."""
    # bcc and clang write to 1 and 2 alike: both are for people
    answer = os.dup(1)
    os.dup2(2, 1)
    library = _libbcc()
    flags = [flag.encode() for flag in sys.argv[1:]]
    text = sys.stdin.read() + _NOTHING
    module = library.bpf_module_create_c_from_string(
        text.encode(), 0, (ctypes.c_char_p * len(flags))(*flags), len(flags), True, None
    )
    if not module:
        return 1
    programs = {}
    for index in range(library.bpf_num_functions(module)):
        name = library.bpf_function_name(module, index)
        start, size = library.bpf_function_start(module, name), library.bpf_function_size(module, name)
        programs[name.decode()] = ctypes.string_at(start, size)
    nothing = library.bpf_function_start(module, b"kt_nothing")
    arguments = [module, _PROG_TYPE_RAW_TRACEPOINT, b"kt_nothing", nothing, len(programs.pop("kt_nothing"))]
    arguments += [b"GPL", 0, 0, None, 0, None]
    # flags, and since 0.29 what it attaches to
    arguments += [0] * (len(library.bcc_func_load.argtypes) - len(arguments))
    program = library.bcc_func_load(*arguments)
    if program < 0:
        code = ctypes.get_errno()
        print(f"error: the kernel refuses a program of nothing: {os.strerror(code)}", flush=True)
        return 1
    found = {
        "btf": base64.b64encode(_btf_of(program)).decode(),
        "programs": {name: base64.b64encode(code).decode() for name, code in programs.items()},
    }
    with open(answer, "w", encoding="ascii") as file:
        json.dump(found, file)
    return 0


if __name__ == "__main__":
    # at once: nothing is left that LLVM would have to tidy up
    os._exit(main())
