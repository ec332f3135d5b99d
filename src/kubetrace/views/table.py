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
from dataclasses import dataclass

from kubetrace.views.columns import Column, Value
from kubetrace.views.filter import Filter
from kubetrace.views.text import cut, cut_path, escape, last_name, visible, width, wrapped
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
# Lines of what is told of an opened row.
_ABOUT = 3

# Cells in which a name can be told from its like.
# How a container of the node's own namespaces ends (kit/identity.py).
_ON_HOST = " (host)"

_DECENT = {"name": 24, "path": 32}
# What names have before there are columns beside those that are declared.
_EXTRA_ASKS = {"name": 14, "path": 28}

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
        self._quiet: Sequence[bool] = ()

    def fit(
        self,
        columns: Sequence[Column],
        needs: Sequence[int],
        cells: int | None,
        marked: int | None,
        quiet: Sequence[bool] = (),
    ) -> tuple[list[int], int, bool]:
        """(width of each column, gap between columns, whether short titles are used).

        `needs` are the widest values now, `cells` the line's (None: no limit), `marked` the column with the sort mark,
        `quiet` the columns that say the same of every row.
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
        if quiet != self._quiet:
            self._quiet, self._solved = quiet, None
        if self._solved is None:
            self._solved = self._solve(columns, cells, needs)
        return self._solved

    def _solve(self, columns: Sequence[Column], cells: int | None, now: Sequence[int]) -> tuple[list[int], int, bool]:
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
        for at in [at for at, is_quiet in enumerate(self._quiet) if is_quiet]:
            short[at] = min(short[at], max(now[at], self._titles[at] + 2))
            decent[at] = least[at] = min(now[at], least[at])
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


@dataclass(frozen=True, slots=True)
class Drawn:
    """Lines, and where in them the table is: for keys that move by a screen, and for the mouse."""

    lines: list[Line]
    room: int
    """Rows that fit."""
    shown: Sequence[str] = ()
    """The keys of the columns that found room, from left to right."""
    head_line: int = -1
    """The line of the columns' heads, from 0; -1: there is none."""
    heads: Sequence[tuple[int, int, str]] = ()
    """(first cell, cell behind the last, column key)."""
    first: int = 0
    """Which of the window's rows is the first that is drawn."""


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
    """The lines of `draw`."""
    return draw(window, width, height, headers=headers, wide=wide, ascii=ascii, keys=keys, widths=widths).lines


def frame(
    window: Window,
    width: int | None,
    height: int | None,
    *,
    headers: bool = True,
    ascii: bool = False,
    keys: bool = False,
) -> tuple[list[Line], list[Line], int]:
    """(lines above the columns' heads, lines below the rows, rows that fit between)."""
    top = [*_head(window.head, width, ascii)] if headers else []
    for notice in window.notices if headers else ():
        top.append([(_cut(visible(notice, ascii=ascii), width, ascii), "warn")])
    if window.path:
        # where one is, is at its end
        path, mark = visible(window.path, ascii=ascii), "~" if ascii else "…"
        top.append([(path if width is None else cut(path, width, "start", mark=mark), "bold")])
    for line in wrapped(window.about, width or 0, indent=0)[:_ABOUT] if window.about else ():
        top.append([(_cut(visible(line, ascii=ascii), width, ascii), "")])
    bottom = [*_flow(_foot(window), width, ascii)] if headers else []
    legend = [*_below(window, width, ascii), *(_flow(_legend(window), width, ascii, "  ") if keys else [])]
    if window.prompt is not None:
        legend = [*_below(window, width, ascii), [(_cut(visible(window.prompt, ascii=ascii), width, ascii), "bold")]]
    elif window.message:
        legend = [*_below(window, width, ascii), [(_cut(visible(window.message, ascii=ascii), width, ascii), "warn")]]
    titles = 1 if headers else 0
    if height is None:
        return top, bottom + legend, len(window.rows)
    # A low terminal gives up the legend, then the head; the last line of the foot (losses) goes last.
    while legend and len(top) + titles + len(bottom) + len(legend) > height - 3 and not _is_spoken(window, legend):
        legend.pop()
    while len(top) > 0 and len(top) + titles + len(bottom) > height - 3:
        top.pop(0 if window.path else -1)
    while len(bottom) > 1 and titles + len(bottom) > height - 2:
        bottom.pop()
    bottom += legend
    return top, bottom, max(0, height - len(top) - titles - len(bottom))


