"""Steps -> a tracer's table -> views: one path, readable at once.

    step.facts ------> attribution, table
    step.batches ----> table.read: decode, whose is it
                          '--> what has no name: the node is asked once more, and what it says belongs to this step
                               '--> record
                                    '--> table.count --every interval--> view
                                              '--> each event --> lines, json, csv

The steps come from the node (stream/live.py) or from a recording; nothing here knows which, nor asks the time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from kubetrace.stream.layout import Batch
from kubetrace.stream.steps import Step, stream_key
from kubetrace.tables.contract import Baselined, Run
from kubetrace.tables.kinds import table_of

if TYPE_CHECKING:
    from kubetrace.attribution.facts import Fact
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Tracer
    from kubetrace.stream.layout import Layout
    from kubetrace.stream.steps import Joining
    from kubetrace.tables.contract import Counts

# Cgroups forgotten between two looks for rows of pods that ended.
_FORGOTTEN = 256


class Asked(Protocol):
    """The live end of the source (stream.live.LiveSource)."""

    def ask(self, unknown: bool) -> Sequence[Fact]:
        """What can be learned now about containers without a name, or (`unknown`) about cgroups never heard of."""

    def layers(self, device: int) -> Sequence[Fact]:
        """What can be learned about the image layers below this overlay."""

    def join(self, joiners: Mapping[str, Joining]) -> None:
        """From now on, take alike records of these streams (stream_key) as one, while they are read."""


class EventView(Protocol):
    """Takes each event as it comes: lines, JSON or CSV."""

    def event(self, event: Any, of: Any) -> None:
        """One event that is asked for, and whose it is."""

    def lost(self, losses: Mapping[str, int], wall_ns: int) -> None:
        """The counts of losses have risen to these."""

    def flush(self) -> None:
        """A step has ended."""


class Pipeline:
    """One tracer between a source's steps and a view."""

    def __init__(
        self,
        tracer: Tracer,
        layouts: Mapping[str, Layout],
        context: Context,
        *,
        groupings: Sequence[str] = (),
        events: EventView | None = None,
        keep: Callable[[Any], bool] | None = None,
        asked: Asked | None = None,
        record: Callable[[Step], None] | None = None,
        by: str = "",
        own: Mapping[str, Any] | None = None,
        missing: Collection[str] = (),
        metered: bool = False,
        fold_ended: bool = True,
        recent: int = 0,
        learn: Callable[[Sequence[Fact]], None] | None = None,
    ) -> None:
        """`layouts` are those of all streams (steps.stream_key); the other words are those of tables.contract.Run.

        `events` is told each event. A live source is `asked` about what has no name; `record` is given every step when
        it is complete. `learn` takes facts in for this one and others that share the context. `fold_ended`: of pods
        that ended a while ago, only the heavy keep rows of their own.
        """
        self._tracer, self._attribution = tracer, context.attribution
        self._events, self._asked, self._record = events, asked, record
        self._learn = learn if learn is not None else self._learn_alone
        self._fold_ended, self._forgotten = fold_ended, 0
        self._begun, self._before_ns = True, 0
        prefix = stream_key(tracer.name, "")
        # the streams of several tracers -> this one's own
        self._streams = {key: key.removeprefix(prefix) for key in layouts if key.startswith(prefix)}
        self.table = table_of(
            Run(
                tracer,
                context,
                {stream: layouts[key] for key, stream in self._streams.items()},
                groupings=groupings,
                by=by,
                tells=events is not None,
                keep=keep,
                own=own or {},
                missing=missing,
                metered=metered,
                recent=recent,
            )
        )
        if asked is not None and record is None and self.table.joiners:  # a recording has them as they came
            asked.join({prefix + stream: joiner for stream, joiner in self.table.joiners.items()})

    @property
    def shown(self) -> Pipeline:
        """What a view looks at: itself."""
        return self

    @property
    def counts(self) -> Counts:
        """What the foot and the summary say."""
        return self.table.counts

    @property
    def needs_all(self) -> bool:
        """Whether `before` needs the records too: counters are absolute numbers, and told of mounts once."""
        return isinstance(self.table, Baselined)

    def before(self, step: Step) -> None:
        """Learn from a step that is before what is asked for; nothing of it is counted."""
        self._learn(step.facts)
        if isinstance(self.table, Baselined):
            self.table.read(self._own(step))
            self._begun = False
            if step.tick is not None:
                self._before_ns = step.tick.elapsed_ns
        self._tell_losses(step)

    def _own(self, step: Step) -> list[Batch]:
        return [
            Batch(self._streams[batch.stream], batch.data, batch.counts)
            for batch in step.batches
            if batch.stream in self._streams
        ]

    def take(self, step: Step) -> None:
        """Count one step."""
        if not self._begun and isinstance(self.table, Baselined):
            self._begun = True
            self.table.start_over(self._before_ns)
        self._learn(step.facts)
        self.table.read(self._own(step))
        if self._asked is not None:
            step = self._completed(step, self._asked)
        if self._record is not None:
            self._record(step)
        self.table.count(self._events.event if self._events is not None else None)
        self._fold(step)
        self._tell_losses(step)

    def _learn_alone(self, facts: Sequence[Fact]) -> None:
        self._attribution.learn(facts)
        self.table.learn(facts)

    def _completed(self, step: Step, asked: Asked) -> Step:
        # What is learned now is known before the first record of the step is counted: a replay has it there too.
        if (nameless := self.table.nameless()) and (facts := asked.ask("unknown" in nameless)):
            step = replace(step, facts=[*step.facts, *facts])
            self._learn(facts)
            self.table.look_again()
        layers = [fact for device in self.table.unknown_layers() for fact in asked.layers(device)]
        if layers:
            step = replace(step, facts=[*step.facts, *layers])
            self._attribution.learn(layers)
        return step

    def _fold(self, step: Step) -> None:
        # At a tick, when all is known that belongs before it: so that a replay folds just the same.
        if step.tick is not None and self._attribution.forgotten - self._forgotten >= _FORGOTTEN:
            self._forgotten = self._attribution.forgotten
            if self._fold_ended:
                self.table.fold_ended(self._attribution.owners())

    def _tell_losses(self, step: Step) -> None:
        losses = step.losses.get(self._tracer.name)
        if losses is not None and losses != self.counts.losses:
            if self._events is not None and any(losses.values()):
                self._events.lost(losses, step.tick.wall_ns if step.tick is not None else 0)
            self.counts.losses = dict(losses)
        if self._events is not None:
            self._events.flush()
