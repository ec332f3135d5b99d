"""A column is declared once, by a tracer; the table, lines, JSON, CSV and --help all read that declaration."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["name", "path", "text", "count", "bytes", "duration", "percent", "cpu", "time"]
Value = str | bytes | int | float | None

# Cells that a kind deserves from the start, so that a table does not widen under the reader's eyes.
_MIN_WIDTH: dict[Kind, int] = {"name": 6, "path": 10, "bytes": 8, "duration": 6, "percent": 4, "cpu": 5, "time": 12}


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a row: what it is called, what it means, and how much room it deserves.

    A value is raw: `bytes` in whole bytes, `duration` in nanoseconds, `percent` in percentage points, `cpu` in
    thousandths of a CPU, `time` in nanoseconds since 1970 (UTC), `name` and `path` as the kernel gave them (bytes or
    str, untrusted), `text` our own words; None is unknown and shown as `-`.
    """

    key: str
    """The name in JSON, CSV and --sort."""
    title: str
    """Upper case, as kubectl's."""
    kind: Kind = "text"
    short: str = ""
    """The title where the terminal is too narrow for `title`."""
    align: Literal["auto", "left", "right"] = "auto"
    """auto: numbers right, everything else left."""
    min_width: int = -1
    """Cells it is not shrunk below, and starts with; -1: the kind's."""
    max_width: int | None = None
    """Cells it never takes more than; only names and paths are ever cut."""
    wide: bool = False
    """Shown with -o wide only."""
    spare: bool = False
    """Left out where the terminal is too narrow for all columns."""
    extra: bool = False
    """Left out, before all others, where names would have less than decent room for it."""
    kept: bool = False
    """Shown however narrow the terminal is."""
    weight: int = 1
    """Share of the room among names and paths where not everything fits."""
    alarm: bool = False
    """A value other than 0 is bad news and shown so."""
    alarms: Collection[str] = ()
    """Of a text: the values that are bad news."""
    rate: str = ""
    """Of a sum: the title of the live table's column that says by how much it grew in a second."""
    grows: bool = False
    """A sum that only grows, whose rate is a column of its own: the live table draws its last minute."""
    limit: str = ""
    """The key of the column with what it may be at most: the live table shows a bar."""
    help: str = ""
    """One line for --help."""

    @property
    def right(self) -> bool:
        """Whether values stand at the right edge."""
        return self.align == "right" or (self.align == "auto" and self.numeric)

    @property
    def numeric(self) -> bool:
        """Whether values are quantities."""
        return self.kind in ("count", "bytes", "duration", "percent", "cpu")

    @property
    def flexible(self) -> bool:
        """Whether a value may be cut: names can, a number that lost a digit would lie."""
        return self.kind in ("name", "path")

    @property
    def least(self) -> int:
        """`min_width`, or what the kind deserves."""
        return self.min_width if self.min_width >= 0 else _MIN_WIDTH.get(self.kind, 0)


def find(columns: Sequence[Column], name: str) -> Column | None:
    """The column that a user means: by its head, its short head or its key, in any case; None if there is none."""
    wanted = _folded(name)
    for form in ("title", "short", "key"):
        for column in columns:
            if wanted and _folded(getattr(column, form)) == wanted:
                return column
    return None


def _folded(name: str) -> str:
    return name.upper().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What --columns came to: keys of columns. Without `only` they are the usual ones, with `added` behind them."""

    only: Sequence[str] = ()
    added: Sequence[str] = ()

    def places(self, columns: Sequence[Column], *, wide: bool) -> list[int]:
        """The places of the chosen ones among `columns`; those that are not among these are left out.

        If none is (a live table was grouped by something else), the usual ones are shown.
        """
        order = {column.key: at for at, column in reversed(list(enumerate(columns)))}
        places = [order[key] for key in self.only if key in order]
        if not places:
            places = [at for at, column in enumerate(columns) if wide or not column.wide]
        return list(dict.fromkeys([*places, *(order[key] for key in self.added if key in order)]))

    def of(self, columns: Sequence[Column], places: Sequence[int]) -> list[Column]:
        """The columns at these places: what was asked for by name is shown however narrow the terminal is."""
        named = {*self.only, *self.added}
        return [
            replace(columns[at], wide=False, kept=True)
            if columns[at].key in named
            else replace(columns[at], wide=False)
            for at in places
        ]


def describe(columns: Sequence[Column]) -> list[tuple[str, str]]:
    """(title, help) of each column, for a command's help."""
    return [(column.title, column.help + (" (-o wide)" if column.wide else "")) for column in columns]
