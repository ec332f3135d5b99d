"""One run of one tracer: from its options, through the pipeline, to the view that suits the output."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kubetrace.errors import OutputError, UsageError
from kubetrace.pipeline import DRAIN_INTERVAL_S, EventView, OwnCost, Pipeline, Wall
from kubetrace.selection import Selection
from kubetrace.tracers import Stateful
from kubetrace.views.units import format_count, format_elapsed, format_percent, format_time
from kubetrace.views.window import Item, Window

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.engines.source import KernelSource
    from kubetrace.host import Host
    from kubetrace.tracers import Tracer
    from kubetrace.views.columns import Value

_WAIT_FOR_HOOK_S = 0.5
_FIRST_DRAIN_S = 0.005
_KEYS = (("q", "quit"), ("space", "pause"), ("s", "sort"), ("g", "group by"))


@dataclass(frozen=True)
class Options:
    """What the command line asked for, in units: seconds, rows, bytes."""

    selection: Selection
    by: str
    sort: str
    output: str = "table"
    events: bool = False
    headers: bool = True
    top: int | None = None
    interval_s: float = 1.0
    duration_s: float | None = None
    ready_file: Path | None = None
    hook: str = "auto"
    host_root: str | None = None
    cri_socket: str | None = None
    own: Mapping[str, Any] = field(default_factory=dict)


class _Stop:
    """Whether the user wants the end: SIGINT, SIGTERM or SIGHUP came."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: object) -> None:
        if self.asked:  # twice: whatever hangs, the user wants out
            raise KeyboardInterrupt
        self.asked = True


def run(tracer: Tracer, options: Options) -> None:
    """Trace until the duration is over or the user ends it. Raises KubetraceError."""
    from kubetrace.host import Host

    constants = {**tracer.constants(options.own), "filter_by_cgroup": int(bool(options.selection))}
    host = Host.find(options.host_root)
    clock = Wall(host.node_name(), host.boot_to_wall_ns())
    with _Stop() as stop:
        view = _view(tracer, options, clock)
        with contextlib.ExitStack() as stack:
            screen = stack.enter_context(view.open()) if isinstance(view, _TableView) else None
            source = _attach(tracer, options, constants, stop, screen, host)
            if source is None:
                return
            stack.callback(source.close)
            gauges, board = None, None
            if isinstance(tracer, Stateful):
                gauges = tracer.gauges(host)
                board = tracer.board(options.own, source.layouts, source.missing, clock)
            files = _node_files(host, options)
            stack.callback(files.close)
            pipeline = Pipeline(
                tracer,
                source,
                files,
                clock,
                options.selection,
                groupings=view.groupings,
                events=view.events,
                gauges=gauges,
                board=board,
            )
            pipeline.start()
            if options.ready_file is not None:
                _touch(options.ready_file)
            view.attached(source.hook, [what for what in dict.fromkeys(source.missing.values()) if what])
            _loop(pipeline, view, options, stop)
        view.end(pipeline)


def _node_files(host: Host, options: Options) -> Any:
    from kubetrace.attribution.node import Node

    return Node(host, cri_socket=options.cri_socket)


def _touch(path: Path) -> None:
    try:
        path.touch()
    except OSError as error:
        raise OutputError(f"cannot create the ready file {path}: {error.strerror}.") from error


def _attach(
    tracer: Tracer,
    options: Options,
    constants: Mapping[str, int],
    stop: _Stop,
    screen: _TableView | None,
    host: Host,
) -> KernelSource | None:
    """Attach now, or as soon as overlayfs is in the kernel; None when the user gave up before."""
    from kubetrace.engines import source

    begun, told = time.monotonic(), False
    while tracer.needs_overlay and not source.hookable(tracer.name):
        notice = "overlayfs is not loaded on this node yet; attaching when it appears"
        if screen is not None:
            screen.waiting(notice)
        elif not told:
            print(f"kubetrace: {notice}", file=sys.stderr, flush=True)
            told = True
        time.sleep(_WAIT_FOR_HOOK_S)
        if stop.asked or (options.duration_s is not None and time.monotonic() - begun >= options.duration_s):
            return None
    return source.KernelSource(
        tracer.name, tracer.streams, constants=constants, optional=tracer.optional, hook=options.hook
    )


