"""What tracers see, to a file and nothing else; records are compressed as they come, not decoded."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubetrace.errors import OutputError

if TYPE_CHECKING:
    from kubetrace.attribution.whose import Attribution
    from kubetrace.kit.tracer import Tracer
    from kubetrace.recording.writer import Recorder
    from kubetrace.session.options import Options
    from kubetrace.session.stop import Stop
    from kubetrace.stream.live import LiveSource

_PROGRESS_S = 0.5
# Of a tracer's main ring. Half a million records of 512 bytes a second fill it in 65 ms: a busy node may well let a
# recorder wait for 20 of them, which is all that the ring of a table would hold.
_RING_BYTES = 16 << 20


def run(chosen: Sequence[Tracer], file: Path, asked: Options) -> None:
    """Record until the duration is over or the user ends it. Raises KubetraceError."""
    from kubetrace.attribution.selection import Selection
    from kubetrace.attribution.whose import Attribution
    from kubetrace.kit.context import Wall
    from kubetrace.kit.tracer import Counts
    from kubetrace.node.host import Host
    from kubetrace.recording.writer import Recorder, refuse_existing
    from kubetrace.session.attach import attach, constants_of, gauges_of, node_files, prepare, touch, wiring_of
    from kubetrace.session.recorded import header_of, recorded
    from kubetrace.session.stop import Stop
    from kubetrace.stream.live import LiveSource

    refuse_existing(file, force=asked.force)
    constants = {tracer.name: constants_of(tracer, asked) for tracer in chosen}
    host = Host.find(asked.host_root)
    clock = Wall(host.node_name(), host.boot_to_wall_ns())
    with Stop() as stop, contextlib.ExitStack() as stack:
        kernels = {}
        for tracer in chosen:
            wiring = wiring_of(tracer, asked, host)
            constants[tracer.name] |= wiring.pop("constants")
            if not isinstance(tracer, Counts):
                wiring["sizes"] = {next(iter(tracer.streams)): _RING_BYTES}
            kernel = attach(tracer, asked, constants[tracer.name], stop, None, wiring)
            if kernel is None:
                return
            stack.callback(kernel.close)
            kernels[tracer.name] = (tracer, kernel)
            for notice in dict.fromkeys(filter(None, kernel.missing.values())):
                click.echo(f"kubetrace: {tracer.name}: {notice}", err=True)
        files = node_files(host, asked)
        stack.callback(files.close)
        gauges = gauges_of(chosen, host)
        attached = {name: kernel for name, (_, kernel) in kernels.items()}
        source = LiveSource(attached, files, gauges, all_layers=True)
        # before anything is written: our own container is left out from here on
        for tracer, kernel in kernels.values():
            prepare(tracer, kernel, files)
        header = header_of(host, clock, kernels, asked, gauges)
        recorder = Recorder(file, header, force=asked.force, max_size=asked.max_size)
        with contextlib.closing(recorder):
            source.start()
            if asked.ready_file is not None:
                touch(asked.ready_file)
            # Only to tell the kernel whose events are not wanted.
            selection = asked.selection
            attribution = Attribution(selection, source.exclude) if selection else None
            assert isinstance(selection, Selection)
            _loop(source, recorder, attribution, asked, stop)
    if recorder.trouble:
        raise OutputError(
            f"the recording stopped: {recorder.trouble}.",
            why=f"What came before that is in {file}.",
            do=f"kubetrace replay {file} {chosen[0].name}, or record where there is room",
        )
    click.echo(recorded(recorder))


def _loop(source: LiveSource, recorder: Recorder, attribution: Attribution | None, asked: Options, stop: Stop) -> None:
    begun = time.monotonic()
    end = begun + asked.duration_s if asked.duration_s is not None else None
    progress = _Progress(recorder)
    next_drain = begun
    while not stop.asked and not recorder.trouble:
        now = time.monotonic()
        if end is not None and now >= end:
            break
        source.wait(min(next_drain, end if end is not None else next_drain) - now)
        if time.monotonic() >= next_drain or source.half_full:
            _drain(source, recorder, attribution)
            next_drain = time.monotonic() + source.pause_s
            progress.show()
    _drain(source, recorder, attribution, last=True)
    progress.clear()


def _drain(source: LiveSource, recorder: Recorder, attribution: Attribution | None, *, last: bool = False) -> None:
    for step in source.drain(last=last):
        if attribution is not None:
            attribution.learn(step.facts)
        recorder.write(step)


class _Progress:
    """One line on stderr that is written over, where that is a terminal."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._shown = 0.0
        self._terminal = sys.stderr.isatty()

    def show(self) -> None:
        """Twice a second: elapsed, events, bytes, lost."""
        if not self._terminal or time.monotonic() - self._shown < _PROGRESS_S:
            return
        from kubetrace.views.units import format_bytes, format_count, format_elapsed

        self._shown = time.monotonic()
        recorder = self._recorder
        lost = sum(sum(kinds.values()) for kinds in recorder.losses.values())
        rows = sum(recorder.rows.values())
        text = (
            f"recording {format_elapsed(recorder.last.elapsed_ns / 1e9)}  {format_count(rows)} events"
            f"  {format_bytes(recorder.bytes)}  {lost} lost  (Ctrl-C ends it)"
        )
        click.echo(f"\r\x1b[K{text}", err=True, nl=False)

    def clear(self) -> None:
        """Leave no line."""
        if self._terminal:
            click.echo("\r\x1b[K", err=True, nl=False)
