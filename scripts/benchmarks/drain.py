"""Draining a full ring and grouping by cgroup: ns of CPU per event, ours beside bcc's callback and C.

The ring is filled by this process and drained as a whole, by each way in turn: records of 128 bytes (event.bpf.c; the
reference of the performance notes) and copyup's own of 512 (the stand-in). C only copies: it is the limit, not a rival.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import compile_objects

from benchmarks.measure import Row, cpu, interleaved, median, missing, spread
from benchmarks.peers import GET_BCC, bcc_consumer, by_cgroup, by_file, by_series, c_consumer
from benchmarks.standin import ROOT, stand_in
from kubetrace import tracers
from kubetrace.attribution.facts import Fact
from kubetrace.engines.libbpf import LoadedObject
from kubetrace.engines.ring import Ring
from kubetrace.engines.source import joined
from kubetrace.kit.context import Context
from kubetrace.kit.tracer import MAX, SUM
from kubetrace.node.host import Host
from kubetrace.node.survey import Node
from kubetrace.pipeline import Pipeline
from kubetrace.stream.layout import Layout
from kubetrace.stream.steps import Joining, Step
from kubetrace.tables.joining import Joiner

EVENTS = 8_000
CGROUPS = 32
_OURS, _TABLE, _AGENT, _BCC, _BCC_FILE, _BCC_SERIES, _C = (
    "drain, group by cgroup (joining.py)",
    "kubetrace's table: drain, name, count by every grouping",
    "kubetrace agent: drain, name, count by container",
    "bcc's callback, group by cgroup",
    "bcc's callback, group by cgroup, process and file",
    "bcc's callback, the agent's metrics by cgroup",
    "libbpf's consumer in C, copy only",
)
_STREAM = "copyup/copyup"
_RIVALS = {_OURS: _BCC, _TABLE: _BCC_FILE, _AGENT: _BCC_SERIES}
_IN_TURN = f"the same of {CGROUPS} cgroups in turn: copy instead of drain, group"


def run(rounds: int) -> list[Row]:
    """Rows of ns per event and the ratios of the budget."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        objects = stand_in(directory)
        compile_objects.compile_object(
            Path(__file__).with_name("event.bpf.c"),
            objects / "bench.bpf.o",
            platform.machine(),
            "-I",
            str(ROOT / "bpf"),
        )
        rows: list[Row] = []
        for ring, event in (("bench", "bench_event"), ("copyup", "copyup_event")):
            with LoadedObject(objects / f"{ring}.bpf.o", constants={"standin_pid": os.getpid()}) as loaded:
                rows += _of(loaded, ring, loaded.layout(event), directory, rounds)
        return rows


def _of(loaded: LoadedObject, name: str, layout: Layout, directory: Path, rounds: int) -> Iterator[Row]:
    ring = loaded.ring(name, layout.size)
    measures = {"copied": SUM, "duration": MAX}
    unseen = [field.name for field in layout.fields if field.name not in (*measures, "cgroup_id")]
    joiner = Joiner(layout, measures, unseen)
    totals: dict[int, list[int]] = {}

    def ours() -> None:
        batch = joined(name, ring, joiner)
        for event, count in zip(layout.decode(batch.data), batch.counts or (), strict=True):
            row = totals.setdefault(event.cgroup_id, [0, 0, 0])
            row[0] += count
            row[1] += event.copied
            row[2] = max(row[2], event.duration)

    ways: dict[str, Callable[[], object]] = {_OURS: ours}
    pipelines: dict[str, _Product] = {}
    handlers = {_BCC: by_cgroup()}
    if name == "copyup":
        pipelines = {_TABLE: _Product(loaded, layout), _AGENT: _Product(loaded, layout, metered=True)}
        handlers |= {_BCC_FILE: by_file(), _BCC_SERIES: by_series()}

    ways |= {what: _product(pipeline, ring) for what, pipeline in pipelines.items()}
    for what, (_, handle) in handlers.items():
        consume = bcc_consumer(loaded.map_fd(name), layout, handle)
        if consume is not None:
            ways[what] = consume
    ways[_C] = c_consumer(loaded.map_fd(name), directory)

    act_once = os.getppid if name == "bench" else os.getpgrp

    def filled(act: Callable[[], object]) -> Callable[[], float]:
        def measured() -> float:
            for _ in range(EVENTS):
                act_once()
            return cpu(act) / EVENTS * 1e9

        return measured

    found = interleaved({what: filled(act) for what, act in ways.items()}, rounds)
    counted = {_OURS: sum(row[0] for row in totals.values())}
    counted |= {what: pipeline.counts.events for what, pipeline in pipelines.items()}
    counted |= {what: sum(row[0] for row in rows.values()) for what, (rows, _) in handlers.items() if what in ways}
    for what, count in counted.items():
        if count != rounds * EVENTS:
            raise RuntimeError(f"{what}: {count} events of {rounds * EVENTS}")
    bytes_each = f"{layout.stride} B"
    for what, values in found.items():
        note = f"{spread(values)} ns"
        rival = _RIVALS.get(what)
        if rival in found:
            note += f"; {rival} takes {median(found[rival]) / median(values):.1f} x"
        if what == _OURS:
            note += f"; {median(values) / median(found[_C]):.1f} x the copy in C"
        yield Row(f"{bytes_each}: {what}", median(values), f"{median(values):.0f} ns/ev", note, values)
    if _BCC not in ways:
        yield missing(f"{bytes_each}: {_BCC}", GET_BCC)
    for _ in range(EVENTS):
        act_once()
    yield _in_turn(joiner, layout, ring.read(), rounds)
    if pipelines:
        yield from _unlike(loaded, ring, layout, directory, rounds)


