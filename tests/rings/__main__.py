"""scripts/test: run the tests, ring by ring."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tests.rings import again, matrix, run
from tests.vm import machine


def kernels(environment: str | None, default: Sequence[str] = tuple(matrix.MODES)) -> list[str]:
    """The kernels of KUBETRACE_KERNELS, or these; SystemExit for one that is not known."""
    wanted = environment.split() if environment else list(default)
    if unknown := [name for name in wanted if name not in matrix.MODES]:
        raise SystemExit(
            f"scripts/test: there is no kernel {unknown[0]}. KUBETRACE_KERNELS takes some of: {' '.join(matrix.MODES)}"
        )
    return wanted


def main(arguments: Sequence[str]) -> int:
    """The exit status of scripts/test with these arguments."""
    if arguments[:1] == ["again"]:
        parser = argparse.ArgumentParser(prog="scripts/test again", description=again.__doc__.splitlines()[0])
        parser.add_argument("count", type=int, metavar="N", help="how many times")
        parser.add_argument("expression", metavar="EXPRESSION", help="pytest's -k, or files and tests")
        parser.add_argument("rings", nargs="*", choices=[*run.RINGS[1:], []], metavar="RING", help="unit native kernel")
        given = parser.parse_args(arguments[1:])
        if given.count < 1:
            parser.error("N is how many times to run the tests, 1 or more")
        named = kernels(os.environ.get("KUBETRACE_KERNELS"), (matrix.MAIN,))
        return again.again(given.count, given.expression, given.rings, named)
    parser = argparse.ArgumentParser(prog="scripts/test", description="Run the tests, all rings or some.")
    parser.add_argument("--full", action="store_true", help="every test on every kernel, as for a release")
    parser.add_argument("--set-up-seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("rings", nargs="*", metavar="RING", help=f"some of: {' '.join(run.RINGS)} (default: all)")
    given = parser.parse_args(arguments)
    if unknown := [ring for ring in given.rings if ring not in run.RINGS]:
        parser.error(f"there is no ring {unknown[0]}. Try:  scripts/test {' '.join(run.RINGS)}")
    wanted = kernels(os.environ.get("KUBETRACE_KERNELS"))
    try:
        machine.at_once()
    except machine.MachineError as error:
        parser.error(str(error))
    return run.run_rings(given.rings or run.RINGS, wanted, given.full, given.set_up_seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
