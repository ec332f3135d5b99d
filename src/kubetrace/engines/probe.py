"""What this kernel lets this process do with BPF, found out by doing it: a program that does nothing, at each hook.

Nothing stays behind: each program is attached to a function that is seldom called, and detached at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubetrace.engines import perf, support, tracefs
from kubetrace.engines.bcc.engine import package
from kubetrace.engines.library import Libbpf, library
from kubetrace.engines.module_functions import LoadOptions
from kubetrace.errors import LibraryMissing

_BTF = Path("/sys/kernel/btf")
_PRESSURE = Path("/proc/pressure/memory")
# r0 = 0; exit (Documentation/bpf/standardization/instruction-set.rst)
_RETURN_0 = bytes.fromhex("b7000000000000009500000000000000")
# include/uapi/linux/bpf.h
_PROG_KPROBE, _PROG_RAW_TRACEPOINT, _PROG_TRACING = 2, 17, 26
_TRACE_FEXIT = 25
_MAP_RINGBUF = 27
# In every kernel by that name since 2.6, and called when a directory is removed.
_FUNCTION = b"vfs_rmdir"
_TRACEPOINT = b"cgroup_mkdir"
_OF_OVERLAYFS = "ovl_copy_up_one"


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """What was found out. Of an attempt: the errno, 0 where it worked, None where it could not be tried."""

    release: str
    machine: str
    root: bool
    capabilities: int
    """The effective ones, as bits (include/uapi/linux/capability.h)."""
    lockdown: str | None
    """none, integrity or confidentiality; None where the kernel has no such thing."""
    libbpf: str | None
    """Its version; None where it cannot be loaded."""
    bcc: bool
    """Whether the other engine is installed, which needs no BTF."""
    btf_bytes: int | None
    overlay_loaded: bool
    overlay_btf: str | None
    """module, or kernel where overlayfs is built in."""
    fexit: int | None
    kprobe: int | None
    kprobes_built_in: bool
    perf_paranoid: int
    """kernel.perf_event_paranoid: above Linux' own 2, kprobes ask for CAP_SYS_ADMIN."""
    tracepoint: int | None
    ring_buffer: int | None
    tracefs: str | None
    """Where kprobes can be made in it."""
    pressure: bool
    """Whether the kernel measures pressure (PSI)."""


def kernel_facts() -> KernelFacts:
    """Try everything."""
    try:
        libbpf: Libbpf | None = library()
    except LibraryMissing:
        libbpf = None

    def attempt(trial: Callable[[Libbpf], int]) -> int | None:
        return None if libbpf is None else trial(libbpf)

    return KernelFacts(
        release=os.uname().release,
        machine=platform.machine(),
        root=os.geteuid() == 0,
        capabilities=support.effective_capabilities(),
        lockdown=_lockdown(),
        libbpf=libbpf.libbpf_version_string().decode().removeprefix("v") if libbpf is not None else None,
        bcc=package() is not None,
        btf_bytes=_size(_BTF / "vmlinux"),
        overlay_loaded=support.overlay_loaded(),
        overlay_btf=_overlay_btf(),
        fexit=attempt(_fexit),
        kprobe=attempt(_kprobe),
        kprobes_built_in=support.KPROBES.exists(),
        perf_paranoid=support.perf_paranoid(),
        tracepoint=attempt(_tracepoint),
        ring_buffer=attempt(_ring_buffer),
        tracefs=_tracefs(),
        pressure=_pressure(),
    )


def _pressure() -> bool:
    # With psi=0 there is no file; before that was so (Linux 5.x), reading it failed.
    try:
        return bool(_PRESSURE.read_bytes())
    except OSError:
        return False


def _tracefs() -> str | None:
    found = tracefs.writable()
    if found is not None:
        return found
    try:
        mount = tracefs.mount_unseen()
    except OSError:
        return None
    try:
        return "mounted for kubetrace alone" if os.access(f"/proc/self/fd/{mount}/kprobe_events", os.W_OK) else None
    finally:
        os.close(mount)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _lockdown() -> str | None:
    try:
        text = support.LOCKDOWN.read_text()
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or None


def _overlay_btf() -> str | None:
    if (_BTF / "overlay").exists():
        return "module"
    try:
        return None if support.functions_absent([_OF_OVERLAYFS]) else "kernel"
    except OSError:
        return None


def _load(libbpf: Libbpf, kind: int, options: LoadOptions | None = None) -> int:
    """The descriptor of a program, or a negative errno."""
    reference = None if options is None else ctypes.byref(options)
    return int(libbpf.bpf_prog_load(kind, b"doctor", b"GPL", _RETURN_0, len(_RETURN_0) // 8, reference))


def _attached(program: int, attach: Callable[[int], int]) -> int:
    """0, or the errno of loading or attaching."""
    if program < 0:
        return -program
    try:
        link = attach(program)
        if link < 0:
            return -link
        os.close(link)
        return 0
    except OSError as error:
        return error.errno or 0
    finally:
        os.close(program)


def _fexit(libbpf: Libbpf) -> int:
    number = int(libbpf.libbpf_find_vmlinux_btf_id(_FUNCTION, _TRACE_FEXIT))
    if number < 0:
        return -number
    options = LoadOptions(sz=ctypes.sizeof(LoadOptions), expected_attach_type=_TRACE_FEXIT, attach_btf_id=number)
    # arm64 before 6.4 loads it, but cannot attach it
    program = _load(libbpf, _PROG_TRACING, options)
    return _attached(program, lambda fd: int(libbpf.bpf_raw_tracepoint_open(None, fd)))


def _tracepoint(libbpf: Libbpf) -> int:
    program = _load(libbpf, _PROG_RAW_TRACEPOINT)
    return _attached(program, lambda fd: int(libbpf.bpf_raw_tracepoint_open(_TRACEPOINT, fd)))


def _kprobe(libbpf: Libbpf) -> int:
    def attach(program: int) -> int:
        event = perf.open_kprobe(_FUNCTION.decode(), returns=False)
        try:
            perf.run_at(event, program)
        except OSError:
            os.close(event)
            raise
        return event

    return _attached(_load(libbpf, _PROG_KPROBE), attach)


def _ring_buffer(libbpf: Libbpf) -> int:
    ring = int(libbpf.bpf_map_create(_MAP_RINGBUF, b"doctor", 0, 0, os.sysconf("SC_PAGE_SIZE"), None))
    if ring < 0:
        return -ring
    with contextlib.suppress(OSError):
        os.close(ring)
    return 0
