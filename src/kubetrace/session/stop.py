"""Whether the user wants the end."""

from __future__ import annotations

import signal
from typing import Any


class Stop:
    """Whether the user wants the end: SIGINT, SIGTERM or SIGHUP came."""

    def __init__(self, patience_s: float | None = None) -> None:
        """Nobody does yet. What has not ended `patience_s` after it was asked to is ended by KeyboardInterrupt.

        None: only by a second signal. Programs have to be detached, which takes its time; reading a file has not.
        """
        self.asked = False
        self._patience_s = patience_s
        self._before: dict[int, Any] = {}
        self._alarm: Any = None

    def __enter__(self) -> Stop:
        """Listen."""
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if (number := getattr(signal, name, None)) is not None:  # Windows has no SIGHUP
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_error: object) -> None:
        """Listen no more."""
        self.wait()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self) -> None:
        """From now on let it end in its own time: what is left is to give the terminal back."""
        if self._alarm is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._alarm)
            self._alarm = None

    def _ask(self, _number: int, _frame: object) -> None:
        if self.asked:  # twice: whatever hangs, the user wants out
            raise KeyboardInterrupt
        self.asked = True
        if self._patience_s is not None and hasattr(signal, "setitimer"):  # not on Windows
            self._alarm = signal.signal(signal.SIGALRM, _end)
            signal.setitimer(signal.ITIMER_REAL, self._patience_s)


def _end(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
