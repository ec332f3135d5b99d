"""Lines of table.py as something rich can draw: the only file here that imports rich, and live.py imports it late."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import IO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.segment import ControlType, Segment
from rich.style import Style

from kubetrace.views.table import Line
from kubetrace.views.text import width

# The sixteen colours of the user's own theme, and always an attribute as well: with NO_COLOR nothing is lost.
_STYLES = {
    name: Style.parse(style)
    for name, style in {
        "": "none",
        "dim": "dim",
        "bold": "bold",
        "title": "bold",
        "warn": "bold yellow",
        "bad": "bold red",
        "header": "reverse",
        "sorted": "bold reverse",
    }.items()
}

# Characters, our own marks aside, that a terminal may draw narrower than we counted: what was there would stay visible.
_UNSURE = re.compile("[^\0-\u02ff…▲▼]")


class _Measured(Segment):
    # As wide as we say: rich's tables differ between its versions, and lines were laid out with ours.
    @property
    def cell_length(self) -> int:
        return width(self.text)


class Frame:
    """Preformatted lines for rich: segments, with nothing left to wrap, justify or highlight."""

    def __init__(self, lines: Sequence[Line], *, screen: bool = False) -> None:
        """Lines that fit the console. With `screen` they go over older ones: doubtful lines are erased first."""
        self._lines = lines
        self._screen = screen

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The segments (rich's protocol)."""
        erase = Control((ControlType.ERASE_IN_LINE, 2)).segment
        for at, line in enumerate(self._lines):
            if at:
                yield Segment.line()
            if self._screen and any(_UNSURE.search(text) for text, _ in line):
                yield erase
            for text, style in line:
                yield _Measured(text, _STYLES[style])


def memory_console(file: IO[str], *, colour: bool) -> Console:
    """A console that draws into memory: what to do about a broken terminal (rich would exit) is not its to decide."""
    return Console(
        file=file,
        force_terminal=True,
        force_interactive=True,
        no_color=not colour,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
        width=80,
        height=24,
    )
