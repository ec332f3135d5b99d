"""From a tracer and what was asked for to its programs in the kernel, and to the node's files around it."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubetrace.errors import OutputError
from kubetrace.kit.tracer import Counts, Stateful

if TYPE_CHECKING:
    from kubetrace.engines.source import KernelSource
    from kubetrace.kit.tracer import Tracer
    from kubetrace.node.files import Node
    from kubetrace.node.host import Host
    from kubetrace.session.options import Options
    from kubetrace.session.stop import Stop
    from kubetrace.session.table_view import TableView
    from kubetrace.stream.live import Gauges

_WAIT_FOR_HOOK_S = 0.5


def constants_of(tracer: Tracer, options: Options) -> dict[str, int]:
    """What goes into the tracer's object for these options. Raises UsageError."""
    return {**tracer.constants(options.own), "filter_by_cgroup": int(bool(options.selection))}


def adapted(tracer: Tracer, options: Options) -> Tracer:
    """The tracer with the columns that these options ask for."""
    return tracer.with_options(options.own) if isinstance(tracer, Counts) else tracer


def wiring_of(tracer: Tracer, options: Options, host: Host) -> dict[str, Any]:
    """What the engine is told of a tracer besides its options: `constants`, and KernelSource's `sizes`, `unneeded`."""
    found: dict[str, Any] = {"constants": {}}
    if isinstance(tracer, Counts):
        found = tracer.wiring(options.own, options.by, options.events, host)
    if host.own_cgroups():
        found["constants"] = {**found["constants"], "filter_by_cgroup": 1}
    return found


def prepare(tracer: Tracer, kernel: KernelSource, files: Node) -> None:
    """Leave out this process's own container, whose writes tell nothing of the node; then what a tracer's maps need."""
    for hierarchy, number in files.host.own_cgroups():
        kernel.exclude(hierarchy, number)
    if isinstance(tracer, Counts):
        tracer.prepare(kernel.store, files)


def gauges_of(chosen: Sequence[Tracer], host: Host) -> dict[str, Gauges]:
    """What is read at each interval, of the tracers that have such."""
    found = {tracer.name: tracer.gauges(host) for tracer in chosen if isinstance(tracer, Stateful)}
    return {name: gauges for name, gauges in found.items() if gauges is not None}


def node_files(host: Host, options: Options) -> Node:
    """The node's files as facts."""
    from kubetrace.node.files import Node

    return Node(host, cri_socket=options.cri_socket)


def touch(path: Path) -> None:
    """Create the ready file. Raises OutputError."""
    try:
        path.touch()
    except OSError as error:
        raise OutputError(f"cannot create the ready file {path}: {error.strerror}.") from error


def hookable(tracer: str) -> bool:
    """Whether overlayfs is in the kernel."""
    from kubetrace.engines import source

    return source.hookable(tracer)


def attach_now(
    tracer: Tracer,
    options: Options,
    constants: Mapping[str, int],
    wiring: Mapping[str, Any],
    modules: Sequence[str] = (),
) -> KernelSource:
    """Attach; `modules` are imported while the kernel verifies the programs."""
    from kubetrace.engines import source

    meanwhile = threading.Thread(target=lambda: [importlib.import_module(name) for name in modules])
    meanwhile.start()
    try:
        return source.KernelSource(
            tracer.name,
            tracer.streams,
            constants=constants,
            optional=tracer.optional,
            hook=options.hook,
            engine=options.engine,
            host_root=options.host_root,
            program=options.program,
            **wiring,
        )
    finally:
        meanwhile.join()


def attach(
    tracer: Tracer,
    options: Options,
    constants: Mapping[str, int],
    stop: Stop,
    screen: TableView | None,
    wiring: Mapping[str, Any],
) -> KernelSource | None:
    """Attach now, or as soon as overlayfs is in the kernel; None when the user gave up before."""
    begun, told = time.monotonic(), False
    while tracer.needs_overlay and not hookable(tracer.name):
        notice = "overlayfs is not loaded on this node yet; attaching when it appears"
        if screen is not None:
            screen.waiting(notice)
        elif not told:
            print(f"kubetrace: {notice}", file=sys.stderr, flush=True)
            told = True
        time.sleep(_WAIT_FOR_HOOK_S)
        if stop.asked or (options.duration_s is not None and time.monotonic() - begun >= options.duration_s):
            return None
    return attach_now(tracer, options, constants, wiring)
