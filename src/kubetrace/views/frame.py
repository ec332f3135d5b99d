"""Lines of table.py as what a terminal draws: the only file here that imports rich, and screen.py imports it late.

Of rich only its styles: its Console and Live would cost 10 ms and 3 MB of every start, for lines that are laid out.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.style import Style

from kubetrace.views.table import Line

# The sixteen colours of the user's own theme, and always an attribute as well: with NO_COLOR nothing is lost.
STYLES = {
    name: Style.parse(style)
    for name, style in {
        "dim": "dim",
        "bold": "bold",
        "title": "bold",
        "warn": "bold yellow",
        "bad": "bold red",
        "header": "reverse",
        "sorted": "bold reverse",
        "selected": "bold reverse",
        "match": "bold underline magenta",
        "grown": "bold green",
        "near": "bold yellow",
        "key": "bold",
    }.items()
}

# Control Sequences of ECMA-48 and xterm's ctlseqs: the alternate screen (1049), the cursor (25), wrapping (7).
ENTER = "\x1b[?1049h\x1b[H\x1b[?25l\x1b[?7l"
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
# Presses and wheel of the mouse, as SGR reports (1000, 1006).
MOUSE, NO_MOUSE = "\x1b[?1000h\x1b[?1006h", "\x1b[?1006l\x1b[?1000l"
# A frame in one piece (synchronized output): terminals that know it show no half of one, others pass it over.
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"
_HOME, _ERASE_LINE = "\x1b[H", "\x1b[2K"


class Painter:
    """Preformatted lines as text with the escapes of their styles; `colour` false leaves the other attributes."""

    def __init__(self, *, colour: bool) -> None:
        """Styles are rendered once."""
        self._around = {"": ("", "")}
        for name, style in STYLES.items():
            before, _, after = (style if colour else style.without_color).render("\0").partition("\0")
            self._around[name] = (before, after)

    def frame(self, lines: Sequence[Line]) -> str:
        """Lines that fill the screen, over older ones.

        Each is erased before: it may be shorter, or drawn narrower than we counted, than the one that was there.
        """
        return BEGIN + _HOME + "\n".join([_ERASE_LINE + self._line(line) for line in lines]) + END

    def page(self, lines: Sequence[Line]) -> str:
        """Lines to stay where they are printed."""
        return "".join([self._line(line) + "\n" for line in lines])

    def _line(self, line: Line) -> str:
        around = self._around
        return "".join([f"{around[style][0]}{text}{around[style][1]}" for text, style in line if text])
