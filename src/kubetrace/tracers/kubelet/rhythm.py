"""Whether something comes regularly: a probe does, a person does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# Periods that have to be alike, and by how much they may differ: the larger of a share and a time.
_PERIODS = 4
_SHARE = 0.1
_LEAST_NS = 300_000_000
# Probes of one command: startup, liveness and readiness.
_MOST = 3
KEPT = _PERIODS * _MOST + 1
"""How many moments are looked at."""
_SHORTEST_NS = 500_000_000


class Rhythm(NamedTuple):
    """So many `times` in each `period_ns`."""

    period_ns: int
    times: int


def regular(moments: Sequence[int]) -> Rhythm | None:
    """The rhythm of the last of these moments (nanoseconds, in their order); None where there is none.

    The kubelet's periods are whole seconds, and a probe's begin is late by what the node has to do. Two probes that
    execute the same command are two in each period.
    """
    for times in range(1, _MOST + 1):
        last = moments[-(_PERIODS * times + 1) :]
        if len(last) <= _PERIODS * times:
            return None
        gaps = sorted(later - earlier for earlier, later in zip(last, last[times:], strict=False))
        middle = gaps[len(gaps) // 2]
        within = max(_LEAST_NS, int(middle * _SHARE))
        if middle >= _SHORTEST_NS and gaps[-1] - middle <= within and middle - gaps[0] <= within:
            return Rhythm(middle, times)
    return None
