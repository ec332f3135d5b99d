"""The table where it cannot be live: on a pipe, in a file, on a dumb terminal. Plain lines, no escapes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self, TextIO

from kubetrace.views.output import Output, is_terminal, terminal_size
from kubetrace.views.table import Widths, plain, render
from kubetrace.views.window import Window

if TYPE_CHECKING:
    from kubetrace.views.frame import Painter


class PlainTable:
    """Prints each window as a block (head, notices, header, rows, foot, an empty line between blocks).

    A block is printed only when something in it changed, the clock in the head and the costs in the foot aside. On a
    pipe nothing is cut; on a terminal lines end at its width. `headers=False` leaves the rows alone, for scripts.
    `colour` true (--color always) draws them as on the screen, for a pager that shows colours.
    """

    def __init__(self, stream: TextIO, *, wide: bool = False, headers: bool = True, colour: bool | None = None) -> None:
        """Print to a stream; nothing is written before the first window."""
        self._out = Output(stream)
        self._wide = wide
        self._headers = headers
        self._widths = Widths()
        self._before: tuple[object, ...] | None = None
        self._painter: Painter | None = None
        if colour:
            from kubetrace.views.frame import Painter

            self._painter = Painter(colour=True)

    def __enter__(self) -> Self:
        """Nothing to prepare."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to restore."""

    def show(self, window: Window) -> None:
        """Print the window unless it says what the last one said. Raises OutputError."""
        rows, notices = tuple(window.rows), tuple(window.notices)  # the caller may use its lists again
        foot = tuple(window.foot) if self._headers else ()
        now = (window.columns, rows, window.total, window.sort, window.descending, notices, foot, window.lost)
        if now == self._before:
            return
        width = terminal_size(self._out.stream)[0] if is_terminal(self._out.stream) else None
        lines = render(
            window,
            width,
            headers=self._headers,
            wide=self._wide,
            ascii=self._out.ascii,
            widths=self._widths,
        )
        if self._painter is not None:
            text = self._painter.page(lines)
        else:
            text = "".join([plain(line) + "\n" for line in lines])
        self._out.write("\n" + text if self._headers and self._before is not None else text)
        self._out.flush()
        self._before = now


def can_be_live(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can move its cursor: not with TERM=dumb, unknown or unset."""
    return is_terminal(stream) and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")
