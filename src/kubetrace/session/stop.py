"""Whether the user wants the end."""

from __future__ import annotations

import signal
from typing import Any


class Stop:
    """Whether the user wants the end: SIGINT, SIGTERM or SIGHUP came."""

    def __init__(self) -> None:
        """Nobody does yet."""
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        """Listen."""
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if (number := getattr(signal, name, None)) is not None:  # Windows has no SIGHUP
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_error: object) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: object) -> None:
        if self.asked:  # twice: whatever hangs, the user wants out
            raise KeyboardInterrupt
        self.asked = True
