"""Rows that a board of the tracer's own keeps: more than sums, such as a pod's start with its steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from kubetrace.kit.tracer import StartsOver
from kubetrace.tables.sorting import Wanted, page_of, sort_rows
from kubetrace.tables.summed import Summed

if TYPE_CHECKING:
    from kubetrace.attribution.attributor import Identity
    from kubetrace.attribution.facts import Fact
    from kubetrace.kit.tracer import Board, Tracer
    from kubetrace.stream.layout import Batch
    from kubetrace.tables.contract import Rows, Run, Tell
    from kubetrace.views.columns import Column, Value


def boarded(run: Run) -> Boarded:
    """The table of a board of the run's tracer."""
    board = run.tracer.board(run.own, run.layouts, run.missing, run.context)
    return BoardedCounters(run, board) if isinstance(board, StartsOver) else Boarded(run, board)


class Boarded(Summed):
    """See `tables.contract.Table`. Totals are sums of events all the same."""

    def __init__(self, run: Run, board: Board) -> None:
        """Nothing is counted yet."""
        super().__init__(run)
        self._board = board

    def learn(self, facts: Iterable[Fact]) -> None:
        """Tell the board."""
        for fact in facts:
            self._board.learn(fact)

    def _take(self, event: Any, identity: Identity, tell: Tell | None) -> None:
        # what the node itself does may concern a pod: the runtime mounts its roots
        if (
            self._selection
            and not self._tracer.of_others
            and identity.kind != "host"
            and not self._selection.match_pod(identity)
        ):
            return
        for told, of in self._board.take(event, identity):
            if not self._selection or self._selection.match(of):
                self._add(told, of, tell)

    def rows(self, by: str) -> Rows:
        """The board's, as they are when they are asked for."""
        return _BoardRows(self._tracer, by, self._board)


class BoardedCounters(Boarded):
    """A board whose records are numbers since tracing began (see `tables.contract.Baselined`): it can start over."""

    def read(self, batches: Sequence[Batch]) -> None:
        """What was read before, and not counted, only the board is told of."""
        self._take_in()
        super().read(batches)

    def start_over(self, elapsed_ns: int) -> None:
        """What was read so far is where counting begins."""
        self._take_in()
        assert isinstance(self._board, StartsOver)
        self._board.start_over()

    def _take_in(self) -> None:
        for event, identity in zip(self._events, self._identities, strict=True):
            for _ in self._board.take(event, identity):
                pass
        self._events, self._identities = [], []


class _BoardRows:
    def __init__(self, tracer: Tracer, by: str, board: Board) -> None:
        self.columns: Sequence[Column] = [*tracer.groupings[by].columns, *tracer.measures]
        self._by, self._board = by, board
        self._front = len(tracer.groupings[by].columns)

    def __len__(self) -> int:
        return len(self._board.rows(self._by))

    def rows(self, sort_key: str, top: int | None) -> list[tuple[Value, ...]]:
        return sort_rows([tuple(row) for row in self._board.rows(self._by)], self.columns, sort_key, top)

    def page(
        self, order: str, begin: int, end: int, wanted: Wanted | None = None
    ) -> tuple[list[tuple[Value, ...]], int]:
        rows = [tuple(row) for row in self._board.rows(self._by)]
        return page_of(rows, self.columns, order, begin, end, wanted, self._front)
