"""What a run knows of its node before anything is counted; made once, and passed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kubetrace.attribution.selection import Selection
from kubetrace.attribution.whose import Attribution

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity, Layer


@dataclass(frozen=True)
class Context:
    """The node's name and clock, and whose is what on it by the facts so far.

    `offset_ns` is what CLOCK_REALTIME is ahead of CLOCK_BOOTTIME, in nanoseconds.
    """

    node: str
    offset_ns: int
    attribution: Attribution = field(default_factory=lambda: Attribution(Selection()))

    def wall_ns(self, boot_ns: int) -> int:
        """Nanoseconds since 1970 of a moment of CLOCK_BOOTTIME."""
        return boot_ns + self.offset_ns

    def layer(self, event: Any, identity: Identity) -> Layer | None:
        """The image layer that the event's `layer_index` means on its `device`; None where nothing is known."""
        return self.attribution.layer(event, identity)
