"""What the agent serves, as families of prometheus_client: the tracers' own sums, and how the agent itself stands."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

from kubetrace import __version__

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

    from kubetrace.agent.watch import Standing, Watch
    from kubetrace.errors import KubetraceError

# Rings are read ten times a second; what has not been for so long is stuck.
_STUCK_S = 30.0


class Collector:
    """Asked by prometheus_client at each scrape."""

    def __init__(self, watches: Sequence[Watch], node: str, kernel: str) -> None:
        """`node` and `kernel` are for kubetrace_build_info."""
        self._watches, self._node, self._kernel = watches, node, kernel

    def collect(self) -> Iterator[Family]:
        """Every family."""
        standings = [(watch, watch.standing()) for watch in self._watches]
        for watch, standing in standings:
            yield from _of_tracer(watch, standing)
        yield from _of_agent(standings)
        info = {"version": __version__, "node": self._node, "kernel": self._kernel}
        yield InfoMetricFamily("kubetrace_build", "kubetrace, and what it runs on.", info)


def _of_tracer(watch: Watch, standing: Standing) -> Iterator[Family]:
    names = list(watch.tracer.metric_labels)
    for at, metric in enumerate(watch.tracer.metrics):
        family = CounterMetricFamily(f"kubetrace_{watch.tracer.name}_{metric.name}", metric.help, labels=names)
        for labels, sums in standing.series.items():
            family.add_metric(labels, sums[at])
        yield family
    for one in watch.tracer.standings:
        gauge = GaugeMetricFamily(f"kubetrace_{watch.tracer.name}_{one.name}", one.help, labels=list(one.labels))
        for labels, value in standing.standings.get(one.name, {}).items():
            gauge.add_metric(labels, value)
        yield gauge


def _of_agent(standings: Iterable[tuple[Watch, Standing]]) -> Iterator[Family]:
    families: dict[str, Any] = {
        "up": GaugeMetricFamily("kubetrace_tracer_up", "1 where the tracer is attached.", labels=["tracer", "hook"]),
        "events": CounterMetricFamily("kubetrace_events", "Events or operations counted.", labels=["tracer"]),
        "lost": CounterMetricFamily(
            "kubetrace_lost_events", "Events that the kernel could not hand over.", labels=["tracer", "kind"]
        ),
        "unattributed": CounterMetricFamily(
            "kubetrace_unattributed_events", "Events of no known pod or process of the node.", labels=["tracer"]
        ),
        "series": GaugeMetricFamily("kubetrace_series", "Label sets with sums of their own.", labels=["tracer"]),
        "overflowed": CounterMetricFamily(
            "kubetrace_series_overflowed",
            "Label sets that found no place of their own and are part of the (overflow) series.",
            labels=["tracer"],
        ),
        "attached": CounterMetricFamily("kubetrace_attached", "How often the tracer was attached.", labels=["tracer"]),
    }
    for watch, standing in standings:
        name = watch.tracer.name
        families["up"].add_metric([name, standing.hook], 1 if standing.hook else 0)
        families["events"].add_metric([name], standing.events)
        for kind, count in standing.lost.items():
            families["lost"].add_metric([name, kind], count)
        families["unattributed"].add_metric([name], standing.unattributed)
        families["series"].add_metric([name], len(standing.series))
        families["overflowed"].add_metric([name], standing.overflowed)
        families["attached"].add_metric([name], standing.attached)
    yield from families.values()


# Lines of `kubetrace doctor` that are about the kernel as it was booted, whatever rights this process has.
_OF_THE_NODE = frozenset(
    ("lockdown", "kernel BTF", "module BTF", "overlayfs", "fexit attach", "kprobe attach", "tracepoints", "ring buffer")
)


def of_the_node(error: KubetraceError) -> bool:
    """Whether a tracer cannot be attached because of the node's kernel: no restart of the agent helps."""
    return error.check in _OF_THE_NODE


def health(watches: Sequence[Watch]) -> tuple[bool, str]:
    """Whether what could be attached still runs, and in words how each tracer stands.

    A kernel that has no hook for one tracer is not a reason to restart the others; a tracer that has stopped is. Nor is
    a node on which none can be attached: no restart changes that, and who scrapes is told by kubetrace_tracer_up.
    """
    lines, runs, stuck = [], False, False
    for watch in watches:
        standing = watch.standing()
        if standing.waits:
            runs = True
            words = "waits for overlayfs"
        elif standing.hook:
            runs = True
            late = time.monotonic() - standing.drained_s > _STUCK_S
            stuck = stuck or late
            words = "its rings are not read" if late else f"attached by {standing.hook}"
        else:
            stuck = stuck or standing.crashed
            runs = runs or (standing.error is not None and of_the_node(standing.error))
            words = standing.error.what if standing.error is not None else "not attached"
        lines.append(f"{watch.tracer.name}: {words}")
    return runs and not stuck, "\n".join(lines) + "\n"
