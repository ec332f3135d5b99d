"""A page as an outline: what belongs to what, each with its own line; a tree on a terminal and on a pipe alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

from kubetrace.views.output import Output, is_terminal, terminal_size
from kubetrace.views.text import escape

# Where nothing is cut: on a pipe.
_WIDE = 10_000


@dataclass(slots=True)
class Entry:
    """One line: what it is, then its words; every name of others is escaped here. `below` is what belongs to it."""

    what: str
    words: Sequence[str] = ()
    below: list[Entry] = field(default_factory=list)

    def add(self, what: str, *words: str | None) -> Entry:
        """One more below it; words that are None are left out."""
        entry = Entry(what, [word for word in words if word is not None])
        self.below.append(entry)
        return entry


def draw(stream: TextIO, page: Entry) -> None:
    """Write it. Raises OutputError."""
    output = Output(stream)
    cells = terminal_size(stream)[0] if is_terminal(stream) else _WIDE
    output.write(text(page, cells, ascii=output.ascii))
    output.flush()


def text(page: Entry, cells: int, *, ascii: bool = False) -> str:
    """The outline as lines of at most so many cells: what does not fit goes on in the next, under its words."""
    import io

    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    def line(entry: Entry) -> Text:
        return Text("  ".join(escape(word, ascii=ascii) for word in (entry.what, *entry.words)), overflow="fold")

    top = Tree(line(page))
    ahead = [(top, page)]
    while ahead:
        branch, entry = ahead.pop()
        ahead += [(branch.add(line(one)), one) for one in entry.below]
    buffer = io.StringIO()
    console = Console(file=buffer, width=cells, color_system=None, legacy_windows=False, safe_box=ascii)
    options = console.options.update(width=cells, overflow="fold")
    options.encoding = "ascii" if ascii else "utf-8"
    for segments in console.render_lines(top, options, pad=False):
        buffer.write("".join(segment.text for segment in segments).rstrip() + "\n")
    return buffer.getvalue()
