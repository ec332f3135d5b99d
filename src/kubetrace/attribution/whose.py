"""Whose an event is, by the facts so far; and of which cgroups nothing is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from kubetrace.attribution.attributor import Attributor
from kubetrace.attribution.facts import CgroupGone, CgroupSeen, ContainerSeen, LabelsSeen, PodSeen

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity, Layer, Owners
    from kubetrace.attribution.facts import Fact
    from kubetrace.attribution.selection import Selected

_JUDGED_AT_ONCE = 256
_MOST_NAMES = 1000


class Excluding(Protocol):
    """Asked.exclude."""

    def __call__(self, hierarchy: int, cgroup_id: int, *, excluded: bool = True) -> None:
        """Do not send events of this cgroup any more; or, when it is gone, do not remember that."""


class Attribution:
    """Facts in, identities out."""

    def __init__(self, selection: Selected, exclude: Excluding | None = None) -> None:
        """`exclude` is told every cgroup whose container is known and not selected, and again when that is gone."""
        self._attributor = Attributor()
        self.selection = selection
        self._exclude = exclude
        self._excluded: set[tuple[int, int]] = set()
        self._undecided: dict[tuple[int, int], int] = {}
        self.names: dict[str, set[str]] = {"namespaces": set(), "pods": set(), "containers": set()}
        """Where something is selected, what there is to select; no more than a person reads."""
        self.matched = False
        """Whether a container (or sandbox) is or was selected."""

    def learn(self, facts: Iterable[Fact]) -> None:
        """Take facts in, in the order in which they were learned."""
        learned = 0
        for fact in facts:
            learned += 1
            self._attributor.learn(fact)
            if self.selection and isinstance(fact, ContainerSeen | PodSeen):
                self._name(fact)
            if isinstance(fact, LabelsSeen):
                self.selection.learn_labels(fact.pod_uid, fact.labels)
            if self.selection and isinstance(fact, CgroupSeen):
                self._undecided[fact.hierarchy, fact.cgroup_id] = fact.time_ns
            elif self.selection and isinstance(fact, CgroupGone):
                self._gone(fact.hierarchy, fact.cgroup_id)
        if self._undecided:
            self._decide(learned + _JUDGED_AT_ONCE)

    def _name(self, fact: ContainerSeen | PodSeen) -> None:
        container = fact.container if isinstance(fact, ContainerSeen) else None
        for kind, name in (("namespaces", fact.namespace), ("pods", fact.pod), ("containers", container)):
            if name is not None and len(self.names[kind]) < _MOST_NAMES:
                self.names[kind].add(name)

    def _gone(self, hierarchy: int, number: int) -> None:
        self._undecided.pop((hierarchy, number), None)
        if (hierarchy, number) in self._excluded:
            self._excluded.discard((hierarchy, number))
            if self._exclude is not None:
                self._exclude(hierarchy, number, excluded=False)

    def identify(self, event: Any) -> Identity:
        """Whose event this is, by the facts so far."""
        return self._attributor.identify(
            cgroup_id=event.cgroup_id,
            memory_cgroup_id=event.memory_cgroup_id,
            memory_hierarchy=event.memory_hierarchy,
            device=event.device,
            time_ns=event.time,
            copied_up=hasattr(event, "layer_index"),
        )

    @property
    def forgotten(self) -> int:
        """How many cgroups that were known once are not any more."""
        return self._attributor.forgotten

    def owners(self) -> Owners:
        """Whom events can still be of."""
        return self._attributor.owners()

    def owner(self, container_id: str | None, pod_uid: str | None) -> Identity | None:
        """What is known of a container by its id, or else of a pod by its UID; None where nothing is."""
        found = self._attributor.container(container_id) if container_id else None
        if found is None and pod_uid:
            found = self._attributor.pod(pod_uid)
        return replace(found, attributed_by="path") if found is not None else None

    def container_of(self, pod_uid: str, name: str | None) -> Identity | None:
        """What is known of a pod's container by its name, the newest of that name."""
        for seen in reversed(self._attributor.containers_of(pod_uid)):
            if name is not None and seen.container == name:
                found = self._attributor.container(seen.container_id)
                if found is not None and found.pod is not None:
                    return replace(found, attributed_by="path")
        return None

    def layer(self, event: Any, identity: Identity) -> Layer | None:
        """The image layer of the event's file, by the facts so far."""
        return self._attributor.layer(event.device, event.layer_index, event.time, identity.container_id)

    def layers_in(self, lowerdir: str) -> list[Layer]:
        """The layer that was unpacked in a directory, once for each image that has it."""
        return self._attributor.layers_in(lowerdir)

    def _decide(self, most: int) -> None:
        """Judge the cgroups that came: what is not a pod's, or has no name yet, is judged event by event."""
        for (hierarchy, number), time_ns in list(islice(self._undecided.items(), most)):
            del self._undecided[hierarchy, number]
            identity = self._attributor.identify(
                cgroup_id=number if hierarchy == 0 else 1,
                memory_cgroup_id=number,
                memory_hierarchy=hierarchy,
                device=None,
                time_ns=time_ns,
            )
            if identity.kind in ("container", "sandbox"):
                if identity.pod is None or (identity.kind == "container" and identity.container is None):
                    self._undecided[hierarchy, number] = time_ns  # its turn comes again
                    continue
                if not self.selection.decided(identity):
                    self._undecided[hierarchy, number] = time_ns
                    continue
                if self.selection.match(identity):
                    self.matched = True
                elif (hierarchy, number) not in self._excluded:
                    self._excluded.add((hierarchy, number))
                    if self._exclude is not None:
                        self._exclude(hierarchy, number)
