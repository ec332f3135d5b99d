"""JSON Lines: one object per line, for jq and for programs.

Numbers are whole and raw (bytes, nanoseconds). A text that is not UTF-8 is not escaped as in tables: a byte that has no
character is a lone low surrogate (`"a\\udcff"`), so that the exact bytes come back with Python's
`text.encode("utf-8", "surrogateescape")`. Everything else beyond ASCII is `\\uXXXX` too, which keeps terminals and old
parsers safe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TextIO

from kubetrace.views.output import Output


def _text(value: object) -> str:
    # Called by the encoder for what JSON has no form for.
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    raise TypeError(f"no JSON form for {type(value).__name__}")


class JsonLines:
    """Writes records; call `flush` once per batch. Raises OutputClosed when the reader is gone, else OutputError."""

    def __init__(self, stream: TextIO) -> None:
        """Write to a stream; nothing is written before the first record."""
        self._out = Output(stream)
        self._encode = json.JSONEncoder(
            ensure_ascii=True, allow_nan=False, separators=(",", ":"), check_circular=False, default=_text
        ).encode

    def write(self, record: Mapping[str, object]) -> None:
        """One object, one line. Values: str, bytes, int, finite float, bool, None, and lists and dicts of them."""
        self._out.write(self._encode(record) + "\n")

    def flush(self) -> None:
        """Hand the batch over."""
        self._out.flush()
