"""The table in place, on a terminal: the alternate screen while it runs, the last table left in the scrollback.

rich says how styles look; everything about columns was decided in table.py (a rich Table would cost twenty times as
much). rich is imported when the screen is taken, never before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Self, TextIO

from kubetrace.errors import OutputError
from kubetrace.views.output import Output, is_terminal, terminal_size
from kubetrace.views.plain import PlainTable, can_be_live
from kubetrace.views.suspend import Hold, Pair, defer, discharge, enlist, in_foreground
from kubetrace.views.table import Drawn, Line, Widths, draw, frame, render
from kubetrace.views.table import plain as plain_line
from kubetrace.views.window import Window

if TYPE_CHECKING:
    from kubetrace.views.frame import Painter


def open_table(
    stream: TextIO, *, wide: bool = False, headers: bool = True, colour: bool | None = None, mouse: bool = False
) -> LiveTable | PlainTable:
    """The table that suits the stream: live on a terminal, plain on a pipe and with TERM=dumb. Both have `show`.

    `mouse`: a live one asks the terminal to report its mouse (views.keys.Keys reads it).
    """
    if can_be_live(stream):
        return LiveTable(stream, wide=wide, headers=headers, colour=colour, mouse=mouse)
    return PlainTable(stream, wide=wide, headers=headers, colour=colour)


class LiveTable:
    """Shows windows in place while the context lasts, then prints the last one on the normal screen.

        with LiveTable(sys.stdout) as live:
            live.show(window)      # about once a second; costs nothing when nothing changed

    A resize redraws at once, Ctrl-Z gives the terminal back and fg takes it again, in the background nothing is drawn.
    The cursor and the screen are restored on every way out of the context. `colour`: None honours NO_COLOR.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        wide: bool = False,
        headers: bool = True,
        colour: bool | None = None,
        mouse: bool = False,
    ) -> None:
        """Draw on a terminal. Entering raises OutputError where the stream is none, or cannot move its cursor."""
        self._out = Output(stream)
        self._wide = wide
        self._headers = headers
        self._colour = not os.environ.get("NO_COLOR") if colour is None else colour
        self._window: Window | None = None
        self._left: Window | None = None
        self._mouse = mouse
        self._widths = Widths()
        self._drawn: tuple[tuple[int, int], list[Line]] | None = None
        self.drawn = Drawn([], 1)
        """What was laid out last."""
        self._painter: Painter | None = None
        self._taken = False
        self._pair: Pair | None = None
        self._winch: object = None

    def __enter__(self) -> Self:
        """Take the alternate screen and hide the cursor."""
        stream = self._out.stream
        if not is_terminal(stream):
            raise OutputError("there is no terminal for a live table", do="-o json, -o csv, or kubectl debug -it")
        if not can_be_live(stream):
            raise OutputError(
                f"a terminal with TERM={os.environ.get('TERM', '')} has no cursor to move", do="TERM=xterm"
            )
        from kubetrace.views.frame import Painter

        self._painter = Painter(colour=self._colour)
        try:
            self._enter()
        except BaseException:
            self._abandon()
            raise
        self._pair = enlist(self._abandon, self._resume)
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGWINCH"):
            self._winch = signal.signal(signal.SIGWINCH, self._resized)
        return self

    def __exit__(self, exc_type: object, exc: object, trace: object) -> None:
        """Give the screen back and print the last window."""
        if self._winch is not None:
            signal.signal(signal.SIGWINCH, self._winch)  # type: ignore[arg-type]  # as signal() returned it
            self._winch = None
        if self._pair is not None:
            discharge(self._pair)
            self._pair = None
        if isinstance(
            exc, OutputError
        ):  # the terminal is gone: try to restore it, but the first error is the one to tell
            self._abandon()
            return
        self._leave()
        last = self._left or self._window
        if last is not None:
            self._print(last)

    @property
    def ascii(self) -> bool:
        """Whether the terminal takes ASCII only."""
        return self._out.ascii

    @property
    def size(self) -> tuple[int, int]:
        """(columns, lines) of the terminal."""
        return terminal_size(self._out.stream)

    def room(self, window: Window) -> int:
        """How many rows of this window fit, whatever rows it has."""
        _, _, room = frame(window, *self.size, headers=self._headers, ascii=self.ascii, keys=True)
        return room - 1 if (window.total or 0) > room else room

    def look(self) -> str:
        """What is on the screen, as plain text. As rich's SVG: `picture`."""
        return "".join([plain_line(line) + "\n" for line in self.drawn.lines])

    def picture(self, title: str) -> str:
        """What is on the screen, as an SVG image."""
        from kubetrace.views.picture import svg

        return svg(self.drawn.lines, self.size[0], title)

    def show(self, window: Window) -> None:
        """Draw the window; a frame that is on the screen already is not drawn again. Raises OutputError."""
        self._window = window
        self._draw()

    def leave(self, window: Window) -> None:
        """Print this one on the normal screen at the end, in place of the last that was shown."""
        self._left = window

    def _draw(self) -> None:
        with Hold():
            window, painter = self._window, self._painter
            if window is None or painter is None or not self._taken or not self._may_draw():
                return
            size = terminal_size(self._out.stream)
            self.drawn = draw(
                window,
                *size,
                headers=self._headers,
                wide=self._wide,
                ascii=self._out.ascii,
                keys=True,
                widths=self._widths,
            )
            lines = self.drawn.lines
            if self._drawn == (size, lines):
                return
            self._out.write_now(painter.frame(lines))
            self._drawn = (size, lines)

    def _resized(self, number: int, frame: FrameType | None) -> None:
        defer(self._redraw)

    # Called by signal handlers: an error is met again by the next show, in a place that expects it.
    def _redraw(self) -> None:
        with contextlib.suppress(OutputError):
            self._draw()

    def _resume(self) -> None:
        with contextlib.suppress(OutputError):
            self._enter()

    def _abandon(self) -> None:
        with contextlib.suppress(OutputError):
            self._leave()

    def _may_draw(self) -> bool:
        return in_foreground(self._out.stream.fileno())

    def _enter(self) -> None:
        if not self._may_draw():
            return
        from kubetrace.views.frame import ENTER, MOUSE

        with Hold():
            if not self._taken:
                self._taken = True
                self._out.write_now(ENTER + MOUSE if self._mouse else ENTER)
            self._drawn = None
            self._draw()

    def _leave(self) -> None:
        with Hold():
            taken, self._taken = self._taken, False
            if taken:
                from kubetrace.views.frame import LEAVE, NO_MOUSE

                self._out.write_now(NO_MOUSE + LEAVE if self._mouse else LEAVE)

    def _print(self, window: Window) -> None:
        if self._painter is None:
            return
        cells, height = terminal_size(self._out.stream)
        # at most a screenful: what was on the normal screen before is worth more than the thousandth row
        top, bottom, _ = frame(window, cells, None, headers=self._headers, ascii=self._out.ascii)
        room = max(1, height - len(top) - len(bottom) - 3)
        total = max(window.total or 0, len(window.rows))
        window = replace(window, rows=window.rows[:room], total=total)
        lines = render(window, cells, headers=self._headers, wide=self._wide, ascii=self._out.ascii)
        self._out.write_now(self._painter.page(lines))
