"""perf_event_open(2): events of tracepoints and kprobes, and programs that run at them."""

from __future__ import annotations

import ctypes
import fcntl
import platform
import struct
from pathlib import Path

_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_TYPE_TRACEPOINT = 2
_FLAG_FD_CLOEXEC = 8
# include/uapi/linux/perf_event.h
_IOC_ENABLE, _IOC_SET_BPF = 0x2400, 0x40042408
_KPROBE = Path("/sys/bus/event_source/devices/kprobe")


def open_tracepoint(number: int) -> int:
    """An event of a tracepoint on all processes, by its id in tracefs. Raises OSError."""
    return _open(_TYPE_TRACEPOINT, number, 0, 0)


def open_kprobe(function: str, *, returns: bool) -> int:
    """An event of a kernel function's entry or return on all processes. Raises OSError."""
    kind = int((_KPROBE / "type").read_text())
    name = ctypes.create_string_buffer(function.encode())
    bit = int((_KPROBE / "format" / "retprobe").read_text().partition(":")[2]) if returns else 0
    return _open(kind, int(returns) << bit, ctypes.addressof(name), 0)


def _open(kind: int, config: int, config1: int, config2: int) -> int:
    # struct perf_event_attr, second published size: type, size, config, sample_period, sample_type, read_format,
    # flags, wakeup_events, bp_type, config1, config2
    attributes = struct.pack("<IIQQQQQIIQQ", kind, 72, config, 1, 0, 0, 0, 1, 0, config1, config2)
    libc = ctypes.CDLL(None, use_errno=True)
    event: int = libc.syscall(
        ctypes.c_long(_PERF_EVENT_OPEN[platform.machine()]),
        attributes,
        ctypes.c_int(-1),
        ctypes.c_int(0),
        ctypes.c_int(-1),
        ctypes.c_ulong(_FLAG_FD_CLOEXEC),
    )
    if event < 0:
        raise OSError(ctypes.get_errno(), "perf_event_open")
    return event


def run_at(event: int, program: int) -> None:
    """Let a program run at an event, from now until the event is closed. Raises OSError."""
    fcntl.ioctl(event, _IOC_SET_BPF, program)
    fcntl.ioctl(event, _IOC_ENABLE, 0)
