"""Single keys from the terminal, without Enter and without echo; Ctrl-C and Ctrl-Z stay signals."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
from typing import Any, Self, TextIO

from kubetrace.views.output import is_terminal
from kubetrace.views.suspend import Pair, discharge, enlist, in_foreground

_NAMES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
    b"\x1b[5~": "pageup",
    b"\x1b[6~": "pagedown",
    b"\x1b[Z": "backtab",
    b"\x1b[1;2C": "shift-right",
    b"\x1b[1;2D": "shift-left",
    b"\x02": "ctrl-b",
    b"\x06": "ctrl-f",
    b"\x15": "ctrl-u",
    b"\x1b": "escape",
    b"\r": "enter",
    b"\n": "enter",
    b"\t": "tab",
    b"\x7f": "backspace",
    b"\x08": "backspace",
}

# A report of the mouse in SGR form (xterm's ctlseqs): button, column and line, from 1; M a press, m its end.
_MOUSE = re.compile(rb"\x1b\[<(\d{1,4});(\d{1,5});(\d{1,5})([Mm])")
_BUTTONS = {0: "click", 64: "wheelup", 65: "wheeldown"}

# A control sequence (ECMA-48), an SS3 key of application mode, Alt with a key, a UTF-8 character, or a single byte.
_KEY = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO[ -~]|\x1b[^\x1b\[O]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}"
    rb"|[\xf0-\xf4][\x80-\xbf]{3}|[\x00-\x1a\x1c-\xff]"
)


class Keys:
    """Keys typed at a terminal while the context lasts; inactive, and silent, where stdin is none.

        with Keys() as keys:
            if keys.fileno() is not None: poller.register(keys.fileno(), select.POLLIN)
            ...
            for key in keys.read(): ...   # 'q', ' ', 's', 'up', 'pagedown', 'enter', 'escape', 'click COLUMN LINE'

    The terminal's modes are restored at the end, on exceptions, and while the process is stopped by Ctrl-Z.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        """Read from `stream`, or stdin."""
        self._stream = sys.stdin if stream is None else stream
        self._fd: int | None = None
        self._saved: list[Any] | None = None
        self._pending = b""
        self._pair: Pair | None = None

    @property
    def active(self) -> bool:
        """Whether there is a terminal to read from."""
        return self._fd is not None

    @property
    def unfinished(self) -> bool:
        """Whether a key has come in part, such as an Escape: the next `read` tells it."""
        return bool(self._pending)

    def fileno(self) -> int | None:
        """The descriptor to poll for reading; None where there is no terminal (any more)."""
        return self._fd

    def __enter__(self) -> Self:
        """Put the terminal in cbreak mode, if there is one."""
        if self._stream is not None and is_terminal(self._stream):
            self._fd = self._stream.fileno()
            self._enter()
            self._pair = enlist(self._leave, self._enter)
        return self

    def __exit__(self, *exc: object) -> None:
        """Restore the terminal."""
        if self._pair is not None:
            discharge(self._pair)
            self._pair = None
        self._leave()
        self._fd = None

    def read(self) -> list[str]:
        """The keys typed since the last call, without waiting; unknown sequences are dropped.

        A lone Escape may be the beginning of an arrow key: it is told by the next call, so call on every tick too.
        A terminal that hung up reads as 'q'.
        """
        fd = self._fd
        if fd is None or not in_foreground(fd):
            return []
        waiting, data = self._pending, b""
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        if poller.poll(0):
            try:
                data = os.read(fd, 1024)
            except OSError:
                data = b""
            if not data:
                self._fd = None
                return ["q"]
        if waiting and not data:
            self._pending = b""
            return ["escape"] if waiting == b"\x1b" else []
        return self._parse(waiting + data)

    def _parse(self, data: bytes) -> list[str]:
        keys: list[str] = []
        at = 0
        while at < len(data):
            match = _KEY.match(data, at)
            if match is None:
                if data[at : at + 2] == b"\x1b\x1b":
                    keys.append("escape")
                    at += 1
                    continue
                break
            key = match[0]
            at = match.end()
            if len(key) > 1 and key[:1] == b"\x1b" and key[1:2] not in b"[O":
                # Escape and a key that was typed soon after it, or Alt with it: no key with Alt means anything here
                keys.append("escape")
                key = key[1:]
            name = _mouse(key) or _NAMES.get(key.replace(b"\x1bO", b"\x1b[", 1))
            if name is None:
                with contextlib.suppress(UnicodeDecodeError):
                    name = key.decode()
                if name is not None and not name.isprintable():
                    name = None
            if name is not None:
                keys.append(name)
        self._pending = data[at:][:32]
        return keys

    def _enter(self) -> None:
        fd = self._fd
        if fd is None or not in_foreground(fd):
            return
        with contextlib.suppress(termios.error):
            modes = termios.tcgetattr(fd)
            if self._saved is None:
                self._saved = termios.tcgetattr(fd)
            modes[3] &= ~(termios.ECHO | termios.ICANON)
            modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
            # Not TCSAFLUSH: a key typed while we started counts.
            termios.tcsetattr(fd, termios.TCSADRAIN, modes)

    def _leave(self) -> None:
        saved, fd = self._saved, self._fd if self._fd is not None else self._descriptor()
        if saved is None or fd is None or not in_foreground(fd):
            return
        self._saved = None
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, saved)

    def _descriptor(self) -> int | None:
        with contextlib.suppress(ValueError, OSError):
            return self._stream.fileno()
        return None


def _mouse(key: bytes) -> str | None:
    found = _MOUSE.fullmatch(key)
    if found is None or found[4] != b"M":
        return None
    name = _BUTTONS.get(int(found[1]))
    return f"click {int(found[2]) - 1} {int(found[3]) - 1}" if name == "click" else name
