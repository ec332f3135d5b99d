"""Layers of images as a tree: each on the one below it, with a bar as wide as it is large."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, TextIO

from kubetrace.views.output import Output, is_terminal, terminal_size
from kubetrace.views.text import escape
from kubetrace.views.units import format_bytes

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

Node = tuple[Hashable, Hashable | None, int, int, str, Sequence[str]]
"""A layer's key and its parent's, its bytes, how many images have it, its line, and the images that end with it."""

# Where nothing is cut: on a pipe.
_WIDE = 10_000


def draw(stream: TextIO, nodes: Sequence[Node], bar: int) -> None:
    """Write the tree; `bar` is the width of the largest layer's bar in cells. Raises OutputError."""
    output = Output(stream)
    cells = terminal_size(stream)[0] if is_terminal(stream) else _WIDE
    output.write(text(nodes, bar, cells, ascii=output.ascii))
    output.flush()


def text(nodes: Sequence[Node], bar: int, cells: int, *, ascii: bool = False) -> str:
    """The tree as lines of at most so many cells. Layers of which each is alone on the one below are one branch."""
    import io

    from rich.console import Console
    from rich.tree import Tree

    below: dict[Hashable | None, list[Node]] = {}
    keys = {node[0] for node in nodes}
    for node in nodes:
        below.setdefault(node[1] if node[1] in keys else None, []).append(node)
    largest = max((node[2] for node in nodes), default=0)
    top = Tree("", hide_root=True)
    ahead: list[tuple[Tree, Node]] = [(top, node) for node in reversed(_ordered(below.get(None, [])))]
    while ahead:
        branch, node = ahead.pop()
        chain = [node]
        # those that branch, or end an image, end a piece
        while not chain[-1][5] and len(below.get(chain[-1][0], [])) == 1:
            chain += below[chain[-1][0]]
        made = branch.add(_label(chain, largest, bar, ascii=ascii))
        ahead += [(made, child) for child in reversed(_ordered(below.get(chain[-1][0], [])))]
    buffer = io.StringIO()
    # no colour: what it says is in the text
    console = Console(file=buffer, width=cells, color_system=None, legacy_windows=False, safe_box=ascii)
    if ascii:
        console.options.encoding = "ascii"
    options = console.options.update(width=cells, no_wrap=True, overflow="ellipsis")
    options.encoding = "ascii" if ascii else "utf-8"
    for line in console.render_lines(top, options, pad=False):
        buffer.write("".join(segment.text for segment in line).rstrip() + "\n")
    return buffer.getvalue()


def _label(chain: Sequence[Node], largest: int, bar: int, *, ascii: bool) -> Text:
    from rich.text import Text

    lines = []
    for _, _, size, images, line, ends in chain:
        blocks = max(1, round(size * bar / largest)) if largest and size else 0
        drawn = (("#" if ascii else "█") * blocks).ljust(bar)
        shared = f"x{images}" if images > 1 else ""
        names = ", ".join(escape(name, ascii=ascii) for name in ends)
        said = escape(line, ascii=ascii)
        lines.append(f"{format_bytes(size):>8} {drawn} {shared:<3} {f'{names}  ({said})' if names else said}")
    return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")


def _ordered(nodes: Sequence[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: (-node[2], str(node[4])))
