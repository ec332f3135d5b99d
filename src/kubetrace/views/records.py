"""Objects as the user wants them: -o json, yaml or jsonpath=TEMPLATE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TextIO

from kubetrace.errors import UsageError

JSONPATH = "jsonpath="


class Objects(Protocol):
    """Writes objects; raises OutputClosed when the reader is gone, else OutputError."""

    def write(self, record: Mapping[str, object]) -> None:
        """One object."""

    def flush(self) -> None:
        """A batch is over."""


def are_objects(output: str) -> bool:
    """Whether this output is one of objects."""
    return output in ("json", "yaml") or output.startswith(JSONPATH)


def open_objects(stream: TextIO, output: str) -> Objects:
    """What writes them to a stream. Raises UsageError for a template that is none."""
    if output == "json":
        from kubetrace.views.json import JsonLines

        return JsonLines(stream)
    if output == "yaml":
        from kubetrace.views.yaml import YamlDocuments

        return YamlDocuments(stream)
    if output.startswith(JSONPATH):
        from kubetrace.views.jsonpath import TemplateLines

        return TemplateLines(stream, output.removeprefix(JSONPATH))
    raise UsageError(f"{output!r} is not an output of objects.", do="-o json")
