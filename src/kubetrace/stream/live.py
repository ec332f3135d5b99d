"""The running node as a source of steps: kernel rings and the node's files, in one thread.

    births of cgroups ---> node's files ---> facts ---.
    changes of mounts ---> node's files ---> facts ---+--> Step
    rings, losses, clock -------every 100 ms----------'

Where no ring had anything for half a second it comes once an interval, and the next record wakes it. It also wakes for
a signal, the birth of a cgroup (the container's config.json may be gone 30 ms later), a change of the node's
mounts, and whatever descriptor it is told to watch (a key); events wait in their rings until `drain`.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from kubetrace.attribution import mountinfo
from kubetrace.attribution.facts import OverlaySeen, OverlayTold
from kubetrace.stream.layout import Batch
from kubetrace.stream.steps import Step, Tick, split, stream_key

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Fact
    from kubetrace.stream.layout import Layout
    from kubetrace.stream.steps import Joining

DRAIN_INTERVAL_S = 0.1
# How often the node's files are asked again about what has no name yet, and how soon after one another mounts are read.
_ASK_AGAIN_S = 1.0
_MOUNTS_AGAIN_S = 0.02
# What a ring (bpf/*.bpf.c: 8 MiB) may hold when it is drained, and the shortest time between two drains.
_COMFORTABLE_BYTES = 2 << 20
_SHORTEST_S = 0.004
# After so long without a record, the pause becomes that of the view, and one second at most.
_QUIET_S = 0.5
_LONGEST_S = 1.0
# Losses are a system call for each program.
_LOSSES_AGAIN_S = 1.0
_LAYERS_AT_ONCE = 4
_STIR_AGAIN_S = 0.1
_BIRTHS = "cgroups"


class Kernel(Protocol):
    """One tracer in the kernel (engines.source.KernelSource)."""

    layouts: Mapping[str, Layout]
    sees_births: bool
    """Whether the stream `cgroups` tells which are made; otherwise the node's files are looked through."""

    @property
    def counters(self) -> Collection[str]:
        """The streams that are snapshots of counters: they fill no ring."""

    @property
    def births_fd(self) -> int:
        """Readable when the stream `cgroups` has something."""

    @property
    def ring_fds(self) -> Sequence[int]:
        """Of all other streams: wake once when half full, and after `wake_at_next`."""

    def wake_at_next(self) -> None:
        """Let the next record of any of these wake, once."""

    def read(self, *streams: str) -> Iterable[Batch]:
        """What has come since the last call."""

    def hurry(self) -> None:
        """Read counters at the next call too, however lately they were read."""

    def join(self, stream: str, joiner: Joining) -> None:
        """From now on, take alike records of this stream as one, while they are read."""

    def losses(self) -> dict[str, int]:
        """Kind of loss -> count since the start."""

    def exclude(self, hierarchy: int, cgroup_id: int, *, excluded: bool = True) -> None:
        """Do not send events of this cgroup any more; or, when it is gone, do not remember that."""

    def iterate(self, group: str, event: str) -> Sequence[Any] | None:
        """The records (struct `event`) of a group's iterator, as it finds them now; None where it is not attached."""


class NodeFiles(Protocol):
    """The node's files as facts (node.survey.Node)."""

    def scan(self) -> Iterable[Fact]:
        """Everything there is now."""

    def cgroup_created(self, hierarchy: int, cgroup_id: int, path: str, time_ns: int) -> Sequence[Fact]:
        """What the files say about a cgroup that was just made."""

    def cgroup_removed(self, hierarchy: int, cgroup_id: int, path: str, time_ns: int) -> Sequence[Fact]:
        """That a cgroup is gone."""

    def look_for_cgroups(self) -> Sequence[Fact]:
        """What came and went since the last look, where nobody tells."""

    def resolve_again(self) -> Sequence[Fact]:
        """What they say now about containers without a name."""

    def mounts(self) -> Sequence[Fact]:
        """Overlays that came and went since the last look."""

    def layers(self, device: int) -> Sequence[Fact]:
        """What the files say about the image layers below this overlay; read once."""

    def layers_again(self) -> Sequence[Fact]:
        """What was left over from that."""

    def mounts_fd(self) -> int:
        """Polls POLLPRI when the node's mounts change."""


