"""One run of one tracer: from its options, through the pipeline, to the view that suits the output."""

from __future__ import annotations

import contextlib
import gc
import importlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from kubetrace.attribution.selection import Both, Selection
from kubetrace.errors import OutputError, UsageError
from kubetrace.kit.context import Wall
from kubetrace.kit.tracer import Counts, Stateful
from kubetrace.stream.steps import Tick
from kubetrace.views.columns import Column
from kubetrace.views.text import cut, cut_path, escape, visible, width
from kubetrace.views.units import format_count, format_duration, format_elapsed, format_percent, format_time
from kubetrace.views.window import Item, Window

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.engines.source import KernelSource
    from kubetrace.kit.tracer import Tracer
    from kubetrace.node.files import Node
    from kubetrace.node.host import Host
    from kubetrace.pipeline import EventView, Pipeline
    from kubetrace.recording.header import Header
    from kubetrace.recording.writer import Recorder
    from kubetrace.stream.live import Gauges, LiveSource
    from kubetrace.views.columns import Value
    from kubetrace.views.keys import Keys

# In front of the rows of counters as CSV.
_TIME = Column("time", "TIME", "time")
_WAIT_FOR_HOOK_S = 0.5
_FIRST_DRAIN_S = 0.005
_LOOK_AGAIN_NS = 500_000_000
# Of a name in a remedy on a terminal; JSON has the whole.
_NAME_CELLS = 72
_NODE_MODULES = ("kubetrace.pipeline", "kubetrace.stream.live", "kubetrace.node.files")
_KEYS = (("q", "quit"), ("space", "pause"), ("s", "sort"), ("g", "group by"))


@dataclass(frozen=True)
class Options:
    """What the command line asked for, in units: seconds, rows, bytes."""

    selection: Selection | Both
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
    engine: str = "auto"
    program: Path | None = None
    host_root: str | None = None
    cri_socket: str | None = None
    record: Path | None = None
    force: bool = False
    max_size: int | None = None
    overhead: bool = False
    own: Mapping[str, Any] = field(default_factory=dict)


class Stop:
    """Whether the user wants the end: SIGINT, SIGTERM or SIGHUP came."""

    def __init__(self) -> None:
        """Nobody does yet."""
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        """Listen."""
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if (number := getattr(signal, name, None)) is not None:  # Windows has no SIGHUP
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_error: object) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: object) -> None:
        if self.asked:  # twice: whatever hangs, the user wants out
            raise KeyboardInterrupt
        self.asked = True


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
            tick = _loop(source, pipeline, view, options, stop, recorder)
            if view.overhead is not None:
                view.overhead.look(tick, last=True)
        view.end(pipeline, tick)
        if recorder is not None:
            print(recorded(recorder), file=sys.stderr)


def constants_of(tracer: Tracer, options: Options) -> dict[str, int]:
    """What goes into the tracer's object for these options. Raises UsageError."""
    return {**tracer.constants(options.own), "filter_by_cgroup": int(bool(options.selection))}


def adapted(tracer: Tracer, options: Options) -> Tracer:
    """The tracer with the columns that these options ask for."""
    return tracer.with_options(options.own) if isinstance(tracer, Counts) else tracer


def wiring_of(tracer: Tracer, options: Options, host: Host) -> dict[str, Any]:
    """What the engine is told of a tracer besides its options: `constants`, and KernelSource's `sizes`, `unneeded`."""
    found: dict[str, Any] = {"constants": {}}
    if isinstance(tracer, Counts):
        found = tracer.wiring(options.own, options.by, options.events, host)
    if host.own_cgroups():
        found["constants"] = {**found["constants"], "filter_by_cgroup": 1}
    return found


def prepare(tracer: Tracer, kernel: KernelSource, files: Node) -> None:
    """Leave out this process's own container, whose writes tell nothing of the node; then what a tracer's maps need."""
    for hierarchy, number in files.host.own_cgroups():
        kernel.exclude(hierarchy, number)
    if isinstance(tracer, Counts):
        tracer.prepare(kernel.store, files)


