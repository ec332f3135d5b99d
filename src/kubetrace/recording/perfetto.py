"""A Perfetto trace of events: JSON in the trace event format, which ui.perfetto.dev and chrome://tracing open.

One track group (a "process") for each pod; in it one track for each thread, or, of events that tell no thread, one for
each container, and of slices there for each kind of event and process, or for what a record calls its track. One slice
for each event that has a duration (or tells a lifetime), an instant for those that have none. Times are microseconds
since boot, with three decimals: nanoseconds. The format: "Trace Event Format" (Google, 2013 on), https://perfetto.dev/docs/getting-started/other-formats.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TextIO

_HIDDEN = frozenset({"type", "time", "duration_ns"})
# Above every thread's id (PID_MAX_LIMIT is 1 << 22).
_FIRST_TRACK = 1 << 23


class PerfettoTrace:
    """Writes one trace; `close` ends the JSON."""

    def __init__(self, stream: TextIO, about: Mapping[str, Any]) -> None:
        """`about` becomes the trace's metadata."""
        self._stream = stream
        self._about = dict(about)
        self._pods: dict[tuple[Any, Any], int] = {}
        self._tracks: dict[tuple[Any, ...], int] = {}
        self._named: set[tuple[int, int]] = set()
        self._first = True
        stream.write('{"displayTimeUnit":"ns","traceEvents":[\n')

    def event(self, record: Mapping[str, Any], end_ns: int) -> None:
        """One event that ended at `end_ns` of CLOCK_BOOTTIME; `record` is its JSON object."""
        group = self._pod(record)
        duration = record.get("duration_ns")
        if duration is None:
            duration = record.get("lifetime_ns")
        track = self._track(group, record, is_slice=isinstance(duration, int))
        about = {"name": _name(record), "cat": str(record["type"]), "pid": group, "tid": track}
        arguments = {key: _plain(value) for key, value in record.items() if key not in _HIDDEN and value is not None}
        if isinstance(duration, int):
            self._write({"ph": "X", **about, "args": arguments}, ts=end_ns - duration, dur=duration)
        else:
            self._write({"ph": "i", "s": "t", **about, "args": arguments}, ts=end_ns)

    def _track(self, group: int, record: Mapping[str, Any], *, is_slice: bool) -> int:
        # Slices of one track nest or follow one another: what may overlap has tracks of its own.
        name = _text(record.get("container")) or "-"
        if record.get("tid"):
            track = int(record["tid"])
            name += f": {_text(record.get('comm')) or '-'}"
        else:
            key: tuple[Any, ...] = (group, record.get("container_id"))
            if is_slice:
                process = None if "phase" in record else record.get("pid")
                what = _text(record.get("track") or record.get("event") or record["type"])
                key += (what, process)
                name += f": {what}" + (f" of {_text(record.get('comm')) or '-'}" if process else "")
            track = self._tracks.setdefault(key, _FIRST_TRACK + len(self._tracks))
        if (group, track) not in self._named:
            self._named.add((group, track))
            self._write({"ph": "M", "name": "thread_name", "pid": group, "tid": track, "args": {"name": name}})
        return track

    def _pod(self, record: Mapping[str, Any]) -> int:
        key = (record.get("namespace"), record.get("pod"))
        group = self._pods.get(key)
        if group is None:
            group = self._pods[key] = len(self._pods) + 1
            if key[1] is not None:
                name = f"{_text(key[0]) or '-'}/{_text(key[1])}"
            else:
                name = "processes of the node" if record.get("host") else "not attributed"
            self._write({"ph": "M", "name": "process_name", "pid": group, "tid": 0, "args": {"name": name}})
        return group

    def _write(self, item: Mapping[str, Any], **times_ns: int) -> None:
        # Written as text: a float would round nanoseconds away after 104 days of uptime.
        times = "".join(f',"{key}":{_micro(value)}' for key, value in times_ns.items())
        text = json.dumps(item, ensure_ascii=True, separators=(",", ":"))
        self._stream.write(("" if self._first else ",\n") + text[:-1] + times + "}")
        self._first = False

    def close(self, lost: int) -> None:
        """The end of the JSON; `lost` events are in no track."""
        self._about["lost"] = lost
        self._stream.write('\n],"otherData":' + json.dumps(self._about, separators=(",", ":")) + "}\n")


def _name(record: Mapping[str, Any]) -> str:
    path = _text(record.get("path"))
    what = record.get("event") or record.get("phase")
    if what is not None:
        return f"{_text(what)} {path}" if path else _text(what)
    return path or _text(record.get("operation") or record["type"])


def _micro(ns: int) -> str:
    return f"{'-' if ns < 0 else ''}{abs(ns) // 1000}.{abs(ns) % 1000:03}"


def _text(value: Any) -> str:
    # The trace processor takes UTF-8 only: bytes that are none are shown, as in tables, by their number.
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    return (
        value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else "" if value is None else str(value)
    )


def _plain(value: Any) -> Any:
    return _text(value) if isinstance(value, (str, bytes)) else value
