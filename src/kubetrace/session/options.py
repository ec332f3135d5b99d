"""What one run was asked for, by who reads it; in units: seconds, rows, bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubetrace.attribution.selection import Both, Selection
from kubetrace.errors import UsageError, no_such

if TYPE_CHECKING:
    from kubetrace.kit.tracer import Tracer
    from kubetrace.views.columns import Chosen, Column


WINDOWS = "json-tables"
"""The output that has each interval's table as an object (session/window_view.py)."""


@dataclass(frozen=True)
class Attach:
    """Whose events, and how to get at them (session.attach)."""

    selection: Selection | Both = field(default_factory=Selection)
    own: Mapping[str, Any] = field(default_factory=dict)
    """The tracers' own options."""
    hook: str = "auto"
    engine: str = "auto"
    program: Path | None = None
    host_root: str | None = None
    cri_socket: str | None = None


@dataclass(frozen=True)
class Show:
    """What is shown (the views)."""

    by: str
    sort: str
    output: str = "table"
    events: bool = False
    headers: bool = True
    top: int | None = None
    whole: bool = False
    """Whether the last table has all rows, where it is not on a screen (--top all)."""
    at_once: bool = False
    """Whether all that there is to show comes at once (replay --final): lines are laid out when all are there."""
    interval_s: float = 1.0
    overhead: bool = False
    columns: Chosen | None = None
    """Of tables, lines and CSV; None: the usual ones."""
    colour: bool | None = None
    """None: as the terminal and NO_COLOR say."""


@dataclass(frozen=True)
class Keep:
    """Where it is recorded, if it is (recording.writer)."""

    file: Path | None = None
    force: bool = False
    max_size: int | None = None


@dataclass(frozen=True)
class Last:
    """How long, and whom to tell that it has begun (session.loop)."""

    duration_s: float | None = None
    ready_file: Path | None = None
    once: bool = False
    """Whether it ends when all that there is on the node has been read once (kit.tracer.Tracer.once)."""


def check(tracer: Tracer, by: str | None, sort: str | None) -> tuple[str, str]:
    """The grouping and sort to use; raises UsageError for names that the tracer does not have.

    A sort is one of the tracer's `sorts`, or a column of its table as the user sees or reads it (its head, its key):
    then it is that column's name among the sorts, or its key. A - or + in front stays there: the order.
    """
    by = by or next(iter(tracer.groupings))
    if by not in tracer.groupings:
        raise no_such(f"{tracer.name} cannot group by {by!r}", by, list(tracer.groupings), option="--by")
    sort = sort or next(iter(tracer.sorts))
    sign, name = (sort[0], sort[1:]) if sort[0] in "+-" else ("", sort)
    columns = table_columns(tracer, by)
    if name not in tracer.sorts:
        column = _found(tracer, columns, name)
        if column is None:
            known = [*tracer.sorts, *(column.title for column in columns)]
            raise no_such(f"{tracer.name} cannot sort by {name!r}", name, known, option="--sort")
        name = next((own for own, key in tracer.sorts.items() if key == column.key), column.key)
    if sort_key(tracer, name) not in {column.key for column in columns}:
        raise UsageError(
            f"there is no {name} to sort by when grouped --by {by}.", do=f"--sort {next(iter(tracer.sorts))}"
        )
    return by, sign + name


def _found(tracer: Tracer, columns: Sequence[Column], name: str) -> Column | None:
    from kubetrace.views.columns import find

    every = [column for grouping in tracer.groupings.values() for column in grouping.columns]
    return find(columns, name) or find(every, name)


def sort_key(tracer: Tracer, sort: str) -> str:
    """The key of the column that `check`'s sort goes by, with its sign."""
    name = sort.lstrip("+-")
    return sort[: len(sort) - len(name)] + tracer.sorts.get(name, name)


def table_columns(tracer: Tracer, by: str) -> list[Column]:
    """Every column of a tracer's table under a grouping."""
    return [*tracer.groupings[by].columns, *tracer.measures]


def lines_columns(tracer: Tracer, show: Show) -> Sequence[Column]:
    """The columns of --events and -o csv: those of events, or of the rows of counters, with the time in front."""
    from kubetrace.views.columns import Column

    if tracer.table != "counted" or show.events:
        return tracer.event_columns
    return [Column("time", "TIME", "time"), *table_columns(tracer, show.by)]


def chosen(columns: Sequence[Column], text: str) -> Chosen:
    """--columns: `a,b` only these, `+c` the usual ones and this. Raises UsageError for what is not among `columns`."""
    from kubetrace.views.columns import Chosen, find

    only: list[str] = []
    added: list[str] = []
    for name in text.split(","):
        column = find(columns, name.strip().removeprefix("+"))
        if column is None:
            titles = list(dict.fromkeys(column.title for column in columns))
            raise no_such(f"there is no column {name.strip()!r}", name.strip(" +"), titles, option="--columns")
        (added if name.strip().startswith("+") else only).append(column.key)
    return Chosen(only, added)


def own_options(tracer: Tracer, given: Mapping[str, Any]) -> dict[str, Any]:
    """A tracer's own options of all that were given."""
    return {option.name: given[option.name] for option in tracer.options() if option.name}


def own_defaults(tracer: Tracer) -> dict[str, Any]:
    """A tracer's own options as if none was given."""
    import click

    given = click.Command(tracer.name, params=list(tracer.options())).make_context(tracer.name, []).params
    return own_options(tracer, given)
