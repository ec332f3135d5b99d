"""The header of a recording: on which node, by which tracers, with which layouts; JSON and back, distrustfully."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubetrace import __version__
from kubetrace.errors import RecordingError
from kubetrace.stream.layout import Layout
from kubetrace.stream.steps import stream_key

VERSION = 2
_FORMAT = "kubetrace recording"
# More than any tracer has; they bound what decoding one step takes.
_MOST_TRACERS, _MOST_STREAMS, _MOST_FIELDS, _MOST_RECORD_BYTES, _MOST_TEXT = 64, 256, 128, 8192, 4096


@dataclass(frozen=True)
class Stream:
    """One stream of a tracer; `number` is what its frames carry."""

    number: int
    name: str
    layout: Layout


@dataclass(frozen=True)
class Traced:
    """One tracer of a recording, and how it ran.

    `selection`: namespaces, pods, containers -> what -n, -p and -c said. `options`: the tracer's own.
    """

    name: str
    hook: str = ""
    missing: Sequence[str] = ()
    selection: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    streams: Sequence[Stream] = ()


@dataclass(frozen=True)
class Header:
    """What a recording says of itself. Texts are the node's: untrusted."""

    node: str
    kernel: str
    clock_offset_ns: int
    tracers: Sequence[Traced]
    kubetrace: str = __version__
    part: int = 1
    version: int = VERSION

    @property
    def layouts(self) -> dict[str, Layout]:
        """By steps.stream_key."""
        return {stream_key(t.name, stream.name): stream.layout for t in self.tracers for stream in t.streams}

    @property
    def numbers(self) -> dict[int, str]:
        """Stream number -> steps.stream_key, in the header's order."""
        return {stream.number: stream_key(t.name, stream.name) for t in self.tracers for stream in t.streams}

    def tracer(self, name: str) -> Traced | None:
        """The tracer of that name."""
        return next((tracer for tracer in self.tracers if tracer.name == name), None)

    def to_json(self) -> bytes:
        """For the frame."""
        return json.dumps(
            {
                "format": _FORMAT,
                "version": self.version,
                "kubetrace": self.kubetrace,
                "node": self.node,
                "kernel": self.kernel,
                "clock_offset_ns": self.clock_offset_ns,
                "part": self.part,
                "tracers": [
                    {
                        "name": t.name,
                        "hook": t.hook,
                        "missing": list(t.missing),
                        "selection": dict(t.selection),
                        "options": dict(t.options),
                        "streams": [
                            {"number": s.number, "name": s.name, "layout": s.layout.to_json()} for s in t.streams
                        ],
                    }
                    for t in self.tracers
                ],
            },
            separators=(",", ":"),
        ).encode("ascii")

    @classmethod
    def from_json(cls, payload: bytes) -> Header | None:
        """The inverse; None for what is not a header. Raises RecordingError for that of a newer version."""
        data = parse(payload)
        if data is None or data.get("format") != _FORMAT or type(data.get("version")) is not int:
            return None
        if data["version"] > VERSION:
            by = data.get("kubetrace")
            raise newer(data["version"], by if isinstance(by, str) else "")
        try:
            header = cls(
                node=_text(data["node"]),
                kernel=_text(data["kernel"]),
                clock_offset_ns=_number(data["clock_offset_ns"]),
                tracers=tuple(_traced(item) for item in _list(data["tracers"], _MOST_TRACERS)),
                kubetrace=_text(data["kubetrace"]),
                part=_number(data.get("part", 1)),
                version=data["version"],
            )
        except (KeyError, ValueError):
            return None
        numbers = [stream.number for t in header.tracers for stream in t.streams]
        names = [t.name for t in header.tracers]
        if len(set(numbers)) != len(numbers) or len(set(names)) != len(names) or len(numbers) > _MOST_STREAMS:
            return None
        return header if len(header.layouts) == len(numbers) else None


def newer(version: object, by: str = "") -> RecordingError:
    """The refusal of a recording that a later kubetrace made."""
    made = f"kubetrace {by[:40]}" if by else "a newer kubetrace"
    return RecordingError(
        f"the recording has format version {version}; this is kubetrace {__version__}, which reads up to {VERSION}.",
        why=f"It was made by {made}.",
        do="update kubetrace, then replay it again",
    )


def parse(payload: bytes) -> dict[str, Any] | None:
    """A JSON object; None for anything else, however it is nested."""
    try:
        data = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _traced(data: Any) -> Traced:
    if not isinstance(data, dict):
        raise ValueError("no tracer")
    return Traced(
        name=_text(data["name"]),
        hook=_text(data.get("hook", "")),
        missing=tuple(_text(item) for item in _list(data.get("missing", []), 64)),
        selection=_texts(data.get("selection", {})),
        options=_texts(data.get("options", {})),
        streams=tuple(_stream(item) for item in _list(data["streams"], _MOST_STREAMS)),
    )


def _stream(data: Any) -> Stream:
    if not isinstance(data, dict) or not isinstance(data["layout"], dict):
        raise ValueError("no stream")
    number = _number(data["number"])
    layout = Layout.from_json(data["layout"])
    if not 0 <= number < 1 << 16 or layout.size > _MOST_RECORD_BYTES or len(layout.fields) > _MOST_FIELDS:
        raise ValueError("no stream")
    if not all(item.size for item in layout.fields):
        raise ValueError("a member without bytes")
    _ = layout.event_type  # refuses names that are none
    return Stream(number, _text(data["name"]), layout)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise ValueError("no text")
    return value


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > 64:
        raise ValueError("no texts")
    return {_text(key): _text(item) for key, item in value.items()}


def _number(value: Any) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise ValueError("no number")
    return value


def _list(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError("no list")
    return value
