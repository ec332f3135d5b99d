"""The one loop of a live run: wait, drain, hand on."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubetrace.session.options import Last, Show
    from kubetrace.session.stop import Stop
    from kubetrace.stream.live import LiveSource
    from kubetrace.stream.steps import Step, Tick
    from kubetrace.views.output import Reader

_FIRST_PAUSE_S = 0.005

Take = Callable[["Step"], None]


class Pace:
    """At which ticks a view is shown: the first, the first with an event, then once an interval."""

    def __init__(self, interval_s: float) -> None:
        """`interval_s`: seconds between two windows."""
        self._interval_ns = int(interval_s * 1e9)
        self._next_ns = 0
        self._empty = True

    def change(self, interval_s: float) -> None:
        """Another interval, from now on."""
        interval_ns = int(interval_s * 1e9)
        if interval_ns != self._interval_ns:
            self._next_ns += interval_ns - self._interval_ns
            self._interval_ns = interval_ns

    def due(self, tick: Tick, events: int) -> bool:
        """Whether to show this one; `events` is their number so far."""
        if self._empty and events:
            self._empty = False
            self._next_ns = tick.elapsed_ns
        if tick.elapsed_ns < self._next_ns:
            return False
        self._next_ns = max(self._next_ns, tick.elapsed_ns - self._interval_ns) + self._interval_ns
        return True


@dataclass(frozen=True, slots=True)
class Moment:
    """Something happened: the rings were drained (`tick` is when), or watched descriptors are `ready`, or both."""

    tick: Tick | None
    ready: Collection[int]


def moments(
    source: LiveSource,
    take: Take,
    *,
    stop: Callable[[], bool],
    duration_s: float | None = None,
    first_pause_s: float | None = None,
) -> Iterator[Moment]:
    """Drain whenever it is time, and hand each step to `take`; until `stop` says so or the duration is over.

    `first_pause_s`: between the first two drains; later ones are further apart, up to what costs little.
    """
    from kubetrace.stream.live import DRAIN_INTERVAL_S

    begun = next_drain = time.monotonic()
    end = begun + duration_s if duration_s is not None else None
    pause_s = DRAIN_INTERVAL_S if first_pause_s is None else first_pause_s
    while not stop():
        now = time.monotonic()
        if end is not None and now >= end:
            return
        ready = source.wait(min(next_drain, end if end is not None else next_drain) - now)
        now = time.monotonic()
        tick = None
        if now >= next_drain or source.half_full:
            tick = drain(source, take)
            pause_s = min(DRAIN_INTERVAL_S, 1.5 * pause_s)
            # where nothing comes, further apart; but not before the first rows are there
            next_drain = now + (source.pause_s if pause_s == DRAIN_INTERVAL_S else min(pause_s, source.pause_s))
        if tick is not None or ready:
            yield Moment(tick, ready)


def drain(source: LiveSource, take: Take, *, last: bool = False) -> Tick:
    """Hand on all that is there; the tick at its end. `last`: counters too, however lately they were read."""
    steps = source.drain(last=last)
    for step in steps:
        take(step)
    tick = steps[-1].tick
    assert tick is not None
    return tick


def shown(
    source: LiveSource,
    take: Take,
    pipeline: Any,
    view: Any,
    show: Show,
    last: Last,
    stop: Stop,
    reader: Reader,
    *,
    each: Callable[[], None] = lambda: None,
) -> Tick:
    """Show what comes until the end, and take what is typed; the last tick.

    `pipeline` is a pipeline.Pipeline or what holds several (session.overall.Together), and `view` one that shows it.
    `each` is called at every tick.
    """
    pace = Pace(show.interval_s)
    tick = drain(source, take)
    # who asks once is shown the end; on a terminal also how it comes about
    silent = last.once and view.keyboard() is None
    if pace.due(tick, pipeline.counts.events) and not silent:
        view.show(pipeline, tick)
    # All that was made on the way here stays: it need not be looked at again.
    gc.freeze()
    gc.enable()
    keyboard = view.keyboard()
    if keyboard is not None:
        source.watch(keyboard)
    # The first rows come as soon as there are any; then the pace slows down to what costs little.
    for moment in moments(
        source,
        take,
        stop=lambda: stop.asked or (last.once and source.complete),
        duration_s=last.duration_s,
        first_pause_s=_FIRST_PAUSE_S,
    ):
        reader.check()
        tick = moment.tick or tick
        if keyboard is not None and (keyboard in moment.ready or view.waits_for_more):
            if not view.typed(pipeline, tick):
                break
            pace.change(view.interval_s)
            source.pace(view.interval_s)
            if view.keyboard() is None:  # the terminal hung up
                source.unwatch(keyboard)
                keyboard = None
        if moment.tick is not None:
            each()
            if pace.due(tick, pipeline.counts.events) and not silent:
                view.show(pipeline, tick)
    tick = drain(source, take, last=True)
    view.last(pipeline, tick)
    return tick
