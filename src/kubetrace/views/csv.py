r"""CSV as RFC 4180 has it: CRLF, quotes where needed, a header of column keys; for spreadsheets and data frames.

Numbers are whole and raw (bytes, nanoseconds); a time is RFC 3339 in UTC, because a spreadsheet has no 64-bit integers;
unknown is an empty field. Names are escaped as in tables (views/text.py). A spreadsheet would run a name that begins
with `=`, `+`, `-`, `@` (or their full-width forms) as a formula: that first character is escaped too, `=cmd` becomes
`\x3dcmd`, hence one rule gives every name back. A leading tab or line break is an escape already.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import TextIO

from kubetrace.views.columns import Column, Value
from kubetrace.views.output import Output
from kubetrace.views.text import escape, escape_first
from kubetrace.views.units import format_time

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


class CsvLines:
    """Writes rows, all columns, in the order of `columns`; call `flush` once per batch. Raises OutputError."""

    def __init__(self, stream: TextIO, columns: Sequence[Column], *, headers: bool = True) -> None:
        """Write to a stream opened with newline=""; the header is written with the first row or flush."""
        self._out = Output(stream)
        self._columns = tuple(columns)
        self._header = headers
        self._writer = csv.writer(self._out, lineterminator="\r\n")

    def write(self, row: Sequence[Value]) -> None:
        """One row of raw values."""
        self._begin()
        self._writer.writerow([self._field(column, value) for column, value in zip(self._columns, row, strict=True)])

    def flush(self) -> None:
        """Hand the batch over; a run without any row still has its header."""
        self._begin()
        self._out.flush()

    def _begin(self) -> None:
        if self._header:
            self._header = False
            self._writer.writerow([column.key for column in self._columns])

    def _field(self, column: Column, value: Value) -> str | int | float | None:
        if isinstance(value, (str, bytes)):
            text = escape(value, ascii=self._out.ascii)
            return escape_first(text) if text.startswith(_FORMULA) else text
        if column.kind == "time" and isinstance(value, int):
            return format_time(value)
        return value
