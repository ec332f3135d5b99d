"""A tracer without its programs in the kernel: what it reads off the node's files is all that there is."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from ctypes import c_uint32
from typing import TYPE_CHECKING

from kubetrace.engines.btf import Btf
from kubetrace.engines.library import library
from kubetrace.engines.source import CGROUPS, object_path
from kubetrace.errors import LibraryMissing

if TYPE_CHECKING:
    from kubetrace.stream.layout import Batch, Layout
    from kubetrace.stream.steps import Joining


class Unhooked:
    """Takes the place of engines.source.KernelSource, whose words these are; needs no right but that to read files.

    The object is read for the layouts of its records, and not loaded. Raises LibraryMissing where it is not there.
    """

    sees_births = False
    engine = "none"
    hook = "none"

    def __init__(self, tracer: str, streams: Mapping[str, str], *, missing: str) -> None:
        """`missing`: what is not seen without programs."""
        path = object_path(tracer)
        loaded = library()
        found = loaded.btf__parse(os.fsencode(path), None)
        if not found:
            raise LibraryMissing(
                f"the compiled object {path.name} cannot be read.",
                do="python3 scripts/compile_objects.py",
                check="tracers",
            )
        size = c_uint32()
        btf = Btf(ctypes.string_at(loaded.btf__raw_data(found, ctypes.byref(size)), size.value))
        loaded.btf__free(found)
        self.layouts: Mapping[str, Layout] = {
            stream: btf.layout(event) for stream, event in {**streams, CGROUPS: "cgroup_event"}.items()
        }
        self.missing: Mapping[str, str] = {"programs": missing}
        self.counters: frozenset[str] = frozenset()
        self.ring_fds: Sequence[int] = ()
        # never readable
        self.births_fd = os.eventfd(0, os.EFD_CLOEXEC)

    def read(self, *_streams: str) -> list[Batch]:
        """Nothing."""
        return []

    def wake_at_next(self) -> None:
        """Nothing comes."""

    def hurry(self) -> None:
        """There are no counters."""

    def join(self, stream: str, joiner: Joining) -> None:
        """There are no records."""

    def losses(self) -> dict[str, int]:
        """Nothing can be lost."""
        return {}

    def iterate(self, _group: str, _event: str) -> None:
        """No iterator is attached."""

    def time_runs(self) -> None:
        """No program runs."""

    def runs(self) -> dict[str, tuple[int, int]]:
        """None."""
        return {}

    def exclude(self, hierarchy: int, cgroup_id: int, *, excluded: bool = True) -> None:
        """There are no events."""

    def store(self, name: str, key: bytes, value: bytes) -> None:
        """There are no maps."""

    def close(self) -> None:
        """Harmless when called twice."""
        if self.births_fd >= 0:
            os.close(self.births_fd)
            self.births_fd = -1
