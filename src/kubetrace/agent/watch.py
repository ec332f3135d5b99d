"""One tracer kept running, in a thread of its own; what it counts goes into its series.

It is attached anew once a day, or earlier when what it remembers has become large: the kernel's counters and the names
of pods that are gone are never forgotten while it is attached (DESIGN), which a run of months cannot afford. What
happens in the second between is not seen.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click

from kubetrace.agent.series import Labels, Series
from kubetrace.errors import KubetraceError
from kubetrace.kit.context import Wall
from kubetrace.kit.tracer import Metered, Stateful
from kubetrace.pipeline import Pipeline
from kubetrace.session.attach import adapted, attach_now, constants_of, hookable, node_files, prepare, wiring_of
from kubetrace.session.loop import drain
from kubetrace.session.options import Options, check, own_of
from kubetrace.stream.live import DRAIN_INTERVAL_S, LiveSource
from kubetrace.views.text import visible

if TYPE_CHECKING:
    from kubetrace.attribution.selection import Selection
    from kubetrace.engines.source import KernelSource
    from kubetrace.kit.tracer import Tracer
    from kubetrace.node.host import Host

_LOOK_S = 1.0
_LONGEST_S = 24 * 3600.0
_MOST_ROWS = 8_000
_AGAIN_S = 5.0
# libbpf's messages are kept in one place (engines.libbpf): two tracers do not attach at once.
_ATTACHING = threading.Lock()


@dataclass
class Standing:
    """How a tracer stands, as it is served."""

    hook: str = ""
    """What it is attached by; empty where it is not."""
    error: KubetraceError | None = None
    waits: bool = False
    """Whether it waits for overlayfs."""
    crashed: bool = False
    """Whether it ended by a fault of ours."""
    events: float = 0
    unattributed: float = 0
    lost: dict[str, float] = field(default_factory=dict)
    attached: int = 0
    """How often."""
    drained_s: float = 0.0
    """When its rings were last read (time.monotonic)."""
    series: Mapping[Labels, Any] = field(default_factory=dict)
    overflowed: int = 0


class Watch:
    """A tracer with metrics, kept running until `stop`."""

    def __init__(
        self,
        tracer: Tracer,
        host: Host,
        *,
        selection: Selection,
        hook: str,
        engine: str,
        cri_socket: str | None,
        max_series: int,
        idle_s: float,
    ) -> None:
        """Nothing is attached yet. `tracer` has to be Metered."""
        assert isinstance(tracer, Metered)
        self.tracer = tracer
        self.metered: Metered = tracer
        self._host = host
        given = click.Command(tracer.name, params=list(tracer.options())).make_context(tracer.name, []).params
        by = tracer.metered_by
        _, sort = check(tracer, None, None)
        self._options = Options(
            selection, by, sort, hook=hook, engine=engine, cri_socket=cri_socket, own=own_of(tracer, given)
        )
        self._constants = constants_of(tracer, self._options)
        self._tracer = adapted(tracer, self._options)
        self._series = Series(len(tracer.metric_labels), len(tracer.metrics), limit=max_series, idle_s=idle_s)
        self._standing = Standing()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=tracer.name, daemon=True)
        self.first = threading.Event()
        """Set when it is attached, or has failed, or waits, for the first time."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and detach."""
        self._stop.set()
        self._thread.join()

    def standing(self) -> Standing:
        """A copy."""
        with self._lock:
            now = self._standing
            return replace(now, lost=dict(now.lost), series=dict(now.series))

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._once()
            except KubetraceError as error:
                self._tell(hook="", error=error, waits=False)
                self.first.set()
                self._stop.wait(_AGAIN_S * 6)
            except Exception as error:
                # whatever it is, the other tracers go on; /healthz says so
                told = KubetraceError(f"{self.tracer.name} stopped: {error!r}")
                self._tell(hook="", error=told, waits=False, crashed=True)
                self.first.set()
                return

    def _tell(self, **values: Any) -> None:
        with self._lock:
            for name, value in values.items():
                setattr(self._standing, name, value)

    def _once(self) -> None:
        """Attach, and watch until it is to be attached anew."""
        if self.tracer.needs_overlay and not hookable(self.tracer.name):
            self._tell(hook="", error=None, waits=True)
            self.first.set()
            self._stop.wait(_AGAIN_S)
            return
        tracer, asked = self._tracer, self._options
        with contextlib.ExitStack() as stack:
            kernel, missing = self._attach(stack)
            files = node_files(self._host, asked)
            stack.callback(files.close)
            clock = Wall(self._host.node_name(), self._host.boot_to_wall_ns())
            gauges = tracer.gauges(self._host) if isinstance(tracer, Stateful) else None
            source = LiveSource({tracer.name: kernel}, files, {tracer.name: gauges} if gauges is not None else {})
            pipeline = Pipeline(
                tracer,
                source.layouts,
                clock,
                asked.selection,
                groupings=[asked.by],
                asked=source,
                by=asked.by,
                own=asked.own,
                missing=missing,
                metered=True,
                # what a row once said is in the series already; what is too much, _MOST_ROWS deals with
                fold_ended=False,
            )
            prepare(tracer, kernel, files)
            source.start()
            self._series.begin_again()
            attached, now = self._standing.attached + 1, time.monotonic()
            self._tell(hook=kernel.hook, error=None, waits=False, attached=attached, drained_s=now)
            self._watch(source, pipeline)

    def _attach(self, stack: contextlib.ExitStack) -> tuple[KernelSource, tuple[str, ...]]:
        with _ATTACHING:
            wiring = wiring_of(self._tracer, self._options, self._host)
            constants = self._constants | wiring.pop("constants")
            kernel = attach_now(self._tracer, self._options, constants, wiring)
        stack.callback(kernel.close)
        return kernel, tuple(kernel.missing.values())

    def _watch(self, source: LiveSource, pipeline: Pipeline) -> None:
        begun = time.monotonic()
        next_drain = next_look = begun
        base = self.standing()
        seen = 0
        while not self._stop.is_set():
            source.wait(next_drain - time.monotonic())
            now = time.monotonic()
            if now < next_drain and not source.half_full:
                continue
            drain(source, pipeline)
            next_drain = now + min(DRAIN_INTERVAL_S, source.pause_s)
            self._tell(drained_s=now)
            if now >= next_look:
                next_look = now + _LOOK_S
                seen = max(seen, pipeline.counts.unattributed)
                rows = self._look(pipeline, base, seen, now)
                self.first.set()
                if now - begun > _LONGEST_S or rows > _MOST_ROWS:
                    break
        drain(source, pipeline, last=True)
        self._look(pipeline, base, max(seen, pipeline.counts.unattributed), time.monotonic(), last=True)

    def _look(self, pipeline: Pipeline, base: Standing, unattributed: int, now: float, *, last: bool = False) -> int:
        """Take in the table as it stands; how much is remembered."""
        table = pipeline.table(self._options.by)
        at = {column.key: place for place, column in enumerate(table.columns)}
        labels = [at[name] for name in self.metered.metric_labels]
        values = [(at[metric.measure], metric.scale) for metric in self.metered.metrics]
        rows = table.rows("", None)
        self._series.absorb(
            (
                (
                    tuple([_label(row[place]) for place in labels]),
                    [_number(row[place]) * scale for place, scale in values],
                )
                for row in rows
            ),
            now,
            hold_new=not last,
        )
        counts = pipeline.counts
        self._tell(
            events=base.events + counts.events,
            unattributed=base.unattributed + unattributed,
            lost={kind: base.lost.get(kind, 0) + counts.losses.get(kind, 0) for kind in {**base.lost, **counts.losses}},
            series=self._series.read(),
            overflowed=self._series.overflowed,
        )
        return max(len(rows), len(pipeline.counting) if pipeline.counting is not None else 0)


def _label(value: Any) -> str:
    return "" if value is None else visible(value if isinstance(value, bytes) else str(value))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
