"""A recording through the pipeline and views of a live run; needs no Linux, no root, no cluster."""

from __future__ import annotations

import datetime
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kubetrace import tracers
from kubetrace.errors import RecordingError, UsageError, no_such
from kubetrace.kit.own import PREFIX, Derived
from kubetrace.stream.layout import Batch
from kubetrace.stream.steps import Tick, stream_key
from kubetrace.views.output import Reader
from kubetrace.views.progress import Progress

if TYPE_CHECKING:
    from kubetrace.attribution.selection import Both, Selection
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Tracer
    from kubetrace.pipeline import Pipeline
    from kubetrace.recording.header import Traced
    from kubetrace.recording.reader import Recording
    from kubetrace.session.options import Attach, Show
    from kubetrace.session.stop import Stop
    from kubetrace.session.view import View
    from kubetrace.stream.steps import Step

# A gap in a recording (a laptop that slept) is not waited for; ticks come ten times a second.
_LONGEST_WAIT_S = 2.0
_MOST_DAMAGE_SHOWN = 5
# How long a step that is being read may go on when the end is asked for.
_PATIENCE_S = 0.5
_MOST_NAMES_SHOWN = 8
# Of a recording, of which it is known how much happened in each.
_PARTS = 400
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d{1,9})?)?", re.ASCII)


@dataclass(frozen=True)
class Span:
    """From when to when, in nanoseconds since the recording began; None: to the end."""

    begin_ns: int = 0
    end_ns: int | None = None

    def records_from(self, *pipelines: Taking | Pipeline) -> int:
        """From when on records are wanted: all of them where what was counted before has to be known."""
        return 0 if any(pipeline.needs_all for pipeline in pipelines) else self.begin_ns

    def cut(self, steps: Iterator[Step], before: Callable[[Step], None]) -> Iterator[Step]:
        """The steps inside; `before` is given those before it, for what they teach."""
        elapsed = 0
        for step in steps:
            # A step without a tick is a part of the reading that the next tick ends: the time before it is near enough.
            if step.tick is not None:
                elapsed = step.tick.elapsed_ns
            if self.end_ns is not None and elapsed > self.end_ns:
                return
            if elapsed >= self.begin_ns:
                yield step
            else:
                before(step)


def traced(recording: Recording, name: str | None) -> tuple[Tracer, Traced]:
    """The tracer to show: the one that is named, or the only one. Raises UsageError, RecordingError."""
    header = recording.header
    held = [item.name for item in header.tracers]
    if name is None:
        if len(held) != 1:
            raise UsageError(
                f"{recording.path} holds {' and '.join(held) or 'no tracer'}.",
                do=f"kubetrace replay {recording.path} {'|'.join(held)}",
            )
        name = held[0]
    found = header.tracer(name)
    if found is None:
        usage = f"kubetrace replay {recording.path}"
        raise no_such(f"{recording.path} does not hold {name!r}", name, held, option=usage)
    if name.startswith(PREFIX) and len(found.streams) == 1:
        (stream,) = found.streams
        try:
            own = Derived(name, stream.name, stream.layout)
        except UsageError as error:
            raise RecordingError(f"its {stream.name[:40]} records are not events.", why=error.what) from error
        fits(own, found)
        return own, found
    if name not in tracers.names():
        raise RecordingError(
            f"this kubetrace has no tracer {name!r}.",
            why=f"The recording was made by kubetrace {header.kubetrace[:40]}.",
            do="that version of kubetrace",
        )
    tracer = tracers.find(name)
    fits(tracer, found)
    return tracer, found


def _misfit(tracer: Tracer, stream: str, error: Exception) -> RecordingError:
    return RecordingError(
        f"its {stream[:40]} records are not those that this version's {tracer.name} reads.",
        why="The recording was made by a version that this one does not understand, or was changed.",
        detail=str(error),
    )


