"""Recording from a ring to a file, beside bcc's callback that writes JSON lines with orjson; then live at a pace.

The ring is filled by the stand-in (tests/native: records of 512 bytes) and drained as a whole, by each in turn. Live,
`kubetrace record` runs beside a process that makes so many events a second, and says itself what it took and lost.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, cpu, interleaved, median, missing, spread
from benchmarks.peers import GET_BCC, bcc_consumer, encoder
from benchmarks.standin import KUBETRACE, environment_of, paced, stand_in
from kubetrace.engines.libbpf import LoadedObject
from kubetrace.recording.header import Header, Stream, Traced
from kubetrace.recording.reader import Recording
from kubetrace.recording.writer import Recorder
from kubetrace.stream.layout import Batch
from kubetrace.stream.steps import Step, Tick

EVENTS = 8_000
RATES = (10_000, 100_000, 500_000)
_LASTS_S = 4.0


def run(rounds: int) -> list[Row]:
    """Rows of ns per event, then of live runs."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        objects = stand_in(directory)
        return [*_drained(rounds, directory, objects), *(_live(directory, objects, rate) for rate in RATES)]


def _drained(rounds: int, directory: Path, objects: Path) -> list[Row]:
    with (
        LoadedObject(objects / "copyup.bpf.o", constants={"standin_pid": os.getpid()}) as loaded,
        open(directory / "bcc.jsonl", "wb") as out,
    ):
        layout = loaded.layout("copyup_event")
        ring = loaded.ring("copyup", layout.size)
        header = Header("n", "k", 0, (Traced("copyup", streams=(Stream(1, "copyup", layout),)),))
        recorder = Recorder(directory / "drain.ktrace", header, force=True)
        tick = itertools.count()

        def ours() -> None:
            now = next(tick)
            recorder.write(Step((), [Batch("copyup/copyup", ring.read())], {}, Tick(now, now, now)))
            recorder.flush()

        encode = encoder("orjson")
        names = [field.name for field in layout.fields if field.name not in ("path", "comm")]

        def handle(event: Any) -> None:
            assert encode is not None
            record = {name: getattr(event, name) for name in names}
            record["comm"] = event.comm.decode("utf-8", "replace")
            record["path"] = event.path.decode("utf-8", "replace")
            out.write(encode(record) + b"\n")

        theirs = bcc_consumer(loaded.map_fd("copyup"), layout, handle)
        ways: dict[str, Callable[[], object]] = {"ours": ours}
        if theirs is not None and encode is not None:
            ways["theirs"] = theirs

        def filled(act: Callable[[], object]) -> Callable[[], float]:
            def measured() -> float:
                for _ in range(EVENTS):
                    os.getpgrp()
                return cpu(act) / EVENTS * 1e9

            return measured

        found = interleaved({what: filled(act) for what, act in ways.items()}, rounds)
        recorder.close()
        size, lines = recorder.bytes / (rounds * EVENTS), out.tell() / (rounds * EVENTS)
    cost = median(found["ours"])
    note = f"{spread(found['ours'])} ns; {size:.1f} B/ev, records of {layout.stride} B"
    rows = [Row("drain to a recording", cost, f"{cost:.0f} ns/ev", note, found["ours"])]
    what = "bcc's callback, JSON lines by orjson"
    if "theirs" not in found:
        return [*rows, missing(what, f"{GET_BCC}; pip install orjson")]
    other = median(found["theirs"])
    note = f"{spread(found['theirs'])} ns; {other / cost:.1f} x ours (budget: at least 8); {lines:.0f} B/ev"
    return [*rows, Row(what, other, f"{other:.0f} ns/ev", note, found["theirs"])]


def _live(directory: Path, objects: Path, rate: int) -> Row:
    file, ready = directory / f"live{rate}.ktrace", directory / f"ready{rate}"
    command = [*KUBETRACE, "record", "copyup", str(file), "--force", "--ready-file", str(ready)]
    process = subprocess.Popen(command, env=environment_of(objects), stdout=subprocess.DEVNULL)
    while not ready.exists() and process.poll() is None:
        time.sleep(0.01)
    paced(rate, _LASTS_S, directory).wait()
    process.send_signal(signal.SIGINT)
    process.wait()
    shown = subprocess.run([*KUBETRACE, "info", str(file), "-o", "json"], capture_output=True, check=True)
    found = json.loads(shown.stdout)
    (tracer,) = found["tracers"]
    with Recording(file) as recording:
        ticks = [step.tick for step in recording.steps() if step.tick is not None]
    share = (ticks[-1].cpu_ns - ticks[0].cpu_ns) / (ticks[-1].elapsed_ns - ticks[0].elapsed_ns)
    lost = sum(tracer["losses"].values())
    seen = tracer["events"] + lost
    size = found["bytes"] / max(1, tracer["events"])
    note = f"{lost:,} lost of {seen:,} ({seen / _LASTS_S:,.0f}/s made), {size:.1f} B/ev"
    return Row(f"kubetrace record, {rate:,} events/s", share, f"{100 * share:.1f} % CPU", note)