def gauges_of(chosen: Sequence[Tracer], host: Host) -> dict[str, Gauges]:
    """What is read at each interval, of the tracers that have such."""
    found = {tracer.name: tracer.gauges(host) for tracer in chosen if isinstance(tracer, Stateful)}
    return {name: gauges for name, gauges in found.items() if gauges is not None}


def header_of(
    host: Host,
    clock: Wall,
    kernels: Mapping[str, tuple[Tracer, KernelSource]],
    options: Options,
    gauges: Mapping[str, Gauges],
) -> Header:
    """What a recording of these tracers says of itself."""
    from kubetrace.recording.header import Header, Stream, Traced

    number, traced = 0, []
    for tracer, kernel in kernels.values():
        streams = []
        layouts = {name: kernel.layouts[name] for name in tracer.streams}
        if tracer.name in gauges:
            layouts |= gauges[tracer.name].layouts
        for name, layout in layouts.items():
            number += 1
            streams.append(Stream(number, name, layout))
        selection = options.selection.texts() if isinstance(options.selection, Selection) else {}
        names = {option.name for option in tracer.options()}
        own = {name: str(value) for name, value in options.own.items() if value is not None and name in names}
        traced.append(Traced(tracer.name, kernel.hook, tuple(kernel.missing.values()), selection, own, tuple(streams)))
    return Header(clock.node, host.kernel_release(), clock.offset_ns, tuple(traced))


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
    return (
        f"Recorded {rows - recorder.dropped} event{'s' * (rows != 1)} in {format_duration(recorder.last.elapsed_ns)}"
        f" to {path}{f' ({lost} lost)' if lost else ''}. View it: {shown}"
    )


def node_files(host: Host, options: Options) -> Node:
    """The node's files as facts."""
    from kubetrace.node.files import Node

    return Node(host, cri_socket=options.cri_socket)


def touch(path: Path) -> None:
    """Create the ready file. Raises OutputError."""
    try:
        path.touch()
    except OSError as error:
        raise OutputError(f"cannot create the ready file {path}: {error.strerror}.") from error


def hookable(tracer: str) -> bool:
    """Whether overlayfs is in the kernel."""
    from kubetrace.engines import source

    return source.hookable(tracer)


def attach_now(
    tracer: Tracer,
    options: Options,
    constants: Mapping[str, int],
    wiring: Mapping[str, Any],
    modules: Sequence[str] = (),
) -> KernelSource:
    """Attach; `modules` are imported while the kernel verifies the programs."""
    from kubetrace.engines import source

    meanwhile = threading.Thread(target=lambda: [importlib.import_module(name) for name in modules])
    meanwhile.start()
    try:
        return source.KernelSource(
            tracer.name,
            tracer.streams,
            constants=constants,
            optional=tracer.optional,
            hook=options.hook,
            engine=options.engine,
            host_root=options.host_root,
            program=options.program,
            **wiring,
        )
    finally:
        meanwhile.join()


def attach(
    tracer: Tracer,
    options: Options,
    constants: Mapping[str, int],
    stop: Stop,
    screen: TableView | None,
    wiring: Mapping[str, Any],
) -> KernelSource | None:
    """Attach now, or as soon as overlayfs is in the kernel; None when the user gave up before."""
    begun, told = time.monotonic(), False
    while tracer.needs_overlay and not hookable(tracer.name):
        notice = "overlayfs is not loaded on this node yet; attaching when it appears"
        if screen is not None:
            screen.waiting(notice)
        elif not told:
            print(f"kubetrace: {notice}", file=sys.stderr, flush=True)
            told = True
        time.sleep(_WAIT_FOR_HOOK_S)
        if stop.asked or (options.duration_s is not None and time.monotonic() - begun >= options.duration_s):
            return None
    return attach_now(tracer, options, constants, wiring)


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


