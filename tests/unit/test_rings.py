"""How scripts/test chooses, counts and times: the tables must agree with one another, and with the tests."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kubetrace import tracers
from tests.rings import __main__ as entry
from tests.rings import again, matrix, report, run, times
from tests.rings.matrix import Mark, Place
from tests.vm import kernels, machine

CHECKOUT = Path(__file__).parents[2]


# -- which test runs where -------------------------------------------------------------------------------------------


def marks_in(source: str) -> dict[str, list[Mark]]:
    """Name -> markers of the tests of a file, read without importing it: most need the machine."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = []
            for decorator in node.decorator_list:
                call = decorator if isinstance(decorator, ast.Call) else None
                name = ast.unparse(call.func if call else decorator).removeprefix("pytest.mark.")
                if name in matrix.MARKERS:
                    given = {word.arg or "": ast.literal_eval(word.value) for word in call.keywords} if call else {}
                    marks.append(Mark(name, **given))
            found[node.name] = marks
    return found


TESTS = {
    f"{path.stem}.{name}": marks
    for path in sorted((CHECKOUT / "tests" / "kernel").glob("test_*.py"))
    for name, marks in marks_in(path.read_text()).items()
}


def test_every_test_of_the_kernel_ring_says_where_it_runs() -> None:
    assert len(TESTS) > 80
    assert {name: fault for name, marks in TESTS.items() if (fault := matrix.fault(marks))} == {}


def test_every_test_runs_somewhere_and_everywhere_with_full() -> None:
    for name, marks in TESTS.items():
        default = [place for place in matrix.places(matrix.MODES, False) if matrix.runs_at(place, False, marks)]
        full = [place for place in matrix.places(matrix.MODES, True) if matrix.runs_at(place, True, marks)]
        assert default, name
        assert len(full) > len(default) or marks[0].full or len(default) == 4, name


def test_the_parity_core_holds_every_tracer_on_every_kernel() -> None:
    everywhere = {name for name, marks in TESTS.items() if any(mark.name == "each_kernel" for mark in marks)}
    for module in ("test_copyup", "test_triggers", "test_writes", "test_cgroups", "test_starts", "test_doctor"):
        assert any(name.startswith(f"{module}.") for name in everywhere), module
    # the doctor's trial attaches each tracer by each hook
    assert "test_doctor.test_each_tracer_attaches_as_the_doctor_says" in everywhere


@pytest.mark.parametrize(
    ("marks", "default", "full"),
    [
        ([Mark("one_kernel")], ["6.1 v2"], ["6.1 v2", "5.10 v2", "6.12 v2", "7.2 v2"]),
        ([Mark("one_kernel", on="7.2")], ["7.2 v2"], ["6.1 v2", "5.10 v2", "6.12 v2", "7.2 v2"]),
        ([Mark("one_kernel", full=("6.1", "6.12"))], ["6.1 v2"], ["6.1 v2", "6.12 v2"]),
        ([Mark("each_kernel")], ["6.1 v2", "5.10 v2", "6.12 v2", "7.2 v2"], ["6.1 v2", "5.10 v2", "6.12 v2", "7.2 v2"]),
        (
            [Mark("each_cgroup_mode")],
            ["6.1 v2", "6.1 hybrid", "5.10 v1"],
            ["6.1 v2", "6.1 hybrid", "6.1 v1", "5.10 v2", "5.10 v1", "6.12 v2", "7.2 v2"],
        ),
    ],
)
def test_a_marker_names_its_places(marks: list[Mark], default: list[str], full: list[str]) -> None:
    for every, expected in ((False, default), (True, full)):
        found = [str(p) for p in matrix.places(matrix.MODES, every) if matrix.runs_at(p, every, marks)]
        assert found == expected


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        ([], "has none of one_kernel"),
        ([Mark("one_kernel"), Mark("each_kernel")], "it has one_kernel and each_kernel"),
        ([Mark("one_kernel", on="4.19")], "there is no kernel 4.19"),
        ([Mark("each_kernel"), Mark("each_cgroup_mode")], ""),
    ],
)
def test_markers_that_make_no_sense_are_told(marks: list[Mark], words: str) -> None:
    assert words in (matrix.fault(marks) or "")
    assert bool(matrix.fault(marks)) == bool(words)


def test_the_place_comes_from_the_environment() -> None:
    assert matrix.here({}) is None
    assert matrix.here({"KUBETRACE_PLACE": "5.10 v1"}) == (Place("5.10", "v1"), False)
    assert matrix.here({"KUBETRACE_PLACE": "6.1 v2", "KUBETRACE_FULL": "1"}) == (Place("6.1", "v2"), True)


# -- the tables of scripts/test --------------------------------------------------------------------------------------


