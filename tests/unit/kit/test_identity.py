"""Cells of a row: names and paths of an event as a table shows them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from kubetrace.kit.identity import path_of


@pytest.mark.parametrize(
    ("names", "end", "path"),
    [
        (b"c\0b\0a\0", 0, (b"/a/b/c", False)),
        (b"a\0", 0, (b"/a", False)),
        (b"", 0, (b"/", False)),
        (b"c\0b\0", 1, (b"b/c", True)),
        (b"", 1, (b"", True)),
        # only a recording that was changed: a name without its NUL is none, an empty one stays
        (b"c\0b\0rest", 0, (b"/b/c", False)),
        (b"rest", 0, (b"/", False)),
        (b"c\0\0a\0", 0, (b"/a//c", False)),
        (b"\0", 0, (b"/", False)),
    ],
)
def test_a_path_is_made_of_names_from_the_leaf_up(names: bytes, end: int, path: tuple[bytes, bool]) -> None:
    event = SimpleNamespace(path=names + b"behind it", path_bytes=len(names), path_end=end)
    assert path_of(event) == path
