"""What a run shows itself in, and what all views say alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TextIO

from kubetrace.views.output import is_terminal, terminal_size
from kubetrace.views.text import cut, cut_path, escape, width, wrapped

if TYPE_CHECKING:
    from kubetrace.kit.context import Context
    from kubetrace.pipeline import EventView, Pipeline
    from kubetrace.session.cost import Overhead
    from kubetrace.stream.steps import Tick
    from kubetrace.views.navigation import Wish

# Of a name in a remedy on a terminal; JSON has the whole.
_NAME_CELLS = 72
# What every run imports while the kernel verifies the programs.
NODE_MODULES = ("kubetrace.pipeline", "kubetrace.stream.live", "kubetrace.node.survey")


UNMATCHED = "no container matches {} yet; waiting"


class View(Protocol):
    """What a run shows itself in."""

    overhead: Overhead | None
    """Asked for what the programs take, where that is to be shown."""

    groupings: Sequence[str]
    recent: int
    """How many of the last events its table is to remember."""
    events: EventView | None
    paused: bool
    pause_notice: str
    """What a pause says of itself."""
    unmatched: str
    """What is said while no container matches the selection, which takes the place of {}."""
    modules: Sequence[str]
    """What it will import when it is opened, and the run with it."""

    def open(self) -> AbstractContextManager[object]:
        """Take what it shows itself on, for as long as the context lasts."""

    def waiting(self, notice: str) -> None:
        """Say that nothing is attached yet, and why; called again and again."""

    def attached(self, hook: str, missing: Sequence[str]) -> None:
        """The hook, and what is not seen."""

    def warn(self, notice: str) -> None:
        """Say what the user should know from now on."""

    def keyboard(self) -> int | None:
        """The descriptor of the terminal whose keys it wants."""

    def typed(self, pipeline: Pipeline, tick: Tick) -> bool:
        """Do what the keys say; False to quit."""

    speed: float
    """Of a replay: how many times as fast as it was. Keys change it."""
    position: Callable[[int, bool], str] | None
    """Of a replay: where it is, as a line of so many cells, in ASCII or not."""

    def wishes(self) -> Sequence[Wish]:
        """What keys asked of the run since the last call."""

    def say(self, message: str) -> None:
        """A line at the bottom, until the next key."""

    def look(self, pipeline: Pipeline, tick: Tick) -> None:
        """A window, paused or not: the replay went to another time."""

    @property
    def waits_for_more(self) -> bool:
        """Whether a key has come in part: `typed` is to be called again though there is no more to read."""

    @property
    def interval_s(self) -> float:
        """Seconds between two windows: keys change it."""

    def start_over(self, context: Context) -> None:
        """A replay begins again: what was known of it is not any more."""

    def show(self, pipeline: Pipeline, tick: Tick) -> None:
        """An interval is over."""

    def skip(self, pipeline: Pipeline, tick: Tick) -> None:
        """An interval is over, and nobody waits for what it looked like."""

    def last(self, pipeline: Pipeline, tick: Tick) -> None:
        """All is counted."""

    def end(self, pipeline: Pipeline, tick: Tick) -> None:
        """Say the summary."""


def print_remedies(pipeline: Pipeline, stream: TextIO) -> None:
    """What could be done better, the worst first."""
    title, remedies = pipeline.table.remedies()
    if remedies:
        print(f"\n{title}", file=stream)
    columns = terminal_size(stream)[0] if is_terminal(stream) else 0
    for remedy in remedies:
        for line in wrapped(f"  {remedy.text(short_name)}", columns, indent=4):
            print(line, file=stream)


def short_name(name: str | bytes) -> str:
    """Escaped, and what is very long without its middle: a path may have thousands of bytes."""
    shown = escape(name)
    if shown.startswith("/") and width(shown.rpartition("/")[2]) < _NAME_CELLS // 2:
        return cut_path(shown, _NAME_CELLS)
    return cut(shown, _NAME_CELLS, "middle")