def _fits_counters(tracer: Tracer, found: Traced) -> None:
    # As `fits`, for records that explain one another: a zero of each is counted, shown and told.
    import struct

    from kubetrace.attribution.attributor import Identity
    from kubetrace.attribution.destination import UNKNOWN
    from kubetrace.kit.context import Context
    from kubetrace.kit.landing import Landing
    from kubetrace.tables.contract import Run
    from kubetrace.tables.kinds import table_of

    context, nowhere = Context("", 0), Landing(Identity(), UNKNOWN, None, None)
    by = next(iter(tracer.groupings))
    layouts = {stream.name: stream.layout for stream in found.streams}
    table = table_of(Run(tracer, context, layouts, by=by))
    counters = tracer.counters
    own = {counters.mounts, counters.places, counters.histogram, *counters.counters}
    for name, layout in layouts.items():
        try:
            if name in own:
                table.read([Batch(name, bytes(layout.stride))])
                table.count(None)
            else:
                (event,) = layout.decode(bytes(layout.stride))
                context.attribution.identify(event)
                tracer.event_cells(event, nowhere, context)
                tracer.record(event, nowhere, context)
            table.rows(by).rows(next(iter(tracer.sorts.values())), None)
        except (AttributeError, TypeError, ValueError, LookupError, struct.error) as error:
            raise _misfit(tracer, name, error) from error


def fits(tracer: Tracer, found: Traced) -> None:
    """Raises RecordingError unless every event of the recording has what the tracer reads, as it reads it."""
    from kubetrace.attribution.attributor import Identity
    from kubetrace.kit.context import Context

    context = Context("", 0)
    if tracer.table == "counted":
        _fits_counters(tracer, found)
        return
    for stream in found.streams:
        try:
            (event,) = stream.layout.decode(bytes(stream.layout.stride))
            context.attribution.identify(event)
            if tracer.table == "board":
                # twice, as it may look at differences
                board = tracer.board({}, {s.name: s.layout for s in found.streams}, (), context)
                for _ in range(2):
                    list(board.take(event, Identity(kind="pod", pod_uid="")))
                for by in tracer.groupings:
                    board.rows(by)
            if stream.name in tracer.for_board:
                continue
            values = tracer.values(event, context)
            if not all(isinstance(value, int) for value in values) or not isinstance(event.time, int):
                raise TypeError("a measure is not a number")
            tracer.key_cells(event, Identity(), context)
            tracer.event_cells(event, Identity(), context)
            tracer.record(event, Identity(), context)
            tracer.folded(event)
            if (advice := tracer.advice()) is not None:
                advice.add(event, Identity(), context)
        except (AttributeError, TypeError, ValueError, LookupError) as error:
            raise _misfit(tracer, stream.name, error) from error


def selection_of(found: Traced, given: Selection) -> Selection | Both:
    """What was recorded, and of that what is asked for."""
    from kubetrace.attribution.selection import Both, Selection

    try:
        recorded = Selection.from_texts(found.selection)
    except UsageError as error:
        raise RecordingError("its header names a selection that is none.") from error
    return Both(recorded, given) if recorded else given


def context_of(recording: Recording, selection: Selection | Both) -> Context:
    """The node's name and clock of then, and whose is what."""
    from kubetrace.attribution.whose import Attribution
    from kubetrace.kit.context import Context

    return Context(recording.header.node, recording.header.clock_offset_ns, Attribution(selection))


