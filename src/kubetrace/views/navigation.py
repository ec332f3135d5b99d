"""What keys make of a table's state: a pure function of (state, key), and nothing of the terminal or the node.

    key --press--> State --session/table_view.py--> which rows are asked for --> Window --> screen

What only a run can do (write a file, go to a time, change over to another tracer) is left in `State.wish`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from kubetrace.views.columns import Column, Value
from kubetrace.views.keymap import actions

Mode = Literal["table", "filter", "help", "columns", "time", "write"]
EVENTS = "(events)"
"""In place of a grouping: the single events of a row."""

_WHEEL = 3
_LONGEST = 200
"""Characters that a prompt takes."""
INTERVALS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_MOST_SPEED, _LEAST_SPEED = 1024.0, 1 / 16


@dataclass(frozen=True, slots=True)
class Wish:
    """What is left to whoever runs the table. `number`: intervals, minutes or tracers, forward or back."""

    what: Literal["write", "time", "step", "minute", "tracer"]
    text: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """One table on the way down: what it groups by, whose rows, and where one is in it."""

    by: str
    order: str
    """The key of the column that rows are sorted by, with the sign of tables.sorting."""
    where: tuple[tuple[str, Value], ...] = ()
    """(column key, value) that all of its rows have: the row that was opened."""
    crumb: str = ""
    """What that row is called."""
    about: str = ""
    """What else is known of it."""
    filter: str = ""
    cursor: int = 0
    """The selected row, counted from the first that matches."""
    top: int = 0
    """The first row in sight."""
    key: tuple[Value, ...] | None = None
    """Of the selected row, once somebody chose it: the selection goes where that goes. None: it stays in its place."""


@dataclass(frozen=True, slots=True)
class State:
    """All that keys have changed."""

    levels: tuple[Level, ...]
    mode: Mode = "table"
    typed: str = ""
    before: str = ""
    """The filter as it was before one began to type."""
    at: int = 0
    """The line in the help, or in the list of columns."""
    wide: bool = False
    toggled: tuple[tuple[str, bool], ...] = ()
    """(column key, whether it is shown), against what is usual."""
    paused: bool = False
    interval_s: float = 1.0
    speed: float = 1.0
    searched: str = ""
    message: str = ""
    """Said until the next key."""
    ended: bool = False
    wish: Wish | None = None

    @property
    def level(self) -> Level:
        """The one that is shown."""
        return self.levels[-1]

    def at_level(self, **changes: object) -> State:
        """With changes to the one that is shown."""
        return replace(self, levels=(*self.levels[:-1], replace(self.level, **changes)))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the state cannot know: of the table as it is shown now."""

    room: int = 20
    """Rows that fit."""
    total: int = 0
    """Rows that match."""
    columns: Sequence[Column] = ()
    """All that can be chosen."""
    shown: Sequence[str] = ()
    """The keys of those on the screen, from left to right."""
    sorts: Sequence[str] = ()
    """The keys that `s` goes through."""
    groupings: Sequence[str] = ()
    finer: str = ""
    """What Enter shows of a row: a grouping, or EVENTS; empty: nothing."""
    has_events: bool = True
    no_events: str = "there are no single events to show"
    selected: tuple[tuple[str, Value], ...] = ()
    """(column key, value) of what makes the selected row; empty: there is none."""
    called: str = ""
    """What the selected row is called, for the way back."""
    about: str = ""
    """What else is known of it."""
    file: str = ""
    """The file's name that `w` offers."""
    order_of: Callable[[str], str] = lambda by: ""
    """The order to begin with under a grouping."""
    order_fits: Callable[[str, str], bool] = lambda by, order: True
    """Whether a grouping has the column of an order."""
    traits: Collection[str] = ("live",)
    lines: int = 0
    """Of the help, or of the list of columns."""
    head_line: int = -1
    """The line of the columns' heads on the screen, from 0; -1: it is not known."""
    heads: Sequence[tuple[int, int, str]] = field(default=())
    """(first cell, cell behind the last, column key)."""


