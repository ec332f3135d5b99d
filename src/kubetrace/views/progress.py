"""What a command without a view says beside its work: notices, each once, and a line that is written over."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from kubetrace.views.output import Output, is_terminal
from kubetrace.views.text import visible

_INTERVAL_S = 0.5


class Progress:
    """On stderr, so that stdout holds results only. The line that is written over needs a terminal."""

    def __init__(self) -> None:
        """Nothing is said yet."""
        self._output = Output(sys.stderr)
        self._terminal = is_terminal(sys.stderr)
        self._said: set[str] = set()
        self._shown = 0.0

    def say(self, notice: str) -> None:
        """A line that stays, the first time that it is said. Raises OutputError."""
        if notice not in self._said:
            self._said.add(notice)
            self._output.write(f"kubetrace: {visible(notice)}\n")
            self._output.flush()

    def show(self, text: Callable[[], str]) -> None:
        """Write over the line, at most twice a second. Raises OutputError."""
        if self._terminal and time.monotonic() - self._shown >= _INTERVAL_S:
            self._shown = time.monotonic()
            self._output.write(f"\r\x1b[K{text()}")
            self._output.flush()

    def clear(self) -> None:
        """Leave no line. Raises OutputError."""
        if self._terminal:
            self._output.write("\r\x1b[K")
            self._output.flush()