def _loop(
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


_COST_OVER_NS = 500_000_000


class OwnCost:
    """kubetrace's own CPU time, in percent of one core between two ticks."""

    def __init__(self) -> None:
        """From the first tick on."""
        self._then = Tick(0, 0, 0)
        self._percent: float | None = None

    def percent(self, tick: Tick) -> float | None:
        """Since the tick that was at least half a second before; None until there was one."""
        passed = tick.elapsed_ns - self._then.elapsed_ns
        if passed >= _COST_OVER_NS:
            self._percent = max(0.0, 100.0 * (tick.cpu_ns - self._then.cpu_ns) / passed)
            self._then = tick
        return self._percent


class Overhead:
    """What the tracer's programs take, as the kernel measures it; as bpftop shows it."""

    def __init__(self, runs: Callable[[], Mapping[str, tuple[int, int]]]) -> None:
        """`runs`: program -> (nanoseconds, how often) so far."""
        self._runs = runs
        self._then: Mapping[str, tuple[int, int]] = {}
        self._then_ns = 0
        self._text = "BPF -"
        self.total: Mapping[str, tuple[int, int]] = {}

    def look(self, tick: Tick, *, last: bool = False) -> str:
        """BPF 0.31% (1,204 runs/s, 257 ns each, most in return__fentry), since the look before."""
        passed = tick.elapsed_ns - self._then_ns
        if passed <= 0 or (passed < _LOOK_AGAIN_NS and not last):
            return self._text
        self.total = now = self._runs()
        spent = {name: (ns - self._then.get(name, (0, 0))[0]) for name, (ns, _) in now.items()}
        count = sum(runs - self._then.get(name, (0, 0))[1] for name, (_, runs) in now.items())
        share = format_percent(100 * sum(spent.values()) / passed)
        self._text = f"BPF {share} ({format_count(round(count * 1e9 / passed))} runs/s"
        if count:
            most = max(spent, key=lambda name: spent[name])
            self._text += f", {format_duration(sum(spent.values()) // count)} each, most in {most}"
        self._text += ")"
        self._then, self._then_ns = now, tick.elapsed_ns
        return self._text

    def summary(self, elapsed_ns: int) -> str:
        """The same over the whole run."""
        spent, count = (sum(pair[at] for pair in self.total.values()) for at in (0, 1))
        each = f", {format_duration(spent // count)} each" if count else ""
        share = format_percent(100 * spent / max(1, elapsed_ns))
        return f"BPF programs ran {format_count(count)} times{each}: {share} of a core."


class View(Protocol):
    """What a run shows itself in."""

    overhead: Overhead | None
    """Asked for what the programs take, where that is to be shown."""

    groupings: Sequence[str]
    events: EventView | None
    paused: bool
    modules: Sequence[str]
    """What it will import when it is opened, and the run with it."""

    def attached(self, hook: str, missing: Sequence[str]) -> None:
        """The hook, and what is not seen."""

    def warn(self, notice: str) -> None:
        """Say what the user should know from now on."""

    def keyboard(self) -> int | None:
        """The descriptor of the terminal whose keys it wants."""

    def typed(self, pipeline: Pipeline, tick: Tick) -> bool:
        """Do what the keys say; False to quit."""

    def show(self, pipeline: Pipeline, tick: Tick) -> None:
        """An interval is over."""

    def skip(self, pipeline: Pipeline, tick: Tick) -> None:
        """An interval is over, and nobody waits for what it looked like."""

    def last(self, pipeline: Pipeline, tick: Tick) -> None:
        """All is counted."""

    def end(self, pipeline: Pipeline, tick: Tick) -> None:
        """Say the summary."""


def open_view(tracer: Tracer, options: Options, clock: Wall, release: str) -> TableView | StreamView:
    """The view that suits the output; `release` is the traced kernel's."""
    if options.output in ("json", "csv") or options.events:
        return StreamView(tracer, options, clock)
    if options.output == "windows":
        from kubetrace.windows import WindowView

        return WindowView(tracer, options, clock, release)
    return TableView(tracer, options, clock, release)


class TableView:
    """Windows of the grouped rows: live on a terminal, plain blocks elsewhere."""

    def __init__(self, tracer: Tracer, options: Options, clock: Wall, release: str) -> None:
        """Nothing is shown before it is open."""
        self._tracer = tracer
        self._options = options
        self._clock = clock
        self._live = self._can_be_live()
        # Only a live table can change its grouping; elsewhere one is counted.
        self._groupings = tracer.others(options.by) if isinstance(tracer, Counts) else list(tracer.groupings)
        self.groupings: Sequence[str] = self._groupings if self._live else [options.by]
        self.events: EventView | None = None
        self._by = options.by
        self._sort = options.sort
        self._keys = _keys() if self._live else None
        self.modules: Sequence[str] = (*_NODE_MODULES, "kubetrace.views.frame") if self._live else _NODE_MODULES
        self._notices: list[str] = []
        self.overhead: Overhead | None = None
        self.paused = False
        self.pause_notice = "paused: counting goes on, space shows it"
        self._cost = OwnCost()
        self._begun = time.monotonic()
        self._hook = ""
        self._missing: Sequence[str] = ()
        self._release = release

    def _can_be_live(self) -> bool:
        from kubetrace.views.plain import can_be_live

        return can_be_live(sys.stdout)

    @contextlib.contextmanager
    def open(self) -> Iterator[TableView]:
        """Take the terminal for as long as the context lasts."""
        from kubetrace.views.screen import open_table

        with (
            open_table(sys.stdout, wide=self._options.output == "wide", headers=self._options.headers) as self._table,
            self._keys or contextlib.nullcontext(),
        ):
            yield self

    def waiting(self, notice: str) -> None:
        """Show that nothing is attached yet, and why."""
        columns = [*self._tracer.groupings[self._by].columns, *self._tracer.measures]
        self._table.show(Window(columns, head=self._head(time.monotonic() - self._begun), notices=[notice]))

    def attached(self, hook: str, missing: Sequence[str]) -> None:
        """The hook, and what is not seen."""
        self._hook, self._missing = hook, missing

    def warn(self, notice: str) -> None:
        """A notice above the table."""
        self._notices.append(notice)

    def keyboard(self) -> int | None:
        """The terminal's descriptor, where the table is live."""
        return self._keys.fileno() if self._keys is not None else None

    def typed(self, pipeline: Pipeline, tick: Tick) -> bool:
        """Do what the keys say; False to quit."""
        for key in self._keys.read() if self._keys is not None else ():
            if key == "q":
                return False
            if key == " ":
                self.paused = not self.paused
            elif key == "s":
                names = self._sorts()
                self._sort = names[(names.index(self._sort) + 1) % len(names)] if self._sort in names else names[0]
            elif key == "g":
                names = list(self._groupings)
                self._by = names[(names.index(self._by) + 1) % len(names)]
                if self._sort not in self._sorts():
                    self._sort = next(iter(self._tracer.sorts))
        self._draw(pipeline, tick)
        return True

    def _sorts(self) -> list[str]:
        """The sorts whose column this grouping has."""
        columns = {column.key for column in (*self._tracer.groupings[self._by].columns, *self._tracer.measures)}
        return [name for name, key in self._tracer.sorts.items() if key in columns]

    def show(self, pipeline: Pipeline, tick: Tick) -> None:
        """A window, unless paused."""
        if pipeline.counting is not None:
            pipeline.counting.tick(tick.elapsed_ns)
        if not self.paused:
            self._draw(pipeline, tick)

    def skip(self, pipeline: Pipeline, tick: Tick) -> None:
        """What a window leaves behind, without the window: rates and own cost are those since the one before."""
        if pipeline.counting is not None:
            pipeline.counting.tick(tick.elapsed_ns)
        self._cost.percent(tick)

    def last(self, pipeline: Pipeline, tick: Tick) -> None:
        """The table that stays, with everything in it."""
        self.paused = False
        self._draw(pipeline, tick)

    def end(self, pipeline: Pipeline, tick: Tick) -> None:
        """The summary; the last table is on the normal screen already."""
        tracer, counts = self._tracer, pipeline.counts
        elapsed = format_elapsed(tick.elapsed_ns / 1e9)
        print(
            f"{tracer.summary_text(pipeline.total())} in {elapsed}; "
            f"{counts.lost} lost, {counts.unattributed} unattributed."
        )
        if self.overhead is not None:
            print(self.overhead.summary(tick.elapsed_ns))
        _print_remedies(pipeline, sys.stdout)

    def _sort_is_hidden(self) -> bool:
        key = self._tracer.sorts[self._sort]
        return self._options.output != "wide" and any(c.wide and c.key == key for c in self._tracer.measures)

    def _head(self, elapsed_s: float) -> list[Item]:
        return [
            (f"kubetrace {self._tracer.name}", "title"),
            f"node {self._clock.node}",
            f"Linux {self._release}",
            self._hook or "not attached",
            format_elapsed(elapsed_s),
        ]

    def _draw(self, pipeline: Pipeline, tick: Tick) -> None:
        self._table.show(self._window(pipeline, tick, self._cost.percent(tick)))

    def _window(self, pipeline: Pipeline, tick: Tick, cost: float | None) -> Window:
        tracer, counts, selection = self._tracer, pipeline.counts, self._options.selection
        tally = pipeline.table(self._by)
        shown = counts.events - counts.folded
        foot: list[Item] = [
            f"{format_count(shown)} {tracer.noun[shown != 1]}",
            (f"{counts.unattributed} unattributed", "warn" if counts.unattributed else "dim"),
        ]
        costs: list[Item] = [(f"own CPU {'-' if cost is None else format_percent(cost)}", "dim")]
        if self.overhead is not None:
            costs.append((self.overhead.look(tick), "dim"))
        notices = [*self._missing, *self._notices]
        if self.paused:
            notices.append(self.pause_notice)
        if selection and not pipeline.attribution.matched:
            notices.append(f"no container matches {selection} yet; waiting")
        head = self._head(tick.elapsed_ns / 1e9)
        if self._live:
            head.insert(4, f"by {self._by}, {self._sort} first" if self._sort_is_hidden() else f"by {self._by}")
        return Window(
            tally.columns,
            rows=tally.rows(tracer.sorts[self._sort], self._options.top),
            head=head,
            foot=foot,
            costs=costs,
            lost=counts.lost,
            total=len(tally),
            sort=tracer.sorts[self._sort],
            descending=True,
            notices=notices,
            empty=f"no {tracer.noun[1]} yet",
            keys=_KEYS,
        )


class StreamView:
    """Every event as it comes: lines, JSON objects or CSV rows."""

    groupings: Sequence[str] = ()
    paused = False
    modules: Sequence[str] = _NODE_MODULES

    def __init__(self, tracer: Tracer, options: Options, clock: Wall) -> None:
        """Write to stdout."""
        self._tracer = tracer
        self._options = options
        self._clock = clock
        self._json: Any = None
        self._rows: Any = None
        self._warned = False
        self.overhead: Overhead | None = None
        if options.output == "json":
            from kubetrace.views.json import JsonLines

            self._json = JsonLines(sys.stdout)
        elif options.output == "csv":
            from kubetrace.views.csv import CsvLines

            sys.stdout.reconfigure(newline="")  # type: ignore[union-attr]  # csv.writer ends lines itself
            self._rows = CsvLines(sys.stdout, self._columns(), headers=options.headers)
        else:
            from kubetrace.views.lines import Lines

            self._rows = Lines(sys.stdout, tracer.event_columns, wide=options.output == "wide", headers=options.headers)
        self.events: EventView | None = self

    def _columns(self) -> Sequence[Column]:
        if not isinstance(self._tracer, Counts) or self._options.events:
            return self._tracer.event_columns
        return [_TIME, *self._tracer.groupings[self._options.by].columns, *self._tracer.measures]

    def attached(self, hook: str, missing: Sequence[str]) -> None:
        """The hook, and what is not seen."""
        self._hook = hook
        for notice in missing:
            print(f"kubetrace: {visible(notice)}", file=sys.stderr)
        self.flush()

    def warn(self, notice: str) -> None:
        """On stderr."""
        print(f"kubetrace: {visible(notice)}", file=sys.stderr)

    def keyboard(self) -> int | None:
        """No keys."""
        return None

    def typed(self, pipeline: Pipeline, tick: Tick) -> bool:
        """No keys."""
        return True

    def show(self, pipeline: Pipeline, tick: Tick) -> None:
        """Nothing of events, they are out already; of counters the rows that the interval touched."""
        if self._options.selection and not pipeline.attribution.matched and not self._warned:
            self._warned = True
            print(f"kubetrace: no container matches {self._options.selection} yet; waiting", file=sys.stderr)
        self._show_rows(pipeline, tick, last=False)

    def skip(self, pipeline: Pipeline, tick: Tick) -> None:
        """As `show`: these are lines, and none is left out."""
        self._show_rows(pipeline, tick, last=False)

    def _show_rows(self, pipeline: Pipeline, tick: Tick, *, last: bool) -> None:
        counting, by = pipeline.counting, self._options.by
        if counting is None or not isinstance(self._tracer, Counts) or self._options.events:
            return
        counting.tick(tick.elapsed_ns)
        if self._json is not None:
            latency = bool(self._options.own.get("latency"))
            for row in counting.all_rows() if last else counting.changed():
                self._json.write(self._tracer.row_record(by, row, self._clock, tick.wall_ns, latency))
        else:
            sort = self._tracer.sorts[self._options.sort]
            for cells in pipeline.table(by).rows(sort, self._options.top):
                self._rows.write((tick.wall_ns, *cells))
        self.flush()

    def event(self, event: Any, identity: Identity) -> None:
        """One line."""
        if self._json is not None:
            self._json.write(self._tracer.record(event, identity, self._clock))
        else:
            cells: Sequence[Value] = self._tracer.event_cells(event, identity, self._clock)
            self._rows.write(cells)

    def lost(self, losses: Mapping[str, int], wall_ns: int) -> None:
        """What is missing from here on."""
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
        """A step is over."""
        (self._json or self._rows).flush()

    def last(self, pipeline: Pipeline, tick: Tick) -> None:
        """All events are out already; of counters every row comes once more."""
        if pipeline.counting is None:
            self.show(pipeline, tick)
        self._show_rows(pipeline, tick, last=True)

    def end(self, pipeline: Pipeline, tick: Tick) -> None:
        """The summary: the last JSON object, or a line on stderr."""
        counts, total = pipeline.counts, pipeline.total()
        if self._json is not None:
            self._json.write(
                {
                    "type": "summary",
                    "time": format_time(tick.wall_ns),
                    "node": self._clock.node,
                    "tracer": self._tracer.name,
                    "hook": self._hook,
                    "duration_ns": tick.elapsed_ns,
                    "events": counts.events,
                    "lost": counts.lost,
                    "unattributed": counts.unattributed,
                    **self._tracer.summary_record(total),
                    **self._overhead_record(),
                    "remedies": [remedy.text(escape) for remedy in pipeline.advice.remedies()],
                }
            )
            self._json.flush()
            return
        if self.overhead is not None:
            print(self.overhead.summary(tick.elapsed_ns), file=sys.stderr)
        elapsed = format_elapsed(tick.elapsed_ns / 1e9)
        print(
            f"{self._tracer.summary_text(total)} in {elapsed}; {counts.lost} lost, {counts.unattributed} unattributed.",
            file=sys.stderr,
        )
        _print_remedies(pipeline, sys.stderr)

    def _overhead_record(self) -> dict[str, Any]:
        if self.overhead is None:
            return {}
        programs = {name: {"run_time_ns": ns, "runs": runs} for name, (ns, runs) in self.overhead.total.items()}
        return {"bpf": programs}


def _print_remedies(pipeline: Pipeline, stream: TextIO) -> None:
    remedies = pipeline.advice.remedies()
    if remedies:
        print("\nWhat was copied for nothing, and what to do about it:", file=stream)
    for remedy in remedies:
        print(f"  {remedy.text(short_name)}", file=stream)


def short_name(name: str | bytes) -> str:
    """Escaped, and what is very long without its middle: a path may have thousands of bytes."""
    shown = escape(name)
    if shown.startswith("/") and width(shown.rpartition("/")[2]) < _NAME_CELLS // 2:
        return cut_path(shown, _NAME_CELLS)
    return cut(shown, _NAME_CELLS, "middle")


def _describe(losses: Mapping[str, int]) -> str:
    kinds = ", ".join(f"{visible(kind).replace('_', ' ')} {count}" for kind, count in losses.items() if count)
    return f"{sum(losses.values())} events lost ({kinds})"


def _keys() -> Keys | None:
    try:
        from kubetrace.views.keys import Keys
    except ImportError:  # Windows: no termios
        return None
    return Keys()


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