class Gauges(Protocol):
    """Records that are read off the node at each interval (cgroups.usage.Usage); streams like those of the kernel."""

    layouts: Mapping[str, Layout]

    @property
    def fds(self) -> Sequence[int]:
        """Descriptors that can be read when something happens that cannot wait for the interval."""

    def stir(self) -> bool:
        """One of them can be: read it, and what has to be read at once; `read` hands it on.

        Whether to be called again a tenth of a second later.
        """

    def learn(self, fact: Fact) -> None:
        """What became known of the node."""

    def read(self, between: Callable[[], None], *, whole: bool = False) -> Iterable[Batch]:
        """How things stand now; of very many some at a time, unless the `whole` is asked for.

        Calls `between` every millisecond or so, for what cannot wait.
        """

    @property
    def complete(self) -> bool:
        """Whether all that there is has been read once."""

    def close(self) -> None:
        """Let go of what reading needs."""


class LiveSource:
    """The tracers that are attached, and the node around them. Time runs from its making."""

    def __init__(
        self,
        kernels: Mapping[str, Kernel],
        files: NodeFiles,
        gauges: Mapping[str, Gauges] | None = None,
        *,
        interval_s: float = 1.0,
        all_layers: bool = False,
        overlays: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`kernels`: tracer -> what is attached for it. `files` stay the caller's to close.

        `gauges`: tracer -> what is read for it once an `interval_s`. `all_layers`: look up the image layers of every
        container's overlay, not only where an event asks for them (a recorder does not decode events). `overlays`:
        tracer -> its streams that tell which overlay a device number is of; they become facts.
        """
        self._all_layers = all_layers
        self._overlays: list[int] = []
        self._kernels = dict(kernels)
        self._gauges = dict(gauges or {})
        self._interval_s = interval_s
        self._sampled = -interval_s
        self._files = files
        self.layouts: dict[str, Layout] = {
            stream_key(tracer, stream): layout
            for tracer, kernel in kernels.items()
            for stream, layout in kernel.layouts.items()
            if stream != _BIRTHS and stream not in (overlays or {}).get(tracer, ())
        }
        self._told_overlays = dict(overlays or {})
        self._counters = {
            stream_key(tracer, stream) for tracer, kernel in kernels.items() for stream in kernel.counters
        }
        self._gauged: set[str] = set()
        for tracer, gauge in self._gauges.items():
            self._gauged |= {stream_key(tracer, stream) for stream in gauge.layouts}
            self.layouts |= {stream_key(tracer, stream): layout for stream, layout in gauge.layouts.items()}
        self._facts: list[Fact] = []
        self._losses: dict[str, dict[str, int]] = {}
        self._begun_ns = time.monotonic_ns()
        self._cpu_ns = time.process_time_ns()
        self._asked = self._scanned = -_ASK_AGAIN_S
        self._mounts_fd = files.mounts_fd()
        self._mounts_changed = False
        self._mounts_read = 0.0
        self._look_again = False
        self._drained = self._heard = time.monotonic()
        self._losses_read = -_LOSSES_AGAIN_S
        self._asleep = False
        self._looks = not any(kernel.sees_births for kernel in kernels.values())
        self.pause_s = DRAIN_INTERVAL_S
        """Seconds until the rings should be drained again, by how fast they filled."""
        self._births_fds = {kernel.births_fd: kernel for kernel in kernels.values()}
        self.half_full = False
        """Whether a ring has asked to be drained before its time (kt_output in bpf/stream.bpf.h)."""
        self._ring_fds = {fd for kernel in kernels.values() for fd in kernel.ring_fds}
        self._stirred: list[Gauges] = []
        self._gauge_fds = {fd: gauge for gauge in self._gauges.values() for fd in gauge.fds}
        self._poller = select.epoll()
        for fd in self._births_fds:
            self._poller.register(fd, select.EPOLLIN)
        # Edge-triggered: a ring is readable with its first record, but wakes only when it is half full.
        for fd in self._ring_fds:
            self._poller.register(fd, select.EPOLLIN | select.EPOLLET)
        for fd in self._gauge_fds:
            self._poller.register(fd, select.EPOLLIN)
        self._poller.register(self._mounts_fd, select.EPOLLPRI)
        self._signals = self._signals_end = -1
        if threading.current_thread() is threading.main_thread():
            self._signals, self._signals_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            signal.set_wakeup_fd(self._signals_end, warn_on_full_buffer=False)
            self._poller.register(self._signals, select.EPOLLIN)

    def close(self) -> None:
        """No longer be woken."""
        if self._signals >= 0:
            signal.set_wakeup_fd(-1)
            os.close(self._signals_end)
            os.close(self._signals)
            self._signals = -1
        self._poller.close()

    def pace(self, interval_s: float) -> None:
        """From now on, read gauges so often."""
        self._interval_s = interval_s

    @property
    def complete(self) -> bool:
        """Whether every gauge has read all that there is once."""
        return all(gauge.complete for gauge in self._gauges.values())

    def watch(self, fd: int) -> None:
        """Let `wait` return when this descriptor can be read (the keyboard)."""
        self._poller.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Stop watching it (it was closed at the other end)."""
        self._poller.unregister(fd)

    def start(self) -> None:
        """Learn the node as it is; the tracers are attached already, so nothing is born unseen."""
        self._facts.extend(self._files.scan())

    def wait(self, timeout_s: float) -> set[int]:
        """Sleep until something happens or the time is over; births and mounts are dealt with, the rest is returned."""
        if self._stirred:
            timeout_s = min(timeout_s, _STIR_AGAIN_S)
        ready = {fd for fd, _ in self._poller.poll(max(0.0, timeout_s))}
        if self._signals in ready:
            os.read(self._signals, 4096)
        for fd, kernel in self._births_fds.items():
            if fd in ready:
                self._births(kernel)
        if self._stirred or ready & self._gauge_fds.keys():
            stirred = {*self._stirred, *(gauge for fd, gauge in self._gauge_fds.items() if fd in ready)}
            self._stirred = [gauge for gauge in stirred if gauge.stir()]
        if self._mounts_fd in ready:
            self._mounts_changed = True
        if self._mounts_changed and time.monotonic() - self._mounts_read >= _MOUNTS_AGAIN_S:
            self._mounts()
        if ready & self._ring_fds:
            self.half_full = True
            self._asleep = False
        own = {*self._births_fds, *self._ring_fds, *self._gauge_fds, self._mounts_fd, self._signals}
        return ready - own

    def drain(self, *, last: bool = False) -> list[Step]:
        """All that is there, as steps of which the last has a tick; `last` reads gauges and counters as they stand."""
        self.half_full = False
        if time.monotonic() - self._heard >= _QUIET_S and not self._asleep:
            # before the rings are read: what comes behind that wakes
            self._asleep = True
            for kernel in self._kernels.values():
                kernel.wake_at_next()
        if last:
            for kernel in self._kernels.values():
                kernel.hurry()
        # Events first: whatever they are about was born before them, and its birth is read now.
        read = {
            tracer: list(kernel.read(*(s for s in kernel.layouts if stream_key(tracer, s) in self.layouts)))
            for tracer, kernel in self._kernels.items()
        }
        self._look_at_overlays()
        self._look_at_births()
        if self._mounts_changed:
            self._mounts()
        if time.monotonic() - self._asked >= _ASK_AGAIN_S:
            self._asked = time.monotonic()
            if self._looks:
                self._facts.extend(self._files.look_for_cgroups())
            self._facts.extend(self._files.resolve_again())
            self._facts.extend(self._files.layers_again())
        batches: list[Batch] = []
        losses: dict[str, dict[str, int]] = {}
        look = last or time.monotonic() - self._losses_read >= _LOSSES_AGAIN_S
        if look:
            self._losses_read = time.monotonic()
        for tracer, kernel in self._kernels.items():
            batches += [replace(batch, stream=stream_key(tracer, batch.stream)) for batch in read[tracer]]
            if not look:
                continue
            now = kernel.losses()
            before = self._losses.get(tracer, {})
            if now != before:
                # What was lost may have been the birth of a cgroup.
                self._look_again |= any(count > before.get(kind, 0) for kind, count in now.items())
                losses[tracer] = self._losses[tracer] = now
        if self._look_again and (found := self.ask(unknown=True)):
            self._look_again = False
            self._facts.extend(found)
        if self._all_layers:
            self._look_at_layers()
        self._measure(batches)
        batches += self._sample(last)
        facts, self._facts = self._facts, []
        parts = list(split(batches, self.layouts)) or [[]]
        steps = [Step(facts=facts if not at else (), batches=part) for at, part in enumerate(parts)]
        steps[-1] = Step(facts=steps[-1].facts, batches=parts[-1], losses=losses, tick=self._tick())
        return steps

    def _sample(self, now: bool) -> list[Batch]:
        self._teach(self._facts)
        if not now and time.monotonic() - self._sampled < self._interval_s:
            return []
        self._sampled = time.monotonic()
        taught = len(self._facts)
        found = [
            Batch(stream_key(tracer, batch.stream), batch.data)
            for tracer, gauge in self._gauges.items()
            for batch in gauge.read(self._look_at_births, whole=now)
        ]
        self._teach(self._facts[taught:])
        return found

    def _teach(self, facts: Iterable[Fact]) -> None:
        for gauge in self._gauges.values():
            for fact in facts:
                gauge.learn(fact)

    def _look_at_births(self) -> None:
        # A full node's files take longer than a container may live.
        for kernel in self._kernels.values():
            self._births(kernel)

    def _look_at_overlays(self) -> None:
        # Told before the first event of each: what has been read is explained by what is there now.
        for tracer, streams in self._told_overlays.items():
            kernel = self._kernels[tracer]
            for batch in kernel.read(*streams):
                for event in kernel.layouts[batch.stream].decode(batch.data):
                    # one that fills its member is cut
                    if event.upperdir_bytes < len(event.upperdir):
                        told = mountinfo.told_directory(os.fsdecode(event.upperdir[: event.upperdir_bytes - 1]))
                        self._facts.append(OverlayTold(event.device, told, event.time))

    def _look_at_layers(self) -> None:
        # A few at a time: the rings go on filling meanwhile.
        self._overlays += [f.device for f in self._facts if isinstance(f, OverlaySeen) and f.container_id is not None]
        for device in self._overlays[:_LAYERS_AT_ONCE]:
            self._facts.extend(self._files.layers(device))
        del self._overlays[:_LAYERS_AT_ONCE]

    def _measure(self, batches: list[Batch]) -> None:
        # How soon to come again: before the fullest ring holds what is a quarter of it, by the pace of just now.
        now = time.monotonic()
        rings = (batch for batch in batches if batch.stream not in self._counters | self._gauged)
        most = max(map(self._taken, rings), default=0)
        if most:
            self._heard = now
            self.pause_s = min(DRAIN_INTERVAL_S, max(_SHORTEST_S, (now - self._drained) * _COMFORTABLE_BYTES / most))
        elif self._asleep:
            self.pause_s = min(_LONGEST_S, max(DRAIN_INTERVAL_S, self._interval_s))
        else:
            self.pause_s = DRAIN_INTERVAL_S
        self._drained = now

    def _taken(self, batch: Batch) -> int:
        # bytes of the ring
        return len(batch.data) if batch.counts is None else sum(batch.counts) * self.layouts[batch.stream].stride

    def join(self, joiners: Mapping[str, Joining]) -> None:
        """From now on, take alike records of these streams (stream_key) as one, while they are read."""
        for key, joiner in joiners.items():
            tracer, _, stream = key.partition("/")
            self._kernels[tracer].join(stream, joiner)

    def ask(self, unknown: bool) -> list[Fact]:
        """Once a second at most: the node is looked at again for the nameless, as a whole for the `unknown`."""
        now = time.monotonic()
        facts: list[Fact] = []
        if unknown and now - self._scanned >= _ASK_AGAIN_S:
            self._scanned = now
            facts.extend(self._files.scan())
        if now - self._asked >= _ASK_AGAIN_S:
            self._asked = now
            facts.extend(self._files.resolve_again())
            facts.extend(self._files.layers_again())
        self._teach(facts)
        return facts

    def layers(self, device: int) -> Sequence[Fact]:
        """What the node's files say about the image layers below this overlay; read once."""
        return self._files.layers(device)

    def exclude(self, hierarchy: int, cgroup_id: int, *, excluded: bool = True) -> None:
        """Do not send events of this cgroup any more; or, when it is gone, do not remember that."""
        for kernel in self._kernels.values():
            kernel.exclude(hierarchy, cgroup_id, excluded=excluded)

    def _births(self, kernel: Kernel) -> None:
        for batch in kernel.read(_BIRTHS):
            for event in kernel.layouts[_BIRTHS].decode(batch.data):
                if event.step == 0:
                    path = os.fsdecode(event.path[: event.path_bytes])
                    self._facts.extend(self._files.cgroup_created(event.hierarchy, event.cgroup_id, path, event.time))
                elif event.step == 1:
                    path = os.fsdecode(event.path[: event.path_bytes])
                    self._facts.extend(self._files.cgroup_removed(event.hierarchy, event.cgroup_id, path, event.time))

    def _mounts(self) -> None:
        self._mounts_changed = False
        self._mounts_read = time.monotonic()
        self._facts.extend(self._files.mounts())

    def _tick(self) -> Tick:
        return Tick(time.monotonic_ns() - self._begun_ns, time.time_ns(), time.process_time_ns() - self._cpu_ns)
