"""A recording beside what is shown: begun, watched, and what is said of it at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubetrace.recording.private import STDOUT
from kubetrace.views.text import escape
from kubetrace.views.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubetrace.recording.writer import Recorder
    from kubetrace.session.attach import Attachment
    from kubetrace.session.options import Keep
    from kubetrace.session.view import View


def recorder_of(attachment: Attachment, keep: Keep) -> Recorder | None:
    """What writes the file that was asked for; None if none was. Raises OutputError."""
    if keep.file is None:
        return None
    from kubetrace.recording.writer import Recorder

    return Recorder(keep.file, attachment.header(), force=keep.force, max_size=keep.max_size)


def warning(view: View, recorder: Recorder | None) -> Callable[[], None]:
    """To be called again and again: says once that the recording stopped."""
    warned = False

    def warn() -> None:
        nonlocal warned
        if recorder is not None and recorder.trouble and not warned:
            warned = True
            view.warn(f"the recording stopped: {recorder.trouble}; tracing goes on")

    return warn


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