def _in_turn(joiner: Joiner, layout: Layout, data: bytes, rounds: int) -> Row:
    # the dearest order: none is of the same cgroup as the one before
    begin = layout.stride - layout.size + next(field.offset for field in layout.fields if field.name == "cgroup_id")
    changed = bytearray(data)
    for number, at in enumerate(range(begin, len(data), layout.stride)):
        changed[at : at + 8] = (1000 + number % CGROUPS).to_bytes(8, "little")
    found = interleaved({_IN_TURN: lambda: cpu(lambda: joiner.join(bytes(changed))) / EVENTS * 1e9}, rounds)[_IN_TURN]
    return Row(
        f"{layout.stride} B: {_IN_TURN}", median(found), f"{median(found):.0f} ns/ev", f"{spread(found)} ns", found
    )


def _unlike(loaded: LoadedObject, ring: Ring, layout: Layout, directory: Path, rounds: int) -> Iterator[Row]:
    # the stand-in's path is the process' directory
    places = [directory / "unlike" / f"{at:04}" for at in range(EVENTS)]
    for place in places:
        place.mkdir(parents=True)
    made = {_TABLE: _Product(loaded, layout), _AGENT: _Product(loaded, layout, metered=True)}
    files, by_each_file = by_file()
    ways = {what: _product(pipeline, ring) for what, pipeline in made.items()}
    rival = bcc_consumer(loaded.map_fd("copyup"), layout, by_each_file)
    if rival is not None:
        ways[_BCC_FILE] = rival

    def filled(act: Callable[[], object]) -> Callable[[], float]:
        def measured() -> float:
            before = os.getcwd()
            for place in places:
                os.chdir(place)
                os.getpgrp()
            os.chdir(before)
            return cpu(act) / EVENTS * 1e9

        return measured

    found = interleaved({what: filled(act) for what, act in ways.items()}, rounds)
    for what, values in found.items():
        rows = len(files if what == _BCC_FILE else made[what].table.rows("file" if what == _TABLE else "container"))
        if rows != (1 if what == _AGENT else EVENTS):
            raise RuntimeError(f"{what}: {rows} rows")
        note = f"{spread(values)} ns"
        if what == _TABLE and rival is not None:
            note += (
                f"; {median(values) / median(found[_BCC_FILE]):.1f} x bcc's callback, which names none and groups once"
            )
        what = f"{layout.stride} B, each of a file of its own: {what}"
        yield Row(what, median(values), f"{median(values):,.0f} ns/ev", note, values)


def _product(pipeline: _Product, ring: Ring) -> Callable[[], object]:
    return lambda: pipeline.take(Step(batches=[joined(_STREAM, ring, pipeline.joiner)]))


class _Product(Pipeline):
    """The pipeline of `kubetrace copyup`, or of the agent; it is the live end of its source itself."""

    def __init__(self, loaded: LoadedObject, layout: Layout, *, metered: bool = False) -> None:
        tracer = tracers.find("copyup")
        groupings = [tracer.metered_by] if metered else list(tracer.groupings)
        layouts = {_STREAM: layout, "copyup/copyup_long": loaded.layout("copyup_long_event")}
        super().__init__(tracer, layouts, Context("node", 0), groupings=groupings, metered=metered, asked=self)
        self.take(Step(facts=list(Node(Host.find(None)).scan())))

    def join(self, joiners: Mapping[str, Joining]) -> None:
        self.joiner = joiners[_STREAM]

    def ask(self, unknown: bool) -> Sequence[Fact]:
        return []

    def layers(self, device: int) -> Sequence[Fact]:
        return []
