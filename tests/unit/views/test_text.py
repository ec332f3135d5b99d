from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from kubetrace.views.text import cut, cut_path, escape, visible, width, wrapped

_CODE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))")
_PLAIN = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}

texts = st.one_of(st.text(), st.text(alphabet="a/\\ \x1b\n\u202e\u0301é日👍\udc80\udcff\u200d\ufe0f"))


def unescape(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        byte, short, long, plain = match.groups()
        if byte:
            code = int(byte, 16)
            return chr(code if code < 0x80 else 0xDC00 + code)
        return chr(int(short or long, 16)) if short or long else _PLAIN[plain]

    return _CODE.sub(one, text)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"/etc/nginx/nginx.conf", "/etc/nginx/nginx.conf"),
        ("Grüße-日本語.txt", "Grüße-日本語.txt"),
        (b"two\nlines\tand\rmore", r"two\nlines\tand\rmore"),
        (b"\x1b[2J\x07\x7f", r"\x1b[2J\x07\x7f"),
        ("\x85\x9b31m", r"\u0085\u009b31m"),
        (b"latin-\xe9.txt", r"latin-\xe9.txt"),
        ("from-os-\udce9", r"from-os-\xe9"),
        ("half \ud83d", r"half \ud83d"),
        ("photo\u202egpj.exe", r"photo\u202egpj.exe"),
        ("\u2066x\u2069\u061c\u200e\u200f", r"\u2066x\u2069\u061c\u200e\u200f"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\ue000\u0378\U000e0041", r"\ue000\u0378\U000e0041"),
        ("a\u00a0b\u3000c", r"a\u00a0b\u3000c"),
        ("x\ufe0f\u2800\u3164", r"x\ufe0f\u2800\u3164"),
        (r"C:\new", r"C:\\new"),
        (" lead", r"\x20lead"),
        ("trail ", r"trail\x20"),
        ("forged   column", r"forged \x20\x20column"),
        ("one space", "one space"),
        ("e\u0301te\u0301", "e\u0301te\u0301"),
        ("\u0301lone", r"\u0301lone"),
        ("z" + "\u0301" * 5, "z" + "\u0301" * 3 + r"\u0301\u0301"),
        ("", ""),
    ],
)
def test_a_name_is_shown_so_that_nothing_in_it_is_hidden_or_obeyed(name: str | bytes, shown: str) -> None:
    assert escape(name) == shown


def test_an_ascii_output_gets_nothing_else() -> None:
    assert escape("Grüße-👍", ascii=True) == r"Gr\u00fc\u00dfe-\U0001f44d"


@given(texts, st.booleans())
def test_every_escaped_text_can_be_taken_back(text: str, ascii: bool) -> None:
    assert unescape(escape(text, ascii=ascii)) == text


@given(st.binary())
def test_every_escaped_byte_string_can_be_taken_back(name: bytes) -> None:
    assert unescape(escape(name)).encode("utf-8", "surrogateescape") == name


@given(texts)
def test_escaped_text_has_nothing_unprintable(text: str) -> None:
    shown = escape(text)
    assert shown.isprintable()
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for char in shown)
    assert escape(text, ascii=True).isascii()


@given(texts)
def test_our_own_text_keeps_its_backslashes_but_not_its_controls(text: str) -> None:
    assert visible(text).isprintable()
    assert visible(r"a\b  c") == r"a\b  c"


def test_width_is_the_same_as_rich_says_or_more_where_terminals_disagree() -> None:
    pytest.importorskip("rich._unicode_data", reason="rich before 14.3 has the tables of an old Unicode")
    disagreed = set()
    for code in range(0x20, 0x30000):
        char = chr(code)
        if escape(f"a{char}a") != f"a{char}a":
            continue
        ours, theirs = width(char), cell_len(char)
        assert ours >= theirs, hex(code)
        if ours > theirs:
            disagreed.add(unicodedata.category(char))
    # Spacing marks, and vowels and final consonants of Hangul, which a terminal may or may not put on their base.
    assert disagreed <= {"Mc", "Lo"}


@pytest.mark.parametrize(
    ("text", "cells", "end", "middle", "start"),
    [
        ("checkout-7d9f-x2x9k", 19, "checkout-7d9f-x2x9k", "checkout-7d9f-x2x9k", "checkout-7d9f-x2x9k"),
        ("checkout-7d9f-x2x9k", 11, "checkout-7…", "check…x2x9k", "…7d9f-x2x9k"),
        ("日本語データ", 6, "日本…", "日…タ", "…ータ"),
        ("日本語データ", 7, "日本語…", "日…タ", "…データ"),
        ("abc", 1, "…", "…", "…"),
        ("abc", 0, "", "", ""),
    ],
)
def test_cut_marks_where_something_is_missing(text: str, cells: int, end: str, middle: str, start: str) -> None:
    assert cut(text, cells) == end
    assert cut(text, cells, "start") == start
    shown = cut(text, cells, "middle")
    assert width(shown) <= cells
    assert shown == middle


def test_a_mark_never_stands_on_the_cut() -> None:
    assert cut("abcde\u0301f", 2, "start") == "…f"
    assert cut("abcd\U0001f44d\u0301f", 3, "start") == "…f"


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        (47, "/usr/lib/python3/dist-packages/yaml/__init__.py"),
        (46, "…/lib/python3/dist-packages/yaml/__init__.py"),
        (43, "…/python3/dist-packages/yaml/__init__.py"),
        (39, "/usr/…/dist-packages/yaml/__init__.py"),
        (35, "…/dist-packages/yaml/__init__.py"),
        (30, "/usr/lib/…/yaml/__init__.py"),
        (20, "…/yaml/__init__.py"),
        (13, "…/__init__.py"),
        (12, "…__init__.py"),
        (11, "…_init__.py"),
        (9, "__in…_.py"),
        (1, "…"),
        (0, ""),
    ],
)
def test_a_cut_path_keeps_the_name_of_the_file(cells: int, shown: str) -> None:
    assert cut_path("/usr/lib/python3/dist-packages/yaml/__init__.py", cells) == shown


@given(texts, st.integers(0, 40))
def test_what_is_cut_fits(text: str, cells: int) -> None:
    shown = escape(text)
    for found in (cut(shown, cells), cut(shown, cells, "middle"), cut(shown, cells, "start"), cut_path(shown, cells)):
        assert width(found) <= cells
        assert found == shown or "…" in found or cells == 0


def test_lines_are_broken_between_words() -> None:
    text = "  shop/web/app: 64 MiB copied by 数据库 to append to /app/a"
    assert wrapped(text, 0, indent=4) == wrapped(text, 80, indent=4) == [text]
    assert wrapped(text, 26, indent=4) == [
        "  shop/web/app: 64 MiB",
        "    copied by 数据库 to",
        "    append to /app/a",
    ]
    assert wrapped(text, 25, indent=4)[1] == "    copied by 数据库 to"
    assert wrapped(text, 22, indent=4)[1] == "    copied by 数据库"
    assert wrapped("  " + "x" * 50 + " y", 20, indent=4) == ["  " + "x" * 50, "    y"]
