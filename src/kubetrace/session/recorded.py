"""What is said of a recording at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubetrace.recording.private import STDOUT
from kubetrace.views.text import escape
from kubetrace.views.units import format_duration

if TYPE_CHECKING:
    from kubetrace.recording.writer import Recorder


def recorded(recorder: Recorder) -> str:
    """How a recording went, and the next command."""
    rows, path = sum(recorder.rows.values()), escape(str(recorder.path))
    # of several tracers one has to be named
    first, *others = recorder.rows
    shown = f"kubetrace replay {path}" + (f" {first} (or {', '.join(others)})" if others else "")
    lost = sum(sum(kinds.values()) for kinds in recorder.losses.values())
    if recorder.trouble:
        return (
            f"kubetrace: the recording stopped early: {recorder.trouble}. "
            f"{recorder.dropped} events are not in {path}.\n"
            f"What is there can be read: {shown}"
        )
    to_stdout = recorder.path == STDOUT
    return (
        f"Recorded {rows - recorder.dropped} event{'s' * (rows != 1)} in {format_duration(recorder.last.elapsed_ns)}"
        f" to {'stdout' if to_stdout else path}{f' ({lost} lost)' if lost else ''}."
        + ("" if to_stdout else f" View it: {shown}")
    )
