"""KernelSource: a tracer's object in the kernel, as batches of records, losses and the births of cgroups."""

from __future__ import annotations

import os
import platform
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubetrace.engines import support
from kubetrace.engines.attached import Attached
from kubetrace.engines.counters import CounterMap
from kubetrace.engines.prototypes import placed
from kubetrace.stream.layout import Batch, Layout

if TYPE_CHECKING:
    from kubetrace.engines.ring import Ring
    from kubetrace.stream.steps import Joining

_PACKAGE = Path(__file__).parent.parent
_OBJECTS = _PACKAGE / "objects"
CGROUPS = "cgroups"


def object_path(tracer: str) -> Path:
    """The compiled object for this machine; KUBETRACE_OBJECTS names another directory (a developer's stand-in)."""
    directory = os.environ.get("KUBETRACE_OBJECTS")
    return (Path(directory) if directory else _OBJECTS / platform.machine()) / f"{tracer}.bpf.o"


def sources() -> Path:
    """The directory of bpf/: the checkout's, or what the wheel carries."""
    checkout = _PACKAGE.parent.parent / "bpf"
    return checkout if (checkout / "bcc.bpf.h").exists() else _OBJECTS / "bpf"


def source_path(tracer: str) -> Path:
    """What bcc compiles; KUBETRACE_SOURCES names another directory (a developer's stand-in)."""
    directory = os.environ.get("KUBETRACE_SOURCES")
    return (Path(directory) if directory else sources()) / f"{tracer}.bpf.c"


def engine_for(asked: str) -> str:
    """libbpf or bcc; `auto` takes bcc where libbpf cannot work and bcc can."""
    if asked != "auto":
        return asked
    if support.has_btf():
        return "libbpf"
    from kubetrace.engines.bcc.engine import package

    return "bcc" if package() else "libbpf"


def _load(tracer: str, engine: str, host_root: str | None, program: Path | None, **arguments: Any) -> Attached:
    # bcc's modules are imported when they are needed, and bcc itself by a process of its own.
    if engine_for(engine) == "bcc":
        from kubetrace.engines.bcc.engine import BccObject

        return BccObject(program or source_path(tracer), sources(), host_root=host_root, **arguments)
    from kubetrace.engines.libbpf import LoadedObject

    return LoadedObject(program or object_path(tracer), **arguments)


def hookable(tracer: str) -> bool:
    """Whether it makes sense to attach now: overlayfs is in the kernel. Otherwise wait and ask again."""
    return bool(os.environ.get("KUBETRACE_OBJECTS")) or support.overlay_loaded()


def joined(stream: str, ring: Ring, joiner: Joining) -> Batch:
    """All that a ring has, joined where it lies."""
    ring.feed(joiner.add)
    return Batch(stream, *joiner.take())


