"""What must stay cheap beside something else in the same run: ratios with a wide margin, never times.

The numbers are those of scripts/bench; each bar here is at least twice as lax as what that measures.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kubetrace import tracers
from kubetrace.engines.libbpf import LoadedObject
from kubetrace.kit.context import Context
from kubetrace.pipeline import Pipeline
from kubetrace.recording.header import Header, Stream, Traced
from kubetrace.recording.writer import Recorder
from kubetrace.stream.layout import Batch
from kubetrace.stream.steps import Step, Tick
from kubetrace.tables.summed import Summed

from .conftest import Workload

EVENTS = 4001


def ratio(dear: Callable[[], object], cheap: Callable[[], object], rounds: int = 7) -> float:
    """How many times the CPU, by the medians of interleaved rounds."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for act, times in zip((dear, cheap), found, strict=True):
            begun = time.process_time()
            act()
            times.append(time.process_time() - begun)
    return statistics.median(found[0]) / statistics.median(found[1])


def batch(objects: Path, workload: Workload) -> tuple[LoadedObject, bytes]:
    loaded = LoadedObject(objects / "copyup.bpf.o", constants={"standin_pid": workload.pid})
    ring = loaded.ring("copyup", loaded.layout("copyup_event").size)
    workload.fire(bytes(workload.directory / "a"), EVENTS)
    return loaded, ring.read()


def test_help_costs_little_more_than_python(environment: dict[str, str]) -> None:
    # 1.7 times as measured, click alone being 3.4; the issue asks for 4
    source = str(Path(__file__).parents[2] / "src")
    code = "import sys; sys.argv[1:] = ['--help']; from kubetrace.commands.start import main; main()"

    def cpu(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "PYTHONPATH": source},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    found = [(cpu(code), cpu("pass")) for _ in range(7)]
    assert statistics.median(a for a, _ in found) < 3 * statistics.median(b for _, b in found)


def test_alike_events_cost_a_tenth_of_single_ones(objects: Path, workload: Workload) -> None:
    # 0.25 µs beside 7 µs as measured
    loaded, data = batch(objects, workload)
    tracer = tracers.find("copyup")
    with loaded:
        layouts = {"copyup/copyup": loaded.layout("copyup_event"), "copyup/copyup_long": loaded.layout("copyup_event")}
    joined, single = (Pipeline(tracer, layouts, Context("n", 0), groupings=list(tracer.groupings)) for _ in range(2))
    assert isinstance(single.table, Summed)
    single.table._joiners = {}
    step = Step(batches=[Batch("copyup/copyup", data)])
    assert ratio(lambda: single.take(step), lambda: joined.take(step)) > 10
    assert joined.counts.events == single.counts.events == 7 * EVENTS


def test_events_that_differ_in_what_is_not_metered_cost_a_tenth_of_single_ones(
    objects: Path, workload: Workload
) -> None:
    # 0.13 µs beside 9 µs as measured
    loaded, data = batch(objects, workload)
    tracer = tracers.find("copyup")
    with loaded:
        layout = loaded.layout("copyup_event")
    path = next(field for field in layout.fields if field.name == "path")
    changed = bytearray(data)
    for number, at in enumerate(range(8 + path.offset, len(data), layout.stride)):
        changed[at : at + 4] = b"%04x" % number
    layouts = {"copyup/copyup": layout, "copyup/copyup_long": layout}
    metered, whole = (
        Pipeline(tracer, layouts, Context("n", 0), groupings=["container"], metered=is_metered)
        for is_metered in (True, False)
    )
    step = Step(batches=[Batch("copyup/copyup", bytes(changed))])
    assert ratio(lambda: whole.take(step), lambda: metered.take(step)) > 10
    assert metered.counts.events == whole.counts.events == 7 * EVENTS


def test_recording_costs_a_fifth_of_json_lines(objects: Path, workload: Workload, tmp_path: Path) -> None:
    # bcc's callback with orjson takes 14.7 times as much as measured; this is json alone, of events decoded already
    loaded, data = batch(objects, workload)
    with loaded:
        layout = loaded.layout("copyup_event")
    header = Header("n", "k", 0, (Traced("copyup", streams=(Stream(1, "copyup", layout),)),))
    recorder = Recorder(tmp_path / "a.ktrace", header)
    events = [
        {name: value for name, value in event._asdict().items() if not isinstance(value, bytes)}
        for event in layout.decode(data)
    ]

    def record() -> None:
        recorder.write(Step(batches=[Batch("copyup/copyup", data)], tick=Tick(1, 1, 1)))
        recorder.flush()

    def lines() -> None:
        with open(os.devnull, "w") as out:
            for event in events:
                out.write(json.dumps(event) + "\n")

    assert ratio(lines, record) > 5
    recorder.close()


def test_a_refresh_costs_a_tenth_of_a_rich_table() -> None:
    # 0.7 ms beside 21 ms as measured
    import io

    from rich.console import Console
    from rich.table import Table

    from kubetrace.views.frame import Painter
    from kubetrace.views.table import Widths, cell, render
    from kubetrace.views.window import Window

    tracer = tracers.find("copyup")
    columns = [*tracer.groupings["file"].columns, *tracer.measures]
    texts = {"namespace": "shop", "pod": "web-7d9f8b6c5-x2v9q", "container": "app", "trigger": "open-write"}
    painter, widths = Painter(colour=True), Widths()
    console = Console(file=io.StringIO(), width=160, height=60, force_terminal=True)
    turn = 0

    def rows() -> list[tuple[object, ...]]:
        nonlocal turn
        turn += 1
        return [
            tuple(b"/usr/share/%d/file" % n if c.key == "path" else texts.get(c.key, 7919 * turn * n) for c in columns)
            for n in range(50)
        ]

    def ours() -> None:
        window = Window(columns, rows=rows(), head=["a"], foot=["b"], sort="copied_bytes")  # type: ignore[arg-type]
        assert len(painter.frame(render(window, 160, 60, widths=widths))) > 50 * 80

    def theirs() -> None:
        table = Table()
        for column in columns:
            table.add_column(column.title, no_wrap=True)
        for row in rows():
            table.add_row(*(cell(column, value) for column, value in zip(columns, row, strict=True)))  # type: ignore[arg-type]
        console.print(table)

    ours()
    theirs()
    assert ratio(theirs, ours) > 10
