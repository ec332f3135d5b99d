"""Which view suits the output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubetrace.session.options import WINDOWS
from kubetrace.views.records import are_objects

if TYPE_CHECKING:
    from kubetrace.kit.context import Context
    from kubetrace.kit.tracer import Tracer
    from kubetrace.session.options import Attach, Show
    from kubetrace.session.view import View


def open_view(tracer: Tracer, asked: Attach, show: Show, context: Context, release: str) -> View:
    """The view that suits the output; `release` is the traced kernel's."""
    if show.output == "csv" or are_objects(show.output) or show.events:
        from kubetrace.session.event_view import StreamView

        return StreamView(tracer, asked, show, context)
    if show.output == WINDOWS:
        from kubetrace.session.window_view import WindowView

        return WindowView(tracer, asked, show, context, release)
    from kubetrace.session.table_view import TableView

    return TableView(tracer, asked, show, context, release)
