"""What tracing adds to one operation, in instructions: exact, whatever else the machine does; ours and the peers'.

QEMU counts: with -icount and one CPU a nanosecond of the guest's clock is one instruction. The same operations run
untraced and with each tracer's programs attached, in one boot. The tracers run with their default options and
everything that they can attach; a peer is whatever does that job or the nearest to it. Results: docs/performance.md.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benchmarks.measure import Row

ROOT = Path(__file__).resolve().parent.parent.parent
KERNEL = "6.1"
WHAT = {
    "copy_up": "chmod that copies a 1-byte file up",
    "setattr": "chmod of a file that is copied up already",
    "rename": "rename in the writable layer",
    "open_write": "open for writing and close, copied up already",
    "write": "write of 1 byte",
    "file_open": "open for reading and close",
    "file_stat": "stat",
    "file_create": "create, open for writing and close",
    "file_unlink": "unlink",
    "exec": "fork, execute, exit and wait",
    "cgroup": "make and remove a cgroup",
}


def run(rounds: int) -> list[Row]:
    """Rows by operation, then by who traces."""
    machine = [str(ROOT / "scripts" / "vm"), "--kernel", KERNEL, "--count-instructions", "--timeout", "900", "--"]
    guest = ["python3", "scripts/benchmarks/cost_guest.py", str(rounds), "--peers"]
    done = subprocess.run([*machine, *guest], stdout=subprocess.PIPE, check=True)
    return rows(json.loads(done.stdout))


def rows(found: dict[str, dict[str, list[float]]]) -> list[Row]:
    """From what cost_guest.py printed."""
    made = []
    for operation, what in WHAT.items():
        for way, operations in found.items():
            if operation in operations:
                plain, traced = operations[operation]
                note = f"instructions, on {plain:,.0f} untraced ({100 * (traced - plain) / plain:.1f} %)"
                made.append(Row(f"{what}: {way}", traced - plain, f"+{traced - plain:,.0f}", note))
    return made
