"""JSON objects as rows of a table: one column for each key, whichever objects have it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def flattened(record: Mapping[str, Any]) -> dict[str, Any]:
    """Without objects inside: {"memory_events": {"oom": 1}} becomes {"memory_events_oom": 1}."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat.update((f"{key}_{name}", item) for name, item in flattened(value).items())
        else:
            flat[key] = value
    return flat


def schema_of(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Key -> time, bool, uint, int, float or text, for all records; a key that is always None is text."""
    kinds: dict[str, str] = {}
    for record in records:
        for key, value in record.items():
            if value is None:
                kinds.setdefault(key, "")
            else:
                kinds[key] = _join(kinds.get(key, ""), _kind(key, value))
    return {key: kind or "text" for key, kind in kinds.items()}


def _kind(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "time" if key == "time" else "int" if value < 0 else "uint"
    return "float" if isinstance(value, float) else "text"


def _join(known: str, new: str) -> str:
    if known in ("", new):
        return new
    return "int" if {known, new} == {"int", "uint"} else "text"
