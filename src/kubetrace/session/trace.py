"""One run of one tracer: attached, through the pipeline, to the view that suits the output."""

from __future__ import annotations

import contextlib
import gc
import sys
from typing import TYPE_CHECKING

from kubetrace.recording.private import refuse_parts, touch
from kubetrace.session.attach import Attachment, wait_for_overlay
from kubetrace.session.cost import Overhead
from kubetrace.session.loop import shown
from kubetrace.session.open_view import open_view
from kubetrace.session.recorded import recorded, recorder_of, warning
from kubetrace.session.stop import Stop
from kubetrace.tables.kinds import MODULES
from kubetrace.views.output import Reader

if TYPE_CHECKING:
    from kubetrace.kit.tracer import Tracer
    from kubetrace.session.options import Attach, Keep, Last, Show


def run(tracer: Tracer, asked: Attach, show: Show, keep: Keep, last: Last) -> int:
    """Trace until the duration is over or the user ends it; how many events were lost. Raises KubetraceError."""
    gc.disable()
    attachment = Attachment([tracer], asked, by=show.by, events=show.events)
    (tracer,) = attachment.tracers
    if keep.file is not None:
        refuse_parts(keep.file, rotated=keep.max_size is not None, force=keep.force)
    reader = Reader(sys.stdout)
    with Stop() as stop:
        view = open_view(tracer, asked, show, attachment.context, attachment.host.kernel_release())
        with attachment:
            # What refuses to attach says so on the normal screen; only who has to wait takes the screen first.
            waits = attachment.waits
            if not waits:
                attachment.attach([*view.modules, *MODULES[tracer.table]])
            with contextlib.ExitStack() as stack:
                stack.enter_context(view.open())
                if waits:
                    if not wait_for_overlay(
                        attachment, view.waiting, lambda: stop.asked or reader.gone, last.duration_s
                    ):
                        reader.check()
                        return 0
                    attachment.attach()
                kernel = attachment.kernels[tracer.name]
                if show.overhead:
                    kernel.time_runs()
                    view.overhead = Overhead(kernel.runs)
                from kubetrace.pipeline import Pipeline

                source = attachment.open(interval_s=show.interval_s)
                recorder = recorder_of(attachment, keep)
                if recorder is not None:
                    stack.callback(recorder.close)
                pipeline = Pipeline(
                    tracer,
                    source.layouts,
                    attachment.context,
                    groupings=view.groupings,
                    events=view.events,
                    asked=source,
                    record=recorder.write if recorder is not None else None,
                    by=show.by,
                    own=asked.own,
                    missing=attachment.missing(tracer),
                    recent=view.recent,
                )
                source.start()
                if last.ready_file is not None:
                    touch(last.ready_file)
                view.attached(kernel.hook, attachment.notices(tracer))
                tick = shown(
                    source, pipeline.take, pipeline, view, show, last, stop, reader, each=warning(view, recorder)
                )
                if view.overhead is not None:
                    view.overhead.look(tick, last=True)
        view.end(pipeline, tick)
        if recorder is not None:
            print(recorded(recorder), file=sys.stderr)
    return pipeline.counts.lost
