"""One line per event, as they come (--events)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from kubetrace.views.columns import Column, Value
from kubetrace.views.output import Output, is_terminal, terminal_size
from kubetrace.views.plain import can_be_live
from kubetrace.views.table import Segment, cell, crop, fit, that_fit
from kubetrace.views.text import cut, width
from kubetrace.views.window import Style

if TYPE_CHECKING:
    from kubetrace.views.frame import Painter


# So many rows are held back to see how wide they are, where all of them come at once.
_HELD = 10_000


class Lines:
    """Writes rows in columns that begin at their least width and grow with what comes; the last column is free.

    Where all rows come at once (`whole`), columns are as wide as what is in them from the first line on. The header is
    printed once. On a terminal spare columns are left out where it is too narrow for all, a line ends at its width, and
    no name takes more than its `max_width` (or a third of the line), or what the last column needs; what failed is
    coloured. On a pipe nothing is cut. Call `flush` once per batch and `close` at the end. Raises OutputError.
    """

    def __init__(
        self,
        stream: TextIO,
        columns: Sequence[Column],
        *,
        wide: bool = False,
        headers: bool = True,
        colour: bool | None = None,
        whole: bool = False,
    ) -> None:
        """Write to a stream; the header is written with the first row or flush. `colour`: None honours NO_COLOR."""
        self._out = Output(stream)
        self._ascii = self._out.ascii
        self._mark = "~" if self._ascii else "…"
        self._chosen = [(at, column) for at, column in enumerate(columns) if wide or not column.wide]
        self._sizes = [max(len(column.title), column.least) for _, column in self._chosen]
        self._header = headers
        self._wide = wide
        self._terminal = is_terminal(stream)
        self._limit: int | None = None
        self._measured = False
        self._held: list[Sequence[Value]] | None = [] if whole else None
        self._painter: Painter | None = None
        if colour or (colour is None and can_be_live(stream) and not os.environ.get("NO_COLOR")):
            from kubetrace.views.frame import Painter

            self._painter = Painter(colour=True)

    def write(self, row: Sequence[Value]) -> None:
        """One event: raw values in the order of all columns."""
        if self._held is not None:
            self._held.append(row)
            if len(self._held) >= _HELD:
                self.close()
            return
        self._begin()
        self._row(row)

    def flush(self) -> None:
        """Hand the batch over. A resized terminal is noticed with the next one."""
        if self._held is None:
            self._begin()
            self._out.flush()
            self._measured = False

    def close(self) -> None:
        """Write what was held back; from now on rows are written as they come."""
        held, self._held = self._held, None
        if held:
            self._begin(held)
            for row in held:
                self._row(row)
        self.flush()

    def _row(self, row: Sequence[Value]) -> None:
        texts = [cell(column, row[at], ascii=self._ascii) for at, column in self._chosen]
        if self._painter is None:
            self._line(texts)
        else:
            self._line(texts, [_style(column, row[at]) for at, column in self._chosen])

    def _begin(self, held: Sequence[Sequence[Value]] = ()) -> None:
        if self._terminal and not self._measured:
            first, self._limit = self._limit is None, terminal_size(self._out.stream)[0]
            self._measured = True
            if first and not self._wide:
                self._leave_out(self._limit)
        for row in held:
            for place, (at, column) in enumerate(self._chosen[:-1]):
                self._widen(place, column, width(cell(column, row[at], ascii=self._ascii)))
        if self._header:
            self._header = False
            self._line([column.title for _, column in self._chosen])

    def _leave_out(self, cells: int) -> None:
        columns = [column for _, column in self._chosen]
        fitting = that_fit(columns, list(range(len(columns))), cells, gap=2)
        self._chosen = [self._chosen[at] for at in fitting]
        self._sizes = [self._sizes[at] for at in fitting]

    def _widen(self, place: int, column: Column, cells: int) -> int:
        """Make a column as wide as a text of so many cells, or as far as there is room; its width."""
        if cells > self._sizes[place]:
            most = cells
            if self._limit is not None and column.flexible:
                last = len(self._chosen) - 1
                least = 0 if self._chosen[last][1].right else self._chosen[last][1].least
                free = self._limit - sum(self._sizes[:-1]) - 2 * last - least
                most = min(cells, max(self._sizes[place], column.max_width or self._limit // 3))
                most = min(most, self._sizes[place] + max(0, free))
            self._sizes[place] = most
        return self._sizes[place]

    def _line(self, texts: list[str], styles: Sequence[Style] = ()) -> None:
        last = len(texts) - 1
        parts: list[str] = []
        for at, (text, (_, column)) in enumerate(zip(texts, self._chosen, strict=True)):
            cells = width(text)
            if at == last and not column.right:
                if self._limit is not None and cells > 1:
                    room = max(column.least, self._limit - sum(self._sizes[:-1]) - 2 * last)
                    # a path keeps its name; words are cut at their end
                    is_path = column.kind == "path" and text[:1] in "/…~"
                    text = fit(column, text, room, mark=self._mark) if is_path else cut(text, room, mark=self._mark)
                parts.append(text)
                break
            size = self._widen(at, column, cells)
            if cells > size and column.flexible:
                text = fit(column, text, size, mark=self._mark)
                cells = width(text)
            pad = " " * (size - cells)
            parts.append(pad + text if column.right else text + pad)
        if self._painter is None or not any(styles):
            line = "  ".join(parts).rstrip(" ")
            if self._limit is not None:
                line = cut(line, self._limit, mark=self._mark)
            self._out.write(line + "\n")
            return
        segments: list[Segment] = []
        for part, style in zip(parts, styles, strict=False):
            segments += [(part, style), ("  ", "")]
        whole = segments[:-1]
        self._out.write(self._painter.page([crop(whole, self._limit, self._ascii) if self._limit else whole]))


def _style(column: Column, value: Value) -> Style:
    return "bad" if (column.alarm and value) or value in column.alarms else ""
