"""Draining a full ring and grouping by cgroup: ns of CPU per event, ours beside bcc's callback and C.

The ring is filled by this process and drained as a whole, by each way in turn: records of 128 bytes (event.bpf.c; the
reference of the performance notes) and copyup's own of 512 (the stand-in). C only copies: it is the limit, not a rival.
"""

from __future__ import annotations

import os
import platform
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import compile_objects

from benchmarks.measure import Row, cpu, interleaved, median, missing, spread
from benchmarks.peers import GET_BCC, bcc_consumer, by_cgroup, by_file, c_consumer
from benchmarks.standin import ROOT, stand_in
from kubetrace import tracers
from kubetrace.attribution.node import Node
from kubetrace.clock import Wall
from kubetrace.engines.libbpf import LoadedObject
from kubetrace.host import Host
from kubetrace.layout import Batch, Layout
from kubetrace.pipeline import Pipeline
from kubetrace.selection import Selection
from kubetrace.steps import Step

EVENTS = 8_000
BUDGET = 8
_OURS, _PRODUCT, _BCC, _BCC_FILE, _C = (
    "drain, group by cgroup",
    "kubetrace: drain, name, count by every grouping",
    "bcc's callback, group by cgroup",
    "bcc's callback, group by cgroup, process and file",
    "libbpf's consumer in C, copy only",
)


def fields(layout: Layout, *names: str) -> struct.Struct:
    """A format that takes these fields out of a record, in their order, and nothing else."""
    codes, at = [f"<{layout.stride - layout.size}x"], 0
    for field in sorted((f for f in layout.fields if f.name in names), key=lambda f: f.offset):
        codes.append(f"{field.offset - at}x{field.code}")
        at = field.offset + field.size
    return struct.Struct("".join([*codes, f"{layout.size - at}x"]))


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
    three = fields(layout, "cgroup_id", "copied", "duration")
    totals: dict[int, list[int]] = {}

    def ours() -> None:
        for cgroup, copied, duration in three.iter_unpack(ring.read()):
            try:
                row = totals[cgroup]
            except KeyError:
                totals[cgroup] = [1, copied, duration]
                continue
            row[0] += 1
            row[1] += copied
            if duration > row[2]:
                row[2] = duration

    pipeline = _pipeline(loaded, layout) if name == "copyup" else None

    def product() -> None:
        assert pipeline is not None
        pipeline.take(Step(batches=[Batch("copyup/copyup", ring.read())]))

    theirs, handle = by_cgroup()
    consume = bcc_consumer(loaded.map_fd(name), layout, handle)
    ways: dict[str, Callable[[], object]] = {_OURS: ours}
    if pipeline is not None:
        ways[_PRODUCT] = product
    if consume is not None:
        ways[_BCC] = consume
    if consume is not None and pipeline is not None:
        consume_files = bcc_consumer(loaded.map_fd(name), layout, by_file()[1])
        assert consume_files is not None
        ways[_BCC_FILE] = consume_files
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
    if pipeline is not None:
        counted[_PRODUCT] = pipeline.counts.events
    if consume is not None:
        counted[_BCC] = sum(row[0] for row in theirs.values())
    for what, count in counted.items():
        if count != rounds * EVENTS:
            raise RuntimeError(f"{what}: {count} events of {rounds * EVENTS}")
    bytes_each = f"{layout.stride} B"
    for what, values in found.items():
        note = f"{spread(values)} ns"
        rival = {_OURS: _BCC, _PRODUCT: _BCC_FILE}.get(what)
        if rival in found:
            note += f"; {rival} takes {median(found[rival]) / median(values):.1f} x"
        if what == _OURS:
            note += f"; {median(values) / median(found[_C]):.1f} x the copy in C"
        yield Row(f"{bytes_each}: {what}", median(values), f"{median(values):.0f} ns/ev", note, values)
    if consume is None:
        yield missing(f"{bytes_each}: {_BCC}", GET_BCC)


def _pipeline(loaded: LoadedObject, layout: Layout) -> Pipeline:
    tracer = tracers.find("copyup")
    layouts = {"copyup/copyup": layout, "copyup/copyup_long": loaded.layout("copyup_long_event")}
    made = Pipeline(tracer, layouts, Wall("node", 0), Selection.parse((), (), ()), groupings=list(tracer.groupings))
    made.take(Step(facts=list(Node(Host.find(None)).scan())))
    return made