class KernelSource:
    """The running kernel as a source of batches; attached when made. Raises EngineError (see LoadedObject).

    `streams`: ring buffer or map of counters -> name of the struct of its records. The stream `cgroups` is always
    there. `engine` is auto, libbpf or bcc, which looks for the kernel's headers under `host_root`. `program` is the
    source (bcc) or object of a tracer that is none of ours. `places` are kit.tracer.Wiring's. The others are as for
    LoadedObject.
    """

    sees_births = True

    def __init__(
        self,
        tracer: str,
        streams: Mapping[str, str],
        *,
        constants: Mapping[str, int],
        optional: Mapping[str, str | None],
        unneeded: Collection[str] = (),
        sizes: Mapping[str, int] | None = None,
        places: Mapping[str, tuple[str, str]] | None = None,
        hook: str = "auto",
        engine: str = "auto",
        host_root: str | None = None,
        program: Path | None = None,
    ) -> None:
        """Load, attach and map the rings."""
        self.engine = engine_for(engine)
        self._loaded = _load(
            tracer,
            self.engine,
            host_root,
            program,
            constants={**constants, **placed(places or {})},
            hook=hook,
            optional=optional,
            unneeded=unneeded,
            sizes=sizes,
        )
        try:
            self.layouts: Mapping[str, Layout] = {
                stream: self._loaded.layout(event) for stream, event in {**streams, CGROUPS: "cgroup_event"}.items()
            }
            self._joiners: dict[str, Joining] = {}
            self._rings = {stream: self._loaded.stream(stream, layout.size) for stream, layout in self.layouts.items()}
            self._loss_kinds = [
                (name.removeprefix("kt_loss_"), index)
                for name, index in self._loaded.btf.enum("kt_loss").items()
                if name != "kt_loss_kinds"
            ]
        except BaseException:
            self._loaded.close()
            raise

    @property
    def hook(self) -> str:
        """How the tracer's programs are attached: fentry, kprobe, or both; a stand-in says raw_tp."""
        own = {hook for group, hook in self._loaded.hooks.items() if not group.startswith("cgroup_")}
        return "+".join(sorted(own))

    @property
    def missing(self) -> Mapping[str, str]:
        """Optional groups that could not be attached -> what is therefore not seen."""
        return self._loaded.missing

    @property
    def births_fd(self) -> int:
        """Readable (poll) as soon as a cgroup was made or removed."""
        return self._loaded.map_fd(CGROUPS)

    def wake_at_next(self) -> None:
        """Let the next record wake the reader of its ring, once."""
        self._loaded.update("asleep", bytes(4), b"\1\0\0\0")

    @property
    def ring_fds(self) -> list[int]:
        """Of all other rings: an edge-triggered poll wakes when one is half full, and after `wake_at_next`."""
        return [self._loaded.map_fd(stream) for stream in self._rings.keys() - self.counters - {CGROUPS}]

    def read(self, *streams: str) -> list[Batch]:
        """What has come since the last call, one batch for each stream that has something.

        Streams are read in the order given, and handed on in the opposite one: what explains counters is declared after
        them, so nothing is counted whose explanation is not there. Counters are read seldom enough to cost little.
        """
        found = []
        for stream in streams:
            ring = self._rings[stream]
            if isinstance(ring, CounterMap) and not ring.due:
                continue
            if stream in self._joiners and not isinstance(ring, CounterMap):
                batch = joined(stream, ring, self._joiners[stream])
            else:
                batch = Batch(stream, ring.read())
            if batch.data:
                found.append(batch)
        return found[::-1]

    def join(self, stream: str, joiner: Joining) -> None:
        """From now on, read this stream's records by `joiner`."""
        self._joiners[stream] = joiner

    @property
    def counters(self) -> frozenset[str]:
        """The streams that are snapshots of counters."""
        return frozenset(stream for stream, ring in self._rings.items() if isinstance(ring, CounterMap))

    def hurry(self) -> None:
        """Let the next read take in every counter, however lately they were read."""
        for ring in self._rings.values():
            if isinstance(ring, CounterMap):
                ring.hurry()

    def losses(self) -> dict[str, int]:
        """Kind of loss -> how often since the start: ring_full, map_full, missed_return, missed_run."""
        counts = self._loaded.per_cpu_sums("losses", [index for _, index in self._loss_kinds])
        return {kind: count for (kind, _), count in zip(self._loss_kinds, counts, strict=True)} | {
            "missed_run": self._loaded.missed_runs()
        }

    def iterate(self, group: str, event: str) -> list[Any] | None:
        """The records (struct `event`) of a group's iterator, as it finds them now; None where it is not attached."""
        try:
            data = self._loaded.iterate(group)
        except OSError:
            return None
        if data is None:
            return None
        layout = self._loaded.layout(event)
        whole = len(data) - len(data) % layout.size
        return list(map(layout.event_type._make, struct.iter_unpack(layout.format, data[:whole])))

    def time_runs(self) -> None:
        """Let the kernel measure the runs of BPF programs, until this is closed. Raises LoadRefused."""
        self._loaded.time_runs()

    def runs(self) -> dict[str, tuple[int, int]]:
        """Program -> (nanoseconds, runs) since `time_runs`."""
        return self._loaded.runs()

    def exclude(self, hierarchy: int, cgroup_id: int, *, excluded: bool = True) -> None:
        """Drop the events of a cgroup in the kernel from now on; or make room: it is gone.

        A full filter drops less, never more.
        """
        key = struct.pack("<QQ", cgroup_id, hierarchy)
        if excluded:
            self._loaded.update("excluded_cgroups", key, b"\1")
        else:
            self._loaded.delete("excluded_cgroups", key)

    def store(self, name: str, key: bytes, value: bytes) -> None:
        """Store an entry in one of the tracer's maps; where it is full, what it says stays unsaid."""
        self._loaded.update(name, key, value)

    def close(self) -> None:
        """Detach."""
        self._loaded.close()
