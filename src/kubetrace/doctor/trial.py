"""Which tracers work: each is loaded and attached as its command would, and detached again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubetrace import tracers
from kubetrace.errors import KubetraceError
from kubetrace.session.attach import Attachment
from kubetrace.session.options import Attach, own_defaults

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
    try:
        asked = Attach(own=own_defaults(tracer), hook=hook)
        with Attachment([tracer], asked, host=host, by=next(iter(tracer.groupings))) as attachment:
            if attachment.waits:
                return Trial(tracer.name, hook, "", waits=True)
            attachment.attach()
            return Trial(tracer.name, hook, attachment.kernels[tracer.name].hook, tuple(attachment.notices(tracer)))
    except KubetraceError as error:
        return Trial(tracer.name, hook, "", error=error)
