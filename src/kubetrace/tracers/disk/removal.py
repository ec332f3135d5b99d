"""What could be removed from a node's disks, with what that frees. kubetrace removes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any

from kubetrace.tracers.disk.entry import kind_of, text_of, what
from kubetrace.views.units import format_bytes

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Remedy


@dataclass(frozen=True, slots=True)
class _Removal:
    """What could be removed, by which command, and what that frees. `names` and `about` are others' words."""

    command: str
    names: Sequence[str]
    frees: int
    why: str
    about: Sequence[str] = ()

    def text(self, escape: Callable[[str | bytes], str]) -> str:
        """One line."""
        command = self.command.format(*(quote(escape(name)) for name in self.names))
        return f"{command}   frees {format_bytes(self.frees)}: {self.why.format(*map(escape, self.about))}"

    def record(self) -> Mapping[str, Any]:
        """For a program."""
        return {
            "command": self.command.format(*map(quote, self.names)),
            "frees_bytes": self.frees,
            "why": self.why.format(*self.about),
        }


class Removals:
    """Collects what could be removed. Nothing is removed by kubetrace."""

    title = "What could be removed, and what that frees (nothing was):"
    _MOST = 8

    def __init__(self) -> None:
        self._parts: dict[int, tuple[Any, Identity]] = {}

    def add(self, event: Any, identity: Identity, context: Context, count: int = 1) -> None:
        """An entry."""
        said = what(event)
        if said == "part":
            self._parts[event.entry] = event, identity
        elif said == "gone":
            self._parts.pop(event.entry, None)

    def forget_ended(self, owners: Any) -> None:
        """What is gone is told."""

    def remedies(self) -> Sequence[Remedy]:
        """The largest first."""
        found = [*self._images(), *self._pods(), *self._held()]
        return sorted(found, key=lambda one: -one.frees)[: self._MOST]

    def _images(self) -> Sequence[_Removal]:
        found = []
        for event, _ in self._parts.values():
            if kind_of(event) == "image layers" and event.frees > 0 and not event.users:
                found.append(_Removal("crictl rmi {}", [text_of(event.name)], event.frees, "no container uses it"))
        return found

    def _pods(self) -> Sequence[_Removal]:
        sums: dict[tuple[str, str], dict[str, int]] = {}
        for event, identity in self._parts.values():
            kind = kind_of(event)
            if kind in ("writable layer", "emptyDir", "log", "deleted, open") and identity.pod and identity.namespace:
                of_pod = sums.setdefault((identity.namespace, identity.pod), {})
                of_pod[kind] = of_pod.get(kind, 0) + max(0, event.bytes)
        if not sums:
            return []
        (namespace, pod), kinds = max(sums.items(), key=lambda one: sum(one[1].values()))
        why = "its " + ", ".join(f"{kind} {format_bytes(size)}" for kind, size in kinds.items() if size)
        return [_Removal("kubectl delete pod -n {} {}", [namespace, pod], sum(kinds.values()), why)]

    def _held(self) -> Sequence[_Removal]:
        found = []
        for event, _ in self._parts.values():
            if kind_of(event) == "deleted, open" and event.bytes > 0:
                about = [text_of(event.path), text_of(event.name)]
                found.append(_Removal("kill {}", [str(event.pid)], event.bytes, "{} is deleted, {}", about))
        return found
