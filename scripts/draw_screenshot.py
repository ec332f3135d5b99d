"""Draw docs/screenshot.svg: what a terminal shows of a golden recording, cell by cell.

kubetrace replays it on a pseudo-terminal as it would for a user; a terminal in Python (pyte) follows its escapes up to
the last frame of the live table. The same tree gives the same bytes: tests/unit/test_readme.py draws it again.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import pyte

ROOT = Path(__file__).parent.parent
RECORDING = "tests/recordings/writes-1.ktrace"
COMMAND = ("replay", RECORDING, "--final")
COLUMNS, LINES = 100, 15
# The end of the alternate screen (views/frame.py): what was drawn before is the live table.
_LEAVE = b"\x1b[?1049l"

# In pixels.
_CELL, _LINE, _FONT = 8.4, 19, 14
_MARGIN, _BAR = 14, 34
_BACKGROUND, _FRAME, _TEXT = "#1a1d23", "#2a2f38", "#d7dae0"
# As pyte calls the colours that views/frame.py uses.
_COLOURS = {"default": _TEXT, "red": "#f07178", "brown": "#ffcb6b", "green": "#c3e88d", "magenta": "#c792ea"}
_STYLE = f"""
    text {{ font-family: 'DejaVu Sans Mono', Menlo, Consolas, monospace; font-size: {_FONT}px; }}
    .bold {{ font-weight: bold; }}
    .dim {{ opacity: 0.62; }}
"""


class _Screen(pyte.Screen):
    """pyte knows no dim: it is kept as blink, which nothing here does."""

    def select_graphic_rendition(self, *attributes: int, **_: Any) -> None:
        super().select_graphic_rendition(*(5 if attribute == 2 else attribute for attribute in attributes))


def live_table(command: tuple[str, ...], columns: int, lines: int) -> _Screen:
    """The last frame that kubetrace draws on a terminal of that size. Raises RuntimeError where there is none."""
    leader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONUTF8": "1",
        "TERM": "xterm-256color",
        "TZ": "UTC",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "kubetrace", *command],
        cwd=ROOT,
        env=environment,
        stdin=terminal,
        stdout=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    drawn = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not data:
            break
        drawn += data
    os.close(leader)
    if process.wait() or _LEAVE not in drawn:
        raise RuntimeError(f"kubetrace {' '.join(command)} drew no table:\n{drawn.decode(errors='replace')}")
    screen = _Screen(columns, lines)
    pyte.ByteStream(screen).feed(drawn[: drawn.rindex(_LEAVE)])
    return screen


def _runs(screen: _Screen, line: int) -> Iterator[tuple[int, int, Any, str]]:
    """(column, cells, how they look, text): cells side by side that look alike."""
    cells = [screen.buffer[line][column] for column in range(screen.columns)]
    at = 0
    for _, run in groupby(cells, key=lambda cell: (cell.fg, cell.bold, cell.reverse, cell.blink)):
        alike = list(run)
        yield at, len(alike), alike[0], "".join(cell.data for cell in alike)
        at += len(alike)


def svg(screen: _Screen, title: str) -> str:
    """The screen as a picture of a terminal's window."""
    width = round(screen.columns * _CELL + 2 * _MARGIN)
    height = screen.lines * _LINE + _BAR + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' role="img">',
        f"  <title>{escape(title)}</title>",
        f"  <style>{_STYLE}  </style>",
        f'  <rect width="{width}" height="{height}" rx="9" fill="{_FRAME}"/>',
        f'  <path d="M1 {_BAR}h{width - 2}v{height - _BAR - 9}q0 8 -8 8h-{width - 18}q-8 0 -8 -8z"'
        f' fill="{_BACKGROUND}"/>',
        *(f'  <circle cx="{20 + 18 * number}" cy="17" r="5.5" fill="#4a515d"/>' for number in range(3)),
        f'  <text x="{width / 2:g}" y="22" text-anchor="middle" fill="{_TEXT}" class="dim">{escape(title)}</text>',
    ]
    for line in range(screen.lines):
        top = _BAR + _MARGIN + line * _LINE
        for column, cells, look, text in _runs(screen, line):
            if look.reverse:
                left, wide = f"{_MARGIN + column * _CELL:.1f}", f"{cells * _CELL:.1f}"
                parts.append(
                    f'  <rect x="{left}" y="{top}" width="{wide}" height="{_LINE}" fill="{_TEXT}"'
                    ' shape-rendering="crispEdges"/>'
                )
            named = " ".join(name for name, on in (("bold", look.bold), ("dim", look.blink)) if on)
            style = f'fill="{_BACKGROUND if look.reverse else _COLOURS[look.fg]}"' + (
                f' class="{named}"' if named else ""
            )
            # Each word in its place: what draws the picture may have a font of other widths, and cares for no spaces.
            for word in re.finditer(r"\S+", text):
                left, wide = f"{_MARGIN + (column + word.start()) * _CELL:.1f}", f"{len(word[0]) * _CELL:.1f}"
                parts.append(f'  <text x="{left}" y="{top + 14}" textLength="{wide}" {style}>{escape(word[0])}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "screenshot.svg", metavar="FILE")
    out: Path = parser.parse_args().out
    out.write_text(svg(live_table(COMMAND, COLUMNS, LINES), f"kubetrace {' '.join(COMMAND)}"), encoding="utf-8")


if __name__ == "__main__":
    main()