def all_parts() -> list[run.Part]:
    return [
        *(run.part_of_ring(ring) for ring in ("unit", "native")),
        *(run.part_of_place(place, False) for place in matrix.places(matrix.MODES, False)),
        run.part_of_instructions(),
    ]


def test_the_tables_agree() -> None:
    assert set(matrix.MODES) == set(kernels.SUITES)
    assert set(matrix.ONCE) == {mode for modes in matrix.MODES.values() for mode in modes}
    assert all(kernel in matrix.MODES and mode in matrix.MODES[kernel] for mode, kernel in matrix.ONCE.items())
    project = (CHECKOUT / "pyproject.toml").read_text()
    assert all(f'"{name}: {meaning}"' in project for name, meaning in matrix.MARKERS.items())
    assert matrix.MAIN in kernels.WITH_HEADERS and set(matrix.ALONE) <= set(matrix.MODES)
    names = [part.name for part in all_parts()]
    told = [part.report for part in all_parts()]
    assert len(set(names)) == len(names) and len(set(told)) == len(told)


def test_the_reference_names_every_part_and_stays_within_its_budget() -> None:
    reference = json.loads(times.REFERENCE.read_text())
    assert set(reference) == {"set-up", "check", run.PREPARE.name, *(part.name for part in all_parts())}
    # what runs beside the native ring costs no time of its own; machines run two at a time
    places = [part.name for part in all_parts() if part.name.startswith("Linux") and "cgroup" in part.name]
    alone = [name for name in places if any(f"Linux {kernel}," in name for kernel in matrix.ALONE)]
    machines = times.packed_s([reference[name] for name in places if name not in alone], 2)
    machines += sum(reference[name] for name in alone)
    assert sum(reference[name] for name in ("set-up", "check", "native")) + machines <= times.budget_s(
        len(tracers.names())
    )
    assert (times.budget_s(4), times.budget_s(10)) == (2400, 3000)


def test_an_unknown_kernel_or_ring_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.kernels("6.12 7.2") == ["6.12", "7.2"]
    with pytest.raises(SystemExit, match=r"there is no kernel 9\.9\. KUBETRACE_KERNELS takes some of: 6\.1 5\.10"):
        entry.kernels("9.9")
    with pytest.raises(SystemExit):
        entry.main(["kernels"])
    assert "there is no ring kernels. Try:  scripts/test check unit native kernel" in capsys.readouterr().err


# -- reports ---------------------------------------------------------------------------------------------------------


# a plugin that is installed beside is not looked at, and takes a second to import
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def pytest_with(directory: Path, source: str, **environment: str) -> report.Report:
    """The report of a real pytest over this source."""
    (directory / "test_it.py").write_text(source)
    told = directory / "report.jsonl"
    told.unlink(missing_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.rings.report", "-q", "-p", "no:cacheprovider", str(directory)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "KUBETRACE_REPORT": str(told), **ALONE, **environment},
        capture_output=True,
        check=False,
    )
    return report.read(told)


def test_a_report_has_each_outcome_and_phase(tmp_path: Path) -> None:
    source = """
import pytest, time
@pytest.fixture
def broken(): raise OSError
@pytest.fixture
def ends_badly():
    yield
    raise OSError
def test_passes(): pass
def test_fails(): assert 0
def test_skips(): pytest.skip("why")
def test_never_begins(broken): pass
def test_ends_badly(ends_badly): pass
"""
    found = pytest_with(tmp_path, source)
    assert found.complete and found.running is None
    assert {name.rpartition("::")[2]: test.outcome for name, test in found.tests.items()} == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_skips": "skipped",
        "test_never_begins": "failed",
        "test_ends_badly": "failed",
    }
    (passes,) = [test for name, test in found.tests.items() if name.endswith("test_passes")]
    assert set(passes.seconds) == {"setup", "call", "teardown"}


def test_a_module_that_cannot_be_imported_is_a_failure(tmp_path: Path) -> None:
    found = pytest_with(tmp_path, "import nothing_of_this_name\n")
    assert [test.outcome for test in found.tests.values()] == ["failed"]


def test_after_a_death_the_report_names_what_ran_and_the_rest_is_run(tmp_path: Path) -> None:
    dies = "import os\ndef test_a(): assert 0\ndef test_b(): pass\ndef test_c(): os._exit(3)\ndef test_d(): pass\n"
    found = pytest_with(tmp_path, dies)
    assert not found.complete and (found.running or "").endswith("::test_c")
    assert [name.rpartition("::")[2] for name in found.ended] == ["test_a", "test_b"]
    before = tmp_path / "before.jsonl"
    (tmp_path / "report.jsonl").rename(before)
    rest = pytest_with(tmp_path, dies.replace("os._exit(3)", "pass"), KUBETRACE_ENDED=str(before))
    assert [name.rpartition("::")[2] for name in rest.tests] == ["test_c", "test_d"]
    assert rest.complete


