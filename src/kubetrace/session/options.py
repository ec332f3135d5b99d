"""What one run was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubetrace.errors import UsageError

if TYPE_CHECKING:
    from kubetrace.attribution.selection import Both, Selection
    from kubetrace.kit.tracer import Tracer


@dataclass(frozen=True)
class Options:
    """What the command line asked for, in units: seconds, rows, bytes."""

    selection: Selection | Both
    by: str
    sort: str
    output: str = "table"
    events: bool = False
    headers: bool = True
    top: int | None = None
    interval_s: float = 1.0
    duration_s: float | None = None
    ready_file: Path | None = None
    hook: str = "auto"
    engine: str = "auto"
    program: Path | None = None
    host_root: str | None = None
    cri_socket: str | None = None
    record: Path | None = None
    force: bool = False
    max_size: int | None = None
    overhead: bool = False
    own: Mapping[str, Any] = field(default_factory=dict)


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


def own_of(tracer: Tracer, given: Mapping[str, Any]) -> dict[str, Any]:
    """A tracer's own options of all that were given."""
    return {option.name: given[option.name] for option in tracer.options() if option.name}
