"""Which pods are asked for: -n, -p and -c as patterns over an identity, -l over the labels of its pod."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol

from kubetrace.attribution.labels import LabelSelector, PodLabels
from kubetrace.errors import UsageError


class Named(Protocol):
    """What a selection looks at."""

    @property
    def namespace(self) -> str | None:
        """Kubernetes namespace."""

    @property
    def pod(self) -> str | None:
        """Pod name."""

    @property
    def container(self) -> str | None:
        """Container name."""

    @property
    def pod_uid(self) -> str | None:
        """The kubelet's UID of the pod."""


@dataclass(frozen=True)
class Patterns:
    """Names to keep and names to leave out; shell patterns (* ? [...]). Empty patterns match everything."""

    wanted: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()

    @classmethod
    def parse(cls, option: str, values: Iterable[str]) -> Patterns:
        """From repeated options of comma lists; a leading ! excludes. Raises UsageError for an empty name."""
        wanted: list[str] = []
        unwanted: list[str] = []
        for value in values:
            for name in value.split(","):
                negated = name.startswith("!")
                bare = name.removeprefix("!").strip()
                if not bare:
                    raise UsageError(
                        f"{option} {value!r} holds an empty name.",
                        do=f"{option} NAME, {option} NAME,NAME or {option} '!NAME' (quoted: the shell reads !)",
                    )
                (unwanted if negated else wanted).append(bare)
        return cls(tuple(wanted), tuple(unwanted))

    def __bool__(self) -> bool:
        """Whether there is anything to match."""
        return bool(self.wanted or self.unwanted)

    def match(self, name: str | None) -> bool:
        """A missing name matches no wanted pattern, and is left out by no unwanted one."""
        if name is None:
            return not self.wanted
        if any(fnmatchcase(name, pattern) for pattern in self.unwanted):
            return False
        return not self.wanted or any(fnmatchcase(name, pattern) for pattern in self.wanted)

    def __str__(self) -> str:
        """As it would be typed."""
        return ",".join([*self.wanted, *(f"!{name}" for name in self.unwanted)])


class Selected(Protocol):
    """Whose events are asked for (Selection, Both); false when all are."""

    def __bool__(self) -> bool:
        """Whether anything is left out."""

    def match(self, identity: Named) -> bool:
        """Whether an event of this identity is asked for."""

    def match_pod(self, identity: Named) -> bool:
        """Whether it is of a pod that is asked for."""

    def learn_labels(self, pod_uid: str, labels: Sequence[str]) -> None:
        """The labels of a pod became known."""

    def decided(self, identity: Named) -> bool:
        """Whether all is known that `match` depends on."""


@dataclass(frozen=True)
class Selection:
    """All of them must match. A pod whose labels are not known does not match a selector of labels."""

    namespaces: Patterns = field(default_factory=Patterns)
    pods: Patterns = field(default_factory=Patterns)
    containers: Patterns = field(default_factory=Patterns)
    labels: LabelSelector | None = None
    known: PodLabels = field(default_factory=PodLabels, compare=False, repr=False)
    """Of this run."""

    @classmethod
    def parse(
        cls, namespaces: Iterable[str], pods: Iterable[str], containers: Iterable[str], labels: str | None = None
    ) -> Selection:
        """From the options' values; raises UsageError."""
        return cls(
            Patterns.parse("--namespace", namespaces),
            Patterns.parse("--pod", pods),
            Patterns.parse("--container", containers),
            LabelSelector.parse(labels) if labels is not None else None,
        )

    def __bool__(self) -> bool:
        """Whether anything is left out."""
        return bool(self.namespaces or self.pods or self.containers or self.labels)

    @property
    def by_labels(self) -> bool:
        """Whether pods are asked for by their labels."""
        return self.labels is not None

    def learn_labels(self, pod_uid: str, labels: Sequence[str]) -> None:
        """The labels of a pod became known."""
        if self.labels is not None:
            self.known.learn(pod_uid, labels)

    def decided(self, identity: Named) -> bool:
        """Whether all is known that `match` depends on."""
        return self.labels is None or self.known.of(identity.pod_uid) is not None

    def _has_labels(self, identity: Named) -> bool:
        if self.labels is None:
            return True
        found = self.known.of(identity.pod_uid)
        return found is not None and self.labels.match(found)

    def match(self, identity: Named) -> bool:
        """Whether an event of this identity is asked for."""
        return (
            self.namespaces.match(identity.namespace)
            and self.pods.match(identity.pod)
            and self.containers.match(identity.container)
            and self._has_labels(identity)
        )

    def match_pod(self, identity: Named) -> bool:
        """Whether it is of a pod that is asked for: what a pod and its sandbox do concerns each of its containers."""
        return (
            self.namespaces.match(identity.namespace)
            and self.pods.match(identity.pod)
            and (identity.container is None or self.containers.match(identity.container))
            and self._has_labels(identity)
        )

    def texts(self) -> dict[str, str]:
        """What `parse` takes, for a recording's header: namespaces, pods, containers as comma lists."""
        given = (
            ("namespaces", self.namespaces),
            ("pods", self.pods),
            ("containers", self.containers),
            ("labels", self.labels),
        )
        return {name: str(patterns) for name, patterns in given if patterns}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Selection:
        """The inverse of `texts`; raises UsageError."""
        namespaces, pods, containers = (
            [texts[name]] if name in texts else [] for name in ("namespaces", "pods", "containers")
        )
        return cls.parse(namespaces, pods, containers, texts.get("labels"))

    def __str__(self) -> str:
        """As it would be typed: -n shop -p 'web*'."""
        given = (("-n", self.namespaces), ("-p", self.pods), ("-c", self.containers), ("-l", self.labels))
        return " ".join(f"{option} {patterns}" for option, patterns in given if patterns)


@dataclass(frozen=True)
class Both:
    """What two selections leave: that of a recording, and that of its reader."""

    first: Selection
    second: Selection

    def __bool__(self) -> bool:
        """Whether anything is left out."""
        return bool(self.first or self.second)

    def match(self, identity: Named) -> bool:
        """Whether both do."""
        return self.first.match(identity) and self.second.match(identity)

    @property
    def by_labels(self) -> bool:
        """Whether pods are asked for by their labels."""
        return self.first.by_labels or self.second.by_labels

    def learn_labels(self, pod_uid: str, labels: Sequence[str]) -> None:
        """The labels of a pod became known."""
        self.first.learn_labels(pod_uid, labels)
        self.second.learn_labels(pod_uid, labels)

    def decided(self, identity: Named) -> bool:
        """Whether all is known that `match` depends on."""
        return self.first.decided(identity) and self.second.decided(identity)

    def match_pod(self, identity: Named) -> bool:
        """Whether it is of a pod that is asked for: what a pod and its sandbox do concerns each of its containers."""
        return self.first.match_pod(identity) and self.second.match_pod(identity)

    def __str__(self) -> str:
        """The second, which was typed; else the first."""
        return str(self.second or self.first)