def press(state: State, key: str, shape: Shape) -> State:
    """The state after a key, as views.keys.Keys names it; a click is `click COLUMN LINE`, from 0."""
    state = replace(state, message="", wish=None)
    if state.mode in ("filter", "time", "write"):
        return _typing(state, key, shape)
    if state.mode == "help":
        return _over(state, key, shape)
    if state.mode == "columns":
        return _choosing(state, key, shape)
    name, _, where = key.partition(" ")
    if name == "click" and where:
        return _clicked(state, where, shape)
    action = actions(shape.traits).get(key)
    if action not in _ACTIONS:
        return state
    done: State = _ACTIONS[action](state, shape)
    return done


def clamp(state: State, shape: Shape) -> State:
    """With the selection on a row that there is, and in sight."""
    level = state.level
    cursor = max(0, min(level.cursor, shape.total - 1))
    room = max(1, shape.room)
    top = min(level.top, max(0, shape.total - room))
    top = max(min(top, cursor), cursor - room + 1, 0)
    if (cursor, top) == (level.cursor, level.top):
        return state
    return state.at_level(cursor=cursor, top=top)


def descending(order: str, columns: Sequence[Column]) -> bool:
    """Whether an order goes down: numbers and times do, unless they say +; names where they say -."""
    if order[:1] in ("+", "-"):
        return order[0] == "-"
    column = next((column for column in columns if column.key == order), None)
    return column is None or column.numeric or column.kind == "time"


# Moving.


def _go(state: State, cursor: int, shape: Shape) -> State:
    cursor = max(0, min(cursor, shape.total - 1))
    # the first row is a place, not a row: whatever is first is selected
    return clamp(state.at_level(cursor=cursor, key=None if cursor == 0 else ()), shape)


def _move(rows: int) -> Callable[[State, Shape], State]:
    return lambda state, shape: _go(state, state.level.cursor + rows, shape)


def _page(sign: int) -> Callable[[State, Shape], State]:
    def turn(state: State, shape: Shape) -> State:
        rows = sign * max(1, shape.room - 1)
        moved = state.at_level(top=max(0, state.level.top + rows))
        return _go(moved, state.level.cursor + rows, shape)

    return turn


def _first(state: State, shape: Shape) -> State:
    return _go(state, 0, shape)


def _last(state: State, shape: Shape) -> State:
    return _go(state, shape.total - 1, shape)


def _next(sign: int) -> Callable[[State, Shape], State]:
    def step(state: State, shape: Shape) -> State:
        if not state.level.filter:
            if not state.searched:
                return replace(state, message="nothing was searched for: / begins")
            return _filtered(state, state.searched)
        if not shape.total:
            return state
        return _go(state, (state.level.cursor + sign) % shape.total, shape)

    return step


# Going down and back.


def _begin(by: str, order: str, state: State, shape: Shape, more: tuple[tuple[str, Value], ...]) -> State:
    known = {key for key, _ in more}
    where = (*(pair for pair in state.level.where if pair[0] not in known), *more)
    level = Level(by, order, where, shape.called, shape.about)
    return replace(state, levels=(*state.levels, level))


def _open(state: State, shape: Shape) -> State:
    if not shape.selected:
        return state
    if shape.finer == EVENTS or not shape.finer:
        return _events(state, shape)
    return _begin(shape.finer, shape.order_of(shape.finer), state, shape, shape.selected)


def _events(state: State, shape: Shape) -> State:
    if not shape.has_events:
        return replace(state, message=shape.no_events)
    if state.level.by == EVENTS or not shape.selected:
        return state
    return _begin(EVENTS, "-time", state, shape, shape.selected)


def _back(state: State, shape: Shape) -> State:
    if state.level.filter:
        return _filtered(state, "")
    if len(state.levels) > 1:
        return replace(state, levels=state.levels[:-1])
    return state


