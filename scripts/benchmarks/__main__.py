"""scripts/bench NAME [--rounds N] [--json]."""

import argparse
import json
import os
import platform

from benchmarks import cost, record, start, writes

BENCHMARKS = {"cost": cost.run, "record": record.run, "start": start.run, "writes": writes.run}


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--rounds", type=int, default=11, help="rounds, interleaved (default 11)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()
    rows = BENCHMARKS[given.name](given.rounds)
    machine = f"{platform.release()} {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    if given.json:
        print(json.dumps({"benchmark": given.name, "machine": machine, "rounds": given.rounds, "rows": rows}))
        return
    print(f"{given.name}: {given.rounds} rounds, interleaved; {machine}")
    width = max(len(row["what"]) for row in rows)
    for row in rows:
        print(f"  {row['what']:<{width}}  {row['value']:>10}  {row['note']}")


main()
