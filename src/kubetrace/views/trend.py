"""What a live table knows beyond a row's numbers: how fast they grow, their last minute, how near a limit they are.

    COPIED  COPIED/s  ...  LAST-MINUTE        MEM  MEM/MEM-LIMIT
    64 MiB   1.2 MiB       ▁▁▁▃█▆▂▁▁▁▁▁   480 MiB  █████████░ 94%!

Only of rows that were shown: a row that nobody has looked at has no past here, and shows none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from kubetrace.views.columns import Column, Value
from kubetrace.views.window import Style

SLOTS, SLOT_NS = 12, 5_000_000_000
_BAR = 8
NEAR = 0.9
_MOST_ROWS = 2_000
_FORGOTTEN_NS = SLOTS * SLOT_NS
_STEPS, _STEPS_ASCII = " ▁▂▃▄▅▆▇█", " .:-=+*%#"
TREND = Column("trend", "LAST-MINUTE", "text", min_width=SLOTS, extra=True, help="how it grew, 5 s each")


@dataclass(slots=True)
class _Past:
    seen_ns: int
    values: Sequence[Value]
    rates: Sequence[float | None]
    slots: deque[list[float]] = field(default_factory=lambda: deque(maxlen=SLOTS))
    """(slot number, growth in it), the newest last."""


class Trend:
    """Remembers the rows of one table from one refresh to the next."""

    def __init__(self, columns: Sequence[Column], keys: int) -> None:
        """`columns` of the table; the first `keys` make a row."""
        self._columns, self._keys = columns, keys
        self._rated = [at for at, column in enumerate(columns) if column.rate]
        self._grown = [at for at, column in enumerate(columns) if column.rate or column.grows]
        self._limited = [
            (at, limit)
            for at, column in enumerate(columns)
            if column.limit and (limit := _place(columns, column.limit)) is not None
        ]
        self._rows: dict[Hashable, _Past] = {}
        self._then_ns = -1
        self._whole = False
        # a bar is shown from the first row on that has a limit
        self._has_limits = False

    def look(self, rows: Sequence[Sequence[Value]], elapsed_ns: int, *, whole: bool, order: str) -> None:
        """Take in how rows stand. `whole`: these are all there are; the sums' growth is drawn of the one of `order`."""
        passed = elapsed_ns - self._then_ns
        if passed == 0:
            return
        if passed < 0:
            self._rows.clear()
        known_before, was_whole = self._then_ns >= 0 and passed > 0, self._whole
        self._then_ns, self._whole = elapsed_ns, whole
        drawn = next(
            (at for at in self._grown if self._columns[at].key == order), self._grown[0] if self._grown else -1
        )
        self._has_limits = self._has_limits or any(row[limit] for row in rows for _, limit in self._limited)
        for row in rows:
            key = tuple(row[: self._keys])
            past = self._rows.get(key)
            now = [row[at] for at in self._grown]
            if past is None:
                # a row that was not there when all were looked at has begun since
                begun = known_before and was_whole
                past = self._rows[key] = _Past(elapsed_ns, now, [])
                before: Sequence[Value] = [0] * len(now) if begun else now
                span = passed if begun else 0
            else:
                before, span = past.values, elapsed_ns - past.seen_ns
                self._rows[key] = self._rows.pop(key)  # the newest last
            past.rates = [_growth(new, old, span) for new, old in zip(now, before, strict=True)]
            past.seen_ns, past.values = elapsed_ns, now
            if drawn >= 0:
                grown = _difference(row[drawn], before[self._grown.index(drawn)])
                slot = elapsed_ns // SLOT_NS
                if past.slots and past.slots[-1][0] == slot:
                    past.slots[-1][1] += grown
                else:
                    past.slots.append([slot, grown])
        self._forget(elapsed_ns)

    def _forget(self, elapsed_ns: int) -> None:
        for key in list(self._rows)[: max(0, len(self._rows) - _MOST_ROWS)]:
            del self._rows[key]
        for key in list(self._rows):
            if elapsed_ns - self._rows[key].seen_ns <= _FORGOTTEN_NS:
                break
            del self._rows[key]

    def columns(self) -> list[Column]:
        """Those of the table with rates behind sums, bars behind what has a limit, and the last minute at the end."""
        found: list[Column] = []
        for at, column in enumerate(self._columns):
            found.append(column)
            if at in self._rated:
                found.append(Column(f"{column.key}/s", column.rate, column.kind, extra=True, wide=column.wide))
            if any(at == place for place, _ in self._limited) and self._has_limits:
                title = f"{column.title}/LIMIT"
                found.append(Column(f"{column.key}/limit", title, "text", min_width=_BAR + 5, extra=True))
        return [*found, TREND] if self._grown else found

    def row(self, row: Sequence[Value], *, ascii: bool) -> tuple[list[Value], Mapping[str, Style]]:
        """(a row's cells under `columns`, styles of what grew or is near its limit)."""
        past = self._rows.get(tuple(row[: self._keys]))
        cells: list[Value] = []
        hints: dict[str, Style] = {}
        limits = dict(self._limited)
        for at, column in enumerate(self._columns):
            cells.append(row[at])
            if at in self._rated:
                rate = past.rates[self._grown.index(at)] if past is not None and past.rates else None
                cells.append(None if rate is None else round(rate) if rate >= 1 or not rate else 1)
                if rate:
                    hints[column.key] = hints[f"{column.key}/s"] = "grown"
            elif at in self._grown and past is not None and past.rates and past.rates[self._grown.index(at)]:
                hints[column.key] = "grown"
            if at in limits and self._has_limits:
                share = _share(row[at], row[limits[at]])
                cells.append(None if share is None else bar(share, ascii=ascii))
                if share is not None and share >= NEAR:
                    hints[column.key] = hints[f"{column.key}/limit"] = "near"
        if self._grown:
            cells.append(self._drawn(past, ascii=ascii))
        return cells, hints

    def _drawn(self, past: _Past | None, *, ascii: bool) -> str:
        if past is None or not past.slots:
            return ""
        last = self._then_ns // SLOT_NS
        grown = [0.0] * SLOTS
        for slot, much in past.slots:
            at = SLOTS - 1 - (last - int(slot))
            if 0 <= at < SLOTS:
                grown[at] += much
        return sparkline(grown, ascii=ascii)


