"""A command on a terminal of its own, driven by keys, and what its screen shows: a pseudo-terminal read by pyte."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import pyte

# Only ends a test that hangs: a busy machine promises no time.
DEADLINE_S = 120

_BEGIN, _END = b"\x1b[?2026h", b"\x1b[?2026l"
KEYS = {
    "up": "\x1b[A",
    "down": "\x1b[B",
    "right": "\x1b[C",
    "left": "\x1b[D",
    "home": "\x1b[H",
    "end": "\x1b[F",
    "pageup": "\x1b[5~",
    "pagedown": "\x1b[6~",
    "enter": "\r",
    "escape": "\x1b",
    "tab": "\t",
    "backtab": "\x1b[Z",
}


class Screen:
    """Use as a context: at its end the command is ended, however it stands."""

    def __init__(
        self, command: Sequence[str], columns: int = 80, lines: int = 24, environment: Mapping[str, str] | None = None
    ) -> None:
        self._main, side = pty.openpty()
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.data = b""
        self._size(columns, lines)
        clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        # the terminal is its controlling one: a resize is a signal to it
        self.process = subprocess.Popen(
            command,
            stdin=side,
            stdout=side,
            stderr=side,
            env={**clean, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "TZ": "UTC", **(environment or {})},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(side)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._main)

    def _read(self) -> None:
        # a frame in one piece, as a terminal with synchronized output shows it
        waiting = b""
        with contextlib.suppress(OSError):
            while data := os.read(self._main, 65536):
                waiting += data
                begun = waiting.rfind(_BEGIN)
                if begun >= 0 and _END in waiting[begun:]:
                    begun = -1
                if begun < 0:
                    escape = waiting.rfind(b"\x1b")
                    begun = escape if escape >= 0 and _BEGIN.startswith(waiting[escape:]) else len(waiting)
                with self._lock:
                    self.data += data
                    self._stream.feed(waiting[:begun])
                waiting = waiting[begun:]
        with self._lock:
            self._stream.feed(waiting)

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        with self._lock:
            self._screen.resize(lines, columns)
        self._size(columns, lines)

    def press(self, *keys: str) -> None:
        """Keys by their names, or texts as they are."""
        for key in keys:
            os.write(self._main, KEYS.get(key, key).encode())

    def click(self, column: int, line: int) -> None:
        """On a cell, from 0."""
        os.write(self._main, f"\x1b[<0;{column + 1};{line + 1}M\x1b[<0;{column + 1};{line + 1}m".encode())

    def lines(self) -> list[str]:
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    def selected(self) -> str:
        """The selected row: below the columns' heads, the one that is drawn reverse."""
        with self._lock:
            reverse = [number for number in range(self._screen.lines) if self._screen.buffer[number][0].reverse]
            return self._screen.display[reverse[1]].rstrip() if len(reverse) > 1 else ""

    def wait(self, what: str | Callable[[list[str]], object]) -> list[str]:
        """Until a line has this text, or the lines are as they should be; the lines."""
        end = time.monotonic() + DEADLINE_S
        while True:
            lines = self.lines()
            if any(what in line for line in lines) if isinstance(what, str) else what(lines):
                return lines
            assert self.process.poll() is None or self._reader.is_alive(), "it ended:\n" + "\n".join(lines)
            assert time.monotonic() < end, f"no {what!r} in:\n" + "\n".join(lines)
            time.sleep(0.01)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
