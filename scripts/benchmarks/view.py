"""One refresh of the live table: CPU per frame of 50 rows that change, on a terminal of 160 columns.

The whole way from the tracer's rows to the terminal (sort, lay out, style, write), beside a rich Table in a rich Live
of the same cells. Then the same with 100,000 rows behind the screen, of which a hundredth change from one refresh to
the next, as a person may look at them: sorted by a number or a name, filtered, by pod, and those of counters.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import sys
import termios
import threading
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.measure import Row, cpu, interleaved, median, spread
from kubetrace import tracers
from kubetrace.attribution.attributor import Identity
from kubetrace.attribution.destination import UNKNOWN
from kubetrace.kit.context import Context
from kubetrace.kit.landing import Landing
from kubetrace.kit.landing import Row as Counter
from kubetrace.pipeline import Pipeline
from kubetrace.session.options import Attach, Show
from kubetrace.session.table_view import TableView
from kubetrace.stream.steps import Tick
from kubetrace.tables import tally
from kubetrace.tables.sorting import sort_rows
from kubetrace.views.columns import Value
from kubetrace.views.screen import LiveTable
from kubetrace.views.table import cell
from kubetrace.views.window import Item, Window

ROWS, COLUMNS, LINES = 50, 160, 60
BEHIND = 100_000
_FRAMES = 10


def _terminal() -> int:
    """A terminal that somebody reads; its descriptor."""
    leader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO at the end
            while os.read(leader, 1 << 16):
                pass

    threading.Thread(target=read, daemon=True).start()
    return terminal


def run(rounds: int) -> list[Row]:
    """ms of CPU per refresh."""
    os.environ["TERM"] = "xterm-256color"
    tracer = tracers.find("copyup")
    columns = [*tracer.groupings["file"].columns, *tracer.measures]
    shown = [column for column in columns if not column.wide]
    turn = 0

    def rows() -> list[tuple[Value, ...]]:
        nonlocal turn
        turn += 1
        found = []
        for number in range(ROWS):
            values: dict[str, Value] = {
                "namespace": "shop",
                "pod": f"web-{number:03}-7d9f8b6c5-x2v9q",
                "container": "application",
                "path": b"/usr/share/application/data/%03d/file.dat" % number,
                "trigger": "open-write",
            }
            found.append(
                tuple(values.get(column.key, 1000 * number + 7919 * turn) for column in columns),
            )
        return found

    ours = os.fdopen(_terminal(), "w", encoding="utf-8")
    theirs = Console(
        file=os.fdopen(_terminal(), "w", encoding="utf-8"), width=COLUMNS, height=LINES, force_terminal=True
    )

    with (
        LiveTable(ours) as live,
        Live(console=theirs, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as rich,
    ):

        def mine() -> None:
            for _ in range(_FRAMES):
                sorted_rows = sort_rows(rows(), columns, "copied_bytes", None)
                head: list[Item] = [("kubetrace copyup", "title"), "node node1", f"{turn}"]
                live.show(Window(columns, rows=sorted_rows, head=head, foot=["50 copy-ups"], sort="copied_bytes"))

        def rival() -> None:
            for _ in range(_FRAMES):
                table = Table()
                for column in shown:
                    table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
                at = [columns.index(column) for column in shown]
                for row in sort_rows(rows(), columns, "copied_bytes", None):
                    table.add_row(*(cell(columns[i], row[i]) for i in at))
                rich.update(table, refresh=True)

        def per_frame(act: Callable[[], None]) -> Callable[[], float]:
            return lambda: cpu(act) / _FRAMES * 1e3

        found = interleaved({"ours": per_frame(mine), "rich": per_frame(rival)}, rounds)
    behind = _behind(rounds)
    mine_ms, rich_ms = median(found["ours"]), median(found["rich"])
    return [
        Row(
            f"one refresh of {ROWS} rows, {COLUMNS} columns",
            mine_ms,
            f"{mine_ms:.2f} ms",
            f"{spread(found['ours'], digits=2)} ms of CPU; budget: under 2",
            found["ours"],
        ),
        Row(
            "a rich Table of the same cells",
            rich_ms,
            f"{rich_ms:.1f} ms",
            f"{spread(found['rich'], digits=1)} ms; {rich_ms / mine_ms:.0f} x ours",
            found["rich"],
        ),
        *behind,
    ]


def _behind(rounds: int) -> list[Row]:
    """A refresh with very many rows behind the screen; none of the work that made them."""
    before, sys.stdout = sys.stdout, os.fdopen(_terminal(), "w", encoding="utf-8")
    try:
        summed = _Summed()
        states = {
            "by a number": lambda: summed.looks("file", "copied_bytes"),
            "by a number, the smallest first": lambda: summed.looks("file", "+copied_bytes"),
            "by a name": lambda: summed.looks("file", "path"),
            "filtered (a tenth match)": lambda: summed.looks("file", "copied_bytes", filter="/7"),
            "by pod": lambda: summed.looks("pod", "copied_bytes"),
            "counters by file, by a number": _Counted().looks,
        }
        found = interleaved({name: _refresh(look) for name, look in states.items()}, rounds)
    finally:
        sys.stdout = before
    return [
        Row(
            f"one refresh of {BEHIND:,} rows: {name}",
            median(times),
            f"{median(times):.2f} ms",
            f"{spread(times, digits=2)} ms of CPU; budget: 5",
            times,
        )
        for name, times in found.items()
    ]


def _refresh(look: Callable[[], Callable[[], None]]) -> Callable[[], float]:
    ready: list[Callable[[], None]] = []

    def measured() -> float:
        if not ready:
            ready.append(look())
            ready[0]()
        # another state of the same table was looked at before
        ready[0]()
        total = 0.0
        for _ in range(_FRAMES):
            ready[0].change()  # type: ignore[attr-defined]  # what happens between two refreshes is not measured
            total += cpu(ready[0])
        return total / _FRAMES * 1e3

    return measured


class _Summed:
    """Copy-ups: a row for each file."""

    def __init__(self) -> None:
        tracer = tracers.find("copyup")
        self._context = Context("node1", 0)
        self._pipeline = Pipeline(tracer, {}, self._context, groupings=list(tracer.groupings), recent=2000)
        # a run keeps 20,000 rows of events; counters have as many as the kernel's map
        table: Any = self._pipeline.table
        self._files = table.rows("file")
        self._files._groups._limit = 10 * BEHIND
        tally._MOST_NOTES = 10 * BEHIND
        self._pods: Any = None
        for number in range(BEHIND):
            self._happen(number)

    def _happen(self, number: int) -> None:
        cells = {
            "namespace": "shop",
            "pod": f"web-{number % 200:03}-7d9f8b6c5-x2v9q",
            "container": "application",
            "path": b"/usr/share/%d/data-%06d" % (number % 10, number),
            "trigger": "open-write",
            "image": "docker.io/library/web:1",
            "layer": "3/7",
            "created_by": "COPY . /app",
            "qos_class": "Burstable",
        }
        values = [1, 0, number * 7919 % 100_003, 1000, 0, 4096, 0, 1]
        self._files.add(cells, values)
        if self._pods is not None:
            self._pods.add(cells, values)

    def looks(self, by: str, order: str, filter: str = "") -> Callable[[], None]:
        """A live table that is refreshed by each call; `change` lets a hundredth of the rows grow."""
        view = TableView(tracers.find("copyup"), Attach(), Show("file", "copied"), self._context, "6.1.0")
        return _Look(view, self._pipeline, by, order, filter, self._grow)

    def _grow(self, turn: int) -> None:
        if self._pods is None:
            self._pods = self._pipeline.table.rows("pod")
        for number in range(turn % 100, BEHIND, 100):
            self._happen(number)


class _Counted:
    """Counters of files that are written."""

    def looks(self) -> Callable[[], None]:
        """As `_Summed.looks`."""
        tracer = tracers.find("writes")
        context = Context("node1", 0)
        pipeline = Pipeline(tracer, {}, context, by="file")
        table: Any = pipeline.table
        landing = Landing(Identity(namespace="shop", pod="web", container="app"), UNKNOWN, None, None)
        for number in range(BEHIND):
            key = ("shop", f"web-{number % 200:03}", "app", "writable layer", b"/data/%06d" % number)
            row = Counter(table._sums(), table._zero, None, landing, key)
            row.sums[0][:] = [number % 91, number * 7919 % 100_003, 0, 1]
            table._rows[key] = row
            table._touch(row)
        table.tick(1_000_000_000)
        rows = list(table._rows.values())

        def grow(turn: int) -> None:
            for row in rows[turn % 100 :: 100]:
                row.sums[0][1] += 4096
                table._touch(row)

        view = TableView(tracer, Attach(), Show("file", "bytes"), context, "6.1.0")
        return _Look(view, pipeline, "file", "bytes", "", grow)


class _Look:
    """One state of a live table."""

    def __init__(
        self, view: TableView, pipeline: Pipeline, by: str, order: str, filter: str, grow: Callable[[int], None]
    ) -> None:
        self._view, self._pipeline, self._grow, self._turn = view, pipeline, grow, 1
        view.state = view.state.at_level(by=by, order=order, filter=filter)
        self._open = view.open()
        self._open.__enter__()

    def change(self) -> None:
        """What happens between two refreshes."""
        self._turn += 1
        self._grow(self._turn)

    def __call__(self) -> None:
        self._view.look(self._pipeline, Tick(self._turn * 1_000_000_000, 0, 0))
