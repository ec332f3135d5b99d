"""Repeat chosen tests beside one busy loop for each core, and say how often each failed.

    scripts/test again 10 tests/native/test_agent_native.py
    scripts/test again 10 "replay and not export" unit native
    scripts/test again 3 tests/kernel/test_who.py            in one machine with Linux 6.1; KUBETRACE_KERNELS for others

EXPRESSION is pytest's -k, or files and tests as pytest takes them. A test that never fails so may still fail by chance;
one that fails once in ten will fail somebody's submission this week.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tests.rings import matrix, report
from tests.rings.run import DIRECTORY, Part, part_of_place, part_of_ring, run, say
from tests.rings.times import clock

RINGS = ("unit", "native", "kernel")
_BUSY = "while True: pass"


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """As many processes that do nothing but compute; they end with this, or with this process."""
    # ends when its parent has gone, whatever ended that
    code = f"import ctypes; ctypes.CDLL(None).prctl(1, 9)\n{_BUSY}"
    made = [subprocess.Popen([sys.executable, "-S", "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for one in made:
            one.kill()
            one.wait()


def chosen(expression: str) -> dict[str, list[str]]:
    """Ring -> pytest's arguments for its tests, where paths say which ring; nothing for an expression of -k."""
    if not any(word in expression for word in ("/", "::", ".py")):
        return {}
    found: dict[str, list[str]] = {}
    for word in expression.split():
        ring = next((part for part in word.split("/") if part in RINGS), None)
        if ring is None:
            raise SystemExit(f"scripts/test again: {word} is in none of tests/{', tests/'.join(RINGS)}")
        found.setdefault(ring, []).append(word)
    return found


def parts(expression: str, rings: Sequence[str], kernels: Sequence[str]) -> list[Part]:
    """What one repetition runs."""
    paths = chosen(expression)
    made: list[Part] = []
    for ring in rings or sorted(paths) or RINGS[:2]:
        own = paths.get(ring, []) if paths else [f"tests/{ring}", "-k", expression]
        if not own:
            raise SystemExit(f"scripts/test again: {expression} names no test of tests/{ring}")
        if ring == "kernel":
            for place in matrix.places(kernels, full=True):
                if place.cgroup == "v2":
                    made.append(part_of_place(place, True, *own))
        else:
            made.append(part_of_ring(ring, *own))
    return made


def again(count: int, expression: str, rings: Sequence[str], kernels: Sequence[str]) -> int:
    """Run them `count` times; 1 when anything failed in any of the runs."""
    failures: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    seconds: list[float] = []
    passed = failed = 0
    started = time.monotonic()
    with busy_loops(os.cpu_count() or 1):
        for number in range(1, count + 1):
            begun = time.monotonic()
            for part in parts(expression, rings, kernels):
                assert part.report is not None
                told = DIRECTORY / f"again-{number}-{part.report.name}"
                own = replace(part, report=told, environment={**part.environment, report.FILE_VARIABLE: str(told)})
                result = run(own)
                for test in result.tests:
                    runs[test.name] += 1
                    passed += test.outcome == "passed"
                for fault in result.faults:
                    failures[fault] += 1
                    failed += 1
            seconds.append(time.monotonic() - begun)
            say(f"scripts/test again: {number} of {count}, {sum(failures.values())} failures so far")
    for fault, times in failures.most_common():
        say(f"failed {times} of {count} times: {fault}")
    each = clock(sum(seconds) / len(seconds))
    say(f"{len(runs)} tests, {count} times, {each} each, beside {os.cpu_count()} busy loops")
    said = [f"{failed} failed"] if failed else []
    print(", ".join([*said, f"{passed} passed"]) + f" in {time.monotonic() - started:.2f}s", flush=True)
    return 1 if failures else 0
