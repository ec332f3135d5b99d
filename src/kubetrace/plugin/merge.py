"""The tables of many nodes as one, with a column that says which: pure, it neither reads nor draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kubetrace.kit.identity import NODE
from kubetrace.plugin.node_window import NodeWindow, parse
from kubetrace.tables.sorting import sort_rows
from kubetrace.views.columns import Column
from kubetrace.views.text import visible
from kubetrace.views.units import format_count, format_elapsed, format_percent
from kubetrace.views.window import Item, Window

if TYPE_CHECKING:
    from kubetrace.views.columns import Chosen, Value

_STATUS = Column("status", "STATUS", "name", weight=2, min_width=16, max_width=48)
# Nodes' names often differ in their last letters only.
_WHOLE_NAME = 20
_MOST_NOTICES = 5
_KEYS = (("q", "quit"), ("space", "pause"))


@dataclass
class NodeState:
    """How one node stands: its last table, and in `status` why there is none or no more (empty: it runs)."""

    status: str = "starting"
    failed: bool = False
    window: NodeWindow = field(default_factory=NodeWindow)


class Merged:
    """One table over the tables of nodes."""

    def __init__(
        self,
        tracer: str,
        noun: tuple[str, str],
        columns: Sequence[Column],
        sort: str,
        top: int | None,
        chosen: Chosen | None = None,
        *,
        wide: bool = False,
    ) -> None:
        """`columns` are all that a node may send, `sort` the key of one of them (tables/sorting.py).

        `chosen` of these are shown behind the node's, `wide` is whether +COLUMN adds to those of -o wide.
        """
        self._tracer, self._noun, self._sort, self._top = tracer, noun, sort, top
        self._known = {column.key: column for column in columns}
        self._columns = list(columns)
        self._chosen, self._wide = chosen, wide
        self.nodes: dict[str, NodeState] = {}

    def take(self, node: str, record: Mapping[str, Any]) -> None:
        """A node's newest table. Raises ValueError for what is none."""
        state = self.nodes[node]
        window = parse(record, self._known)
        state.status = ""
        if window.columns or not state.window.columns:
            state.window = window

    def window(self, elapsed_s: float, *, paused: bool = False) -> Window:
        """The table of all nodes now."""
        columns = self._shown_columns()
        statuses = any(state.status for state in self.nodes.values())
        by_node = any(column.key == NODE.key for column in columns)
        longest = max(map(len, self.nodes), default=0)
        lead = [] if by_node else [replace(NODE, min_width=min(longest, _WHOLE_NAME))]
        table: list[tuple[Any, ...]] = []
        for node, state in self.nodes.items():
            order = {column.key: at for at, column in enumerate(state.window.columns)}
            places = [order.get(column.key) for column in columns]
            for row in state.window.rows:
                table.append((*([node] if lead else []), *(None if at is None else row[at] for at in places)))
        shown = [*lead, *columns]
        table = sort_rows(table, shown, self._sort, self._top)
        if self._chosen is not None:
            own = [column.key for column in shown].index(NODE.key)
            kept = [own, *(at for at in self._chosen.places(shown, wide=self._wide) if at != own)]
            shown = self._chosen.of(shown, kept)
            table = [tuple([row[at] for at in kept]) for row in table]
        if statuses:
            # behind the names of the nodes; one that does not run says so in a row of its own
            own = [column.key for column in shown].index(NODE.key)
            shown.insert(own + 1, _STATUS)
            table = [(*row[: own + 1], None, *row[own + 1 :]) for row in table]
            for node, state in self.nodes.items():
                if state.status:
                    cells: list[Value] = [None] * len(shown)
                    cells[own], cells[own + 1] = node, state.status
                    table.append(tuple(cells))
        return Window(
            shown,
            rows=table,
            head=self._head(elapsed_s),
            foot=self._foot(),
            costs=self._costs(),
            lost=sum(state.window.lost for state in self.nodes.values()),
            total=sum(max(state.window.total, len(state.window.rows)) for state in self.nodes.values())
            + sum(bool(state.status) for state in self.nodes.values()),
            sort=self._sort.lstrip("+-"),
            descending=not self._sort.startswith("+"),
            notices=[*self._notices(), *(["paused: space shows how it stands now"] if paused else [])],
            empty=f"no {self._noun[1]} yet",
            keys=_KEYS,
        )

    def _shown_columns(self) -> list[Column]:
        sent = {column.key: column for state in self.nodes.values() for column in state.window.columns}
        if not sent:
            return self._columns
        return [column for column in self._columns if column.key in sent] + [
            column for key, column in sent.items() if key not in self._known
        ]

    def _head(self, elapsed_s: float) -> list[Item]:
        running = sum(not state.status for state in self.nodes.values())
        failed = sum(state.failed for state in self.nodes.values())
        head: list[Item] = [
            (f"kubetrace {self._tracer}", "title"),
            f"{running} of {len(self.nodes)} node{'s' * (len(self.nodes) != 1)}",
        ]
        if failed:
            head.append((f"{failed} failed", "bad"))
        return [*head, format_elapsed(elapsed_s)]

    def _foot(self) -> list[Item]:
        windows = [state.window for state in self.nodes.values()]
        events, unattributed = sum(w.events for w in windows), sum(w.unattributed for w in windows)
        return [
            f"{format_count(events)} {self._noun[events != 1]}",
            (f"{unattributed} unattributed", "warn" if unattributed else "dim"),
        ]

    def _costs(self) -> list[Item]:
        known = [state.window.own_cpu_percent for state in self.nodes.values()]
        cost = max((percent for percent in known if percent is not None), default=None)
        return [(f"own CPU at most {'-' if cost is None else format_percent(cost)}", "dim")]

    def _notices(self) -> list[str]:
        found: dict[str, list[str]] = {}
        for node, state in self.nodes.items():
            for notice in state.window.notices:
                found.setdefault(notice, []).append(node)
        told = [
            visible(text) if len(nodes) == len(self.nodes) else f"{', '.join(nodes)}: {visible(text)}"
            for text, nodes in found.items()
        ]
        failed = [f"{node} {visible(state.status)}" for node, state in self.nodes.items() if state.failed]
        return [*failed, *told][:_MOST_NOTICES]
