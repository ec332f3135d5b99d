"""Several tracers as one table, with one row for each pod: what each has to say of it, the worst first.

The columns are those that tracers declare (kit.tracer.Overview); no tracer is known by its name here. For the views it
is a tracer with a table like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubetrace.kit.identity import NAMESPACE, POD
from kubetrace.kit.tracer import SUM, Grouping, Tracer
from kubetrace.tables.contract import Counts
from kubetrace.tables.sorting import sort_rows
from kubetrace.views.columns import Column
from kubetrace.views.table import cell
from kubetrace.views.trend import NEAR

if TYPE_CHECKING:
    from kubetrace.kit.tracer import Overview, Remedy
    from kubetrace.pipeline import Pipeline
    from kubetrace.views.columns import Value

WORST = Column(
    "worst",
    "WORST",
    "text",
    min_width=16,
    help="what is worst about the pod: kills and failures, then limits that are reached, then its share of all",
)
BADNESS = Column(
    "badness", "BADNESS", "count", wide=True, help="what WORST sorts by: more is worse, on each node alike"
)
# A narrow terminal has fewer quantities rather than names that are no names any more.
_POD = replace(POD, min_width=18)
# What failed outweighs what is near a limit, and that a share of what all pods do.
_FAILED, _SLOWED, _NEAR = 1e6, 1e3, 1e3
_LEAST_SHARE = 0.01


class Overall(Tracer):
    """See `kit.tracer.Tracer`: what several have in common."""

    name = "top"
    summary = "Show one row for each pod: what it uses, where it writes, what it copies up, and what it is denied."
    table = "board"

    def __init__(self, tracers: Sequence[Tracer], *, rated: bool = False) -> None:
        """Of those of the tracers that have an overview. `rated`: BADNESS is told too, for who joins several nodes."""
        self.rated = rated
        self.parts = [(tracer, one, _keyed(tracer, one.column)) for tracer in tracers for one in tracer.overview]
        self.groupings: Mapping[str, Grouping] = {"pod": Grouping((NAMESPACE, _POD), (WORST,))}
        self.measures: Sequence[Column] = [*(column for _, _, column in self.parts), *([BADNESS] if rated else [])]
        self.event_columns: Sequence[Column] = ()
        names = {one.column.title.lower(): column.key for _, one, column in self.parts}
        self.sorts: Mapping[str, str] = {"worst": "-worst", **names, "namespace": "namespace", "pod": "pod"}

    def summary_text(self, totals: Mapping[str, Any]) -> str:
        """Nothing: each tracer has its own."""
        return ""


def _keyed(tracer: Tracer, column: Column) -> Column:
    # two tracers may call a column alike
    limit = f"{tracer.name}.{column.limit}" if column.limit else ""
    return replace(column, key=f"{tracer.name}.{column.key}", limit=limit)


class Together:
    """The tables of several tracers as one; for the views it is the pipeline of `Overall` (tables.contract.Table)."""

    tells_rows = False

    def __init__(self, overall: Overall, pipelines: Mapping[str, Pipeline]) -> None:
        """`pipelines` by their tracers' names."""
        self._overall = overall
        self._pipelines = pipelines
        self.columns: Sequence[Column] = [NAMESPACE, _POD, WORST, *overall.measures]

    @property
    def table(self) -> Together:
        """Itself."""
        return self

    @property
    def counts(self) -> Counts:
        """Of all."""
        both = Counts()
        for name, pipeline in self._pipelines.items():
            counts = pipeline.counts
            both.events += counts.events
            both.folded += counts.folded
            both.unattributed += counts.unattributed
            for kind, lost in counts.losses.items():
                both.losses[f"{name} {kind}"] = lost
        return both

    def tick(self, elapsed_ns: int) -> None:
        """Of all."""
        for pipeline in self._pipelines.values():
            pipeline.table.tick(elapsed_ns)

    def recent(self, since: int) -> tuple[int, Sequence[tuple[Any, Any, int]]]:
        """None: each tracer has its own."""
        return 0, ()

    def rows(self, by: str) -> Together:
        """Of pods."""
        return self

    def __len__(self) -> int:
        """Number of pods."""
        return len(self._pods())

    def page(
        self, order: str, begin: int, end: int, wanted: Callable[[Sequence[Any]], bool] | None = None
    ) -> tuple[list[tuple[Value, ...]], int]:
        """See `tables.contract.Rows`."""
        rows = [row for row in self._judged() if wanted is None or wanted(row[:3])]
        if order.lstrip("+-") == WORST.key:
            rows.sort(key=lambda row: -row[-1] if order[:1] == "-" else row[-1])
            found = rows[begin:end]
        else:
            found = sort_rows(rows, self.columns, order, end)[begin:]
        if self._overall.rated:
            return [(*row[:-1], round(1000 * row[-1])) for row in found], len(rows)
        return [tuple(row[:-1]) for row in found], len(rows)

    def total(self) -> dict[str, Any]:
        """Nothing: each tracer has its own."""
        return {}

    def remedies(self) -> tuple[str, Sequence[Remedy]]:
        """Those of all, under the first one's title."""
        found = [pipeline.table.remedies() for pipeline in self._pipelines.values()]
        return next((title for title, _ in found if title), ""), [one for _, remedies in found for one in remedies]

    def _pods(self) -> dict[tuple[Value, Value], list[Value]]:
        parts = self._overall.parts
        pods: dict[tuple[Value, Value], list[Value]] = {}
        for by, of in _by_table(parts):
            tracer = of[0][1]
            pipeline = self._pipelines.get(tracer.name)
            if pipeline is None:
                continue
            table = pipeline.table.rows(by)
            keys = [column.key for column in table.columns]
            namespace, pod = keys.index("namespace"), keys.index("pod")
            front = len(tracer.groupings[by].columns)
            places = [(at, one, keys.index(one.measure)) for at, _, one in of]
            for row in table.rows("", None):
                values = pods.setdefault((row[namespace], row[pod]), [None] * len(parts))
                cells = dict(zip(keys[:front], row, strict=False))
                for at, one, place in places:
                    if one.only is None or one.only(cells):
                        values[at] = _joined(one, values[at], row[place])
        return pods

    def _judged(self) -> list[tuple[Any, ...]]:
        """(namespace, pod, what is worst, the values, how bad it is)."""
        pods = self._pods()
        columns = [column for _, _, column in self._overall.parts]
        weights = [one.weight for _, one, _ in self._overall.parts]
        places = {column.key: at for at, column in enumerate(columns)}
        totals = [
            sum(value for row in pods.values() if isinstance(value := row[at], int)) for at in range(len(columns))
        ]
        found = []
        for (namespace, pod), values in pods.items():
            worst, told, bad = 0.0, "-", 0.0
            for weight, text in _faults(columns, weights, places, values, totals):
                bad += weight
                if weight > worst:
                    worst, told = weight, text
            found.append((namespace, pod, told, *values, bad))
        return found


