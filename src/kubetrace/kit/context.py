"""The node's name and clock, known before anything is attached; and who knows its files and counters by now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity, Layer
    from kubetrace.attribution.whose import Attribution
    from kubetrace.kit.counted import Lands


@dataclass
class Wall:
    """The node's name and clock."""

    node: str
    offset_ns: int
    attribution: Attribution | None = None
    counting: Lands | None = None

    def wall_ns(self, boot_ns: int) -> int:
        """Nanoseconds since 1970."""
        return boot_ns + self.offset_ns

    def layer(self, event: Any, identity: Identity) -> Layer | None:
        """The image layer that an event's file came from."""
        return None if self.attribution is None else self.attribution.layer(event, identity)
