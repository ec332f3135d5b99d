"""100,000 counters of `writes`, from the kernel's memory to ranked rows: read, decode, attribute, add up, sort."""

from __future__ import annotations

from benchmarks.measure import Row
from benchmarks.writes import KEYS, snapshots


def run(rounds: int) -> list[Row]:
    """ms of CPU, and how a look-up for each key (bcc's items(), without what it makes of them) compares."""
    found = snapshots(rounds)
    each = next((row.value for row in found if "lookup for each key" in row.what), None)
    rows = list(found)
    if each is not None:
        ours = next(row for row in found if row.what.startswith("one in a hundred"))
        ratio = each / ours.value
        rows.append(
            Row(
                "looking up each key, over one in a hundred changed",
                ratio,
                f"{ratio:.1f} x",
                f"{KEYS:,} keys; budget: under 150 ms to ranked rows",
            )
        )
    return rows
