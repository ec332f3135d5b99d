"""What a recording says of itself at its beginning, and what is said of it at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kubetrace.attribution.selection import Selection
from kubetrace.views.text import escape
from kubetrace.views.units import format_duration

if TYPE_CHECKING:
    from kubetrace.engines.source import KernelSource
    from kubetrace.kit.context import Wall
    from kubetrace.kit.tracer import Tracer
    from kubetrace.node.host import Host
    from kubetrace.recording.header import Header
    from kubetrace.recording.writer import Recorder
    from kubetrace.session.options import Options
    from kubetrace.stream.live import Gauges


def header_of(
    host: Host,
    clock: Wall,
    kernels: Mapping[str, tuple[Tracer, KernelSource]],
    options: Options,
    gauges: Mapping[str, Gauges],
) -> Header:
    """What a recording of these tracers says of itself."""
    from kubetrace.recording.header import Header, Stream, Traced

    number, traced = 0, []
    for tracer, kernel in kernels.values():
        streams = []
        layouts = {name: kernel.layouts[name] for name in tracer.streams}
        if tracer.name in gauges:
            layouts |= gauges[tracer.name].layouts
        for name, layout in layouts.items():
            number += 1
            streams.append(Stream(number, name, layout))
        selection = options.selection.texts() if isinstance(options.selection, Selection) else {}
        names = {option.name for option in tracer.options()}
        own = {name: str(value) for name, value in options.own.items() if value is not None and name in names}
        traced.append(Traced(tracer.name, kernel.hook, tuple(kernel.missing.values()), selection, own, tuple(streams)))
    return Header(clock.node, host.kernel_release(), clock.offset_ns, tuple(traced))


def recorded(recorder: Recorder) -> str:
    """How a recording went, and the next command."""
    rows, path = sum(recorder.rows.values()), escape(str(recorder.path))
    # of several tracers one has to be named
    first, *others = recorder.rows
    shown = f"kubetrace replay {path}" + (f" {first} (or {', '.join(others)})" if others else "")
    lost = sum(sum(kinds.values()) for kinds in recorder.losses.values())
    if recorder.trouble:
        return (
            f"kubetrace: the recording stopped early: {recorder.trouble}. "
            f"{recorder.dropped} events are not in {path}.\n"
            f"What is there can be read: {shown}"
        )
    return (
        f"Recorded {rows - recorder.dropped} event{'s' * (rows != 1)} in {format_duration(recorder.last.elapsed_ns)}"
        f" to {path}{f' ({lost} lost)' if lost else ''}. View it: {shown}"
    )
