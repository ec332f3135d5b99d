"""What one run was asked for, by who reads it; in units: seconds, rows, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubetrace.attribution.selection import Both, Selection
from kubetrace.errors import UsageError

if TYPE_CHECKING:
    from kubetrace.kit.tracer import Tracer


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
    interval_s: float = 1.0
    overhead: bool = False


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


def check(tracer: Tracer, by: str | None, sort: str | None) -> tuple[str, str]:
    """The grouping and sort to use; raises UsageError for names that the tracer does not have."""
    by = by or next(iter(tracer.groupings))
    if by not in tracer.groupings:
        raise UsageError(f"{tracer.name} cannot group by {by!r}.", do=f"--by {'|'.join(tracer.groupings)}")
    sort = sort or next(iter(tracer.sorts))
    if sort not in tracer.sorts:
        raise UsageError(f"{tracer.name} cannot sort by {sort!r}.", do=f"--sort {'|'.join(tracer.sorts)}")
    columns = {column.key for column in (*tracer.groupings[by].columns, *tracer.measures)}
    if tracer.sorts[sort] not in columns:
        raise UsageError(
            f"there is no {sort} to sort by when grouped --by {by}.", do=f"--sort {next(iter(tracer.sorts))}"
        )
    return by, sort


def own_options(tracer: Tracer, given: Mapping[str, Any]) -> dict[str, Any]:
    """A tracer's own options of all that were given."""
    return {option.name: given[option.name] for option in tracer.options() if option.name}


def own_defaults(tracer: Tracer) -> dict[str, Any]:
    """A tracer's own options as if none was given."""
    import click

    given = click.Command(tracer.name, params=list(tracer.options())).make_context(tracer.name, []).params
    return own_options(tracer, given)
