"""-l: which pods are asked for by their labels, as kubectl's selectors say it (k8s.io/apimachinery/pkg/labels)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubetrace.errors import UsageError

_KEY = r"[A-Za-z0-9][\w./-]*"
_VALUE = r"[\w.-]*"
# key=value, key==value, key!=value, key in (a,b), key notin (a,b), key, !key
_ONE = re.compile(
    rf"\s*(?:(?P<not>!)\s*(?P<absent>{_KEY})|(?P<key>{_KEY})\s*"
    rf"(?:(?P<sign>==|=|!=)\s*(?P<value>{_VALUE})|(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?:,|$)",
    re.ASCII,
)
_MOST_CHARACTERS = 4096


@dataclass(frozen=True)
class Requirement:
    """One part of a selector: the label's value has to be (or with `unwanted`: not to be) one of `values`.

    `values` None: the label has only to be there. A label that is not there has none of the values.
    """

    key: str
    values: frozenset[str] | None
    unwanted: bool = False

    def match(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels fulfil it."""
        found = self.key in labels and (self.values is None or labels[self.key] in self.values)
        return found != self.unwanted


@dataclass(frozen=True)
class LabelSelector:
    """All of them have to be fulfilled."""

    text: str
    requirements: Sequence[Requirement]

    @classmethod
    def parse(cls, text: str) -> LabelSelector:
        """Raises UsageError for what kubectl would not take."""
        requirements = []
        at = 0
        while at < len(text) <= _MOST_CHARACTERS:
            found = _ONE.match(text, at)
            if found is None:
                break
            requirements.append(_requirement(found))
            at = found.end()
        if not text.strip() or at < len(text) or text.rstrip().endswith(","):
            raise UsageError(
                f"{text[:80]!r} is not a selector of labels.",
                do="-l app=web, -l 'app in (web,api),tier!=cache' or -l '!canary'",
            )
        return cls(text, tuple(requirements))

    def match(self, labels: Mapping[str, str]) -> bool:
        """Whether a pod with these labels is asked for."""
        return all(requirement.match(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        """As it was typed."""
        return self.text


def _requirement(found: re.Match[str]) -> Requirement:
    if found["not"]:
        return Requirement(found["absent"], None, unwanted=True)
    if found["sign"]:
        return Requirement(found["key"], frozenset({found["value"]}), unwanted=found["sign"] == "!=")
    if found["set"]:
        values = frozenset(value.strip() for value in found["values"].split(","))
        return Requirement(found["key"], values, unwanted=found["set"] == "notin")
    return Requirement(found["key"], None)


# Of pods that are remembered: more than a node has had since its boot.
_MOST_PODS = 100_000


class PodLabels:
    """The labels of pods, as they became known."""

    def __init__(self) -> None:
        """None is known."""
        self._of: dict[str, Mapping[str, str]] = {}

    def learn(self, pod_uid: str, labels: Sequence[str]) -> None:
        """Those of a pod, each as key=value."""
        while len(self._of) >= _MOST_PODS:
            del self._of[next(iter(self._of))]
        self._of[pod_uid] = {key: value for key, _, value in (label.partition("=") for label in labels)}

    def of(self, pod_uid: str | None) -> Mapping[str, str] | None:
        """Those of a pod; None if they are not known."""
        return self._of.get(pod_uid) if pod_uid is not None else None
