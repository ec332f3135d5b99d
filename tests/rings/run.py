"""Run the rings of tests one after the other, as scripts/test does, and say how long each took.

    check         format, lint and types
    unit, native  side by side, as the native ring waits more than it computes; beside them the machine's disks are
                  made, and instructions are counted: that takes one CPU, and another's work changes no count
    kernel        each place of matrix.py in a machine of its own, two machines side by side: one alone leaves half of
                  two CPUs idle, as it waits for containers, timers and the grace periods of its kernel. But for those
                  of matrix.ALONE, which come last

A guest whose kernel dies (7.2 under emulation, when code in use is patched) or does not come up is booted once more for
what had not ended, and that is said, with the end of its console; nothing else is ever tried again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.rings import matrix, report
from tests.rings.times import Times, reference
from tests.vm import machine

CHECKOUT = Path(__file__).resolve().parents[2]
# Inside of the checkout, which is what the machine can write to.
DIRECTORY = CHECKOUT / ".rings"

RINGS = ("check", "unit", "native", "kernel")
INSTRUCTIONS = "instructions"

# Generous: a machine that hangs must leave the others of the 90 minutes that CI has.
LIMIT_S = {matrix.MAIN: 2400}
OTHERS_LIMIT_S = 1500

_PYTEST = ("-m", "pytest", "-p", "tests.rings.report", "-q")


@dataclass(frozen=True)
class Part:
    """One run of a command; `report` is where a run of pytest tells what it did."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    report: Path | None = None
    in_machine: bool = False


@dataclass
class Result:
    """How a part ended; `deaths` names the test that ran when a guest's kernel died."""

    part: Part
    status: int
    seconds: float
    reports: list[report.Report] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)

    @property
    def tests(self) -> list[report.Test]:
        """Every test that ended, once for each boot."""
        return [test for found in self.reports for test in found.tests.values()]

    @property
    def faults(self) -> list[str]:
        """Why this part failed, a line each; none when it passed."""
        name = self.part.name
        if self.part.report is None:
            return [f"{name}: status {self.status}"] if self.status else []
        said = [f"{name}: {test.name}" for test in self.tests if test.outcome == "failed"]
        if self.part.in_machine:
            # what is skipped in a machine of ours is a fault of ours
            said += [f"{name}: skipped {test.name}" for test in self.tests if test.outcome == "skipped"]
        last = self.reports[-1] if self.reports else report.Report()
        if not last.complete:
            where = f" in {last.running}" if last.running else ""
            said.append(f"{name}: ended with status {self.status}{where}")
        elif self.status and not said:
            said.append(f"{name}: status {self.status}")
        elif not self.tests:
            said.append(f"{name}: no test ran")
        return said


def say(line: str) -> None:
    """One line about the run itself."""
    print(line, file=sys.stderr, flush=True)


def part_of_ring(ring: str, *arguments: str) -> Part:
    """The unit or the native ring; `arguments` choose among its tests."""
    told = DIRECTORY / f"{ring}.jsonl"
    chosen = arguments or (f"tests/{ring}",)
    return Part(ring, (sys.executable, *_PYTEST, *chosen), {report.FILE_VARIABLE: str(told)}, told)


def part_of_place(place: matrix.Place, full: bool, *arguments: str) -> Part:
    """tests/kernel in a machine with this kernel and cgroup mode; `arguments` choose among its tests."""
    told = DIRECTORY / f"{place.kernel}-{place.cgroup}.jsonl"
    image = ("--image",) if place == matrix.Place(matrix.MAIN, "v2") else ()
    containerd = "2" if place.kernel in matrix.CONTAINERD_2 else "1"
    limit_s = LIMIT_S.get(place.kernel, OTHERS_LIMIT_S) * (2 if full else 1)
    return Part(
        f"Linux {place.kernel}, cgroup {place.cgroup}",
        (
            *("scripts/vm", "--kernel", place.kernel, "--cgroup", place.cgroup, "--node=quiet", *image),
            *("--containerd", containerd, "--explain"),
            *("--timeout", str(limit_s), "--", "python3", *_PYTEST, "-p", "no:cacheprovider"),
            *(arguments or ("tests/kernel",)),
        ),
        {report.FILE_VARIABLE: str(told), matrix.PLACE_VARIABLE: str(place)}
        | ({matrix.FULL_VARIABLE: "1"} if full else {}),
        told,
        in_machine=True,
    )


