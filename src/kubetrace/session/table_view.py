"""A table: windows of the grouped rows. On a terminal one moves in it by keys (views/navigation.py)."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kubetrace.errors import KubetraceError
from kubetrace.session.cost import Overhead, OwnCost
from kubetrace.session.options import sort_key, table_columns
from kubetrace.session.view import NODE_MODULES, UNMATCHED, print_remedies
from kubetrace.views.navigation import EVENTS, Level, Shape, State, Wish, clamp, descending, press
from kubetrace.views.output import is_terminal
from kubetrace.views.units import format_count, format_elapsed, format_percent
from kubetrace.views.window import Item, Style, Window

if TYPE_CHECKING:
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Tracer
    from kubetrace.pipeline import EventView, Pipeline
    from kubetrace.session.options import Attach, Show
    from kubetrace.session.sheet import Sheet
    from kubetrace.stream.steps import Tick
    from kubetrace.views.columns import Column, Value
    from kubetrace.views.keys import Keys
    from kubetrace.views.screen import LiveTable

# Rows of a table that nobody can scroll in, where --top does not say how many.
PIPE_ROWS = 20
_LIVE_MODULES = ("kubetrace.views.frame", "kubetrace.views.trend", "kubetrace.views.filter", "kubetrace.tables.pages")
# Rows behind both ends of the screen that are looked at too: a selected row that moves is found again.
_MARGIN = 60


class TableView:
    """Windows of the grouped rows: live on a terminal, plain blocks elsewhere."""

    def __init__(self, tracer: Tracer, asked: Attach, show: Show, context: Context, release: str) -> None:
        """Nothing is shown before it is open."""
        self._tracer = tracer
        self._show = show
        self._selection = asked.selection
        self._context = context
        self._live = self._can_be_live()
        # Only a live table can change its grouping; elsewhere one is counted.
        self.groupings: Sequence[str] = tracer.others(show.by) if self._live else [show.by]
        self.events: EventView | None = None
        self.recent = 0
        self._keys = _keys() if self._live else None
        self._sheet: Sheet | None = None
        if self._live:
            from kubetrace.session.sheet import RECENT, Sheet

            self.recent = RECENT
            self._sheet = Sheet(tracer, self.groupings, context)
        self.modules: Sequence[str] = (*NODE_MODULES, *_LIVE_MODULES) if self._live else NODE_MODULES
        self._notices: list[str] = []
        self.overhead: Overhead | None = None
        self.unmatched = UNMATCHED
        self.pause_notice = "paused: counting goes on, space shows it"
        self._cost = OwnCost()
        self._begun = time.monotonic()
        self._hook = ""
        self._missing: Sequence[str] = ()
        self._release = release
        self.state = State(
            (Level(show.by, sort_key(tracer, show.sort)),),
            wide=show.output == "wide",
            interval_s=show.interval_s,
        )
        self._shape = Shape()
        self._held: Window | None = None
        self.position: Callable[[int, bool], str] | None = None
        self._wishes: list[Wish] = []

    @property
    def paused(self) -> bool:
        """Whether the screen stands still."""
        return self.state.paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self.state = replace(self.state, paused=paused)

    @property
    def interval_s(self) -> float:
        """Seconds between refreshes."""
        return self.state.interval_s

    @property
    def speed(self) -> float:
        """Of a replay."""
        return self.state.speed

    @speed.setter
    def speed(self, speed: float) -> None:
        self.state = replace(self.state, speed=speed)

    @property
    def traits(self) -> Sequence[str]:
        """Which keys work."""
        return ("live",) if self.position is None else ("replay",)

    def _can_be_live(self) -> bool:
        from kubetrace.views.plain import can_be_live

        return can_be_live(sys.stdout)

    @contextlib.contextmanager
    def open(self) -> Iterator[TableView]:
        """Take the terminal for as long as the context lasts."""
        from kubetrace.views.screen import open_table

        with (
            open_table(
                sys.stdout,
                # of a live one each column says for itself whether it is shown
                wide=self._show.output == "wide" and not self._live,
                headers=self._show.headers,
                colour=self._show.colour,
                mouse=self._keys is not None and is_terminal(sys.stdin),
            ) as self._table,
            self._keys or contextlib.nullcontext(),
        ):
            yield self

    def start_over(self, context: Context) -> None:
        """A replay begins again: what was known is not any more."""
        self._context = context
        if self._sheet is not None:
            self._sheet.start_over(context)

    def waiting(self, notice: str) -> None:
        """Show that nothing is attached yet, and why."""
        columns, _ = self._chosen(table_columns(self._tracer, self._show.by), ())
        self._table.show(Window(columns, head=self._head(time.monotonic() - self._begun), notices=[notice]))

    def attached(self, hook: str, missing: Sequence[str]) -> None:
        """The hook, and what is not seen."""
        self._hook, self._missing = hook, missing

    def warn(self, notice: str) -> None:
        """A notice above the table."""
        self._notices.append(notice)

    def keyboard(self) -> int | None:
        """The terminal's descriptor, where the table is live."""
        return self._keys.fileno() if self._keys is not None else None

    def typed(self, pipeline: Pipeline, tick: Tick) -> bool:
        """Do what the keys say; False to quit, or where there are wishes for the run."""
        keys = self._keys
        for key in keys.read() if keys is not None else ():
            if keys is not None and keys.fileno() is None:  # the terminal hung up
                return False
            self._press(key)
            if self.state.ended:
                return False
            if self.state.wish is not None:
                self._take_wish(self.state.wish)
            else:
                # a key looks at what the one before it has made
                self._draw(pipeline, tick)
        if self._wishes:
            return False
        self._draw(pipeline, tick)
        return True

    def _press(self, key: str) -> None:
        self.state = press(self.state, key, self._shape)

    def _take_wish(self, wish: Wish) -> None:
        if wish.what == "write":
            self._write_screen(wish)
        else:
            self._wishes.append(wish)

    def wishes(self) -> Sequence[Wish]:
        """What keys asked of the run since the last call."""
        wishes, self._wishes = self._wishes, []
        return wishes

    def look(self, pipeline: Pipeline, tick: Tick) -> None:
        """A window, paused or not."""
        pipeline.table.tick(tick.elapsed_ns)
        self._draw(pipeline, tick)

    @property
    def waits_for_more(self) -> bool:
        """Whether an Escape may be the beginning of a key."""
        return self._keys is not None and self._keys.unfinished

    def say(self, message: str) -> None:
        """A line at the bottom, until the next key."""
        self.state = replace(self.state, message=message)

    def _write_screen(self, wish: Wish) -> None:
        from kubetrace.recording.private import create

        path = Path(os.path.expanduser(wish.text))
        screen = self._screen
        title = f"kubetrace {self._tracer.name}"
        try:
            text = screen.picture(title) if path.suffix == ".svg" else screen.look()
            with open(create(path, force=False), "w", encoding="utf-8") as file:
                file.write(text)
            message = f"written to {path}"
        except KubetraceError as error:
            message = error.what
        except OSError as error:
            message = f"cannot write to {path}: {error.strerror or error}"
        self.state = replace(self.state, message=message, wish=None)

    @property
    def _screen(self) -> LiveTable:
        from kubetrace.views.screen import LiveTable

        assert isinstance(self._table, LiveTable)
        return self._table

    def show(self, pipeline: Pipeline, tick: Tick) -> None:
        """A window, unless paused."""
        pipeline.table.tick(tick.elapsed_ns)
        if not self.paused:
            self._draw(pipeline, tick)

    def skip(self, pipeline: Pipeline, tick: Tick) -> None:
        """What a window leaves behind, without the window: rates and own cost are those since the one before."""
        pipeline.table.tick(tick.elapsed_ns)
        self._cost.percent(tick)

    def last(self, pipeline: Pipeline, tick: Tick) -> None:
        """The table that stays, with everything in it."""
        self.paused = False
        cost = self._cost.percent(tick)
        if not self._live:
            top = None if self._show.whole else self._show.top or self._rows_elsewhere
            window = self._plain_window(pipeline, tick, cost, top)
            self._table.show(window)
            left = (window.total or 0) - len(window.rows)
            if left > 0 and not self._show.headers and not self._show.top:
                # where nothing but rows is printed, nothing there says that there are more
                print(f"kubetrace: {left} more rows; --top all prints them", file=sys.stderr)
            return
        self.state = replace(self.state, mode="table", message="")
        self._show_live(pipeline, tick, cost)
        # what stays is the whole table, and its title says so
        self.state = replace(self.state, levels=self.state.levels[:1])
        self._screen.leave(self._plain_window(pipeline, tick, cost, self._show.top or self._screen.size[1]))

    @property
    def _rows_elsewhere(self) -> int | None:
        return PIPE_ROWS

    def end(self, pipeline: Pipeline, tick: Tick) -> None:
        """The summary; the last table is on the normal screen already."""
        tracer, counts = self._tracer, pipeline.counts
        elapsed = format_elapsed(tick.elapsed_ns / 1e9)
        print(
            f"{tracer.summary_text(pipeline.table.total())} in {elapsed}; "
            f"{counts.lost} lost, {counts.unattributed} unattributed."
        )
        if self.overhead is not None:
            print(self.overhead.summary(tick.elapsed_ns))
        print_remedies(pipeline, sys.stdout)

    def _chosen(
        self, columns: Sequence[Column], rows: Sequence[Sequence[Value]]
    ) -> tuple[Sequence[Column], Sequence[Sequence[Value]]]:
        chosen = self._show.columns
        if chosen is None:
            return columns, rows
        places = chosen.places(columns, wide=self._show.output == "wide")
        return chosen.of(columns, places), [[row[at] for at in places] for row in rows]

    def _head(self, elapsed_s: float) -> list[Item]:
        return [
            (f"kubetrace {self._tracer.name}", "title"),
            f"node {self._context.node}",
            f"Linux {self._release}",
            self._hook or "not attached",
            format_elapsed(elapsed_s),
        ]

    def _draw(self, pipeline: Pipeline, tick: Tick) -> None:
        cost = self._cost.percent(tick)
        if not self._live:
            self._table.show(self._window(pipeline, tick, cost))
            return
        self._show_live(pipeline, tick, cost)

    # Elsewhere: as many rows as a screen has.

    def _window(self, pipeline: Pipeline, tick: Tick, cost: float | None) -> Window:
        return self._plain_window(pipeline, tick, cost, self._show.top or self._rows_elsewhere)

    def _plain_window(self, pipeline: Pipeline, tick: Tick, cost: float | None, top: int | None) -> Window:
        level = self.state.levels[0]
        rows = pipeline.table.rows(level.by)
        found, total = rows.page(level.order, 0, len(rows) if top is None else top)
        columns, cells = self._chosen(rows.columns, found)
        if self._live and self._show.output == "wide":
            columns = [replace(column, wide=False) for column in columns]
        return replace(
            self._frame(pipeline, tick, cost),
            columns=columns,
            rows=cells,
            total=total,
            sort=level.order.lstrip("+-"),
            descending=descending(level.order, rows.columns),
        )

    def _frame(self, pipeline: Pipeline, tick: Tick, cost: float | None) -> Window:
        """All but the rows."""
        tracer, counts, selection = self._tracer, pipeline.counts, self._selection
        shown = counts.events - counts.folded
        foot: list[Item] = [
            f"{format_count(shown)} {tracer.noun[shown != 1]}",
            (f"{counts.unattributed} unattributed", "warn" if counts.unattributed else "dim"),
        ]
        costs: list[Item] = [(f"own CPU {'-' if cost is None else format_percent(cost)}", "dim")]
        if self.overhead is not None:
            costs.append((self.overhead.look(tick), "dim"))
        notices = [*self._missing, *self._notices]
        if self.paused:
            notices.append(self.pause_notice)
        if selection and not self._context.attribution.matched:
            notices.append(self.unmatched.format(selection))
        head = self._head(tick.elapsed_ns / 1e9)
        if self._live:
            head.insert(4, self._standing())
        return Window(
            (), head=head, foot=foot, costs=costs, lost=counts.lost, notices=notices, empty=f"no {tracer.noun[1]} yet"
        )

    def _standing(self) -> str:
        level = self.state.level
        if level.by == EVENTS:
            return "events"
        key = level.order.lstrip("+-")
        column = next((column for column in self._tracer.measures if column.key == key), None)
        if column is None or not column.wide or self.state.wide:
            return f"by {level.by}"
        name = next((own for own, of in self._tracer.sorts.items() if of == key), key)
        return f"by {level.by}, {name} {'last' if level.order.startswith('+') else 'first'}"

    # On a terminal.

    def _visible(self, columns: Sequence[Column]) -> list[Column]:
        """These, each `wide` or not as keys and --columns have it."""
        wide, toggled, chosen = self.state.wide, dict(self.state.toggled), self._show.columns
        named: set[str] = set()
        if chosen is not None:
            places = chosen.places(columns, wide=wide)
            columns = [*chosen.of(columns, places), *(c for at, c in enumerate(columns) if at not in places)]
            named = {column.key for column in columns[: len(places)]}
        found = []
        for column in columns:
            usual = column.key in named if chosen is not None else wide or not column.wide
            is_shown = toggled.get(column.key, usual)
            found.append(
                replace(column, wide=not is_shown, kept=column.kept or toggled.get(column.key, False))
                if column.wide is is_shown or toggled.get(column.key)
                else column
            )
        return found

    def _show_live(self, pipeline: Pipeline, tick: Tick, cost: float | None) -> None:
        screen = self._screen
        ascii, sheet = screen.ascii, self._sheet
        assert sheet is not None
        level = self.state.level
        columns = sheet.columns(level)
        frame = self._frame(pipeline, tick, cost)
        frame = replace(frame, **self._around(ascii=ascii))  # type: ignore[arg-type]  # fields of a Window
        height = screen.size[1]
        # a row that somebody chose is looked for where it may have gone
        margin = _MARGIN if level.key else 0
        begin = max(0, level.top - margin)
        most = self._show.top
        end = level.top + height + margin
        found, total = sheet.page(level, pipeline, begin, end if most is None else min(end, most))
        total = total if most is None else min(total, most)
        frame = replace(frame, total=total)
        room = max(1, screen.room(frame))
        self._shape = replace(self._shape, room=room, total=total)
        self._follow(sheet, columns, found, begin)
        self.state = clamp(self.state, self._shape)
        level = self.state.level
        if not begin <= level.top <= begin + len(found) - min(room, total):  # it went further than was asked for
            begin, end = level.top, level.top + height
            found, _ = sheet.page(level, pipeline, begin, end if most is None else min(end, most))
        selected = found[level.cursor - begin] if 0 <= level.cursor - begin < len(found) else None
        if selected is not None and level.key == ():
            key = tuple([value for _, value in sheet.key_of(level, columns, selected)])
            self.state = self.state.at_level(key=key)
        trend = sheet.trend(level, columns) if level.by != EVENTS else None
        all_columns: Sequence[Column] = columns
        hints: Sequence[Mapping[str, Style]] = ()
        rows: Sequence[Sequence[Value]] = found[level.top - begin :][:height]
        if trend is not None:
            trend.look(found, tick.elapsed_ns, whole=begin == 0 and len(found) >= total, order=level.order.lstrip("+-"))
            all_columns = trend.columns()
            pairs = [trend.row(row, ascii=ascii) for row in rows]
            rows, hints = [cells for cells, _ in pairs], [hint for _, hint in pairs]
        visible = self._visible(all_columns)
        places = {column.key: at for at, column in enumerate(all_columns)}
        if [column.key for column in visible] != [column.key for column in all_columns]:
            rows = [[row[places[column.key]] for column in visible] for row in rows]
        from kubetrace.views.filter import Filter

        window = replace(
            frame,
            columns=visible,
            rows=rows,
            sort=level.order.lstrip("+-"),
            descending=descending(level.order, columns),
            first=level.top,
            cursor=level.cursor - level.top if total else None,
            match=Filter(level.filter) if level.filter else None,
            hints=hints,
            **self._over(visible, ascii=ascii),  # type: ignore[arg-type]  # fields of a Window
        )
        screen.show(window)
        drawn = screen.drawn
        own = {column.key for column in columns}
        self._shape = Shape(
            room=room,
            total=total,
            columns=visible if self.state.mode == "columns" else columns,
            shown=(
                [column.key for column in visible if not column.wide]
                if self.state.mode == "columns"
                else [key for key in drawn.shown if key in own]
            ),
            sorts=sheet.sorts(level.by),
            groupings=sheet.groupings_of(level),
            finer=sheet.finer(level.by),
            has_events=sheet.has_events,
            no_events=sheet.no_events,
            selected=sheet.key_of(level, columns, selected) if selected is not None else (),
            called=sheet.called(level, columns, selected, ascii=ascii) if selected is not None else "",
            about=sheet.about(level, columns, selected, ascii=ascii) if selected is not None else "",
            order_of=sheet.order_of,
            order_fits=sheet.order_fits,
            traits=self.traits,
            lines=len(window.over or ()),
            head_line=drawn.head_line,
            heads=[head for head in drawn.heads if head[2] in own],
            file=f"kubetrace-{self._tracer.name}-{time.strftime('%Y%m%d-%H%M%S')}.txt",
        )

    def _follow(self, sheet: Sheet, columns: Sequence[Column], found: Sequence[Sequence[Value]], begin: int) -> None:
        # the selected row has moved: the selection moves with it, and stays at its height
        level = self.state.level
        if not level.key:
            return
        for at, row in enumerate(found, begin):
            if tuple([value for _, value in sheet.key_of(level, columns, row)]) == level.key:
                if at != level.cursor:
                    moved = at - level.cursor
                    self.state = self.state.at_level(cursor=at, top=max(0, level.top + moved))
                return
        self.state = self.state.at_level(key=())

    def _around(self, *, ascii: bool) -> dict[str, object]:
        """Where one is, and what is being typed."""
        state, level = self.state, self.state.level
        arrow = " > " if ascii else " › "
        crumbs = [one.crumb for one in state.levels if one.crumb]
        path = arrow.join([self._tracer.name, *crumbs]) if crumbs else ""
        if level.filter and state.mode != "filter":
            path = f"{path}   /{level.filter}" if path else f"/{level.filter}"
        prompts = {"filter": "/", "time": "go to: ", "write": "write to: "}
        prompt = None
        if state.mode in prompts:
            prompt = f"{prompts[state.mode]}{state.typed}_"
        from kubetrace.views.keymap import legend

        return {
            "path": path,
            "about": level.about,
            "prompt": prompt,
            "message": state.message,
            "marks": self.position(self._screen.size[0], ascii) if self.position is not None else "",
            "keys": legend(self.traits),
            "empty": self._empty(level),
        }

    def _empty(self, level: Level) -> str:
        noun = self._tracer.noun[1]
        if level.filter:
            return "no row has this text: Esc shows all"
        if level.by == EVENTS:
            from kubetrace.session.sheet import RECENT

            return f"none of this row among the last {RECENT:,} {noun}, which are all that are remembered"
        return f"no {noun} yet"

    def _over(self, columns: Sequence[Column], *, ascii: bool) -> dict[str, object]:
        state = self.state
        if state.mode == "help":
            from kubetrace.views.overlay import keys_over

            return {"over": keys_over(self.traits, self._screen.size[0], ascii=ascii), "over_at": state.at}
        if state.mode == "columns":
            from kubetrace.views.overlay import columns_over

            shown = [column.key for column in columns if not column.wide]
            lines, at = columns_over(columns, shown, state.at, self._screen.size[0], ascii=ascii)
            return {"over": lines, "over_at": max(0, at - max(1, self._shape.room - 1))}
        return {}


def _keys() -> Keys | None:
    try:
        from kubetrace.views.keys import Keys
    except ImportError:  # Windows: no termios
        return None
    return Keys()
