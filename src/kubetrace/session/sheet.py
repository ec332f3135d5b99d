"""One tracer's tables on the way down: the rows of a level (views/navigation.py), and what opening one means."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubetrace.session.options import table_columns
from kubetrace.tables.sorting import sort_rows
from kubetrace.views.columns import Column
from kubetrace.views.filter import Filter
from kubetrace.views.navigation import EVENTS, Level
from kubetrace.views.table import cell
from kubetrace.views.trend import Trend

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Tracer
    from kubetrace.pipeline import Pipeline
    from kubetrace.views.columns import Value

RECENT = 2_000
"""Events that a live table remembers: some 2 MB of the largest."""
_TIMES = Column("times", "TIMES", "count", help="events that are alike in all but their time")


class Sheet:
    """What of one tracer can be shown. Its events are remembered by its table (tables.contract.Run.recent)."""

    def __init__(self, tracer: Tracer, groupings: Sequence[str], context: Context) -> None:
        """`groupings`: those that there are rows of."""
        self.tracer, self.groupings, self._context = tracer, groupings, context
        self._wanted: tuple[object, Callable[[Sequence[Any]], bool] | None] = ((), None)
        self._told: deque[tuple[Value, ...]] = deque(maxlen=RECENT)
        self._told_of: object = None
        self._since = 0
        self._trends: dict[object, Trend] = {}

    def start_over(self, context: Context) -> None:
        """Nothing is known any more: a replay begins again."""
        self._context = context
        self._told.clear()
        self._told_of, self._since = None, 0
        self._trends.clear()

    # What there is.

    def columns(self, level: Level) -> list[Column]:
        """All of a level's table: those that all of its rows have alike are left out."""
        alike = {key for key, _ in level.where}
        if level.by == EVENTS:
            found = list(self.tracer.event_columns)
            known = {column.key for column in found}
            notes = next(iter(self.tracer.groupings.values())).notes
            # spare: of the row that was opened they are told above
            found += [replace(column, wide=False, spare=True) for column in notes if column.key not in known]
            return [*(column for column in found if column.key not in alike), _TIMES]
        return [column for column in table_columns(self.tracer, level.by) if column.key not in alike]

    def keys(self, by: str) -> Sequence[Column]:
        """What makes a row."""
        return () if by == EVENTS else self.tracer.groupings[by].key

    def groupings_of(self, level: Level) -> list[str]:
        """Those that can tell a level's rows from others."""
        needed = {key for key, _ in level.where} - {"node"}
        found = []
        for by in self.groupings:
            if needed <= {column.key for column in self.tracer.groupings[by].columns}:
                found.append(by)
        return found

    def finer(self, by: str) -> str:
        """What Enter shows of a row."""
        if by == EVENTS:
            return ""
        return self.tracer.finer(by, self.groupings) or EVENTS

    @property
    def has_events(self) -> bool:
        """Whether single events are told to a table."""
        return self.tracer.table != "counted"

    @property
    def no_events(self) -> str:
        """Why not."""
        name, noun = self.tracer.name, self.tracer.noun[1]
        return f"single {noun} are not told here, the kernel adds them up: kubetrace {name} --events shows each"

    def order_of(self, by: str) -> str:
        """The order to begin with."""
        if by == EVENTS:
            return "-time"
        columns = {column.key for column in table_columns(self.tracer, by)}
        return next((key for key in self.tracer.sorts.values() if key in columns), "")

    def order_fits(self, by: str, order: str) -> bool:
        """Whether a grouping has the column of an order."""
        return order.lstrip("+-") in {column.key for column in table_columns(self.tracer, by)}

    def sorts(self, by: str) -> list[str]:
        """The columns that `s` goes through."""
        if by == EVENTS:
            return []
        columns = {column.key for column in table_columns(self.tracer, by)}
        return [key for key in self.tracer.sorts.values() if key in columns]

    # Rows.

    def page(self, level: Level, pipeline: Pipeline, begin: int, end: int) -> tuple[list[tuple[Value, ...]], int]:
        """(rows of a level, under its `columns`; how many there are)."""
        if level.by == EVENTS:
            return self._events(level, pipeline, begin, end)
        rows = pipeline.table.rows(level.by)
        found, total = rows.page(level.order, begin, end, self._wants(level, rows.columns))
        alike = {key for key, _ in level.where}
        places = [at for at, column in enumerate(rows.columns) if column.key not in alike]
        if len(places) == len(rows.columns):
            return found, total
        return [tuple([row[at] for at in places]) for row in found], total

    def _wants(self, level: Level, columns: Sequence[Column]) -> Callable[[Sequence[Any]], bool] | None:
        # the same object for the same question: each row is asked once
        question = (level.by, level.where, level.filter)
        if question != self._wanted[0]:
            self._wanted = question, self._wanting(level, columns)
        return self._wanted[1]

    def _wanting(self, level: Level, columns: Sequence[Column]) -> Callable[[Sequence[Any]], bool] | None:
        front = list(columns[: len(self.tracer.groupings[level.by].columns)])
        places = {column.key: at for at, column in enumerate(front)}
        same = [(places[key], value) for key, value in level.where if key in places]
        wanted = Filter(level.filter)
        if not same and not wanted:
            return None

        def wants(cells: Sequence[Any]) -> bool:
            if any(cells[at] != value for at, value in same):
                return False
            return not wanted or wanted.matches(
                [cell(column, value) for column, value in zip(front, cells, strict=True)]
            )

        return wants

    def _events(self, level: Level, pipeline: Pipeline, begin: int, end: int) -> tuple[list[tuple[Value, ...]], int]:
        columns = self.columns(level)
        if self._told_of != level.where:
            self._told_of, self._since = level.where, 0
            self._told.clear()
        self._since, new = pipeline.table.recent(self._since)
        for event, of, count in new:
            cells = dict(self.tracer.key_cells(event, of, self._context))
            if all(cells.get(key, value) == value for key, value in level.where):
                shown = zip(self.tracer.event_columns, self.tracer.event_cells(event, of, self._context), strict=True)
                cells.update({column.key: value for column, value in shown})
                cells["times"] = count
                self._told.append(tuple([cells.get(column.key) for column in columns]))
        rows = list(self._told)
        if wanted := Filter(level.filter):
            rows = [
                row
                for row in rows
                if wanted.matches([cell(column, value) for column, value in zip(columns, row, strict=True)])
            ]
        return sort_rows(rows, columns, level.order, end)[begin:], len(rows)

    # One row.

    def key_of(self, level: Level, columns: Sequence[Column], row: Sequence[Value]) -> tuple[tuple[str, Value], ...]:
        """(column key, value) of what makes a row of these columns."""
        names = {column.key for column in self.keys(level.by)}
        return tuple([(column.key, value) for column, value in zip(columns, row, strict=True) if column.key in names])

    def called(self, level: Level, columns: Sequence[Column], row: Sequence[Value], *, ascii: bool) -> str:
        """What a row is called on the way back: `pod shop/web-0`."""
        names = {column.key for column in self.keys(level.by)}
        texts = [
            cell(column, value, ascii=ascii) for column, value in zip(columns, row, strict=True) if column.key in names
        ]
        # names one in another by a slash, a path behind them
        names_of, rest = (
            [text for text in texts if text[:1] not in "/…."],
            [text for text in texts if text[:1] in "/…."],
        )
        return " ".join([level.by, "/".join(names_of), *rest]).replace("  ", " ")

    def about(self, level: Level, columns: Sequence[Column], row: Sequence[Value], *, ascii: bool) -> str:
        """What else is known of a row: its notes, whole."""
        notes = {column.key for column in self.tracer.groupings[level.by].notes} if level.by != EVENTS else ()
        return "; ".join(
            f"{column.title} {cell(column, value, ascii=ascii)}"
            for column, value in zip(columns, row, strict=True)
            if column.key in notes and value is not None
        )

    def trend(self, level: Level, columns: Sequence[Column]) -> Trend:
        """The past of a level's rows."""
        of = (level.by, level.where)
        found = self._trends.get(of)
        if found is None:
            if len(self._trends) > 8:
                self._trends.clear()
            names = {column.key for column in self.keys(level.by)}
            found = self._trends[of] = Trend(columns, sum(column.key in names for column in columns))
        return found
