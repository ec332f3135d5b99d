"""What to change where probes cost much and stops wait: from the acts that were told, one line for each.

Names and command lines are untrusted and kept apart from our own words, so that a view escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kubetrace.kit.identity import text_of
from kubetrace.tracers.kubelet import wording
from kubetrace.views.units import format_duration, format_percent

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity, Owners
    from kubetrace.kit.context import Context

TITLE: Final = "What to do about it:"
# From so much of one core on a probe is dear.
DEAR_PERCENT: Final = 1.0
_MOST: Final = 10
_MOST_KEPT: Final = 4_096
_SHOWN_BYTES: Final = 100


@dataclass(frozen=True, slots=True)
class Name:
    """Text that is not ours."""

    text: str | bytes


@dataclass(frozen=True, slots=True)
class ActRemedy:
    """One line of advice: `parts` are our words and others' names, in order; `ns` is the time that it is about.

    `action`: "cheaper" (a probe that executes nothing, or seldom), "time" (more time for it, or a quicker command),
    "handle" (a handler for the stop signal).
    """

    ns: int
    action: str
    whose: str
    command: bytes | None
    parts: tuple[str | Name, ...]

    def text(self, escape: Callable[[str | bytes], str]) -> str:
        """The line, every name escaped."""
        return "".join(part if isinstance(part, str) else escape(part.text) for part in self.parts)

    def record(self) -> dict[str, Any]:
        """For a program that applies it."""
        return {"container": self.whose, "action": self.action, "command": self.command, "time_ns": self.ns}


class _Command:
    # What one command on one container has come to.
    __slots__ = ("begun", "cpu", "ended", "killed", "period", "runtime", "waited")

    def __init__(self, begun: int) -> None:
        self.begun = begun
        self.ended = self.cpu = self.runtime = self.killed = self.period = self.waited = 0


class Counsel:
    """See `kit.tracer.Advice`."""

    title = TITLE

    def __init__(self) -> None:
        """Nothing so far."""
        self._commands: dict[tuple[str, bytes], _Command] = {}
        # of containers whose first process has no handler: how often, its name, the longest wait
        self._deaf: dict[str, tuple[int, bytes, int]] = {}

    def add(self, event: Any, identity: Identity, context: Context, count: int = 1) -> None:
        """Note one act."""
        if identity.pod is None or identity.container is None:
            return
        whose = f"{identity.namespace}/{identity.pod}/{identity.container}"
        what = wording.what_of(event)
        if what == "exec":
            self._add_exec(whose, event)
        elif what == "stop" and event.flags & wording.IGNORED:
            times, _, longest = self._deaf.get(whose, (0, b"", 0))
            self._deaf[whose] = times + 1, text_of(event.comm), longest
            _limit(self._deaf)
        elif what == "kill" and whose in self._deaf:
            times, name, longest = self._deaf[whose]
            self._deaf[whose] = times, name, max(longest, event.duration)

    def _add_exec(self, whose: str, event: Any) -> None:
        key = whose, wording.command(event) or b""
        known = self._commands.get(key)
        if known is None:
            known = self._commands[key] = _Command(event.begun)
            _limit(self._commands)
        known.ended = max(known.ended, event.time)
        known.cpu += event.cpu + event.runtime_cpu
        known.runtime += event.runtime_cpu
        known.period = event.period or known.period
        if event.number and event.flags & wording.AGENT:
            known.killed += 1
            known.waited = max(known.waited, event.duration)

    def forget_ended(self, owners: Owners) -> None:
        """Nothing: what a pod that has ended cost, the next one will; how much is kept is bounded."""

    def remedies(self) -> Sequence[ActRemedy]:
        """The worst first, at most ten."""
        found: list[ActRemedy] = []
        for whose, (times, name, longest) in self._deaf.items():
            often = f" {times} times" if times > 1 else ""
            waited = f" ({format_duration(longest)} so far)" if longest else ""
            parts = (
                Name(whose),
                f" was asked to stop{often}: its first process (",
                Name(name),
                f") has no handler for that, so each stop waits the whole grace period{waited}: handle SIGTERM, "
                "exec the program from its script, or put an init such as tini in front.",
            )
            found.append(ActRemedy(max(1, longest) * times, "handle", whose, None, parts))
        for (whose, line), one in self._commands.items():
            found += self._of_command(whose, line, one)
        return sorted(found, key=lambda one: -one.ns)[:_MOST]

    def _of_command(self, whose: str, line: bytes, one: _Command) -> list[ActRemedy]:
        shown = Name(line if len(line) <= _SHOWN_BYTES else line[:_SHOWN_BYTES] + "…".encode())
        found = []
        watched = one.ended - one.begun
        percent = 100 * one.cpu / watched if watched > 0 else 0
        if one.period and percent >= DEAR_PERCENT:
            parts: tuple[str | Name, ...] = (
                Name(whose),
                ": the probe ",
                shown,
                f" comes every {wording.pace(one.period)} and costs {format_percent(percent)} of a core, "
                f"{format_percent(percent * one.runtime / one.cpu)} of it the runtime's: make it rarer, or a probe "
                "that executes nothing (httpGet, tcpSocket, grpc).",
            )
            found.append(ActRemedy(one.cpu, "cheaper", whose, line or None, parts))
        if one.killed:
            parts = (
                Name(whose),
                ": ",
                shown,
                f" was killed by the runtime {one.killed} time{'s' * (one.killed != 1)}, after "
                f"{format_duration(one.waited)}: give it more time (timeoutSeconds), or make it quicker; or whoever "
                "asked had gone.",
            )
            found.append(ActRemedy(one.waited * one.killed, "time", whose, line or None, parts))
        return found


def _limit(known: dict[Any, Any]) -> None:
    if len(known) > _MOST_KEPT:
        del known[next(iter(known))]
