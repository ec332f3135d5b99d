"""YAML: one document for each object, for who reads it; by PyYAML, which quotes what YAML would take for else.

All is ASCII: other characters are escaped, and a byte that is not UTF-8 is a lone low surrogate as in views/json.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

import yaml

from kubetrace.views.output import Output


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML says nothing of its types
    """Tuples are lists, bytes are texts, and no object is written as an alias of an equal one before."""

    def ignore_aliases(self, data: object) -> bool:
        """Always."""
        return True


_Dumper.add_representer(bytes, lambda dumper, raw: dumper.represent_str(raw.decode("utf-8", "surrogateescape")))
_Dumper.add_representer(tuple, lambda dumper, items: dumper.represent_list(items))
_Dumper.add_multi_representer(Mapping, lambda dumper, items: dumper.represent_dict(items))


class YamlDocuments:
    """Writes records; call `flush` once per batch. Raises OutputClosed when the reader is gone, else OutputError."""

    def __init__(self, stream: TextIO) -> None:
        """Write to a stream; nothing is written before the first record."""
        self._out = Output(stream)

    def write(self, record: Mapping[str, object]) -> None:
        """One object, one document."""
        self._out.write(yaml.dump(record, Dumper=_Dumper, explicit_start=True, sort_keys=False, width=float("inf")))

    def flush(self) -> None:
        """Hand the batch over."""
        self._out.flush()