def part_of_instructions() -> Part:
    """What tracing costs, held against what it did on one kernel."""
    told = DIRECTORY / f"{INSTRUCTIONS}.jsonl"
    return Part(
        f"Linux {matrix.MAIN}, {INSTRUCTIONS}",
        (
            *("scripts/vm", "--kernel", matrix.MAIN, "--count-instructions", "--explain", "--timeout", "900", "--"),
            *("python3", *_PYTEST, "-p", "no:cacheprovider", "tests/cost"),
        ),
        {report.FILE_VARIABLE: str(told)},
        told,
        in_machine=True,
    )


def run(part: Part, output: Path | None = None) -> Result:
    """Run a part; what it prints goes to our own output, or to a file to be shown later."""
    say(f"=== {part.name}")
    started = time.monotonic()
    if part.report is not None:
        part.report.parent.mkdir(exist_ok=True)
        part.report.unlink(missing_ok=True)
    status = _call(part, output)
    result = Result(part, status, 0.0)
    if part.report is not None:
        result.reports.append(report.read(part.report))
        if status == machine.KERNEL_DIED:
            again = died(result, part)
            result.status = _call(again, output)
            assert again.report is not None
            result.reports.append(report.read(again.report))
    result.seconds = time.monotonic() - started
    return result


def died(result: Result, part: Part) -> Part:
    """Note which test the guest's kernel died under, and the part that runs what had not ended."""
    assert part.report is not None
    last = result.reports[-1]
    running = last.running or ("no test" if last.tests else "its boot")
    result.deaths.append(running)
    say(f"{part.name}: the guest's kernel died while this ran: {running}. Booting once more for what had not ended.")
    told = part.report.with_suffix(".again.jsonl")
    told.unlink(missing_ok=True)
    more = {report.FILE_VARIABLE: str(told), report.ENDED_VARIABLE: str(part.report)}
    return replace(part, environment={**part.environment, **more}, report=told)


