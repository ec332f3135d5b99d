"""What was found, as lines for a person or one object of JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubetrace.doctor.rules import Finding
    from kubetrace.doctor.surroundings import NodeFacts
    from kubetrace.doctor.trial import Trial
    from kubetrace.engines.probe import KernelFacts

_NAME_CELLS = 15
_STATUS_CELLS = 6


def record(kernel: KernelFacts, node: NodeFacts, tried: Sequence[Trial], found: Sequence[Finding]) -> Mapping[str, Any]:
    """Everything as one object of JSON; its keys are a contract."""
    from kubetrace.doctor import rules

    return {
        "type": "doctor",
        "node": node.name,
        "works": rules.works(tried),
        "checks": [asdict(finding) for finding in found],
        "tracers": [
            {
                "tracer": trial.tracer,
                "hook": trial.hook,
                "attached": trial.attached or None,
                "missing": list(trial.missing),
                "waits_for_overlayfs": trial.waits,
                "error": trial.error.what if trial.error else None,
                "why": trial.error.why if trial.error else None,
                "do": trial.error.do if trial.error else None,
                "check": trial.error.check if trial.error else None,
            }
            for trial in tried
        ],
        "facts": {
            "kernel": {**asdict(kernel), "capabilities": rules.capability_names(kernel.capabilities)},
            "node": asdict(node),
        },
    }


def lines(
    kernel: KernelFacts, node: NodeFacts, tried: Sequence[Trial], found: Sequence[Finding], width: int
) -> Iterator[str]:
    """The same for a person, at most `width` cells a line."""
    from kubetrace.views.text import escape

    yield escape(f"kubetrace doctor · node {node.name} · Linux {kernel.release} · {kernel.machine}")
    yield ""
    for finding in found:
        yield from _line(finding.check, finding.status, escape(finding.found), width)
        if finding.do:
            yield from _line("", "", f"Try: {finding.do}", width)
    yield ""
    for name, of_one in _by_tracer(tried).items():
        first = of_one[0]
        if first.waits:
            yield from _line(name, "less", "waits for overlayfs, and attaches when it is loaded", width)
        elif first.attached:
            also = [trial.hook for trial in of_one[1:] if trial.attached]
            text = _hooks(first.attached) + "".join(f"; --hook {hook} works too" for hook in also)
            yield from _line(name, "less" if first.missing else "ok", text, width)
            for what in first.missing:
                yield from _line("", "", escape(what), width)
        elif first.error is not None:
            yield from _line(name, "no", escape(f"{first.error.what} {first.error.why}"), width)
            if first.error.do:
                yield from _line("", "", f"Try: {escape(first.error.do)}", width)


def _by_tracer(tried: Sequence[Trial]) -> Mapping[str, list[Trial]]:
    found: dict[str, list[Trial]] = {}
    for trial in tried:
        found.setdefault(trial.tracer, []).append(trial)
    return found


def _hooks(attached: str) -> str:
    return "by " + " and ".join({"raw_tp": "tracepoints"}.get(hook, hook) for hook in attached.split("+"))


def _line(name: str, status: str, text: str, width: int) -> Iterator[str]:
    indent = _NAME_CELLS + _STATUS_CELLS
    head = f"{name:<{_NAME_CELLS}}{status:<{_STATUS_CELLS}}"
    wrapped = textwrap.wrap(text, max(20, width - indent), break_long_words=False, break_on_hyphens=False)
    for at, part in enumerate(wrapped or [""]):
        yield (head if at == 0 else " " * indent) + part
