"""scripts/bench NAME [options]: a table of ratios from one interleaved run, and the machine it ran on."""

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Row, machine

# Benchmark -> default number of rounds; each is a module of this package with `run`.
ROUNDS = {
    "start": 11,
    "drain": 15,
    "record": 11,
    "live": 1,
    "snapshot": 5,
    "writes": 5,
    "view": 15,
    "format": 5,
    "cost": 11,
    "soak": 1,
    "scale": 1,
    "disk": 5,
    "images": 5,
}


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("name", choices=ROUNDS)
    parser.add_argument("--rounds", type=int, help="rounds, interleaved")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long soak lasts (default 30)")
    parser.add_argument("--rate", default="10000,100000,500000", help="events a second for live (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE, too")
    given = parser.parse_args()
    rounds = given.rounds or ROUNDS[given.name]
    before = machine()
    run: Callable[..., list[Row]] = importlib.import_module(f"benchmarks.{given.name}").run
    if given.name == "soak":
        rows = run(given.minutes)
    elif given.name == "live":
        rows = run(rounds, [int(rate) for rate in given.rate.split(",")])
    else:
        rows = run(rounds)
    if given.json:
        result = {"benchmark": given.name, "machine": before, "rounds": rounds, "rows": [row.to_json() for row in rows]}
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{given.name}: {rounds} rounds, interleaved; {before}")
    width, text = max(len(row.what) for row in rows), max(len(row.text) for row in rows)
    for row in rows:
        print(f"  {row.what:<{width}}  {row.text:>{text}}  {row.note}")
    sys.stdout.flush()


main()
