"""What tracers see, to a file and nothing else; records are compressed as they come, not decoded."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kubetrace.errors import OutputError
from kubetrace.views.output import Output
from kubetrace.views.progress import Progress
from kubetrace.views.units import format_bytes, format_count, format_elapsed

if TYPE_CHECKING:
    from kubetrace.kit.tracer import Tracer
    from kubetrace.recording.writer import Recorder
    from kubetrace.session.options import Attach, Keep, Last
    from kubetrace.stream.steps import Step

# Of a tracer's main ring. Half a million records of 512 bytes a second fill it in 65 ms: a busy node may well let a
# recorder wait for 20 of them, which is all that the ring of a table would hold.
_RING_BYTES = 16 << 20


def run(chosen: Sequence[Tracer], asked: Attach, keep: Keep, last: Last, by: str = "") -> int:
    """Record until the duration is over or the user ends it; how many events were lost. Raises KubetraceError.

    `by`: what counters tell apart.
    """
    from kubetrace.recording.private import STDOUT, refuse_parts, touch
    from kubetrace.recording.writer import Recorder
    from kubetrace.session.attach import Attachment, wait_for_overlay
    from kubetrace.session.loop import drain, moments
    from kubetrace.session.recorded import recorded
    from kubetrace.session.stop import Stop

    file = keep.file
    assert file is not None
    refuse_parts(file, rotated=keep.max_size is not None, force=keep.force)
    progress = Progress()
    with Stop() as stop, Attachment(chosen, asked, by=by) as attachment:
        if not wait_for_overlay(attachment, progress.say, lambda: stop.asked, last.duration_s):
            return 0
        attachment.attach(ring_bytes=_RING_BYTES)
        for tracer in attachment.tracers:
            for notice in attachment.notices(tracer):
                progress.say(f"{tracer.name}: {notice}")
        source = attachment.open(all_layers=True, labels=True)
        recorder = Recorder(file, attachment.header(), force=keep.force, max_size=keep.max_size)
        attribution = attachment.context.attribution

        def take(step: Step) -> None:
            # only to tell the kernel whose events are not wanted
            if asked.selection:
                attribution.learn(step.facts)
            recorder.write(step)

        with contextlib.closing(recorder):
            source.start()
            if last.ready_file is not None:
                touch(last.ready_file)
            for _ in moments(
                source, take, stop=lambda: stop.asked or bool(recorder.trouble), duration_s=last.duration_s
            ):
                progress.show(lambda: _progress(recorder))
            drain(source, take, last=True)
            progress.clear()
    if recorder.trouble:
        raise OutputError(
            f"the recording stopped: {recorder.trouble}.",
            why=f"What came before that is in {file}.",
            do=f"kubetrace replay {file} {chosen[0].name}, or record where there is room",
        )
    output = Output(sys.stdout if file != STDOUT else sys.stderr)
    output.write(f"{recorded(recorder)}\n")
    output.flush()
    return sum(sum(kinds.values()) for kinds in recorder.losses.values())


def _progress(recorder: Recorder) -> str:
    """Elapsed, events, bytes, lost."""
    lost = sum(sum(kinds.values()) for kinds in recorder.losses.values())
    rows = sum(recorder.rows.values())
    return (
        f"recording {format_elapsed(recorder.last.elapsed_ns / 1e9)}  {format_count(rows)} events"
        f"  {format_bytes(recorder.bytes)}  {lost} lost  (Ctrl-C ends it)"
    )