# Filter, sort, columns.


def _filtered(state: State, text: str) -> State:
    return state.at_level(filter=text, cursor=0, top=0, key=None)


def _filter(state: State, shape: Shape) -> State:
    return replace(state, mode="filter", typed=state.level.filter, before=state.level.filter)


def _sorted(state: State, order: str) -> State:
    return state.at_level(order=order, cursor=0, top=0, key=None)


def _sort_by(sign: int) -> Callable[[State, Shape], State]:
    def choose(state: State, shape: Shape) -> State:
        if not shape.shown:
            return state
        now = state.level.order.lstrip("+-")
        if now not in shape.shown:
            return _sorted(state, shape.shown[0 if sign > 0 else -1])
        at = max(0, min(shape.shown.index(now) + sign, len(shape.shown) - 1))
        return state if shape.shown[at] == now else _sorted(state, shape.shown[at])

    return choose


def _sort_next(state: State, shape: Shape) -> State:
    names = list(shape.sorts)
    if not names:
        return state
    now = state.level.order.lstrip("+-")
    return _sorted(state, names[(names.index(now) + 1) % len(names)] if now in names else names[0])


def _reverse(state: State, shape: Shape) -> State:
    order = state.level.order
    sign = "+" if descending(order, shape.columns) else "-"
    return _sorted(state, sign + order.lstrip("+-"))


def _group(state: State, shape: Shape) -> State:
    names = list(shape.groupings)
    if len(names) < 2 or state.level.by not in names:
        return state
    by = names[(names.index(state.level.by) + 1) % len(names)]
    order = state.level.order if shape.order_fits(by, state.level.order) else shape.order_of(by)
    return state.at_level(by=by, order=order, cursor=0, top=0, key=None)


def _columns(state: State, shape: Shape) -> State:
    return replace(state, mode="columns", at=0)


def _wide(state: State, shape: Shape) -> State:
    return replace(state, wide=not state.wide)


# What a run does.


def _quit(state: State, shape: Shape) -> State:
    return replace(state, ended=True)


def _help(state: State, shape: Shape) -> State:
    return replace(state, mode="help", at=0)


def _pause(state: State, shape: Shape) -> State:
    return replace(state, paused=not state.paused)


def _interval(sign: int) -> Callable[[State, Shape], State]:
    def change(state: State, shape: Shape) -> State:
        others = [one for one in INTERVALS_S if (one > state.interval_s if sign > 0 else one < state.interval_s)]
        found = (min(others) if sign > 0 else max(others)) if others else state.interval_s
        return replace(state, interval_s=found, message=f"every {found:g} s")

    return change


def _speed(factor: float) -> Callable[[State, Shape], State]:
    def change(state: State, shape: Shape) -> State:
        found = max(_LEAST_SPEED, min(_MOST_SPEED, state.speed * factor))
        return replace(state, speed=found, message=f"{found:g} times as fast as it was")

    return change


def _step(what: Literal["step", "minute"], number: int) -> Callable[[State, Shape], State]:
    # who steps wants to look: a single interval stands still
    return lambda state, shape: replace(
        state, paused=True if what == "step" else state.paused, wish=Wish(what, number=number)
    )


def _tracer(number: int) -> Callable[[State, Shape], State]:
    return lambda state, shape: replace(state, wish=Wish("tracer", number=number))


def _time(state: State, shape: Shape) -> State:
    return replace(state, mode="time", typed="")


def _write(state: State, shape: Shape) -> State:
    return replace(state, mode="write", typed=shape.file)


