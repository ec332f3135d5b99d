r"""Names from a node or a file, made safe and visible on one line; and their width in terminal cells.

A file name may hold any byte but `/` and NUL, and whoever can create a file on the node chooses it. Shown raw it could
move the cursor, ring the bell, forge a row of the table or run backwards. So whatever is not plainly visible is written
as an escape, in one language everywhere (tables, lines, CSV):

    \n \t \r          the usual three
    \x1b              other ASCII controls, and spaces at an end or after another space
    \xff              a byte that is not UTF-8 (always 80 to ff, hence never confused with the line above)
    \u202e            any other code point up to U+FFFF that is invisible, changes direction, or is unassigned
    \U000e0041        and above
    \\                a backslash, so that all of the above are unambiguous

JSON does not use this: there the exact text is kept (views/json.py).
"""

from __future__ import annotations

from typing import Literal
from unicodedata import category, east_asian_width

Where = Literal["end", "middle", "start"]

# More marks than this on one base are "zalgo", drawn over the neighbouring rows; Vietnamese and Hebrew need up to 3.
_MARKS = 3

# str.isprintable() is false for the categories Cc, Cf, Cs, Co, Cn, Zl, Zp and for all Zs but the space. For it, these
# are letters, marks and symbols; but they draw nothing, or (regional indicators, skin tones) as wide as each terminal
# pleases.
_UNSEEN_RANGES = (
    (0x034F, 0x034F),  # combining grapheme joiner
    (0x115F, 0x1160),  # Hangul fillers
    (0x17B4, 0x17B5),  # Khmer inherent vowels
    (0x180B, 0x180F),  # Mongolian variation selectors
    (0x2800, 0x2800),  # Braille blank
    (0x3164, 0x3164),  # Hangul filler
    (0xFE00, 0xFE0F),  # variation selectors
    (0xFFA0, 0xFFA0),  # half-width Hangul filler
    (0xFFFC, 0xFFFC),  # object replacement
    (0x16FE4, 0x16FE4),  # Khitan filler
    (0x1D159, 0x1D159),  # null note head
    (0x1F1E6, 0x1F1FF),  # regional indicators
    (0x1F3FB, 0x1F3FF),  # skin tones
    (0xE0100, 0xE01EF),  # variation selectors supplement
)
_UNSEEN = frozenset(chr(code) for first, last in _UNSEEN_RANGES for code in range(first, last + 1))

# Neutral in the tables of Python 3.11, wide since Unicode 16; terminals are found on both sides, we count the wider.
_WIDE_LATELY = frozenset(
    chr(code)
    for first, last in ((0x2630, 0x2637), (0x268A, 0x268F), (0x4DC0, 0x4DFF), (0x1D300, 0x1D356), (0x1D360, 0x1D376))
    for code in range(first, last + 1)
)

_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}


