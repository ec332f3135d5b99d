"""YAML: one document for each object, for who reads it; texts that YAML would take for something else are quoted.

A quoted text is as in views/json.py (a lone low surrogate is a byte that is not UTF-8); beyond the basic plane YAML
wants `\\UXXXXXXXX` where JSON has a pair of surrogates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

from kubetrace.views.output import Output

# What is a text to every version of YAML: no number, no date, none of the words, nothing that begins or ends a mark.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@+-]*(?::[A-Za-z0-9_./@+-]+)*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_PAIR = re.compile(r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})")


class YamlDocuments:
    """Writes records; call `flush` once per batch. Raises OutputClosed when the reader is gone, else OutputError."""

    def __init__(self, stream: TextIO) -> None:
        """Write to a stream; nothing is written before the first record."""
        self._out = Output(stream)

    def write(self, record: Mapping[str, object]) -> None:
        """One object, one document."""
        self._out.write("---\n" + "".join(f"{line}\n" for line in lines(record)))

    def flush(self) -> None:
        """Hand the batch over."""
        self._out.flush()


def lines(value: object) -> Iterator[str]:
    """An object, a list or a scalar as lines of YAML."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _entry(f"{_scalar(str(key))}:", item)
    elif isinstance(value, Sequence) and value and not isinstance(value, str | bytes):
        for item in value:
            first = True
            for line in lines(item):
                yield f"- {line}" if first else f"  {line}"
                first = False
    else:
        yield _scalar(value)


def _entry(lead: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple) and value:
        yield lead
        for line in lines(value):
            yield f"  {line}"
    else:
        yield f"{lead} {_scalar(value)}"


def _scalar(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
            return value
        # DEL is ASCII, but no character that YAML prints
        return _PAIR.sub(_beyond, json.dumps(value)).replace("\x7f", "\\x7f")
    if isinstance(value, Mapping):
        return "{}"
    return json.dumps(value) if not isinstance(value, list | tuple) else "[]"


def _beyond(pair: re.Match[str]) -> str:
    high, low = int(pair[1], 16), int(pair[2], 16)
    return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"
