"""What one interval looks like, before anyone knows how wide the terminal is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kubetrace.views.columns import Column, Value

Style = Literal["", "dim", "bold", "warn", "bad", "title", "header", "sorted"]
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
