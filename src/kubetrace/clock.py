"""The node's name and clock, and what kubetrace itself takes: known before anything is attached or counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubetrace.stream.steps import Tick

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity, Layer
    from kubetrace.attribution.whose import Attribution
    from kubetrace.counting import Counting

_COST_OVER_NS = 500_000_000


@dataclass
class Wall:
    """The node's name and clock."""

    node: str
    offset_ns: int
    attribution: Attribution | None = None
    counting: Counting | None = None

    def wall_ns(self, boot_ns: int) -> int:
        """Nanoseconds since 1970."""
        return boot_ns + self.offset_ns

    def layer(self, event: Any, identity: Identity) -> Layer | None:
        """The image layer that an event's file came from."""
        return None if self.attribution is None else self.attribution.layer(event, identity)


class OwnCost:
    """kubetrace's own CPU time, in percent of one core between two ticks."""

    def __init__(self) -> None:
        """From the first tick on."""
        self._then = Tick(0, 0, 0)
        self._percent: float | None = None

    def percent(self, tick: Tick) -> float | None:
        """Since the tick that was at least half a second before; None until there was one."""
        passed = tick.elapsed_ns - self._then.elapsed_ns
        if passed >= _COST_OVER_NS:
            self._percent = max(0.0, 100.0 * (tick.cpu_ns - self._then.cpu_ns) / passed)
            self._then = tick
        return self._percent
