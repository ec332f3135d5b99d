"""What is known of the pulls of one run: the newest record of each and of its layers, and what follows from these."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kubetrace.attribution.facts import ContainerSeen
from kubetrace.attribution.oci import full_name
from kubetrace.tracers.pulls import cells, phases, shape

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.attribution.facts import Fact
    from kubetrace.kit.context import Context
    from kubetrace.views.columns import Value

_RUNNING, _DONE, _FAILED, _LEFT = range(len(shape.STATES))
# Pulls that are remembered when they have ended, and containers that were seen since.
_MOST_PULLS = 512
_MOST_IMAGES = 1024
# The kubelet makes a container as soon as its image has come.
_STARTS_WITHIN_NS = 5_000_000_000
# Between the moment that a blob is whole, as its record says, and the start of what unpacks it.
_SLACK_NS = 20_000_000
_MOST_UNPACKERS = 4096


class _Pull:
    # One pull, as its records stand.

    def __init__(self) -> None:
        self.record: Any = None
        self.layers: dict[int, Any] = {}
        self.told = False
        self.cpu: dict[int, int] = {}
        """Layer -> what its decompressor used, once the pull has ended."""
        self.last: tuple[Any, list[Any]] | None = None
        """Once it has ended: what is concluded of it, and of its layers. That does not change any more."""

    def critical(self, now: int) -> list[phases.Part]:
        record = self.record
        layers = [_moments(self.layers[at]) for at in sorted(self.layers)]
        resolved = _known(record.resolved)
        if resolved is None:
            # the configuration went before its time was read: the downloads begin behind it
            resolved = min((layer.download_begun for layer in layers if layer.download_begun is not None), default=None)
        return phases.critical(record.begun, resolved, layers, _known(record.ended), now, whole=record.layers > 0)

    def downloading(self, now: int) -> int:
        return phases.union(
            part for layer in self.layers.values() for part in self.parts(layer, now) if part.phase == phases.DOWNLOAD
        )

    def parts(self, layer: Any, now: int) -> list[phases.Part]:
        resolved = _known(layer.resolved)
        return phases.of_layer(_moments(layer), resolved if resolved is not None else layer.begun, now)


def _moments(layer: Any) -> phases.Moments:
    return phases.Moments(
        download_begun=_known(layer.download_begun),
        download_ended=_known(layer.download_ended),
        unpack_begun=_known(layer.unpack_begun),
        committed=_known(layer.committed),
        there=layer.reused == shape.REUSED.index("unpacked"),
        fetched_elsewhere=bool(layer.fetched_elsewhere),
        unpacked_elsewhere=bool(layer.unpacked_elsewhere),
    )


def _known(number: int) -> int | None:
    return None if number == shape.UNKNOWN else int(number)


class PullsBoard:
    """The pulls of one run (kit.tracer.Board)."""

    def __init__(self, context: Context) -> None:
        """None so far."""
        self._context = context
        self._pulls: dict[int, _Pull] = {}
        self._selection = context.attribution.selection
        self._starts: dict[str, dict[str, ContainerSeen]] = {}
        self._unpackers: deque[Any] = deque(maxlen=_MOST_UNPACKERS)
        self._before: list[Sequence[int | None]] = []
        self._now = 0

    def learn(self, fact: Fact) -> None:
        """Which container has which image: what begins with it as soon as it has come has waited for it."""
        if not isinstance(fact, ContainerSeen) or fact.kind != "container" or fact.prepared_ns is None:
            return
        if fact.image and fact.namespace and fact.pod:
            self._starts.setdefault(full_name(fact.image), {})[f"{fact.namespace}/{fact.pod}"] = fact
            if len(self._starts) > _MOST_IMAGES:
                del self._starts[next(iter(self._starts))]

    def take(self, event: Any, identity: Identity) -> Iterable[tuple[Any, Identity]]:
        """When a pull ends: its layers, from the bottom up, then itself."""
        self._now = max(self._now, event.time)
        if type(event).__name__ != shape.LAYOUT.name:
            self._unpackers.append(event)
            return ()
        known = self._pulls.get(event.pull)
        if known is None:
            known = self._pulls[event.pull] = _Pull()
            if len(self._pulls) > _MOST_PULLS:
                self._forget()
        if event.what:
            known.layers[event.position] = event
            return ()
        known.record = event
        if event.state not in (_DONE, _FAILED) or known.told:
            return ()
        self._take_unpackers(known)
        known.told = True
        return self._told(known, identity)

    def _forget(self) -> None:
        # the sums of the node keep it
        ended = [number for number, pull in self._pulls.items() if pull.told]
        pull = self._pulls.pop(ended[0] if ended else next(iter(self._pulls)))
        if pull.record is not None:
            self._before.append(cells.numbers(self._of(pull)[0], self._context))
            self._before = [cells.added(self._before)]

    def _of(self, pull: _Pull) -> tuple[Any, list[Any]]:
        """What is concluded of a pull, and of its layers from the bottom up."""
        if pull.last is not None:
            return pull.last
        layers = [self._concluded(pull, pull.layers[at]) for at in sorted(pull.layers)]
        found = self._concluded(pull, pull.record), layers
        if pull.told:
            pull.last = found
        return found

    def _told(self, pull: _Pull, identity: Identity) -> Iterator[tuple[Any, Identity]]:
        for record in [*(pull.layers[at] for at in sorted(pull.layers)), pull.record]:
            parts = pull.parts(record, self._until(pull)) if record.what else ()
            yield self._concluded(pull, record)._replace(time=parts[-1].end if parts else self._until(pull)), identity

    def _take_unpackers(self, pull: _Pull) -> None:
        # A pull unpacks one layer at once; what begins while two pulls do is of either.
        now = self._until(pull)
        times = [
            (other is pull, at, part.begin - _SLACK_NS, part.end)
            for other in self._pulls.values()
            if other is pull or not other.told or self._until(other) > pull.record.begun
            for at, layer in other.layers.items()
            for part in other.parts(layer, now)
            if part.phase == phases.UNPACK
        ]
        for one in self._unpackers:
            of = [(own, at) for own, at, begin, end in times if begin <= one.begun <= end]
            if len(of) == 1 and of[0][0]:
                pull.cpu[of[0][1]] = pull.cpu.get(of[0][1], 0) + one.cpu

    def _concluded(self, pull: _Pull, record: Any) -> Any:
        """The record with how long each phase took: of the pull's critical path, or of the layer itself."""
        now = self._until(pull)
        parts = pull.parts(record, now) if record.what else pull.critical(now)
        cpu = pull.cpu.get(record.position) if record.what else sum(pull.cpu.values()) or None
        phase, at, _ = phases.longest(parts)
        if parts and (record.what or pull.record.state == _RUNNING):
            phase, at = parts[-1].phase, parts[-1].layer
        return record._replace(
            **{**dict.fromkeys(phases.ALL, 0), **phases.sums(parts)},
            downloading=pull.downloading(now) if not record.what else 0,
            moment=now,
            unpacker_cpu=shape.UNKNOWN if cpu is None else cpu,
            state=pull.record.state,
            ended=pull.record.ended,
            phase=phases.ALL.index(phase),
            position=record.position if record.what else shape.UNKNOWN if at is None else at,
        )

    def _until(self, pull: _Pull) -> int:
        # the end of a pull, or the newest moment that is known
        ended = _known(pull.record.ended)
        return ended if ended is not None else max(self._now, pull.record.begun)

    def rows(self, by: str) -> Sequence[Sequence[Value]]:
        """One row for each pull (or layer of one), in the order of arrival.

        Where pods are asked for: of those that are known to have waited for it.
        """
        told: list[cells.Told] = []
        for pull in self._pulls.values():
            if pull.record is None:
                continue
            name = cells.name_of(pull.record)
            pods = self._pods(pull, name)
            if self._selection and not any(map(self._selection.match, pods)):
                continue
            whole, layers = self._of(pull)
            of = [whole] if by != "layer" else layers
            for_pods = ", ".join(dict.fromkeys(f"{one.namespace}/{one.pod}" for one in pods)) or None
            told += [cells.Told(record, name, layers, for_pods) for record in of]
        return cells.rows(told, by, self._context, self._before if not self._selection else ())

    def _pods(self, pull: _Pull, name: str) -> list[ContainerSeen]:
        # those that have begun with the image as soon as it had come
        ended = _known(pull.record.ended)
        if ended is None or pull.record.state != _DONE:
            return []
        begun = self._starts.get(full_name(name), {}).values()
        return [one for one in begun if one.prepared_ns and 0 <= one.prepared_ns - ended < _STARTS_WITHIN_NS]