def run(file: Path, name: str | None, make: Callable[[Tracer, Traced], tuple[Attach, Show]], how: How) -> int:
    """Show a recording; how many events were lost when it was made. Raises KubetraceError."""
    # before signals are taken: what ends an import, ends it
    from kubetrace.pipeline import Pipeline
    from kubetrace.recording.reader import Recording
    from kubetrace.session.open_view import open_view
    from kubetrace.session.stop import Stop

    with Recording(file) as recording, Stop(_PATIENCE_S) as stop:
        tracer, found = traced(recording, name)
        asked, show = make(tracer, found)
        tracer = tracer.with_options(asked.own)
        tracer.keeps(asked.own)
        span = how.span(recording)
        refuse_unrecorded(recording, tracer, found, asked, show)
        context = context_of(recording, asked.selection)
        view = open_view(tracer, asked, show, context, recording.header.kernel)
        view.unmatched = "no container matches {} so far"
        view.pause_notice = "paused: space goes on"
        told = {*tracer.streams, *(stream.name for stream in found.streams)} - set(tracer.for_board)
        streams = [stream_key(tracer.name, stream) for stream in sorted(told)]

        def assemble(context: Context) -> Pipeline:
            return Pipeline(
                tracer,
                recording.layouts,
                context,
                groupings=view.groupings,
                events=view.events,
                keep=tracer.keeps(asked.own),
                by=show.by,
                own=asked.own,
                missing=found.missing,
                recent=view.recent,
            )

        play = Play(recording, assemble, lambda: context_of(recording, asked.selection), streams, view, how, span, stop)
        return play.to_the_end(context, found.hook, list(dict.fromkeys(filter(None, found.missing))))


class Taking(Protocol):
    """What takes a recording's steps: a pipeline, or several as one (session.top.Joint)."""

    @property
    def needs_all(self) -> bool:
        """See `pipeline.Pipeline`."""

    @property
    def shown(self) -> Pipeline:
        """What the view looks at."""

    def before(self, step: Step) -> None:
        """See `pipeline.Pipeline`."""

    def take(self, step: Step) -> None:
        """See `pipeline.Pipeline`."""


