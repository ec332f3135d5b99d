"""Every key of a live table, declared once: the legend, the help that ? shows, --help and docs/table.md follow it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Binding:
    """What some keys do."""

    action: str
    """What views/navigation.py calls it."""
    keys: Sequence[str]
    """As views.keys.Keys names them."""
    shown: str
    """How they are written for a person; ASCII."""
    help: str
    """One line."""
    legend: str = ""
    """A word for the bottom line; empty: it is not there."""
    only: Collection[str] = ()
    """Where it works: in a "live" run, a "replay", with "several" tracers; empty: everywhere."""


BINDINGS: Sequence[Binding] = (
    Binding("quit", ("q",), "q", "quit; the last table stays", "quit"),
    Binding("help", ("?", "h"), "?", "show these keys", "keys"),
    Binding("up", ("up", "k"), "Up k", "one row up"),
    Binding("down", ("down", "j"), "Down j", "one row down"),
    Binding("page_up", ("pageup", "ctrl-b"), "PgUp", "a screen up"),
    Binding("page_down", ("pagedown", "ctrl-f"), "PgDn", "a screen down"),
    Binding("first", ("home",), "Home", "the first row; from then on the table's head stays in sight"),
    Binding("last", ("end",), "End", "the last row"),
    Binding(
        "open", ("enter",), "Enter", "open the row: a pod's containers, then files or destinations, then events", "open"
    ),
    Binding("back", ("escape", "backspace"), "Esc", "clear the filter; then back to where Enter was pressed", "back"),
    Binding("filter", ("/",), "/", "show only rows with this text; !text: only those without", "filter"),
    Binding("next", ("n",), "n", "the next row that matches"),
    Binding("previous", ("N",), "N", "the one before"),
    Binding("sort_left", ("<",), "<", "sort by the column to the left", "sort"),
    Binding("sort_right", (">",), ">", "sort by the column to the right"),
    Binding("sort", ("s",), "s", "sort by the next quantity"),
    Binding("reverse", ("r",), "r", "the other way round"),
    Binding("group", ("g",), "g", "group rows by the next: file, container, pod, ...", "group"),
    Binding("columns", ("c",), "c", "choose columns"),
    Binding("wide", ("o",), "o", "all columns, as -o wide; once more: the usual ones"),
    Binding("events", ("e",), "e", "the last events of the row"),
    Binding("next_tracer", ("tab",), "Tab", "the next tracer that runs", "tracer", only=("several",)),
    Binding("previous_tracer", ("backtab",), "Shift-Tab", "the one before", only=("several",)),
    Binding("pause", (" ", "p"), "space p", "pause the screen, and go on", "pause"),
    Binding("slower", ("+", "="), "+", "a longer interval between refreshes", only=("live",)),
    Binding("faster", ("-",), "-", "a shorter one", only=("live",)),
    Binding("speed_up", ("+", "="), "+", "twice as fast", only=("replay",)),
    Binding("speed_down", ("-",), "-", "half as fast", only=("replay",)),
    Binding("step_back", ("left",), "Left", "back by an interval, and pause", "step", only=("replay",)),
    Binding("step_on", ("right",), "Right", "on by an interval, and pause", only=("replay",)),
    Binding("minute_back", ("[", "shift-left"), "[ Shift-Left", "back by a minute", only=("replay",)),
    Binding("minute_on", ("]", "shift-right"), "] Shift-Right", "on by a minute", only=("replay",)),
    Binding("time", (":",), ":", "go to a time: 90s, 18:02:03 or a date with a time", "time", only=("replay",)),
    Binding(
        "write", ("w",), "w", "write what is on the screen to a file: text, or a picture where its name ends in .svg"
    ),
    Binding("wheel_up", ("wheelup",), "wheel", "three rows up or down"),
    Binding("wheel_down", ("wheeldown",), "", ""),
    Binding("click", ("click",), "click", "select a row, and open the selected one; on a column's head: sort by it"),
)


def works(binding: Binding, traits: Collection[str]) -> bool:
    """Whether it does anything in a table of these traits ("live" or "replay", "several")."""
    return not binding.only or any(trait in traits for trait in binding.only)


def actions(traits: Collection[str]) -> Mapping[str, str]:
    """Key -> action."""
    return {key: one.action for one in BINDINGS if works(one, traits) for key in one.keys}


def legend(traits: Collection[str]) -> list[tuple[str, str]]:
    """(key, what it does) for the bottom line."""
    return [(one.shown.split(" ")[0], one.legend) for one in BINDINGS if one.legend and works(one, traits)]


def help_lines(traits: Collection[str]) -> list[tuple[str, str]]:
    """(keys, what they do), every one that works."""
    return [(one.shown, one.help) for one in BINDINGS if one.help and works(one, traits)]


def shortly(traits: Collection[str] = ("live",)) -> list[str]:
    """What the bottom line names, a line for each: `keys  what they do`."""
    rows = [(one.shown, one.help) for one in BINDINGS if one.legend and works(one, traits)]
    cells = max(len(keys) for keys, _ in rows)
    return [f"{keys:<{cells}}  {text}" for keys, text in rows]


def reference() -> list[str]:
    """The same for documents and --help: `keys  what they do`, those of replays marked."""
    rows = [
        (one.shown, one.help + (f" ({one.only[0]})" if one.only == ("replay",) else "")) for one in BINDINGS if one.help
    ]
    cells = max(len(keys) for keys, _ in rows)
    return [f"{keys:<{cells}}  {text}" for keys, text in rows]