def _by_table(
    parts: Sequence[tuple[Tracer, Overview, Column]],
) -> Iterable[tuple[str, list[tuple[int, Tracer, Overview]]]]:
    tables: dict[tuple[str, str], list[tuple[int, Tracer, Overview]]] = {}
    for at, (tracer, one, _) in enumerate(parts):
        tables.setdefault((tracer.name, one.by), []).append((at, tracer, one))
    for (_, by), of in tables.items():
        yield by, of


def _joined(one: Overview, old: Value, new: Value) -> Value:
    if new is None or old is None:
        return new if old is None else old
    return old + new if one.join == SUM else max(old, new)  # type: ignore[operator]  # both are numbers


def _faults(
    columns: Sequence[Column],
    weights: Sequence[float],
    places: Mapping[str, int],
    values: Sequence[Value],
    totals: Sequence[float],
) -> Iterable[tuple[float, str]]:
    for at, column in enumerate(columns):
        value = values[at]
        if not isinstance(value, (int, float)) or not value:
            continue
        if column.alarm:
            # twice as often is not twice as bad
            yield _FAILED * weights[at] * (1 + min(value, 9) / 10), f"{column.title} {cell(column, value)}"
        elif column.kind == "percent":
            yield _SLOWED * value / 100, f"{column.title} {cell(column, value)}"
        elif column.limit:
            limit = values[places[column.limit]] if column.limit in places else None
            if isinstance(limit, (int, float)) and limit > 0 and value >= NEAR * limit:
                yield _NEAR * value / limit, f"{column.title} {int(100 * value / limit)}% of limit"
        if (column.rate or column.grows) and totals[at] > 0 and (share := value / totals[at]) >= _LEAST_SHARE:
            # most of very little is not bad: of bytes that are copied and of those that are written, the larger counts
            most = max(total for other, total in zip(columns, totals, strict=True) if other.kind == column.kind)
            yield value / most, f"{int(100 * share)}% of {column.title}"