def test_a_torn_last_line_does_not_exist(tmp_path: Path) -> None:
    told = tmp_path / "report.jsonl"
    told.write_text('{"begins": "t::a"}\n{"test": "t::a", "phase": "set')
    assert report.read(told).running == "t::a"
    assert report.read(tmp_path / "none").tests == {}


# -- what is said of a part ------------------------------------------------------------------------------------------


def result(lines: list[dict[str, object]], status: int = 0, in_machine: bool = True) -> run.Result:
    part = run.Part("part", ("true",), report=Path("report"), in_machine=in_machine)
    return run.Result(part, status, 1.0, [report.parse(lines)])


def phases(name: str, outcome: str = "passed") -> list[dict[str, object]]:
    said: list[dict[str, object]] = [{"begins": name}]
    for phase, own in (("setup", "passed"), ("call", outcome), ("teardown", "passed")):
        said.append({"test": name, "phase": phase, "outcome": own, "seconds": 1.5})
    return said


END: dict[str, object] = {"ends": 0}


@pytest.mark.parametrize(
    ("lines", "status", "expected"),
    [
        ([*phases("a"), END], 0, []),
        ([*phases("a", "failed"), END], 1, ["part: a"]),
        ([*phases("a", "skipped"), END], 0, ["part: skipped a"]),
        ([*phases("a"), {"begins": "b"}], 124, ["part: ended with status 124 in b"]),
        ([], 125, ["part: ended with status 125"]),
        ([END], 5, ["part: status 5"]),
        ([*phases("a"), END], 2, ["part: status 2"]),
    ],
)
def test_what_failed_is_named(lines: list[dict[str, object]], status: int, expected: list[str]) -> None:
    assert result(lines, status).faults == expected


def test_a_skip_on_this_machine_is_its_own_affair() -> None:
    assert result([*phases("a", "skipped"), END], in_machine=False).faults == []


def test_a_death_of_the_guests_kernel_is_run_once_more_and_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "DIRECTORY", tmp_path)
    # a stand-in for scripts/vm alone: the first call dies in test_c, the second goes through
    script = tmp_path / "machine.py"
    script.write_text(
        "import os, subprocess, sys\n"
        "again = 'KUBETRACE_ENDED' in os.environ\n"
        "os.environ['DIES'] = '' if again else '1'\n"
        "status = subprocess.call([sys.executable, '-m', 'pytest', '-p', 'tests.rings.report', '-q', sys.argv[1]])\n"
        "sys.exit(123 if not again else status)\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import os\ndef test_a(): assert 0\ndef test_b(): pass\n"
        "def test_c():\n    if os.environ['DIES']: os._exit(3)\ndef test_d(): pass\n"
    )
    told = tmp_path / "report.jsonl"
    part = run.Part(
        "7.2",
        (sys.executable, str(script), str(tmp_path / "test_it.py")),
        {"KUBETRACE_REPORT": str(told), "PYTHONPATH": str(CHECKOUT), **ALONE},
        told,
        in_machine=True,
    )
    found = run.run(part)
    assert [name.rpartition("::")[2] for name in found.deaths] == ["test_c"]
    assert [(test.name.rpartition("::")[2], test.outcome) for test in found.tests] == [
        ("test_a", "failed"),
        ("test_b", "passed"),
        ("test_c", "passed"),
        ("test_d", "passed"),
    ]
    assert len(found.faults) == 1 and found.faults[0].endswith("::test_a")
    assert "the guest's kernel died while this ran" in capfd.readouterr().err


def test_a_guest_that_did_not_come_up_is_booted_once_more_and_once_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "DIRECTORY", tmp_path)
    told, calls = tmp_path / "report.jsonl", tmp_path / "calls"
    command = ("sh", "-c", f"echo x >> {calls}; exit {machine.KERNEL_DIED}")
    found = run.run(run.Part("5.10", command, {"KUBETRACE_REPORT": str(told)}, told, in_machine=True))
    assert calls.read_text() == "x\nx\n"
    assert found.deaths == ["its boot"] and found.faults == ["5.10: ended with status 123"]
    assert "died while this ran: its boot" in capfd.readouterr().err


def test_the_end_says_counts_times_and_what_grew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "DIRECTORY", tmp_path)
    passed = result([*phases("a"), *phases("b"), END])
    passed.seconds = 30
    failed = result([*phases("c", "failed"), END], 1)
    failed.part = run.Part("other", ("true",), report=Path("report"))
    assert run.finish([passed, failed], 100.0, 60.0) == 1
    out, err = capsys.readouterr()
    assert out == "1 failed, 2 passed in 160.00s\n"
    assert "scripts/test: failed: other: c" in err and "the slowest 20:" in err and "boot and staging 0:21" in err
    assert json.loads((tmp_path / "seconds.json").read_text()) == {"set-up": 100, "part": 30, "other": 1}