class Play:
    """A recording that is played in a view: on, back and to a time, as the view's keys say.

    Going back is playing again from the beginning to that time, without looking: nothing is kept for it.
    """

    def __init__(
        self,
        recording: Recording,
        assemble: Callable[[Context], Taking],
        know: Callable[[], Context],
        streams: Sequence[str],
        view: View,
        how: How,
        span: Span,
        stop: Stop,
    ) -> None:
        """`assemble` makes what takes the steps, `know` a context of which nothing is known yet.

        `streams` (steps.stream_key) are those of which it is told when something happened.
        """
        self._recording, self._assemble, self._know, self._streams = recording, assemble, know, streams
        self._view, self._how, self._span, self._stop = view, how, span, stop
        self._length_ns = recording.last_ns if span.end_ns is None else min(span.end_ns, recording.last_ns)
        self._held: tuple[Step, bool] | None = None
        self._steps: Iterator[tuple[Step, bool]] = iter(())
        self.whole = False
        """Whether it was played to its end."""
        self.tick = Tick(span.begin_ns, 0, 0)
        self._wait = _Wait(how.speed, view, stop)
        self._happened: Sequence[float] = ()
        view.speed = how.speed or 1.0
        if not how.final:
            view.position = self.position

    def to_the_end(self, context: Context, hook: str, notices: Sequence[str]) -> int:
        """Show it, until it or the user ends it, and say what there is to say then; how many events were lost."""
        view, stop = self._view, self._stop
        with view.open():
            self.begin(context)
            view.attached(hook, list(notices))
            self.play()
            view.last(self.shown, self.tick)
            stop.wait()
        view.end(self.shown, self.tick)
        # by q, or a signal, it is not known how it ends
        warn(self._recording, whole=self.whole and self._span.end_ns is None)
        if self.whole and not self.shown.counts.events:
            nobody(self._recording, self.context)
        return self.shown.counts.lost

    def begin(self, context: Context | None = None) -> None:
        """From the beginning, with nothing known."""
        from kubetrace.session.loop import Pace

        if context is None:
            context = self._know()
            self._view.start_over(context)
        elif self._view.keyboard() is not None:
            self._happened = self._recording.density(self._streams, _PARTS)
        self.context = context
        self._taking = self._assemble(context)
        self.shown = self._taking.shown
        records_from = self._span.records_from(self._taking)
        self._steps = with_more(self._span.cut(self._recording.steps(records_from), self._taking.before))
        self._held = None
        self._pace = Pace(self._view.interval_s)
        self.tick = Tick(self._span.begin_ns, 0, 0)

    def _take(self, step: Step) -> None:
        self._taking.take(step)
        if step.tick is not None:
            self.tick = step.tick

    def _next(self) -> tuple[Step, bool] | None:
        held, self._held = self._held, None
        return held if held is not None else next(self._steps, None)

    def play(self) -> None:
        """To the end; where there are keys, until one of them says so."""
        view, stop = self._view, self._stop
        while True:
            found = self._next()
            if found is None:
                self.whole = True
                if not self._stays or not self._rest():
                    return
                continue
            step, more = found
            if stop.asked:
                return
            if step.tick is not None and not self._wait.until(step.tick, self.shown, self.tick):
                self._held = found
                if not self._go():
                    return
                continue
            self._take(step)
            self._pace.change(view.interval_s)
            # as live: of the last one there is only the last table, unless one stays to look at it
            if step.tick is not None and (more or self._stays) and self._is_due(step.tick, last=not more):
                (view.skip if self._how.final else view.show)(self.shown, step.tick)

    def _is_due(self, tick: Tick, *, last: bool) -> bool:
        return self._pace.due(tick, self.shown.counts.events) or last

    @property
    def _stays(self) -> bool:
        return not self._how.final and self._view.keyboard() is not None

    def _rest(self) -> bool:
        """At the end, until a key leads back into it; False to quit."""
        self._view.look(self.shown, self.tick)
        while not self._stop.asked and self._view.keyboard() is not None:
            if not self._wait.keys(self.shown, self.tick, 0.1) and not self._go():
                return False
            if self.tick.elapsed_ns < self._length_ns and not self.whole:
                return True
        return False

    def _go(self) -> bool:
        """Where the keys said; False to quit."""
        wishes = self._view.wishes()
        if not wishes:
            return False
        target = self.tick.elapsed_ns
        for wish in wishes:
            if wish.what == "step":
                target += int(wish.number * self._view.interval_s * 1e9)
            elif wish.what == "minute":
                target += wish.number * 60_000_000_000
            elif wish.what == "time":
                try:
                    begun_ns = self.tick.wall_ns - self.tick.elapsed_ns
                    target = _moment(":", wish.text, begun_ns, self._recording.last_ns)
                except UsageError as error:
                    self._view.say(f"{error.what} {error.why}")
        self.go_to(target)
        return True

    def go_to(self, elapsed_ns: int) -> None:
        """On or back to this time, as near as there are steps, and show how it was."""
        target = max(self._span.begin_ns, min(elapsed_ns, self._length_ns))
        if target < self.tick.elapsed_ns:
            # 12 µs for each event before it
            self._view.say("going back ...")
            self._view.look(self.shown, self.tick)
            self._view.say("")
            self.begin()
            self.whole = False
        while not self._stop.asked:
            found = self._next()
            if found is None:
                self.whole = True
                break
            step, _ = found
            if step.tick is not None and step.tick.elapsed_ns > target:
                self._held = found
                break
            self._take(step)
            if step.tick is not None and self._pace.due(step.tick, self.shown.counts.events):
                self._view.skip(self.shown, step.tick)
        self._wait.anew(self.tick)
        self._view.look(self.shown, self.tick)

    def position(self, cells: int, ascii: bool) -> str:
        """Where it is, as a line."""
        from kubetrace.views.timeline import timeline

        speed = f"x{self._view.speed:g}"
        how = "end" if self.whole else "paused" if self._view.paused else speed
        tick = self.tick
        return timeline(self._happened, tick.elapsed_ns, self._recording_ns, tick.wall_ns, how, cells, ascii=ascii)

    @property
    def _recording_ns(self) -> int:
        return max(1, self._length_ns)


