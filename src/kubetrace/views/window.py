"""What one interval looks like, before anyone knows how wide the terminal is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kubetrace.views.columns import Column, Value
from kubetrace.views.filter import Filter

Style = Literal[
    "", "dim", "bold", "warn", "bad", "title", "header", "sorted", "selected", "match", "grown", "near", "key"
]
Item = str | tuple[str, Style]
"""A piece of the head or foot: a text of ours, or a text and how it looks."""


@dataclass(frozen=True, slots=True)
class Window:
    """The table at one moment. Rows are in order and limited to --top already; views neither sort nor filter.

    `rows`: raw values in the order of `columns`, -o wide columns included.
    `head`: tracer, node, kernel, hook, elapsed. `foot`: events, unattributed. `costs`, behind it: own CPU.
    `lost`: events that the kernel could not hand over; always shown (None: the source cannot lose any), loudly above 0.
    `total`: rows before --top. `sort`: the key of the sorted column. `notices`: what the user should know now
    ("waiting for the overlay module"). `empty`: said in place of rows. `keys`: (key, what it does), for the live table.

    Where one can move in it: `rows` are those from the `first` on, of `total`; `cursor` is the selected one of them.
    `path` says where one is, `about` more of the row that was opened. `match` is what was searched for. `hints`: of
    each row the styles of cells that deserve one, by the columns' keys. `over` takes the place of the rows, from its
    line `over_at` on. `prompt` is what is being typed, below the table, or `message` what is said there. `marks` is a
    line of its own above the keys (where a replay is).
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]] = ()
    head: Sequence[Item] = ()
    foot: Sequence[Item] = ()
    costs: Sequence[Item] = ()
    lost: int | None = None
    total: int | None = None
    sort: str = ""
    descending: bool = True
    notices: Sequence[str] = ()
    empty: str = "nothing yet"
    keys: Sequence[tuple[str, str]] = ()
    first: int = 0
    cursor: int | None = None
    path: str = ""
    about: str = ""
    match: Filter | None = None
    hints: Sequence[Mapping[str, Style]] = ()
    over: Sequence[Sequence[tuple[str, Style]]] | None = None
    over_at: int = 0
    prompt: str | None = None
    marks: str = ""
    message: str = ""
