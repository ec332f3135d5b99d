"""Which kind of table a tracer has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubetrace.tables.contract import Run, Table


# What each kind imports: what is to start soon imports it while it waits for something else.
MODULES = {
    "summed": ("kubetrace.tables.summed", "kubetrace.tables.joining"),
    "counted": ("kubetrace.tables.counted",),
    "board": ("kubetrace.tables.boarded",),
}


def table_of(run: Run) -> Table:
    """The table that the run's tracer names; what the other kinds need is not imported."""
    if run.tracer.table == "counted":
        from kubetrace.tables.counted import Counted

        return Counted(run)
    if run.tracer.table == "board":
        from kubetrace.tables.boarded import boarded

        return boarded(run)
    from kubetrace.tables.summed import Summed

    return Summed(run)
