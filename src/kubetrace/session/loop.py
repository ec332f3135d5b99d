"""The one loop of a live run: drain, count, show."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubetrace.pipeline import Pipeline
    from kubetrace.recording.writer import Recorder
    from kubetrace.session.options import Options
    from kubetrace.session.stop import Stop
    from kubetrace.session.view import View
    from kubetrace.stream.live import LiveSource
    from kubetrace.stream.steps import Tick

_FIRST_DRAIN_S = 0.005


class Pace:
    """At which ticks a view is shown: the first, the first with an event, then once an interval."""

    def __init__(self, interval_s: float) -> None:
        """`interval_s`: seconds between two windows."""
        self._interval_ns = int(interval_s * 1e9)
        self._next_ns = 0
        self._empty = True

    def due(self, tick: Tick, events: int) -> bool:
        """Whether to show this one; `events` is their number so far."""
        if self._empty and events:
            self._empty = False
            self._next_ns = tick.elapsed_ns
        if tick.elapsed_ns < self._next_ns:
            return False
        self._next_ns = max(self._next_ns, tick.elapsed_ns - self._interval_ns) + self._interval_ns
        return True


def loop(
    source: LiveSource,
    pipeline: Pipeline,
    view: View,
    options: Options,
    stop: Stop,
    recorder: Recorder | None,
) -> Tick:
    """Until the end; the last tick."""
    from kubetrace.stream.live import DRAIN_INTERVAL_S

    begun = time.monotonic()
    end = begun + options.duration_s if options.duration_s is not None else None
    # The first rows come as soon as there are any; then the pace slows down to what costs little.
    pause_s = _FIRST_DRAIN_S
    next_drain = begun
    pace = Pace(options.interval_s)
    warned = False
    tick = drain(source, pipeline)
    if pace.due(tick, pipeline.counts.events):
        view.show(pipeline, tick)
    # All that was made on the way here stays: it need not be looked at again.
    gc.freeze()
    gc.enable()
    keyboard = view.keyboard()
    if keyboard is not None:
        source.watch(keyboard)
    while not stop.asked:
        now = time.monotonic()
        if end is not None and now >= end:
            break
        ready = source.wait(min(next_drain, end if end is not None else next_drain) - now)
        now = time.monotonic()
        if keyboard is not None and keyboard in ready:
            if not view.typed(pipeline, tick):
                break
            if view.keyboard() is None:  # the terminal hung up
                source.unwatch(keyboard)
                keyboard = None
        if now >= next_drain or source.half_full:
            tick = drain(source, pipeline)
            pause_s = min(DRAIN_INTERVAL_S, 1.5 * pause_s)
            next_drain = now + min(pause_s, source.pause_s)
            if recorder is not None and recorder.trouble and not warned:
                warned = True
                view.warn(f"the recording stopped: {recorder.trouble}; tracing goes on")
            if pace.due(tick, pipeline.counts.events):
                view.show(pipeline, tick)
    tick = drain(source, pipeline, last=True)
    view.last(pipeline, tick)
    return tick


def drain(source: LiveSource, pipeline: Pipeline, *, last: bool = False) -> Tick:
    """Count all that is there; the tick at its end. `last`: counters too, however lately they were read."""
    steps = source.drain(last=last)
    for step in steps:
        pipeline.take(step)
    tick = steps[-1].tick
    assert tick is not None
    return tick
