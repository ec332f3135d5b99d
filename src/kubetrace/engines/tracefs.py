"""kretprobes for functions that sleep: as many instances as may be asleep in them at once.

A kretprobe remembers each call until it returns, in a fixed number of instances. The perf interface that libbpf
attaches by gives one per CPU on kernels without preemption (kernel/kprobes.c, register_kretprobe): the third of three
copy-ups at once on a two-CPU node would not be seen to end. Only tracefs lets the number be chosen (r64:GROUP/EVENT
FUNCTION, Documentation/trace/kprobetrace.rst), so that is tried first; where there is no tracefs the perf interface
has to do, and the missed returns are counted.

In a pod of kubectl debug /sys/kernel/tracing is an empty directory. The node's own mount is below /host; where the node
has none either, tracefs is mounted without a place (fsmount(2)): only this process has it, and it ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable

from kubetrace.engines import perf

_ROOTS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing", "/host/sys/kernel/tracing")
_GROUP = "kubetrace_"
# About 100 bytes each; the kernel allows 4096 (KRETPROBE_MAXACTIVE_MAX).
_INSTANCES = 1024
# Between making a probe and attaching to it there are milliseconds.
_ATTACHED_AFTER_S = 60.0
# include/uapi/linux/mount.h; the numbers of these calls are the same everywhere
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC, _FSCONFIG_CMD_CREATE, _FSMOUNT_CLOEXEC = 1, 6, 1


def writable() -> str | None:
    """Where tracefs is mounted and takes kprobes; None where it is not."""
    return next((root for root in _ROOTS if os.access(f"{root}/kprobe_events", os.W_OK)), None)


def mount_unseen() -> int:
    """A descriptor of tracefs that is mounted nowhere (Linux 5.2; needs CAP_SYS_ADMIN). Raises OSError."""
    context = _call(_FSOPEN, b"tracefs", _FSOPEN_CLOEXEC)
    try:
        _call(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _call(_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments]
    done: int = libc.syscall(ctypes.c_long(number), *given)
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done


def tracepoint_id(category: str, name: str) -> int:
    """The number by which perf knows a tracepoint. Raises OSError or ValueError."""
    root = next((root for root in _ROOTS if os.path.isdir(f"{root}/events")), None)
    mount = mount_unseen() if root is None else None
    try:
        with open(f"{root or f'/proc/self/fd/{mount}'}/events/{category}/{name}/id", encoding="ascii") as file:
            return int(file.read())
    finally:
        if mount is not None:
            os.close(mount)


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


class TracefsReturns:
    """This process's kretprobes in tracefs, under a group of its own; `close` after their links are destroyed."""

    def __init__(self) -> None:
        """Finds tracefs, and clears away what a killed kubetrace left there."""
        self._mount: int | None = None
        self._root = writable()
        if self._root is None:
            with contextlib.suppress(OSError):
                self._mount = mount_unseen()
                self._root = f"/proc/self/fd/{self._mount}"
        # Of whom it is: a pid says that in its own namespace alone.
        self._group = f"{_GROUP}{_pid_namespace()}_{os.getpid()}_{id(self):x}"
        # kprobe_profile has no groups: names of nobody else's.
        self._token = os.urandom(6).hex()
        self._events: list[str] = []
        if self._root is not None:
            self._remove_stale()

    def _command(self, text: str) -> None:
        # Not open(..., "a"): that seeks to the end, which the kernel's seq files refuse (seq_lseek, EINVAL).
        file = os.open(f"{self._root}/kprobe_events", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(file, f"{text}\n".encode("ascii"))
        finally:
            os.close(file)

    def _remove_stale(self) -> None:
        with contextlib.suppress(OSError):
            for group in os.listdir(f"{self._root}/events"):
                if group.startswith(_GROUP) and self._is_stale(group):
                    self._remove(group)

    def _is_stale(self, group: str) -> bool:
        namespace, _, rest = group.removeprefix(_GROUP).partition("_")
        owner = rest.partition("_")[0]
        if rest.count("_") == 1 and namespace == str(_pid_namespace()):
            return owner.isdecimal() and not os.path.exists(f"/proc/{owner}")
        # Of another namespace, or of a kubetrace of before: what is attached the kernel keeps (EBUSY), and what is not
        # after so long never will be.
        try:
            return time.time() - os.stat(f"{self._root}/events/{group}").st_mtime > _ATTACHED_AFTER_S
        except OSError:
            return False

    def _remove(self, group: str) -> None:
        with contextlib.suppress(OSError):
            for event in os.listdir(f"{self._root}/events/{group}"):
                if os.path.isdir(f"{self._root}/events/{group}/{event}"):
                    # one that is still attached (EBUSY) keeps none of the others
                    with contextlib.suppress(OSError):
                        self._command(f"-:{group}/{event}")

    def attach(self, name: str, function: str, attach: Callable[[int], int]) -> int:
        """A link made by `attach` from the perf event of a new kretprobe; 0 where tracefs cannot make one."""
        if self._root is None:
            return 0
        name = f"{name}_{self._token}"
        try:
            self._command(f"r{_INSTANCES}:{self._group}/{name} {function}")
            self._events.append(name)
            with open(f"{self._root}/events/{self._group}/{name}/id", encoding="ascii") as file:
                event = perf.open_tracepoint(int(file.read()))
        except (OSError, ValueError):
            return 0
        link = attach(event)
        if not link:
            os.close(event)
        return link

    def missed(self) -> int:
        """Calls that were not followed since the start (kprobe_profile's third column)."""
        if not self._events:
            return 0
        with contextlib.suppress(OSError, ValueError), open(f"{self._root}/kprobe_profile", encoding="ascii") as file:
            rows = [line.split() for line in file]
            return sum(int(row[2]) for row in rows if len(row) == 3 and row[0] in self._events)
        return 0

    def close(self) -> None:
        """Remove the probes."""
        for name in self._events:
            with contextlib.suppress(OSError):
                self._command(f"-:{self._group}/{name}")
        self._events.clear()
        if self._mount is not None:
            os.close(self._mount)
            self._mount = self._root = None