def test_what_grew_is_seen_on_a_slower_machine_too() -> None:
    before = {"a": 100.0, "b": 200.0, "c": 300.0, "brief": 2.0}
    # twice as slow in all, and b by a fifth more
    now = {"a": 200.0, "b": 480.0, "c": 600.0, "brief": 9.0, "new": 50.0}
    assert times.pace(now, before) == 2
    assert times.grown(now, before) == {"b": pytest.approx(0.2)}
    assert times.grown(now, {}) == {}
    lines = list(times.Times(now, before).table({}, 1339))
    assert any(line.startswith("b ") and "grew by 20% beside the others" in line for line in lines)
    assert "22:19" in lines[-1] and "2.00 of the reference's time" in lines[-1]


def test_two_lanes_take_the_longest_first() -> None:
    assert times.packed_s([3, 10, 4, 2], 2) == 10
    assert times.packed_s([5, 5, 5], 2) == 10
    assert times.packed_s([3, 10, 4, 2], 1) == 19


# -- side by side ----------------------------------------------------------------------------------------------------


def test_parts_run_side_by_side_and_what_each_printed_comes_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "DIRECTORY", tmp_path)
    # the two that take longest wait for one another; the third prints while one of them may still run
    meet = f"touch {tmp_path}/$0; echo $0 waits; while [ ! -e {tmp_path}/$1 ]; do sleep 0.01; done; echo $0 ends"
    parts = [
        run.Part("short", ("sh", "-c", "echo short; exit 3")),
        run.Part("a", ("timeout", "60", "sh", "-c", meet, "a", "b")),
        run.Part("b", ("timeout", "60", "sh", "-c", meet, "b", "a")),
    ]
    found = {result.part.name: result.status for result in run.side_by_side(parts, 2, {"a": 9.0, "b": 8.0})}
    out, err = capfd.readouterr()
    assert found == {"a": 0, "b": 0, "short": 3}
    assert all(f"{name} waits\n{name} ends\n" in out for name in "ab") and "short\n" in out
    assert err.index("=== a") < err.index("=== short")


def test_one_lane_shows_what_is_printed_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "DIRECTORY", tmp_path)
    parts = [run.Part(name, ("sh", "-c", f"echo {name}")) for name in ("brief", "long")]
    assert [result.part.name for result in run.side_by_side(parts, 1, {"long": 5.0})] == ["long", "brief"]
    assert capfd.readouterr().out == "long\nbrief\n" and not list(tmp_path.iterdir())


def test_how_many_machines_run_at_once_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBETRACE_MACHINES", "3")
    assert run.machines_at_once() == 3
    monkeypatch.delenv("KUBETRACE_MACHINES")
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert run.machines_at_once() == 1


@pytest.mark.parametrize("wrong", ["two", "0", "-1"])
def test_a_wrong_number_of_machines_is_said(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("KUBETRACE_MACHINES", wrong)
    with pytest.raises(machine.MachineError, match="how many machines run at once, such as 2"):
        run.machines_at_once()


# -- again -----------------------------------------------------------------------------------------------------------


def test_an_expression_is_paths_or_pytests_own() -> None:
    assert again.chosen("replay and not export") == {}
    one, two = "tests/native/test_image.py", "tests/kernel/test_who.py::test_x"
    assert again.chosen(f"{one} {two}") == {"native": [one], "kernel": [two]}
    with pytest.raises(SystemExit, match=r"README\.md is in none of tests/unit"):
        again.chosen("./README.md")


def test_again_counts_how_often_each_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "DIRECTORY", tmp_path)
    monkeypatch.setattr(again, "DIRECTORY", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    source = tmp_path / "tests" / "unit" / "test_it.py"
    # fails in the second of three runs
    source.write_text(
        f"from pathlib import Path\ncount = Path({str(tmp_path / 'count')!r})\n"
        "def test_sometimes():\n"
        "    count.write_text(count.read_text() + 'x' if count.exists() else 'x')\n"
        "    assert count.read_text() != 'xx'\n"
        "def test_always(): pass\n"
    )
    assert again.again(3, str(source), ["unit"], ["6.1"]) == 1
    out, err = capsys.readouterr()
    assert "failed 1 of 3 times: unit: " in err and "::test_sometimes" in err and "2 tests, 3 times" in err
    assert out.splitlines()[-1].startswith("1 failed, 5 passed in ")
