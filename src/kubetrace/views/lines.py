"""One line per event, as they come (--events)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from kubetrace.views.columns import Column, Value
from kubetrace.views.output import Output, is_terminal, terminal_size
from kubetrace.views.table import cell, fit, that_fit
from kubetrace.views.text import cut, width


class Lines:
    """Writes rows in columns that begin at their least width and grow with what comes; the last column is free.

    The header is printed once. On a terminal spare columns are left out where it is too narrow for all, a line ends at
    its width, and no name takes more than its `max_width` (or a third of the line), or what the last column needs; on a
    pipe nothing is cut. Call `flush` once per batch. Raises OutputError.
    """

    def __init__(self, stream: TextIO, columns: Sequence[Column], *, wide: bool = False, headers: bool = True) -> None:
        """Write to a stream; the header is written with the first row or flush."""
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

    def write(self, row: Sequence[Value]) -> None:
        """One event: raw values in the order of all columns."""
        self._begin()
        texts = [cell(column, row[at], ascii=self._ascii) for at, column in self._chosen]
        self._line(texts)

    def flush(self) -> None:
        """Hand the batch over. A resized terminal is noticed with the next one."""
        self._begin()
        self._out.flush()
        self._measured = False

    def _begin(self) -> None:
        if self._terminal and not self._measured:
            first, self._limit = self._limit is None, terminal_size(self._out.stream)[0]
            self._measured = True
            if first and not self._wide:
                self._leave_out(self._limit)
        if self._header:
            self._header = False
            self._line([column.title for _, column in self._chosen])

    def _leave_out(self, cells: int) -> None:
        columns = [column for _, column in self._chosen]
        fitting = that_fit(columns, list(range(len(columns))), cells, gap=2)
        self._chosen = [self._chosen[at] for at in fitting]
        self._sizes = [self._sizes[at] for at in fitting]

    def _line(self, texts: list[str]) -> None:
        last = len(texts) - 1
        parts: list[str] = []
        for at, (text, (_, column)) in enumerate(zip(texts, self._chosen, strict=True)):
            cells = width(text)
            if at == last and not column.right:
                if self._limit is not None and cells > 1:
                    room = self._limit - sum(self._sizes[:-1]) - 2 * last
                    text = fit(column, text, max(column.least, room), mark=self._mark)
                parts.append(text)
                break
            if cells > self._sizes[at]:
                most = cells
                if self._limit is not None and column.flexible:
                    least = 0 if self._chosen[last][1].right else self._chosen[last][1].least
                    free = self._limit - sum(self._sizes[:-1]) - 2 * last - least
                    most = min(cells, max(self._sizes[at], column.max_width or self._limit // 3))
                    most = min(most, self._sizes[at] + max(0, free))
                    text = fit(column, text, most, mark=self._mark)
                    cells = width(text)
                self._sizes[at] = most
            pad = " " * (self._sizes[at] - cells)
            parts.append(pad + text if column.right else text + pad)
        line = "  ".join(parts).rstrip(" ")
        if self._limit is not None:
            line = cut(line, self._limit, mark=self._mark)
        self._out.write(line + "\n")
