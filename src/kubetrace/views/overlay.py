"""What lies over the table: the help of ?, and the list of columns of c."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kubetrace.views.columns import Column
from kubetrace.views.keymap import help_lines
from kubetrace.views.table import Line
from kubetrace.views.text import cut, width

_KEYS = 14


def keys_over(traits: Collection[str], cells: int, *, ascii: bool) -> list[Line]:
    """Every key with what it does, in two columns where there is room."""
    found = help_lines(traits)
    lines: list[Line] = [[("Keys: Up and Down scroll, any other closes this.", "title")]]
    each = (cells - 2) // 2 if cells >= 130 else cells
    half = -(-len(found) // 2) if cells >= 130 else len(found)
    mark = "~" if ascii else "…"
    for at in range(half):
        line: Line = []
        for place, (keys, text) in enumerate(found[at::half]):
            body = cut(text, max(1, each - _KEYS), mark=mark)
            if not place:
                body += " " * (each - _KEYS - width(body) + 2) if half < len(found) else ""
            line += [(f"{keys:<{_KEYS}}", "key"), (body, "")]
        lines.append(line)
    return lines


def columns_over(
    columns: Sequence[Column], shown: Collection[str], at: int, cells: int, *, ascii: bool
) -> tuple[list[Line], int]:
    """(a line for each column, with a cross at those that are shown; the line of the one at `at`)."""
    lines: list[Line] = [[("Columns: space shows or hides one, c closes this.", "title")]]
    title = max((len(column.title) for column in columns), default=0)
    for number, column in enumerate(columns):
        text = f"[{'x' if column.key in shown else ' '}] {column.title:<{title}}  {column.help}"
        text = cut(text, cells, mark="~" if ascii else "…")
        lines.append([(text + " " * (cells - width(text)), "selected" if number == at else "")])
    return lines, at + 1
