"""One run of one tracer: from its options, through the pipeline, to the view that suits the output."""

from __future__ import annotations

import contextlib
import gc
import sys
from typing import TYPE_CHECKING

from kubetrace.kit.context import Wall
from kubetrace.session.attach import (
    adapted,
    attach,
    attach_now,
    constants_of,
    gauges_of,
    hookable,
    node_files,
    prepare,
    touch,
    wiring_of,
)
from kubetrace.session.cost import Overhead
from kubetrace.session.loop import loop
from kubetrace.session.open_view import open_view
from kubetrace.session.recorded import header_of, recorded
from kubetrace.session.stop import Stop
from kubetrace.session.table_view import TableView

if TYPE_CHECKING:
    from kubetrace.kit.tracer import Tracer
    from kubetrace.session.options import Options


def run(tracer: Tracer, options: Options) -> None:
    """Trace until the duration is over or the user ends it. Raises KubetraceError."""
    gc.disable()
    from kubetrace.node.host import Host

    # What was asked wrongly is said before anything is attached.
    constants = constants_of(tracer, options)
    tracer = adapted(tracer, options)
    host = Host.find(options.host_root)
    wiring = wiring_of(tracer, options, host)
    constants |= wiring.pop("constants")
    clock = Wall(host.node_name(), host.boot_to_wall_ns())
    recorder: Recorder | None = None
    if options.record is not None:
        from kubetrace.recording.writer import Recorder, refuse_existing

        refuse_existing(options.record, force=options.force)
    with Stop() as stop:
        view = open_view(tracer, options, clock, host.kernel_release())
        with contextlib.ExitStack() as stack:
            # What refuses to attach says so on the normal screen; only who has to wait takes the screen first.
            kernel = None
            if not tracer.needs_overlay or hookable(tracer.name):
                kernel = attach_now(tracer, options, constants, wiring, view.modules)
                stack.callback(kernel.close)
            screen = stack.enter_context(view.open()) if isinstance(view, TableView) else None
            if kernel is None:
                kernel = attach(tracer, options, constants, stop, screen, wiring)
                if kernel is None:
                    return
                stack.callback(kernel.close)
            if options.overhead:
                kernel.time_runs()
                view.overhead = Overhead(kernel.runs)
            files = node_files(host, options)
            stack.callback(files.close)
            from kubetrace.pipeline import Pipeline
            from kubetrace.stream.live import LiveSource

            # before anything is written: our own container is left out from here on
            prepare(tracer, kernel, files)
            gauges = gauges_of([tracer], host)
            source = LiveSource({tracer.name: kernel}, files, gauges, interval_s=options.interval_s)
            if options.record is not None:
                header = header_of(host, clock, {tracer.name: (tracer, kernel)}, options, gauges)
                recorder = Recorder(options.record, header, force=options.force, max_size=options.max_size)
                stack.callback(recorder.close)
            pipeline = Pipeline(
                tracer,
                source.layouts,
                clock,
                options.selection,
                groupings=view.groupings,
                events=view.events,
                asked=source,
                record=recorder.write if recorder is not None else None,
                by=options.by,
                own=options.own,
                missing=tuple(kernel.missing.values()),
            )
            source.start()
            if options.ready_file is not None:
                touch(options.ready_file)
            view.attached(kernel.hook, [what for what in dict.fromkeys(kernel.missing.values()) if what])
            tick = loop(source, pipeline, view, options, stop, recorder)
            if view.overhead is not None:
                view.overhead.look(tick, last=True)
        view.end(pipeline, tick)
        if recorder is not None:
            print(recorded(recorder), file=sys.stderr)