def refuse_unrecorded(recording: Recording, tracer: Tracer, found: Traced, asked: Attach, show: Show) -> None:
    """Raises UsageError for what the recording cannot show, whoever looks at it."""
    again = f"kubetrace record {tracer.name}"
    by = found.options.get("by", next(iter(tracer.groupings)))
    if by in tracer.groupings and show.by not in tracer.others(by):
        raise UsageError(
            f"{recording.path} does not tell one {show.by} from another.",
            why=f"It was recorded by {by}: what the kernel adds up is not told apart later.",
            do=f"{again} --by {show.by} FILE",
        )
    for name, (what, flag) in tracer.only_recorded(asked.own).items():
        if found.options.get(name) != "True":
            raise UsageError(f"{recording.path} has no {what}: they were not recorded.", do=f"{again} {flag} FILE")
    if show.events and tracer.table == "counted":
        own = {tracer.counters.mounts, tracer.counters.places, tracer.counters.histogram, *tracer.counters.counters}
        told = [stream_key(tracer.name, stream.name) for stream in found.streams if stream.name not in own]
        if not any(recording.holds(key) for key in told):
            raise UsageError(
                f"{recording.path} has counters of {tracer.name}, and no single {tracer.noun[1]}.",
                do=f"without --events; or kubetrace {tracer.name} --events --record FILE",
            )


def nobody(recording: Recording, context: Context) -> None:
    """Raises RecordingError where nobody in the recording is of the selection."""
    selection, names = context.attribution.selection, context.attribution.names
    if not selection or context.attribution.matched:
        return
    has = [
        f"{kind} {', '.join(sorted(found)[:_MOST_NAMES_SHOWN])}{', ...' * (len(found) > _MOST_NAMES_SHOWN)}"
        for kind, found in names.items()
        if found
    ]
    raise RecordingError(
        f"no container in {recording.path} matches {selection}.",
        why=f"It has the {'; the '.join(has)}." if has else "It names no container.",
        do=f"kubetrace info {recording.path}",
    )


def with_more(steps: Iterator[Step]) -> Iterator[tuple[Step, bool]]:
    """Each step, and whether another comes behind it."""
    held = next(steps, None)
    while held is not None:
        step, held = held, next(steps, None)
        yield step, held is not None


def warn(recording: Recording, *, whole: bool = True) -> None:
    """On stderr, what is missing from a recording that was read (`whole`: to its end)."""
    notices = [str(damage) for damage in recording.damage[:_MOST_DAMAGE_SHOWN]]
    if len(recording.damage) > _MOST_DAMAGE_SHOWN:
        notices.append(f"and {len(recording.damage) - _MOST_DAMAGE_SHOWN} more")
    if whole and recording.end is None:
        notices.append("its recorder was killed or its disk full: up to a second may be missing at the end")
    if recording.ignored_facts:
        notices.append(f"{recording.ignored_facts} facts are unknown to this version, or too many")
    if recording.unknown:
        notices.append(f"{recording.unknown} frames are of a later version")
    progress = Progress()
    for notice in notices:
        progress.say(f"{recording.path}: {notice}")


class _Wait:
    """Keeps to the recorded speed, and looks at the keys meanwhile."""

    def __init__(self, speed: float | None, view: View, stop: Stop) -> None:
        self._waits = speed is not None
        self._view = view
        self._stop = stop
        self._last: Tick | None = None
        self._due = time.monotonic()
        self._reader = Reader(sys.stdout)

    def anew(self, tick: Tick) -> None:
        """It is at this tick now, however it came there."""
        self._last, self._due = tick, time.monotonic()

    def until(self, tick: Tick, pipeline: Pipeline, shown: Tick) -> bool:
        """Sleep until it is time for this tick; False when the user wants the end, or to go elsewhere.

        `shown` is the tick before. Raises OutputClosed.
        """
        last = self._last
        if not self._waits:
            self._last = tick
            return not self._stop.asked
        if last is None:
            self._last, self._due = tick, time.monotonic()
            return not self._stop.asked
        passed = min(max(0.0, (tick.elapsed_ns - last.elapsed_ns) / 1e9), _LONGEST_WAIT_S)
        while not self._stop.asked:
            self._reader.check()
            # the speed may have become another one meanwhile
            left = self._due + passed / self._view.speed - time.monotonic()
            paused = self._view.paused
            if left <= 0 and not paused:
                self._last = tick
                self._due += passed / self._view.speed
                return True
            before = time.monotonic()
            if not self.keys(pipeline, shown, min(max(left, 0.0) or 0.1, 0.1)):
                return False
            if paused:
                self._due += time.monotonic() - before
        return False

    def keys(self, pipeline: Pipeline, tick: Tick, timeout_s: float) -> bool:
        """Wait for keys; False where they want the end, or to go elsewhere."""
        keyboard = self._view.keyboard()
        if keyboard is None:
            time.sleep(timeout_s)
            return True
        import select

        ready, _, _ = select.select([keyboard], [], [], timeout_s)
        return (not ready and not self._view.waits_for_more) or self._view.typed(pipeline, tick)


