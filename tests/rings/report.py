"""A pytest plugin (-p tests.rings.report): what ran, how it ended and how long it took, as JSON Lines in a file.

The file is $KUBETRACE_REPORT; a line is written when a test begins and when each of its phases has ended, so that after
the death of a machine the last line names the test that ran. Where $KUBETRACE_ENDED names the report of a machine that
died, what has ended there, well or not, is left out.

    {"begins": "tests/kernel/test_who.py::test_x"}
    {"test": "tests/kernel/test_who.py::test_x", "phase": "call", "outcome": "passed", "seconds": 1.2}
    {"ends": 0}                                                           the run, with pytest's exit status
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

FILE_VARIABLE, ENDED_VARIABLE = "KUBETRACE_REPORT", "KUBETRACE_ENDED"

# Beside setup, call and teardown of tests: what a module could not be collected for.
COLLECTION = "collection"


class Writer:
    """Writes the report of one run of pytest."""

    def __init__(self, file: IO[str], ended: frozenset[str]) -> None:
        self._file, self._ended = file, ended

    def _say(self, **what: object) -> None:
        self._file.write(json.dumps(what) + "\n")
        self._file.flush()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what had ended before the machine died."""
        left_out = [item for item in items if item.nodeid in self._ended]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item.nodeid not in self._ended]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._say(begins=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test has ended."""
        outcome = report.outcome
        # expected to fail is a kind of skipped for pytest, and not for us
        if hasattr(report, "wasxfail"):
            outcome = "failed" if outcome == "passed" else "passed"
        self._say(test=report.nodeid, phase=report.when, outcome=outcome, seconds=round(report.duration, 3))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that could not be collected is a failure of its own."""
        if report.failed:
            self._say(test=report.nodeid, phase=COLLECTION, outcome="failed", seconds=0.0)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """The run has ended."""
        self._say(ends=int(exitstatus))


def pytest_configure(config: pytest.Config) -> None:
    """Write a report where one is asked for."""
    if name := os.environ.get(FILE_VARIABLE):
        before = os.environ.get(ENDED_VARIABLE)
        ended = frozenset(read(Path(before)).ended) if before else frozenset()
        config.pluginmanager.register(Writer(open(name, "a"), ended), "kubetrace-report")  # noqa: SIM115 (for the run)


@dataclass
class Test:
    """One test of a report: its worst outcome, and the seconds of each phase."""

    __test__ = False  # not for pytest to collect

    name: str
    outcome: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Report:
    """What a report says of its run, or of the runs that were added to it one after the other."""

    tests: dict[str, Test] = field(default_factory=dict)
    running: str | None = None
    complete: bool = False

    @property
    def ended(self) -> list[str]:
        """The tests whose outcome is certain; not the one that runs."""
        return [name for name in self.tests if name != self.running]


_WORSE = {"": 0, "passed": 1, "skipped": 2, "failed": 3}


def read(path: Path) -> Report:
    """The report in a file; an unfinished last line does not exist."""
    text = path.read_text() if path.exists() else ""
    return parse(json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines())


def parse(lines: Iterable[dict[str, Any]]) -> Report:
    """The report of these lines."""
    found = Report()
    unfinished: dict[str, Test] = {}
    for line in lines:
        if "begins" in line:
            found.running, found.complete = line["begins"], False
            unfinished[line["begins"]] = Test(line["begins"])
        elif "ends" in line:
            found.running, found.complete = None, True
        else:
            name, phase = line["test"], line["phase"]
            test = unfinished.setdefault(name, Test(name))
            test.seconds[phase] = line["seconds"]
            test.outcome = max(test.outcome, line["outcome"], key=_WORSE.__getitem__)
            # before its teardown nothing is certain, but what failed stays so
            if phase in ("teardown", COLLECTION) or test.outcome == "failed":
                found.tests[name] = test
            if phase == "teardown":
                found.running = None
    return found


def slowest(reports: Iterable[tuple[str, Report]], count: int) -> Iterator[tuple[float, str, str, str]]:
    """(seconds, part, phase, test) of the longest phases."""
    every = [
        (seconds, part, phase, test.name)
        for part, report in reports
        for test in report.tests.values()
        for phase, seconds in test.seconds.items()
    ]
    yield from sorted(every, reverse=True)[:count]
