"""One refresh of the live table: CPU per frame of 50 rows that change, on a terminal of 160 columns.

The whole way from the tracer's rows to the terminal (sort, lay out, style, write), beside a rich Table in a rich Live
of the same cells.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import termios
import threading
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.measure import Row, cpu, interleaved, median, spread
from kubetrace import tracers
from kubetrace.tables.sorting import sort_rows
from kubetrace.views.columns import Value
from kubetrace.views.screen import LiveTable
from kubetrace.views.table import cell
from kubetrace.views.window import Item, Window

ROWS, COLUMNS, LINES = 50, 160, 60
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
    ]
