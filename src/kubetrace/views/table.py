"""A Window as lines of at most so many cells: pure, and the one layout of the live table, the pipe and the tests.

    copyup · node worker-3 · Linux 6.1.0-18-amd64 · fentry · 0:42          head
    waiting for the overlay module                                         notices
    NAMESPACE POD              CONTAINER FILE          COPIES  COPIED▼     header
    shop      checkout-…x2x9k  app       …/16384/2619       3  2.0 GiB     rows
    … 37 more rows
    812 events · lost 0 · unattributed 3 · own CPU 0.4%                    foot
    q quit  s sort                                                         keys

A line is a list of (text, style) segments; joined they are the plain line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from kubetrace.views.columns import Column, Value
from kubetrace.views.text import cut, cut_path, escape, last_name, visible, width
from kubetrace.views.units import (
    format_bytes,
    format_clock,
    format_count,
    format_cpu,
    format_duration,
    format_percent,
)
from kubetrace.views.window import Item, Style, Window

Segment = tuple[str, Style]
Line = list[Segment]

_PLAIN: Style = ""

# Cells in which a name can be told from its like.
# How a container of the node's own namespaces ends (kit/identity.py).
_ON_HOST = " (host)"

_DECENT = {"name": 24, "path": 32}

_FORMATS: dict[str, Callable[[int], str]] = {
    "count": format_count,
    "bytes": format_bytes,
    "duration": format_duration,
    "percent": format_percent,
    "cpu": format_cpu,
    "time": format_clock,
}


class Widths:
    """How wide each column is: grows with what was seen and never shrinks, so that no refresh makes the table jump.

    Keep one for a run; it starts again when the terminal or the set of columns changes. Paths grow in steps of 8 cells.
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._of: tuple[object, ...] = ()
        self._needs: list[int] = []
        self._titles: list[int] = []
        self._solved: tuple[list[int], int, bool] | None = None

    def fit(
        self, columns: Sequence[Column], needs: Sequence[int], cells: int | None, marked: int | None
    ) -> tuple[list[int], int, bool]:
        """(width of each column, gap between columns, whether short titles are used).

        `needs` are the widest values now, `cells` the line's (None: no limit), `marked` the column with the sort mark.
        """
        of = (cells, *columns)
        if of != self._of:
            self._of, self._solved = of, None
            self._needs = [column.least for column in columns]
            self._titles = [0] * len(columns)
        for at, need in enumerate(needs):
            if need > self._needs[at]:
                self._needs[at], self._solved = need, None
        if marked is not None and not self._titles[marked]:
            self._titles[marked], self._solved = 1, None
        if self._solved is None:
            self._solved = self._solve(columns, cells)
        return self._solved

    def _solve(self, columns: Sequence[Column], cells: int | None) -> tuple[list[int], int, bool]:
        gaps = len(columns) - 1
        full = [len(column.title) + mark for column, mark in zip(columns, self._titles, strict=True)]
        short = [len(column.short or column.title) + mark for column, mark in zip(columns, self._titles, strict=True)]
        wanted = [
            min(need, column.max_width) if column.flexible and column.max_width else need
            for column, need in zip(columns, self._needs, strict=True)
        ]
        roomy = [-(-want // 8) * 8 if c.kind == "path" else want for c, want in zip(columns, wanted, strict=True)]
        if cells is None:
            return [max(pair) for pair in zip(wanted, full, strict=True)], 2, False
        # Spell the titles out and space the columns as long as names have decent room; one very long name is cut
        # before everything else has to move together.
        decent = [min(w, _DECENT[c.kind]) if c.flexible else w for c, w in zip(columns, wanted, strict=True)]
        least = [min(w, c.least) if c.flexible else w for c, w in zip(columns, wanted, strict=True)]
        for titles, floors, gap in ((full, decent, 2), (full, decent, 1), (short, decent, 1), (short, least, 1)):
            start = [max(pair) for pair in zip(titles, floors, strict=True)]
            left = cells - gap * gaps
            if sum(start) <= left:
                break
        return _share(columns, _share(columns, start, wanted, left), roomy, left), gap, titles is short


def _share(columns: Sequence[Column], floors: list[int], wants: list[int], cells: int) -> list[int]:
    # The line's cells, one by one, to whoever has least for its weight, up to what it wants: at most a few hundred
    # steps, and only when a width changes. Where not even the floors fit, the line is cut at the right.
    widths = list(floors)
    for _ in range(cells - sum(floors)):
        hungry = [at for at in range(len(widths)) if widths[at] < wants[at]]
        if not hungry:
            break
        widths[min(hungry, key=lambda at: (widths[at] / max(1, columns[at].weight), at))] += 1
    return widths


def render(
    window: Window,
    width: int | None,
    height: int | None = None,
    *,
    headers: bool = True,
    wide: bool = False,
    ascii: bool = False,
    keys: bool = False,
    widths: Widths | None = None,
) -> list[Line]:
    """The window as lines of at most `width` cells (None: nothing is cut) and, with `height`, exactly so many lines.

    With `height` the foot stands at the bottom and rows that find no room are counted in a line of their own.
    `headers=False` leaves the rows alone, for scripts. `ascii` uses no character beyond ASCII. `keys` shows what the
    keys do. `widths` keeps columns steady from one call to the next.
    """
    top = [*_head(window.head, width, ascii)] if headers else []
    for notice in window.notices if headers else ():
        top.append([(_cut(visible(notice, ascii=ascii), width, ascii), "warn")])
    bottom = [*_flow(_foot(window), width, ascii)] if headers else []
    legend = _flow(_legend(window), width, ascii, "  ") if keys else []
    titles = 1 if headers else 0
    if height is not None:
        # A low terminal gives up the legend, then the head; the last line of the foot (losses) goes last.
        while legend and len(top) + titles + len(bottom) + len(legend) > height - 3:
            legend.pop()
        while len(top) > 0 and len(top) + titles + len(bottom) > height - 3:
            top.pop()
        while len(bottom) > 1 and titles + len(bottom) > height - 2:
            bottom.pop()
    bottom += legend

    rows = window.rows
    total = max(window.total or 0, len(rows))
    room = len(rows) if height is None else max(0, height - len(top) - titles - len(bottom))
    if height is not None and total > room:
        room = max(0, room - 1)
    body = _table(window, rows[:room], width, headers, wide, ascii, widths or Widths())
    shown = min(room, len(rows))
    if headers and not rows:
        body.append([(_cut(visible(window.empty, ascii=ascii), width, ascii), "dim")])
    elif headers and total > shown:
        body.append([(_cut(f"{'...' if ascii else '…'} {total - shown} more rows", width, ascii), "dim")])
    lines = top + body
    if height is None:
        return lines + bottom
    lines = lines[: max(0, height - len(bottom))]
    lines += [[] for _ in range(height - len(lines) - len(bottom))]
    return (lines + bottom)[:height]


def plain(line: Line) -> str:
    """The line's text without its styles."""
    return "".join([text for text, _ in line]).rstrip(" ")


def cell(column: Column, value: Value, *, ascii: bool = False) -> str:
    """One value as text of one line, uncut."""
    if value is None or value == "" or value == b"":
        return "-"
    if isinstance(value, (int, float)):
        form = _FORMATS.get(column.kind)
        text = str(value) if form is None else form(value)  # type: ignore[arg-type]  # a float only where it is a percent
        return text.replace("µ", "u") if ascii else text
    return visible(value, ascii=ascii) if column.kind == "text" else escape(value, ascii=ascii)


def fit(column: Column, text: str, cells: int, *, mark: str = "…") -> str:
    """The cell's text cut to so many cells as its kind wants: paths keep the file's name, names both ends."""
    if column.kind == "path":
        return cut_path(text, cells, mark=mark)
    if column.kind == "name" and text.endswith(_ON_HOST):
        # of the name alone something is left
        return cut(text.removesuffix(_ON_HOST), max(1, cells - len(_ON_HOST)), "middle", mark=mark) + _ON_HOST
    if column.kind == "name" and text.startswith("/"):
        # a unit of the node, by its own name
        text = last_name(text) or text
    return cut(text, cells, "middle" if column.kind == "name" else "end", mark=mark)


def _legend(window: Window) -> list[Item]:
    return [(f"{key} {what}", "dim") for key, what in window.keys]


def _foot(window: Window) -> list[Item]:
    items = list(window.foot)
    if window.lost:
        items.insert(0, (f"LOST {window.lost} event{'s' * (window.lost != 1)}", "bad"))
    elif window.lost is not None:
        items.insert(1, ("lost 0", ""))
    return [*items, *window.costs]


def _head(items: Sequence[Item], cells: int | None, ascii: bool) -> list[Line]:
    # On one line: the kernel goes first, then the hook and the grouping, then the node; never what is wrong.
    kept = list(items)
    while len(lines := _flow(kept, cells, ascii)) > 1:
        spare = [at for at, item in enumerate(kept[1:-1], 1) if not isinstance(item, tuple) or item[1] in ("", "dim")]
        if not spare:
            break
        del kept[next((at for at in spare if at > 1), spare[0])]
    return lines


def _flow(items: Iterable[Item], cells: int | None, ascii: bool, between: str = "") -> list[Line]:
    # Items in a row, on as many lines as they need: what does not fit is never silently left out.
    between = between or (" | " if ascii else " · ")
    lines: list[Line] = []
    used = 0
    for item in items:
        text, style = item if isinstance(item, tuple) else (item, _PLAIN)
        text = _cut(visible(text, ascii=ascii), cells, ascii)
        size = width(text)
        if lines and (cells is None or used + len(between) + size <= cells):
            lines[-1] += [(between, "dim"), (text, style)]
            used += len(between) + size
        else:
            lines.append([(text, style)])
            used = size
    return lines


def _cut(text: str, cells: int | None, ascii: bool) -> str:
    return text if cells is None else cut(text, cells, mark="~" if ascii else "…")


def _table(
    window: Window,
    rows: Sequence[Sequence[Value]],
    cells: int | None,
    headers: bool,
    wide: bool,
    ascii: bool,
    state: Widths,
) -> list[Line]:
    chosen = [at for at, column in enumerate(window.columns) if wide or not column.wide]
    if cells is not None:
        chosen = that_fit(window.columns, chosen, cells, sort=window.sort)
    columns = [window.columns[at] for at in chosen]
    if not columns:
        return [[] for _ in rows]
    values = [[row[at] for row in rows] for at in chosen]
    texts = [[cell(column, value, ascii=ascii) for value in of] for column, of in zip(columns, values, strict=True)]
    needs = [max(map(width, of), default=0) for of in texts]
    marked = next((at for at, column in enumerate(columns) if column.key == window.sort), None)
    sizes, gap, short = state.fit(columns, needs, cells, marked if headers else None)
    lines: list[Line] = []
    if headers:
        lines.append(_titles(columns, sizes, gap, short, marked, window.descending, ascii, cells))
    laid = [
        _column(column, of, words, size, at == marked, "~" if ascii else "…")
        for at, (column, of, words, size) in enumerate(zip(columns, values, texts, sizes, strict=True))
    ]
    over = cells is not None and sum(sizes) + gap * (len(sizes) - 1) > cells
    space = " " * gap
    for row in zip(*laid, strict=True):
        line: Line = []
        run, style = "", row[0][0][1]
        for at, segments in enumerate(row):
            if at:
                run += space
            for text, other in segments:
                if other != style:
                    line.append((run, style))
                    run, style = "", other
                run += text
        line.append((run.rstrip(" "), style))
        lines.append(_crop(line, cells, ascii) if over and cells is not None else line)
    return lines


def that_fit(
    columns: Sequence[Column], chosen: list[int], cells: int, *, gap: int = 1, sort: str | None = None
) -> list[int]:
    """Those of the chosen columns that a line of so many cells has room for: spare ones are left out, the last first.

    Where that is not enough, quantities are left out too, the last first, but for the one that rows are sorted by.
    Decided by what the columns declare, not by what is in them: a column must not come and go with the rows.
    """

    def least(at: int) -> int:
        title = len(columns[at].short or columns[at].title) + (columns[at].key == sort)
        return max(title, columns[at].least)

    free = [at for at in reversed(chosen) if columns[at].key != sort and not columns[at].kept]
    spares = [at for at in free if columns[at].spare]
    if sort is not None:
        spares += [at for at in free if columns[at].numeric and not columns[at].spare]
    for spare in spares:
        if sum(map(least, chosen)) + gap * (len(chosen) - 1) <= cells:
            break
        chosen = [at for at in chosen if at != spare]
    return chosen


def _titles(
    columns: Sequence[Column],
    sizes: Sequence[int],
    gap: int,
    short: bool,
    marked: int | None,
    descending: bool,
    ascii: bool,
    cells: int | None,
) -> Line:
    line: Line = []
    for at, (column, size) in enumerate(zip(columns, sizes, strict=True)):
        title = (column.short or column.title) if short else column.title
        if at == marked:
            title += ("v" if ascii else "▼") if descending else ("^" if ascii else "▲")
        pad = " " * (size - len(title))
        text = pad + title if column.right else title + pad
        line.append((text, "sorted" if at == marked else "header"))
        if at < len(columns) - 1:
            line.append((" " * gap, "header"))
    used = sum(len(text) for text, _ in line)
    if cells is None or used == cells:
        return line
    if used > cells:
        return _crop(line, cells, ascii)
    return [*line, (" " * (cells - used), "header")]


def _column(
    column: Column, values: Sequence[Value], texts: Sequence[str], size: int, is_sorted: bool, mark: str
) -> list[list[Segment]]:
    # One list of segments per row, padded to the column's width.
    right, flexible, alarm, kind = column.right, column.flexible, column.alarm, column.kind
    usual: Style = "bold" if is_sorted else ""
    out: list[list[Segment]] = []
    for value, text in zip(values, texts, strict=True):
        cells = width(text)
        if cells > size and flexible:
            text = fit(column, text, size, mark=mark)
            cells = width(text)
        pad = " " * (size - cells)
        if value is None or (value == 0 and kind != "time"):
            style: Style = "dim"
        elif alarm:
            style = "bad"
        else:
            style = usual
        if right:
            out.append([(pad + text, style)])
        elif kind == "path" and (slash := text.rfind("/", 0, -1)) > 0:
            out.append([(text[: slash + 1], "dim"), (text[slash + 1 :] + pad, style)])
        else:
            out.append([(text + pad, style)])
    return out


def _crop(line: Line, cells: int, ascii: bool) -> Line:
    # The whole line is too long: cut it, so that the reader sees that it goes on.
    out: Line = []
    left = cells
    if sum(width(text) for text, _ in line) <= cells:
        return line
    for text, style in line:
        size = width(text)
        if size < left:
            out.append((text, style))
            left -= size
        else:
            whole = text if size > left else text + "."  # force the mark: more follows
            out.append((cut(whole, left, mark="~" if ascii else "…"), style))
            break
    return out
