"""From tracers and what was asked for to an attachment: their programs in the kernel, and the node around them."""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from kubetrace.attribution.selection import Selection
from kubetrace.attribution.whose import Attribution
from kubetrace.errors import KubetraceError, UsageError
from kubetrace.kit.context import Context

if TYPE_CHECKING:
    from kubetrace.engines.source import KernelSource
    from kubetrace.engines.unhooked import Unhooked
    from kubetrace.kit.tracer import Tracer
    from kubetrace.node.host import Host
    from kubetrace.recording.header import Header
    from kubetrace.session.options import Attach
    from kubetrace.stream.live import Gauges, LiveSource

_WAIT_FOR_HOOK_S = 0.5
_WAITING = "overlayfs is not loaded on this node yet; attaching when it appears"


class Attachment:
    """One or several tracers in the kernel and the node's files around them, for one run.

    It is made in three steps, as a run may have to wait or to say something between them: here, `attach`, `open`; and
    closed in one.
    """

    def __init__(
        self, tracers: Sequence[Tracer], asked: Attach, *, host: Host | None = None, by: str = "", events: bool = False
    ) -> None:
        """Nothing is attached yet. `by` is the grouping that counters begin with; `events`: each is told.

        Raises UsageError for options that make no sense, and KubetraceError where the node is not found.
        """
        from kubetrace.node.host import Host

        self._asked, self._by, self._events = asked, by, events
        self._constants = {tracer.name: tracer.constants(asked.own) for tracer in tracers}
        self.tracers = [tracer.with_options(asked.own) for tracer in tracers]
        self.host = host if host is not None else Host.find(asked.host_root)
        self.context = Context(
            self.host.node_name(), self.host.boot_to_wall_ns(), Attribution(asked.selection, self._exclude)
        )
        self.kernels: dict[str, KernelSource | Unhooked] = {}
        self._gauges: dict[str, Gauges] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """To be closed at the end."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Detach."""
        self.close()

    @property
    def waits(self) -> bool:
        """Whether there is nothing to attach to before overlayfs is in the kernel."""
        if not any(tracer.needs_overlay for tracer in self.tracers):
            return False
        from kubetrace.engines.source import hookable

        return not all(hookable(tracer.name) for tracer in self.tracers if tracer.needs_overlay)

    def attach(
        self,
        modules: Sequence[str] = (),
        ring_bytes: int | None = None,
        without: Callable[[Tracer, KubetraceError], None] | None = None,
    ) -> None:
        """Load and attach every tracer; `modules` are imported while the kernel verifies the programs.

        `ring_bytes`: for the main ring of each tracer whose events come by one. `without` is told which tracer cannot
        be attached, and why: the others go on, unless there is none. Raises KubetraceError.
        """
        meanwhile = threading.Thread(target=lambda: [importlib.import_module(name) for name in modules])
        meanwhile.start()
        try:
            for tracer in list(self.tracers):
                try:
                    kernel = self._attached(tracer, ring_bytes)
                except KubetraceError as error:
                    if without is None or self.tracers == [tracer]:
                        raise
                    self.tracers.remove(tracer)
                    without(tracer, error)
                    continue
                self._stack.callback(kernel.close)
                self.kernels[tracer.name] = kernel
        finally:
            meanwhile.join()

    def _attached(self, tracer: Tracer, ring_bytes: int | None) -> KernelSource | Unhooked:
        from kubetrace.engines.source import KernelSource

        asked = self._asked
        if asked.hook == "none":
            from kubetrace.engines.unhooked import Unhooked

            if not tracer.unhooked:
                from kubetrace.tracers import find, names

                others = [name for name in names() if find(name).unhooked]
                raise UsageError(
                    f"--hook none: {tracer.name} shows nothing without programs in the kernel.",
                    do=" or ".join(f"kubetrace {name} --hook none" for name in others),
                )
            return Unhooked(tracer.name, {**tracer.streams, **tracer.overlays}, missing=tracer.unhooked)
        wiring = tracer.wiring(asked.own, self._by, self._events, self.host)
        if ring_bytes is not None and tracer.streams and tracer.table != "counted":
            wiring = replace(wiring, sizes={**wiring.sizes, next(iter(tracer.streams)): ring_bytes})
        # also for our own container: see `open`
        filtered = int(bool(asked.selection) or bool(self.host.own_cgroups()))
        return KernelSource(
            tracer.name,
            {**tracer.streams, **tracer.overlays},
            constants={**self._constants[tracer.name], **wiring.constants, "filter_by_cgroup": filtered},
            optional=tracer.optional,
            hook=asked.hook,
            engine=asked.engine,
            host_root=asked.host_root,
            program=asked.program,
            sizes=wiring.sizes,
            unneeded=wiring.unneeded,
            places=wiring.places,
        )

    def open(self, *, interval_s: float = 1.0, all_layers: bool = False, labels: bool = False) -> LiveSource:
        """The source of steps; not started yet. The words are those of stream.live.LiveSource.

        `labels`: those of pods become known too, though nobody asks for them now.

        From here on this process's own container is left out, as what it writes says nothing of the node.
        """
        from kubetrace.errors import NodeError
        from kubetrace.node import containerd
        from kubetrace.node.survey import Node
        from kubetrace.stream.live import LiveSource

        if self._asked.selection.by_labels and not containerd.have_labels(self.host):
            raise NodeError(
                "the labels of this node's pods are not known.",
                why="containerd's metadata and CRI-O's bundles have them, and neither was found on this node.",
                do="-n and -p instead of -l",
                check="runtime",
            )
        files = Node(self.host, cri_socket=self._asked.cri_socket, labels=labels or self._asked.selection.by_labels)
        self._stack.callback(files.close)
        for tracer in self.tracers:
            kernel = self.kernels[tracer.name]
            for hierarchy, number in self.host.own_cgroups():
                kernel.exclude(hierarchy, number)
            tracer.prepare(kernel.store, files)
            if (gauges := tracer.gauges(self.host, kernel)) is not None:
                self._gauges[tracer.name] = gauges
                self._stack.callback(gauges.close)
        source = LiveSource(
            self.kernels,
            files,
            self._gauges,
            interval_s=interval_s,
            all_layers=all_layers,
            overlays={tracer.name: list(tracer.overlays) for tracer in self.tracers},
        )
        self._stack.callback(source.close)
        return source

    def _exclude(self, hierarchy: int, cgroup_id: int, *, excluded: bool = True) -> None:
        for kernel in self.kernels.values():
            kernel.exclude(hierarchy, cgroup_id, excluded=excluded)

    def missing(self, tracer: Tracer) -> tuple[str, ...]:
        """What is not seen, a text for each group of programs that could not be attached; some are empty."""
        return tuple(self.kernels[tracer.name].missing.values())

    def notices(self, tracer: Tracer) -> list[str]:
        """What is not seen, each once, for the user."""
        return [what for what in dict.fromkeys((*self.missing(tracer), *unseen(tracer, self.host))) if what]

    def header(self) -> Header:
        """What a recording of this run says of itself; after `open`."""
        from kubetrace.recording.header import Header, Stream, Traced

        number, traced = 0, []
        for tracer in self.tracers:
            kernel, streams = self.kernels[tracer.name], []
            layouts = {name: kernel.layouts[name] for name in tracer.streams}
            if tracer.name in self._gauges:
                layouts |= self._gauges[tracer.name].layouts
            for name, layout in layouts.items():
                number += 1
                streams.append(Stream(number, name, layout))
            traced.append(
                Traced(
                    tracer.name,
                    kernel.hook,
                    self.missing(tracer),
                    self._asked.selection.texts() if isinstance(self._asked.selection, Selection) else {},
                    self._texts(tracer),
                    tuple(streams),
                )
            )
        return Header(self.context.node, self.host.kernel_release(), self.context.offset_ns, tuple(traced))

    def _texts(self, tracer: Tracer) -> dict[str, str]:
        texts = _texts(tracer, self._asked.own)
        by = self._by if self._by in tracer.groupings else next(iter(tracer.groupings))
        # what the kernel was asked to tell apart
        return texts | ({"by": by} if len(tracer.others(by)) < len(tracer.groupings) else {})

    def close(self) -> None:
        """Detach, and close the node's files."""
        self._stack.close()


def unseen(tracer: Tracer, host: Host) -> list[str]:
    """What a tracer of overlayfs does not see on this node: containers whose roots are none."""
    if not tracer.needs_overlay:
        return []
    from kubetrace.node.roots import described, other_roots

    roots = other_roots(host)
    why = "what fuse copies up is not seen" if any("fuse" in name for name in roots) else "nothing is copied up there"
    return [f"{described(roots)}: {why}"] if roots else []


def _texts(tracer: Tracer, own: Mapping[str, object]) -> dict[str, str]:
    names = {option.name for option in tracer.options()}
    return {name: str(value) for name, value in own.items() if value is not None and name in names}


def wait_for_overlay(
    attachment: Attachment, tell: Callable[[str], None], stop: Callable[[], bool], duration_s: float | None
) -> bool:
    """Until there is something to attach to; False when the user gave up before, or the duration was over.

    `tell` is called with a notice every half second.
    """
    begun = time.monotonic()
    while attachment.waits:
        tell(_WAITING)
        time.sleep(_WAIT_FOR_HOOK_S)
        if stop() or (duration_s is not None and time.monotonic() - begun >= duration_s):
            return False
    return True
