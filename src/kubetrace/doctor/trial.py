"""Which tracers work: each is loaded and attached as its command would, and detached again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kubetrace import tracers
from kubetrace.attribution.selection import Selection
from kubetrace.errors import KubetraceError
from kubetrace.session.attach import attach_now, constants_of, hookable, wiring_of
from kubetrace.session.options import Options, check, own_of

if TYPE_CHECKING:
    from kubetrace.kit.tracer import Tracer
    from kubetrace.node.host import Host


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one tracer with one --hook: `attached` names the hooks, or is empty and `error` says why."""

    tracer: str
    hook: str
    attached: str
    missing: tuple[str, ...] = ()
    """What is not seen."""
    waits: bool = False
    """Whether it would wait for overlayfs instead of failing."""
    error: KubetraceError | None = None


def trials(host: Host) -> list[Trial]:
    """Each tracer with --hook auto; where that chose fentry, with --hook kprobe too: what is left without it."""
    found = []
    for name in tracers.names():
        tracer = tracers.find(name)
        trial = _try(tracer, "auto", host)
        found.append(trial)
        if "fentry" in trial.attached:
            found.append(_try(tracer, "kprobe", host))
    return found


def _try(tracer: Tracer, hook: str, host: Host) -> Trial:
    given = click.Command(tracer.name, params=list(tracer.options())).make_context(tracer.name, []).params
    by, sort = check(tracer, None, None)
    asked = Options(Selection(), by, sort, hook=hook, own=own_of(tracer, given))
    try:
        if tracer.needs_overlay and not hookable(tracer.name):
            return Trial(tracer.name, hook, "", waits=True)
        wiring: dict[str, Any] = wiring_of(tracer, asked, host)
        constants = constants_of(tracer, asked) | wiring.pop("constants")
        kernel = attach_now(tracer, asked, constants, wiring)
    except KubetraceError as error:
        return Trial(tracer.name, hook, "", error=error)
    try:
        missing = tuple(dict.fromkeys(what for what in kernel.missing.values() if what))
        return Trial(tracer.name, hook, kernel.hook, missing)
    finally:
        kernel.close()
