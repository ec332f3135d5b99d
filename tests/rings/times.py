"""How long each part of a run took, beside what it took when seconds.json was written.

Machines differ, so the parts are compared with one another: the machine's pace is the median of all parts' ratios, and
a part that is more than 10 % above it has grown. A run leaves its own times in .rings/seconds.json; to make them the
reference is to copy that file here, in the commit that made a part longer for a reason.
"""

from __future__ import annotations

import heapq
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rings import report

if TYPE_CHECKING:
    from tests.rings.run import Result

REFERENCE = Path(__file__).with_name("seconds.json")
GROWN = 1.10
SLOWEST = 20
# What is shorter than this is mostly chance, on any machine.
BRIEF_S = 20
# The aim of a whole run with the first four tracers, and what each further one may add in all rings together.
AIM_S = 40 * 60
TRACERS = 4
FURTHER_S = 100


def reference() -> dict[str, float]:
    """What each part took when the reference was written: seconds by name."""
    found: dict[str, float] = json.loads(REFERENCE.read_text())
    return found


def budget_s(tracers: int) -> float:
    """What a whole run may take on the machine of the reference, with so many tracers."""
    return AIM_S + max(0, tracers - TRACERS) * FURTHER_S


def packed_s(seconds: Iterable[float], lanes: int) -> float:
    """How long parts take in so many lanes, the longest first, each in the lane that is free first."""
    ends = [0.0] * lanes
    for one in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


def clock(seconds: float) -> str:
    """Minutes and seconds, as 12:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def pace(now: Mapping[str, float], before: Mapping[str, float]) -> float | None:
    """How much longer this machine takes than the one of the reference; None without anything to compare."""
    ratios = [now[name] / before[name] for name in now if before.get(name, 0) >= BRIEF_S and now[name] > 0]
    return statistics.median(ratios) if ratios else None


def grown(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Part -> by which share it grew beside the others, of those that grew by more than a tenth."""
    own = pace(now, before)
    if own is None:
        return {}
    changes = {name: now[name] / before[name] / own for name in now if before.get(name, 0) >= BRIEF_S}
    return {name: change - 1 for name, change in changes.items() if change > GROWN}


class Times:
    """Seconds of each part of one run."""

    def __init__(self, seconds: Mapping[str, float], before: Mapping[str, float] | None = None) -> None:
        self.seconds = dict(seconds)
        self._before = reference() if before is None else before

    def as_json(self) -> str:
        """As the reference is kept."""
        return json.dumps({name: round(found) for name, found in self.seconds.items()}, indent=1) + "\n"

    def table(self, results: Mapping[str, Result], total_s: float) -> Iterator[str]:
        """The lines that end a run: each part, what grew, and the slowest tests."""
        more = grown(self.seconds, self._before)
        width = max(len(name) for name in self.seconds)
        yield f"{'':{width}}    time  before  tests"
        for name, found in self.seconds.items():
            before = clock(self._before[name]) if name in self._before else "-"
            result = results.get(name)
            line = f"{name:{width}}  {clock(found):>6}  {before:>6}"
            if result is not None and result.tests:
                asleep = found - sum(sum(test.seconds.values()) for test in result.tests)
                line += f"  {len(result.tests):>5}"
                if result.part.in_machine:
                    line += f"  of which boot and staging {clock(asleep)}"
            if name in more:
                line += f"  grew by {more[name]:.0%} beside the others"
            yield line.rstrip()
        own = pace(self.seconds, self._before)
        yield f"{'in all':{width}}  {clock(total_s):>6}" + (
            f"  (this machine takes {own:.2f} of the reference's time)" if own else ""
        )
        reports = [(name, one) for name, result in results.items() for one in result.reports]
        if any(one.tests for _, one in reports):
            yield f"the slowest {SLOWEST}:"
            for seconds, name, phase, test in report.slowest(reports, SLOWEST):
                yield f"{seconds:7.1f} s  {phase:8}  {name}: {test}"
