"""What tracing adds to one operation on an overlay, in instructions: exact, whatever else the machine does.

QEMU counts: with -icount and one CPU a nanosecond of the guest's clock is one instruction (PERFORMANCE.md 7). The same
operations run with and without the tracer's programs attached, interleaved, in one boot; nobody drains the ring.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
KERNEL = "6.1"
WHAT = {
    "copy_up": "chmod that copies a 1-byte file up",
    "setattr": "chmod of a file that is copied up already",
    "rename": "rename in the writable layer",
    "open_write": "open for writing and close, copied up already",
    "write": "write of 1 byte",
}


def run(rounds: int) -> list[dict[str, str]]:
    """Rows of what, value and note, for fentry and kprobe."""
    rows = []
    for hook in ("fentry", "kprobe"):
        done = subprocess.run(
            [
                *(str(ROOT / "scripts" / "vm"), "--kernel", KERNEL, "--count-instructions", "--"),
                *("python3", "scripts/benchmarks/cost_guest.py", hook, str(rounds)),
            ],
            stdout=subprocess.PIPE,
            check=True,
        )
        found = json.loads(done.stdout)
        for key, what in WHAT.items():
            plain, traced = found[key]
            rows.append(
                {
                    "what": f"{what}, {hook}",
                    "value": f"+{traced - plain:,.0f}",
                    "note": f"instructions, on {plain:,.0f} untraced ({100 * (traced - plain) / plain:.1f} %)",
                }
            )
    return rows
