"""One tracer kept running, in a thread of its own; what it counts goes into its series.

It is attached anew once a day, or earlier when what it remembers has become large: the kernel's counters, and
whose they were, are never forgotten while it is attached (tables/counted.py), which a run of months cannot afford. What
happens in the second between is not seen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kubetrace.agent.series import Labels, Series, standing
from kubetrace.errors import KubetraceError
from kubetrace.kit.tracer import SUM
from kubetrace.pipeline import Pipeline
from kubetrace.session.attach import Attachment
from kubetrace.session.loop import drain, moments
from kubetrace.session.options import Attach, own_defaults
from kubetrace.views.text import visible

if TYPE_CHECKING:
    from kubetrace.attribution.selection import Selection
    from kubetrace.kit.tracer import Standing as StandingMetric
    from kubetrace.kit.tracer import Tracer
    from kubetrace.node.host import Host
    from kubetrace.stream.live import LiveSource

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
    standings: Mapping[str, Mapping[Labels, float]] = field(default_factory=dict)
    """What is served as it stands, by its name."""
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
        """Nothing is attached yet. `tracer` has to have metrics."""
        self.tracer = tracer
        self._max_series = max_series
        self._host = host
        self._asked = Attach(selection, own_defaults(tracer), hook=hook, engine=engine, cri_socket=cri_socket)
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

    @property
    def _by(self) -> str:
        return self.tracer.metered_by or next(iter(self.tracer.groupings))

    def _tell(self, **values: Any) -> None:
        with self._lock:
            for name, value in values.items():
                setattr(self._standing, name, value)

    def _once(self) -> None:
        """Attach, and watch until it is to be attached anew."""
        by = self._by
        with Attachment([self.tracer], self._asked, host=self._host, by=by) as attachment:
            if attachment.waits:
                self._tell(hook="", error=None, waits=True)
                self.first.set()
                self._stop.wait(_AGAIN_S)
                return
            with _ATTACHING:
                attachment.attach()
            (tracer,) = attachment.tracers
            source = attachment.open()
            pipeline = Pipeline(
                tracer,
                source.layouts,
                attachment.context,
                groupings=[by],
                asked=source,
                by=by,
                own=self._asked.own,
                missing=attachment.missing(tracer),
                metered=True,
                # what a row once said is in the series already; what is too much, _MOST_ROWS deals with
                fold_ended=False,
            )
            source.start()
            self._series.begin_again()
            attached, now = self._standing.attached + 1, time.monotonic()
            hook = attachment.kernels[tracer.name].hook
            self._tell(hook=hook, error=None, waits=False, attached=attached, drained_s=now)
            self._watch(source, pipeline)

    def _watch(self, source: LiveSource, pipeline: Pipeline) -> None:
        begun = next_look = time.monotonic()
        base = self.standing()
        seen = 0
        for _ in moments(source, pipeline.take, stop=self._stop.is_set):
            now = time.monotonic()
            self._tell(drained_s=now)
            if now >= next_look:
                next_look = now + _LOOK_S
                seen = max(seen, pipeline.counts.unattributed)
                rows = self._look(pipeline, base, seen, now)
                self.first.set()
                if now - begun > _LONGEST_S or rows > _MOST_ROWS:
                    break
        drain(source, pipeline.take, last=True)
        self._look(pipeline, base, max(seen, pipeline.counts.unattributed), time.monotonic(), last=True)

    def _look(self, pipeline: Pipeline, base: Standing, unattributed: int, now: float, *, last: bool = False) -> int:
        """Take in the table as it stands; how much is remembered."""
        table = pipeline.table.rows(self._by)
        at = {column.key: place for place, column in enumerate(table.columns)}
        labels = [at[name] for name in self.tracer.metric_labels]
        values = [(at[metric.measure], metric.scale) for metric in self.tracer.metrics]
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
            standings={one.name: self._standing_of(pipeline, one) for one in self.tracer.standings},
            overflowed=self._series.overflowed,
        )
        return max(len(rows), len(pipeline.table))

    def _standing_of(self, pipeline: Pipeline, one: StandingMetric) -> Mapping[Labels, float]:
        table = pipeline.table.rows(one.by)
        at = {column.key: place for place, column in enumerate(table.columns)}
        places, value = [at[name] for name in one.labels], at[one.measure]
        return standing(
            (
                (tuple([_label(row[place]) for place in places]), _known(row[value], one.scale))
                for row in table.rows("", None)
            ),
            limit=self._max_series,
            sums=one.join == SUM,
        )


def _known(value: Any, scale: float) -> float | None:
    return float(value) * scale if isinstance(value, int | float) else None


def _label(value: Any) -> str:
    return "" if value is None else visible(value if isinstance(value, bytes) else str(value))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