def sparkline(values: Sequence[float], *, ascii: bool) -> str:
    """One cell for each value, the highest as high as it goes; a little is never drawn as nothing."""
    steps = _STEPS_ASCII if ascii else _STEPS
    most = max(values, default=0)
    if most <= 0:
        return ""
    zero = "." if ascii else "·"
    return "".join([steps[max(1, round(value * (len(steps) - 1) / most))] if value > 0 else zero for value in values])


def bar(share: float, *, ascii: bool) -> str:
    """`██████░░ 74%`; a `!` at its end says that it is near or above the limit."""
    full, empty = ("#", ".") if ascii else ("█", "░")
    cells = min(_BAR, max(0, int(share * _BAR)))
    percent = f"{min(999, int(100 * share))}%"
    return f"{full * cells}{empty * (_BAR - cells)} {percent}{'!' if share >= NEAR else ''}"


def _place(columns: Sequence[Column], key: str) -> int | None:
    return next((at for at, column in enumerate(columns) if column.key == key), None)


def _difference(new: Value, old: Value) -> float:
    if isinstance(new, (int, float)) and isinstance(old, (int, float)):
        return max(0.0, float(new - old))
    return 0.0


def _growth(new: Value, old: Value, span_ns: int) -> float | None:
    return _difference(new, old) * 1e9 / span_ns if span_ns > 0 and new is not None else None


def _share(value: Value, limit: Value) -> float | None:
    if isinstance(value, (int, float)) and isinstance(limit, (int, float)) and limit > 0:
        return value / limit
    return None