def _loop(pipeline: Pipeline, view: _View, options: Options, stop: _Stop) -> None:
    begun = time.monotonic()
    end = begun + options.duration_s if options.duration_s is not None else None
    # The first rows come as soon as there are any; then the pace slows down to what costs little.
    pause_s = _FIRST_DRAIN_S
    next_drain, next_show = begun, begun
    keyboard = view.keyboard()
    if keyboard is not None:
        pipeline.watch(keyboard)
    while not stop.asked:
        now = time.monotonic()
        if end is not None and now >= end:
            break
        ready = pipeline.wait(min(next_drain, end if end is not None else next_drain) - now)
        now = time.monotonic()
        if keyboard is not None and keyboard in ready:
            if not view.typed(pipeline):
                break
            if view.keyboard() is None:  # the terminal hung up
                pipeline.unwatch(keyboard)
                keyboard = None
        if now >= next_drain:
            empty = not pipeline.counts.events
            pipeline.drain()
            pause_s = min(DRAIN_INTERVAL_S, 1.5 * pause_s)
            next_drain = now + pause_s
            pipeline.attribution.ask_again()
            if empty and pipeline.counts.events:
                next_show = now
        if now >= next_show:
            pipeline.sample()
            view.show(pipeline)
            next_show = now + options.interval_s
    pipeline.drain()
    pipeline.sample()
    view.last(pipeline)


class _View(Protocol):
    groupings: Sequence[str]
    events: EventView | None

    def attached(self, hook: str, missing: Sequence[str]) -> None: ...
    def keyboard(self) -> int | None: ...
    def typed(self, pipeline: Pipeline) -> bool: ...
    def show(self, pipeline: Pipeline) -> None: ...
    def last(self, pipeline: Pipeline) -> None: ...
    def end(self, pipeline: Pipeline) -> None: ...


def _view(tracer: Tracer, options: Options, clock: Wall) -> _TableView | _StreamView:
    if options.output in ("json", "csv") or options.events:
        return _StreamView(tracer, options, clock)
    return _TableView(tracer, options, clock)


