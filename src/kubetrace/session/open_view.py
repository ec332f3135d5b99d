"""Which view suits the output."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubetrace.kit.context import Wall
    from kubetrace.kit.tracer import Tracer
    from kubetrace.session.event_view import StreamView
    from kubetrace.session.options import Options
    from kubetrace.session.table_view import TableView


def open_view(tracer: Tracer, options: Options, clock: Wall, release: str) -> TableView | StreamView:
    """The view that suits the output; `release` is the traced kernel's."""
    if options.output in ("json", "csv") or options.events:
        from kubetrace.session.event_view import StreamView

        return StreamView(tracer, options, clock)
    if options.output == "windows":
        from kubetrace.session.window_view import WindowView

        return WindowView(tracer, options, clock, release)
    from kubetrace.session.table_view import TableView

    return TableView(tracer, options, clock, release)
