"""The table in place, on a terminal: the alternate screen while it runs, the last table left in the scrollback.

rich says how styles look; everything about columns was decided in table.py (a rich Table would cost twenty times as
much). rich is imported when the screen is taken, never before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Self, TextIO

from kubetrace.errors import OutputError
from kubetrace.views.output import Output, is_terminal, terminal_size
from kubetrace.views.plain import PlainTable, can_be_live
from kubetrace.views.suspend import Hold, Pair, defer, discharge, enlist, in_foreground
from kubetrace.views.table import Line, Widths, render
from kubetrace.views.window import Window

if TYPE_CHECKING:
    from kubetrace.views.frame import Painter


def open_table(
    stream: TextIO, *, wide: bool = False, headers: bool = True, colour: bool | None = None
) -> LiveTable | PlainTable:
    """The table that suits the stream: live on a terminal, plain on a pipe and with TERM=dumb. Both have `show`."""
    if can_be_live(stream):
        return LiveTable(stream, wide=wide, headers=headers, colour=colour)
    return PlainTable(stream, wide=wide, headers=headers, colour=colour)


class LiveTable:
    """Shows windows in place while the context lasts, then prints the last one on the normal screen.

        with LiveTable(sys.stdout) as live:
            live.show(window)      # about once a second; costs nothing when nothing changed

    A resize redraws at once, Ctrl-Z gives the terminal back and fg takes it again, in the background nothing is drawn.
    The cursor and the screen are restored on every way out of the context. `colour`: None honours NO_COLOR.
    """

    def __init__(self, stream: TextIO, *, wide: bool = False, headers: bool = True, colour: bool | None = None) -> None:
        """Draw on a terminal. Entering raises OutputError where the stream is none, or cannot move its cursor."""
        self._out = Output(stream)
        self._wide = wide
        self._headers = headers
        self._colour = not os.environ.get("NO_COLOR") if colour is None else colour
        self._window: Window | None = None
        self._widths = Widths()
        self._drawn: tuple[tuple[int, int], list[Line]] | None = None
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
        if self._window is not None:
            self._print(self._window)

    def show(self, window: Window) -> None:
        """Draw the window; a frame that is on the screen already is not drawn again. Raises OutputError."""
        self._window = window
        self._draw()

    def _draw(self) -> None:
        with Hold():
            window, painter = self._window, self._painter
            if window is None or painter is None or not self._taken or not self._may_draw():
                return
            size = terminal_size(self._out.stream)
            lines = render(
                window,
                *size,
                headers=self._headers,
                wide=self._wide,
                ascii=self._out.ascii,
                keys=True,
                widths=self._widths,
            )
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
        from kubetrace.views.frame import ENTER

        with Hold():
            if not self._taken:
                self._taken = True
                self._out.write_now(ENTER)
            self._drawn = None
            self._draw()

    def _leave(self) -> None:
        with Hold():
            taken, self._taken = self._taken, False
            if taken:
                from kubetrace.views.frame import LEAVE

                self._out.write_now(LEAVE)

    def _print(self, window: Window) -> None:
        if self._painter is None:
            return
        cells, _ = terminal_size(self._out.stream)
        lines = render(window, cells, headers=self._headers, wide=self._wide, ascii=self._out.ascii)
        self._out.write_now(self._painter.page(lines))