class _TableView:
    """Windows of the grouped rows: live on a terminal, plain blocks elsewhere."""

    def __init__(self, tracer: Tracer, options: Options, clock: Wall) -> None:
        from kubetrace.views.keys import Keys
        from kubetrace.views.plain import can_be_live

        self._tracer = tracer
        self._options = options
        self._clock = clock
        self._live = can_be_live(sys.stdout)
        # Only a live table can change its grouping; elsewhere one is counted.
        self.groupings: Sequence[str] = list(tracer.groupings) if self._live else [options.by]
        self.events: EventView | None = None
        self._by = options.by
        self._sort = options.sort
        self._keys = Keys()
        self._paused = False
        self._cost = OwnCost()
        self._begun = time.monotonic()
        self._hook = ""
        self._missing: Sequence[str] = ()
        self._release = os.uname().release

    @contextlib.contextmanager
    def open(self) -> Iterator[_TableView]:
        """Take the terminal for as long as the context lasts."""
        from kubetrace.views.live import open_table

        with (
            open_table(sys.stdout, wide=self._options.output == "wide", headers=self._options.headers) as self._table,
            self._keys if self._live else contextlib.nullcontext(),
        ):
            yield self

    def waiting(self, notice: str) -> None:
        """Show that nothing is attached yet, and why."""
        columns = [*self._tracer.groupings[self._by].columns, *self._tracer.measures]
        self._table.show(Window(columns, head=self._head(), notices=[notice]))

    def attached(self, hook: str, missing: Sequence[str]) -> None:
        self._hook, self._missing = hook, missing
        self._cost = OwnCost()  # the start is over

    def keyboard(self) -> int | None:
        return self._keys.fileno() if self._live else None

    def typed(self, pipeline: Pipeline) -> bool:
        """Do what the keys say; False to quit."""
        for key in self._keys.read():
            if key == "q":
                return False
            if key == " ":
                self._paused = not self._paused
            elif key == "s":
                names = self._sorts()
                self._sort = names[(names.index(self._sort) + 1) % len(names)] if self._sort in names else names[0]
            elif key == "g":
                names = list(self._tracer.groupings)
                self._by = names[(names.index(self._by) + 1) % len(names)]
                if self._sort not in self._sorts():
                    self._sort = next(iter(self._tracer.sorts))
        self._draw(pipeline)
        return True

    def _sorts(self) -> list[str]:
        """The sorts whose column this grouping has."""
        columns = {column.key for column in (*self._tracer.groupings[self._by].columns, *self._tracer.measures)}
        return [name for name, key in self._tracer.sorts.items() if key in columns]

    def _sort_is_hidden(self) -> bool:
        key = self._tracer.sorts[self._sort]
        return self._options.output != "wide" and any(c.wide and c.key == key for c in self._tracer.measures)

    def show(self, pipeline: Pipeline) -> None:
        if not self._paused:
            self._draw(pipeline)

    def last(self, pipeline: Pipeline) -> None:
        """The table that stays, with everything in it."""
        self._paused = False
        self._draw(pipeline)

    def end(self, pipeline: Pipeline) -> None:
        """The summary; the last table is on the normal screen already."""
        tracer, counts = self._tracer, pipeline.counts
        elapsed = format_elapsed(time.monotonic() - self._begun)
        print(
            f"{tracer.summary_text(pipeline.total())} in {elapsed}; "
            f"{counts.lost} lost, {counts.unattributed} unattributed."
        )

    def _head(self) -> list[Item]:
        return [
            (f"kubetrace {self._tracer.name}", "title"),
            f"node {self._clock.node}",
            f"Linux {self._release}",
            self._hook or "not attached",
            format_elapsed(time.monotonic() - self._begun),
        ]

    def _draw(self, pipeline: Pipeline) -> None:
        tracer, counts, selection = self._tracer, pipeline.counts, self._options.selection
        tally = pipeline.tallies[self._by]
        cost = self._cost.percent()
        shown = counts.events - counts.folded
        foot: list[Item] = [
            f"{format_count(shown)} {tracer.noun[shown != 1]}",
            (f"{counts.unattributed} unattributed", "warn" if counts.unattributed else "dim"),
            (f"own CPU {'-' if cost is None else format_percent(cost)}", "dim"),
        ]
        notices = list(self._missing)
        if self._paused:
            notices.append("paused: counting goes on, space shows it")
        if selection and not pipeline.attribution.matched:
            notices.append(f"no container matches {selection} yet; waiting")
        head = self._head()
        if self._live:
            head.insert(4, f"by {self._by}, {self._sort} first" if self._sort_is_hidden() else f"by {self._by}")
        self._table.show(
            Window(
                tally.columns,
                rows=tally.rows(tracer.sorts[self._sort], self._options.top),
                head=head,
                foot=foot,
                lost=counts.lost,
                total=len(tally),
                sort=tracer.sorts[self._sort],
                descending=True,
                notices=notices,
                empty=f"no {tracer.noun[1]} yet",
                keys=_KEYS,
            )
        )