def escape(text: str | bytes, *, ascii: bool = False) -> str:
    """The text on one line with nothing in it that a terminal would obey or hide; see the head of this file.

    Bytes, and surrogates that stand for bytes (PEP 383), are taken as UTF-8. With `ascii`, for an output that can carry
    nothing else, every other character is escaped too.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if (
        text.isascii()
        and text.isprintable()
        and "\\" not in text
        and "  " not in text
        and (text[:1] != " " != text[-1:])
    ):
        return text
    out: list[str] = []
    marks = _MARKS  # a mark at the start has no base and would land on the neighbouring column
    last = len(text) - 1
    for at, char in enumerate(text):
        if char == " ":
            seen = 0 < at < last and text[at - 1] != " "
            out.append(" " if seen else "\\x20")
            marks = _MARKS
        elif char == "\\" or not char.isprintable() or char in _UNSEEN or (ascii and char > "\x7f"):
            out.append(_code(char))
            marks = _MARKS
        elif char > "\u02ff" and category(char)[0] == "M":
            marks += 1
            out.append(char if marks <= _MARKS else _code(char))
        else:
            out.append(char)
            marks = 0
    return "".join(out)


def escape_first(text: str) -> str:
    r"""An escaped text whose first character is a code as well: `=1` becomes `\x3d1` (see views/csv.py)."""
    return _code(text[0]) + text[1:]


def _code(char: str) -> str:
    short = _SHORT.get(char)
    if short is not None:
        return short
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible(text: str | bytes, *, ascii: bool = False) -> str:
    """Our own text as it is, with its spaces and backslashes; what a terminal would obey is escaped all the same."""
    if isinstance(text, str) and text.isprintable() and (text.isascii() or not (ascii or not _UNSEEN.isdisjoint(text))):
        return text
    return escape(text, ascii=ascii)


def width(text: str) -> int:
    """How many terminal cells the text takes: wide East Asian characters and emoji two, combining marks none.

    An upper bound where terminals disagree (spacing marks of Indic scripts and Hangul vowels count one, symbols that
    became wide in Unicode 16 count two), so that a line never runs over.
    """
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(char: str) -> int:
    if char < "\u0300":
        return 1
    if category(char) in ("Mn", "Me"):
        return 0
    return 2 if east_asian_width(char) in "WF" or char in _WIDE_LATELY else 1


def cut(text: str, cells: int, where: Where = "end", *, mark: str = "…") -> str:
    """The text in at most so many cells, with the mark (one cell) in place of what is missing at `where`."""
    if text.isascii():
        if len(text) <= cells:
            return text
    elif width(text) <= cells:
        return text
    if cells <= 1:
        return mark if cells == 1 else ""
    if where == "end":
        return _head(text, cells - 1) + mark
    if where == "start":
        return mark + _tail(text, cells - 1)
    tail = (cells - 1) // 2
    return _head(text, cells - 1 - tail) + mark + _tail(text, tail)


def cut_path(path: str, cells: int, *, mark: str = "…") -> str:
    """The path in at most so many cells: the file's name first, then its parents as they fit, then leading directories.

    `/usr/lib/python3/dist-packages/yaml/__init__.py` in 30 cells is `/usr/lib/…/yaml/__init__.py`; a name that is too
    long itself is cut in its middle and stands alone.
    """
    if width(path) <= cells:
        return path
    parts = path.split("/")
    left = cells - width(mark) - 1 - width(parts[-1])  # after "…/" and the name
    if not parts[-1]:
        return cut(path, cells, "start", mark=mark)
    if len(parts) < 2 or left < 0:
        name = parts[-1]
        if 0 < cells >= width(name):  # it would fit alone, but would look like the whole path
            return mark + _tail(name, cells - 1)
        return cut(name, cells, "middle", mark=mark)
    first, last = 0, len(parts) - 1
    while last > 1 and left > width(parts[last - 1]):
        last -= 1
        left -= width(parts[last]) + 1
    while first < last - 1 and left > width(parts[first]):
        left -= width(parts[first]) + 1
        first += 1
    # A lone leading slash says nothing: `/…/name` is left out in favour of `…/name`.
    head = parts[:first] if first > 1 or parts[0] else []
    return "/".join([*head, mark, *parts[last:]])


def last_name(path: str) -> str:
    """What is behind the last slash, without the marks that stood on the slash; "" if there is nothing."""
    return _based(path.rpartition("/")[2])


def wrapped(text: str, cells: int, *, indent: int) -> list[str]:
    """Lines of at most so many cells, broken between words, all but the first indented; a word too long stays whole.

    0 cells: one line, however long (a pipe, whose reader breaks lines as it pleases).
    """
    if not cells or width(text) <= cells:
        return [text]
    start = len(text) - len(text.lstrip(" "))
    lines = [text[:start]]
    fresh = True
    for word in text[start:].split(" "):
        if fresh or width(lines[-1]) + 1 + width(word) <= cells:
            lines[-1] += word if fresh else f" {word}"
        else:
            lines.append(" " * indent + word)
        fresh = False
    return lines


def _head(text: str, cells: int) -> str:
    if text.isascii():
        return text[:cells]
    for at, char in enumerate(text):
        cells -= _cells(char)
        if cells < 0:
            return text[:at]
    return text


def _tail(text: str, cells: int) -> str:
    if text.isascii():
        return text[len(text) - cells :]
    start = len(text)
    for at in range(len(text) - 1, -1, -1):
        cells -= _cells(text[at])
        if cells < 0:
            break
        start = at
    return _based(text[start:])


def _based(text: str) -> str:
    # Without marks whose base was cut off.
    start = 0
    while start < len(text) and category(text[start])[0] == "M":
        start += 1
    return text[start:]