@dataclass(frozen=True)
class How:
    """How fast and how much of a recording is shown; `speed`: 1 is as recorded, None at once."""

    speed: float | None
    final: bool
    begin: str | None
    end: str | None

    def span(self, recording: Recording) -> Span:
        """--from and --to. Raises UsageError."""
        return span_of(recording, self.begin, self.end)


def span_of(recording: Recording, begin: str | None, end: str | None) -> Span:
    """From --from and --to: offsets or wall times. Raises UsageError."""
    if begin is None and end is None:
        return Span()
    from kubetrace.views.units import format_duration, format_time

    first = next((step.tick for step in recording.steps() if step.tick is not None), None)
    wall_ns = first.wall_ns - first.elapsed_ns if first is not None else 0
    last_ns = recording.last_ns
    begin_ns = _moment("--from", begin, wall_ns, last_ns) if begin is not None else 0
    end_ns = _moment("--to", end, wall_ns, last_ns) if end is not None else None
    outside = (
        (f"--from {begin} is behind the end", begin_ns > last_ns),
        (f"--to {end} is before the beginning", end_ns is not None and end_ns < 0),
    )
    for what, is_outside in outside:
        if is_outside:
            raise UsageError(
                f"{what} of the recording.",
                why=f"It begins {format_time(wall_ns, local=True)} and lasts {format_duration(last_ns)}.",
                do=f"kubetrace info {recording.path}",
            )
    if end_ns is not None and end_ns < begin_ns:
        raise UsageError("--to lies before --from.", do="--from 30s --to 2m")
    return Span(max(0, begin_ns), end_ns)


def _moment(option: str, text: str, begun_ns: int, last_ns: int) -> int:
    """Nanoseconds since the recording began, of `90s`, `2026-11-23T18:02:03Z` or a local `18:02:03`."""
    from kubetrace.views.units import parse_duration

    def _since(at: datetime.datetime, begun_ns: int) -> int:
        return int(at.timestamp()) * 10**9 + at.microsecond * 1000 - begun_ns

    try:
        if _CLOCK.fullmatch(text):
            begun = datetime.datetime.fromtimestamp(begun_ns / 1e9)
            at = datetime.datetime.combine(begun.date(), datetime.time.fromisoformat(text.zfill(5)))
            # Past midnight it is the next day's, if the recording reaches that.
            later = at + datetime.timedelta(days=1)
            if at < begun.replace(microsecond=0) and _since(later, begun_ns) <= last_ns:
                at = later
            return _since(at, begun_ns)
        if len(text) > 9 and text[4:5] == "-":
            return _since(datetime.datetime.fromisoformat(text), begun_ns)
        return int(parse_duration(text) * 1e9)
    except (ValueError, OverflowError, OSError, UsageError) as error:
        raise UsageError(
            f"{option} {text[:40]!r} is not a moment.",
            why="A moment is a time since the beginning, a time of day (local), or a date with a time.",
            do=f"{option} 90s, {option} 18:02:03 or {option} 2026-11-23T18:02:03Z",
        ) from error