class _StreamView:
    """Every event as it comes: lines, JSON objects or CSV rows."""

    groupings: Sequence[str] = ()

    def __init__(self, tracer: Tracer, options: Options, clock: Wall) -> None:
        self._tracer = tracer
        self._options = options
        self._clock = clock
        self._begun = time.monotonic()
        self._json: Any = None
        self._rows: Any = None
        self._warned = False
        if options.output == "json":
            from kubetrace.views.json import JsonLines

            self._json = JsonLines(sys.stdout)
        elif options.output == "csv":
            from kubetrace.views.csv import CsvLines

            sys.stdout.reconfigure(newline="")  # type: ignore[union-attr]  # csv.writer ends lines itself
            self._rows = CsvLines(sys.stdout, tracer.event_columns, headers=options.headers)
        else:
            from kubetrace.views.lines import Lines

            self._rows = Lines(sys.stdout, tracer.event_columns, wide=options.output == "wide", headers=options.headers)
        self.events: EventView | None = self

    def attached(self, hook: str, missing: Sequence[str]) -> None:
        self._hook = hook
        for notice in missing:
            print(f"kubetrace: {notice}", file=sys.stderr)
        self.flush()

    def keyboard(self) -> int | None:
        return None

    def typed(self, pipeline: Pipeline) -> bool:
        return True

    def show(self, pipeline: Pipeline) -> None:
        if self._options.selection and not pipeline.attribution.matched and not self._warned:
            self._warned = True
            print(f"kubetrace: no container matches {self._options.selection} yet; waiting", file=sys.stderr)

    def event(self, event: Any, identity: Identity) -> None:
        if self._json is not None:
            self._json.write(self._tracer.record(event, identity, self._clock))
        else:
            cells: Sequence[Value] = self._tracer.event_cells(event, identity, self._clock)
            self._rows.write(cells)

    def lost(self, losses: Mapping[str, int], wall_ns: int) -> None:
        if self._json is not None:
            self._json.write(
                {
                    "type": "lost",
                    "time": format_time(wall_ns),
                    "node": self._clock.node,
                    "lost": sum(losses.values()),
                    **losses,
                }
            )
        else:
            print(f"kubetrace: {_describe(losses)}", file=sys.stderr)

    def flush(self) -> None:
        (self._json or self._rows).flush()

    def last(self, pipeline: Pipeline) -> None:
        self.show(pipeline)

    def end(self, pipeline: Pipeline) -> None:
        counts, total = pipeline.counts, pipeline.total()
        if self._json is not None:
            self._json.write(
                {
                    "type": "summary",
                    "time": format_time(time.time_ns()),
                    "node": self._clock.node,
                    "tracer": self._tracer.name,
                    "hook": self._hook,
                    "duration_ns": int((time.monotonic() - self._begun) * 1e9),
                    "events": counts.events,
                    "lost": counts.lost,
                    "unattributed": counts.unattributed,
                    **self._tracer.summary_record(total),
                }
            )
            self._json.flush()
            return
        elapsed = format_elapsed(time.monotonic() - self._begun)
        print(
            f"{self._tracer.summary_text(total)} in {elapsed}; {counts.lost} lost, {counts.unattributed} unattributed.",
            file=sys.stderr,
        )


def _describe(losses: Mapping[str, int]) -> str:
    kinds = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in losses.items() if count)
    return f"{sum(losses.values())} events lost ({kinds})"


def check(tracer: Tracer, by: str | None, sort: str | None) -> tuple[str, str]:
    """The grouping and sort to use; raises UsageError for names that the tracer does not have."""
    by = by or next(iter(tracer.groupings))
    if by not in tracer.groupings:
        raise UsageError(f"{tracer.name} cannot group by {by!r}.", do=f"--by {'|'.join(tracer.groupings)}")
    sort = sort or next(iter(tracer.sorts))
    if sort not in tracer.sorts:
        raise UsageError(f"{tracer.name} cannot sort by {sort!r}.", do=f"--sort {'|'.join(tracer.sorts)}")
    columns = {column.key for column in (*tracer.groupings[by].columns, *tracer.measures)}
    if tracer.sorts[sort] not in columns:
        raise UsageError(
            f"there is no {sort} to sort by when grouped --by {by}.", do=f"--sort {next(iter(tracer.sorts))}"
        )
    return by, sort