def _is_spoken(window: Window, legend: Sequence[Line]) -> bool:
    # what one types, or was just told, stays on the lowest terminal
    return len(legend) == 1 and (window.prompt is not None or bool(window.message))


def _below(window: Window, cells: int | None, ascii: bool) -> list[Line]:
    return [[(_cut(visible(window.marks, ascii=ascii), cells, ascii), "")]] if window.marks else []


def draw(
    window: Window,
    width: int | None,
    height: int | None = None,
    *,
    headers: bool = True,
    wide: bool = False,
    ascii: bool = False,
    keys: bool = False,
    widths: Widths | None = None,
) -> Drawn:
    """The window as lines of at most `width` cells (None: nothing is cut) and, with `height`, exactly so many lines.

    With `height` the foot stands at the bottom and rows that find no room are counted in a line of their own.
    `headers=False` leaves the rows alone, for scripts. `ascii` uses no character beyond ASCII. `keys` shows what the
    keys do. `widths` keeps columns steady from one call to the next.
    """
    top, bottom, room = frame(window, width, height, headers=headers, ascii=ascii, keys=keys)
    total = max(window.total or 0, len(window.rows))
    if height is not None and total > room:
        room = max(0, room - 1)
    if window.over is not None and height is not None:
        titles = 1 if headers else 0
        space = height - len(top) - len(bottom)
        over = [list(line) for line in window.over[window.over_at : window.over_at + space]]
        over = [crop(line, width, ascii) if width is not None else line for line in over]
        lines = top + over + [[] for _ in range(space - len(over))] + bottom
        return Drawn(lines[:height], max(1, room + titles))
    # after a terminal became lower the selected row may be below what fits
    begin = max(0, (window.cursor or 0) - max(1, room) + 1) if window.cursor is not None else 0
    rows = window.rows[begin : begin + room]
    body, shown, heads = _table(window, rows, begin, width, headers, wide, ascii, widths or Widths())
    above = window.first + begin
    below = total - above - len(rows)
    if headers and not window.rows:
        body.append([(_cut(visible(window.empty, ascii=ascii), width, ascii), "dim")])
    elif headers and (below > 0 or above > 0):
        dots = "..." if ascii else "…"
        more = f"{dots} {above} above, {below} more rows" if above else f"{dots} {below} more rows"
        body.append([(_cut(more, width, ascii), "dim")])
    lines = top + body
    head_line = len(top) if headers else -1
    if height is None:
        return Drawn(lines + bottom, len(rows), shown, head_line, heads, begin)
    lines = lines[: max(0, height - len(bottom))]
    lines += [[] for _ in range(height - len(lines) - len(bottom))]
    return Drawn((lines + bottom)[:height], room, shown, head_line, heads, begin)


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
    begin: int,
    cells: int | None,
    headers: bool,
    wide: bool,
    ascii: bool,
    state: Widths,
) -> tuple[list[Line], Sequence[str], Sequence[tuple[int, int, str]]]:
    chosen = [at for at, column in enumerate(window.columns) if wide or not column.wide]
    if cells is not None:
        chosen = that_fit(window.columns, chosen, cells, sort=window.sort)
    columns = [window.columns[at] for at in chosen]
    if not columns:
        return [[] for _ in rows], (), ()
    values = [[row[at] for row in rows] for at in chosen]
    texts = [[cell(column, value, ascii=ascii) for value in of] for column, of in zip(columns, values, strict=True)]
    needs = [max(map(width, of), default=0) for of in texts]
    marked = next((at for at, column in enumerate(columns) if column.key == window.sort), None)
    quiet = tuple([_is_quiet(column, of) for column, of in zip(columns, texts, strict=True)]) if cells else ()
    sizes, gap, short = state.fit(columns, needs, cells, marked if headers else None, quiet)
    lines: list[Line] = []
    if headers:
        lines.append(_titles(columns, sizes, gap, short, marked, window.descending, ascii, cells))
    hints = window.hints[begin : begin + len(rows)] if window.hints else ()
    mark = "~" if ascii else "…"
    laid = [
        _column(
            column,
            of,
            words,
            size,
            at == marked,
            mark,
            window.match,
            [hint.get(column.key, "") for hint in hints],
        )
        for at, (column, of, words, size) in enumerate(zip(columns, values, texts, sizes, strict=True))
    ]
    over = cells is not None and sum(sizes) + gap * (len(sizes) - 1) > cells
    space = " " * gap
    selected = window.cursor - begin if window.cursor is not None else -1
    for number, row in enumerate(zip(*laid, strict=True)):
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
        line = crop(line, cells, ascii) if over and cells is not None else line
        lines.append(_selected(line, cells) if number == selected else line)
    heads, at = [], 0
    for column, size in zip(columns, sizes, strict=True):
        heads.append((at, at + size, column.key))
        at += size + gap
    return lines, [column.key for column in columns], heads