def _clicked(state: State, where: str, shape: Shape) -> State:
    column, _, line = where.partition(" ")
    if not (column.isdecimal() and line.isdecimal()) or shape.head_line < 0:
        return state
    at, row = int(column), int(line) - shape.head_line - 1
    if row == -1:
        key = next((key for begin, end, key in shape.heads if begin <= at < end), None)
        if key is None:
            return state
        return _reverse(state, shape) if key == state.level.order.lstrip("+-") else _sorted(state, key)
    cursor = state.level.top + row
    if not 0 <= row < shape.room or cursor >= shape.total:
        return state
    if cursor == state.level.cursor:
        return _open(state, shape)
    return clamp(state.at_level(cursor=cursor, key=()), shape)


_ACTIONS: dict[str, Callable[[State, Shape], State]] = {
    "quit": _quit,
    "help": _help,
    "up": _move(-1),
    "down": _move(1),
    "page_up": _page(-1),
    "page_down": _page(1),
    "first": _first,
    "last": _last,
    "open": _open,
    "back": _back,
    "filter": _filter,
    "next": _next(1),
    "previous": _next(-1),
    "sort_left": _sort_by(-1),
    "sort_right": _sort_by(1),
    "sort": _sort_next,
    "reverse": _reverse,
    "group": _group,
    "columns": _columns,
    "wide": _wide,
    "events": _events,
    "next_tracer": _tracer(1),
    "previous_tracer": _tracer(-1),
    "pause": _pause,
    "slower": _interval(1),
    "faster": _interval(-1),
    "speed_up": _speed(2),
    "speed_down": _speed(0.5),
    "step_back": _step("step", -1),
    "step_on": _step("step", 1),
    "minute_back": _step("minute", -1),
    "minute_on": _step("minute", 1),
    "time": _time,
    "write": _write,
    "wheel_up": _move(-_WHEEL),
    "wheel_down": _move(_WHEEL),
}


# Typing in a prompt, and keys while something lies over the table.


def _typing(state: State, key: str, shape: Shape) -> State:
    typed = state.typed
    if key == "escape":
        back = replace(state, mode="table", typed="")
        return _filtered(back, state.before) if state.mode == "filter" else back
    if key == "enter":
        done = replace(state, mode="table", typed="")
        if state.mode == "filter":
            return replace(done, searched=typed or state.searched)
        return replace(done, wish=Wish(state.mode, typed)) if typed else done  # type: ignore[arg-type]  # not "filter"
    if key == "backspace":
        if not typed:
            return replace(state, mode="table")
        typed = typed[:-1]
    elif key == "ctrl-u":
        typed = ""
    elif key in ("up", "down", "pageup", "pagedown", "wheelup", "wheeldown") and state.mode == "filter":
        action = actions(shape.traits)[key]
        return _ACTIONS[action](state, shape)
    elif len(key) == 1 and key.isprintable() and len(typed) < _LONGEST:
        typed += key
    state = replace(state, typed=typed)
    return _filtered(state, typed) if state.mode == "filter" and typed != state.level.filter else state


def _over(state: State, key: str, shape: Shape) -> State:
    far = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -10, "pagedown": 10, "wheelup": -3, "wheeldown": 3}
    if key in far:
        return replace(state, at=max(0, min(state.at + far[key], shape.lines - shape.room)))
    return _quit(state, shape) if key == "q" else replace(state, mode="table", at=0)


def _choosing(state: State, key: str, shape: Shape) -> State:
    far = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -10, "pagedown": 10, "wheelup": -3, "wheeldown": 3}
    last = len(shape.columns) - 1
    if key in far:
        return replace(state, at=max(0, min(state.at + far[key], last)))
    if key in ("home", "end"):
        return replace(state, at=0 if key == "home" else last)
    if key in (" ", "enter", "x") and 0 <= state.at <= last:
        column = shape.columns[state.at].key
        shown = dict(state.toggled)
        now = shown.get(column, column in shape.shown)
        others = tuple(pair for pair in state.toggled if pair[0] != column)
        return replace(state, toggled=(*others, (column, not now)))
    if key == "q":
        return _quit(state, shape)
    return replace(state, mode="table", at=0) if key in ("escape", "c", "backspace") else state
