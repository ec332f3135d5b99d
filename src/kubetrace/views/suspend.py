"""Ctrl-Z and fg: whoever changed the terminal gives it back before the process stops and takes it again afterwards."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

Pair = tuple[Callable[[], None], Callable[[], None]]

_enlisted: list[Pair] = []
_before: dict[signal.Signals, object] = {}
_held = 0
_deferred: list[Callable[[], None]] = []


class Hold:
    """While it lasts, what signal handlers want to do to the terminal waits: half a frame is on its way there.

    Not a mask of signals: the kernel would hand them to another thread, and Python runs the handler here all the same.
    """

    def __enter__(self) -> None:
        """Begin; may be nested."""
        global _held
        _held += 1

    def __exit__(self, *exc: object) -> None:
        """End, and do what was put off."""
        global _held
        _held -= 1
        while _deferred and not _held:
            _deferred.pop(0)()


def defer(action: Callable[[], None]) -> None:
    """Do it now, or at the end of the Hold that was interrupted. For signal handlers."""
    if not _held:
        action()
    elif action not in _deferred:
        _deferred.append(action)


def enlist(leave: Callable[[], None], enter: Callable[[], None]) -> Pair:
    """Call `leave` before a stop (SIGTSTP), and `enter` after it and after any SIGCONT; both must bear repetition.

    Returns what `discharge` takes. Does nothing outside of the main thread (where Python runs no signal handler),
    where SIGTSTP is ignored (a shell without job control) and where there is none (Windows).
    """
    pair = (leave, enter)
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGTSTP"):
        return pair
    if not _enlisted and signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN:
        for number, handler in ((signal.SIGTSTP, _stop), (signal.SIGCONT, _resume)):
            _before[number] = signal.signal(number, handler)
    _enlisted.append(pair)
    return pair


def discharge(pair: Pair) -> None:
    """Undo `enlist`; the last one restores the handlers that were there before."""
    if pair in _enlisted:
        _enlisted.remove(pair)
    if not _enlisted and _before:
        for number, handler in _before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # type: ignore[arg-type]  # as signal() returned it
        _before.clear()


def in_foreground(fd: int) -> bool:
    """Whether this process may change the terminal: in the background that would stop it (SIGTTOU)."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except (
        AttributeError,
        OSError,
    ):  # Windows has none; or not our controlling terminal: there is no job control on it
        return True


def _stop(number: int, frame: FrameType | None) -> None:
    defer(_stop_now)


def _stop_now() -> None:
    for leave, _ in reversed(_enlisted):
        leave()
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTSTP)  # stops here, and goes on here after fg or bg
    signal.signal(signal.SIGTSTP, _stop)
    _resume_now()


def _resume(number: int, frame: FrameType | None) -> None:
    defer(_resume_now)


def _resume_now() -> None:
    for _, enter in _enlisted:
        enter()