def _is_quiet(column: Column, texts: Sequence[str]) -> bool:
    # what says nothing, or the same of every row, gives up its room first
    return column.flexible and len(texts) > 1 and texts.count(texts[0]) == len(texts)


def _selected(line: Line, cells: int | None) -> Line:
    text = "".join([text for text, _ in line])
    return [(text + " " * ((cells or 0) - width(text)), "selected")]


def that_fit(
    columns: Sequence[Column], chosen: list[int], cells: int, *, gap: int = 1, sort: str | None = None
) -> list[int]:
    """Those of the chosen columns that a line of so many cells has room for: spare ones are left out, the last first.

    Before that, extra ones, where names have less than decent room. Where that is not enough, quantities are left out
    too, the last first, but for the one that rows are sorted by. Decided by what the columns declare, not by what is
    in them: a column must not come and go with the rows.
    """

    def least(at: int) -> int:
        title = len(columns[at].short or columns[at].title) + (columns[at].key == sort)
        return max(title, columns[at].least)

    def decent(at: int) -> int:
        return max(least(at), _EXTRA_ASKS.get(columns[at].kind, 0))

    for extra in [at for at in reversed(chosen) if columns[at].extra and not columns[at].kept]:
        if sum(map(decent, chosen)) + gap * (len(chosen) - 1) <= cells:
            break
        chosen = [at for at in chosen if at != extra]
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
        elif len(title) > size and short:
            title = cut(title, size, mark="~" if ascii else "…")
        pad = " " * (size - len(title))
        text = pad + title if column.right else title + pad
        line.append((text, "sorted" if at == marked else "header"))
        if at < len(columns) - 1:
            line.append((" " * gap, "header"))
    used = sum(len(text) for text, _ in line)
    if cells is None or used == cells:
        return line
    if used > cells:
        return crop(line, cells, ascii)
    return [*line, (" " * (cells - used), "header")]


def _column(
    column: Column,
    values: Sequence[Value],
    texts: Sequence[str],
    size: int,
    is_sorted: bool,
    mark: str,
    match: Filter | None = None,
    hints: Sequence[Style] = (),
) -> list[list[Segment]]:
    # One list of segments per row, padded to the column's width.
    right, flexible, alarm, kind = column.right, column.flexible, column.alarm, column.kind
    usual: Style = "bold" if is_sorted else ""
    out: list[list[Segment]] = []
    looked = match is not None and bool(match.words) and not column.numeric
    for number, (value, text) in enumerate(zip(values, texts, strict=True)):
        cells = width(text)
        if cells > size and flexible:
            text = fit(column, text, size, mark=mark)
            cells = width(text)
        pad = " " * (size - cells)
        if value is None or (value == 0 and kind != "time"):
            style: Style = "dim"
        elif alarm or value in column.alarms:
            style = "bad"
        else:
            style = (hints[number] or usual) if hints else usual
        if looked and match is not None and (spans := match.spans(text)):
            out.append(_matched(text, spans, style, pad))
        elif right:
            out.append([(pad + text, style)])
        elif kind == "path" and (slash := text.rfind("/", 0, -1)) > 0:
            out.append([(text[: slash + 1], "dim"), (text[slash + 1 :] + pad, style)])
        else:
            out.append([(text + pad, style)])
    return out


def _matched(text: str, spans: Sequence[tuple[int, int]], style: Style, pad: str) -> list[Segment]:
    segments: list[Segment] = []
    at = 0
    for begin, end in spans:
        segments += [(text[at:begin], style), (text[begin:end], "match")]
        at = end
    return [*segments, (text[at:] + pad, style)]


def crop(line: Line, cells: int, ascii: bool) -> Line:
    """The line in at most so many cells; where it is too long, the reader sees that it goes on."""
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