def _call(part: Part, output: Path | None) -> int:
    environment = {**os.environ, **part.environment}
    if output is None:
        return subprocess.run(part.command, cwd=CHECKOUT, env=environment, check=False).returncode
    with open(output, "wb") as file:
        return subprocess.run(
            part.command, cwd=CHECKOUT, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode


class Lane:
    """Parts that run one after the other beside what else runs; what they print is shown when they have ended."""

    def __init__(self, *parts: Part) -> None:
        DIRECTORY.mkdir(exist_ok=True)
        self._parts = parts
        self._results: list[Result] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for part in self._parts:
            self._results.append(run(part, output_of(part)))

    def wait(self) -> list[Result]:
        """Their results; what they printed is on our output by then."""
        self._thread.join()
        for result in self._results:
            show(result.part)
        return self._results


def output_of(part: Part) -> Path:
    """Where a part writes whose output is shown later."""
    return DIRECTORY / f"{part.name}.out"


def show(part: Part) -> None:
    """Copy what a part has printed to our own output, whole."""
    sys.stdout.flush()
    with open(output_of(part), "rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.flush()


def side_by_side(parts: Iterable[Part], lanes: int, seconds: Mapping[str, float]) -> Iterator[Result]:
    """Run parts, at most `lanes` at once, those that take longest (`seconds`, by name) first; each as it ends.

    What a part printed is shown whole when it has ended, so that the output of two is never mixed.
    """
    waiting = sorted(parts, key=lambda part: -seconds.get(part.name, 0.0))
    if lanes == 1:
        yield from map(run, waiting)
        return
    DIRECTORY.mkdir(exist_ok=True)
    with ThreadPoolExecutor(lanes) as pool:
        for ended in as_completed([pool.submit(run, part, output_of(part)) for part in waiting]):
            result = ended.result()
            say(f"=== {result.part.name}: what it printed")
            show(result.part)
            yield result


def machines_at_once() -> int:
    """Two where there are two CPUs and memory for both, else one; or as many as $KUBETRACE_MACHINES says."""
    if os.environ.get(machine.AT_ONCE_VARIABLE):
        return machine.at_once()
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(memory["MemAvailable"].split()[0]) * 1024
    return 2 if (os.cpu_count() or 1) >= 2 and available >= 2 * machine.MEMORY_BYTES * 5 // 4 else 1


PREPARE = Part("virtual machine's disks", (sys.executable, "-m", "tests.rings.prepare"))


def run_rings(rings: Sequence[str], kernels: Sequence[str], full: bool, set_up_s: float) -> int:
    """Run these rings; the exit status, after a table of times and pytest's kind of closing line."""
    results: list[Result] = []
    beside: list[Lane] = []

    def keep(result: Result) -> None:
        results.append(result)
        for line in result.faults:
            say(f"scripts/test: failed: {line}")

    started = time.monotonic()
    if "kernel" in rings:
        prepare = replace(PREPARE, command=(*PREPARE.command, *kernels))
        beside.append(Lane(prepare, *([part_of_instructions()] if matrix.MAIN in kernels else [])))
    if "check" in rings:
        keep(run(Part("check", ("scripts/check",))))
    if "unit" in rings:
        beside.append(Lane(part_of_ring("unit")))
    if "native" in rings:
        keep(run(part_of_ring("native")))
    for one in reversed(beside):
        for result in one.wait():
            keep(result)
    if "kernel" in rings:
        lanes = machines_at_once()
        places = matrix.places(kernels, full)
        at_once = {machine.AT_ONCE_VARIABLE: str(lanes)}
        parts = [part_of_place(place, full) for place in places if place.kernel not in matrix.ALONE]
        parts = [replace(part, environment={**part.environment, **at_once}) for part in parts]
        for result in side_by_side(parts, lanes, reference()):
            keep(result)
        for place in places:
            if place.kernel in matrix.ALONE:
                keep(run(part_of_place(place, full)))
    return finish(results, set_up_s, time.monotonic() - started, write=not full)


def finish(results: Sequence[Result], set_up_s: float, seconds: float, write: bool = True) -> int:
    """Say how long everything took and what failed; the exit status."""
    times = Times({"set-up": set_up_s} | {result.part.name: result.seconds for result in results})
    say("")
    for line in times.table({result.part.name: result for result in results}, set_up_s + seconds):
        say(line)
    if write:
        DIRECTORY.mkdir(exist_ok=True)
        (DIRECTORY / "seconds.json").write_text(times.as_json())
    faults = [line for result in results for line in result.faults]
    for result in results:
        for name in result.deaths:
            say(f"scripts/test: {result.part.name}: the guest's kernel died once, while this ran: {name}")
    for line in faults:
        say(f"scripts/test: failed: {line}")
    counts: dict[str, int] = {}
    for result in results:
        for test in result.tests:
            counts[test.outcome] = counts.get(test.outcome, 0) + 1
    failed = max(counts.pop("failed", 0), 1 if faults else 0)
    said = [f"{failed} failed"] if failed else []
    said += [f"{counts[name]} {name}" for name in ("passed", "skipped") if counts.get(name)]
    # as pytest closes a run: of all runs together
    if any(result.part.report for result in results):
        sys.stdout.flush()
        print(f"{', '.join(said) or 'no tests ran'} in {seconds + set_up_s:.2f}s", flush=True)
    return 1 if faults else 0
