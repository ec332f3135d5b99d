"""The screen as a picture: rich writes the SVG; imported when one is asked for."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from kubetrace.views.frame import STYLES
from kubetrace.views.table import Line


def svg(lines: Sequence[Line], columns: int, title: str) -> str:
    """The lines as an SVG image of so many columns."""
    console = Console(
        record=True,
        width=columns,
        file=io.StringIO(),
        force_terminal=True,
        color_system="standard",
        legacy_windows=False,
    )
    for line in lines:
        text = Text()
        for part, style in line:
            text.append(part, STYLES.get(style))
        console.print(text, no_wrap=True, overflow="crop", crop=True, highlight=False)
    return console.export_svg(title=title)
