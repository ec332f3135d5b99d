"""reads on this machine's kernel: its verifier takes every kprobe program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from kubetrace.engines.libbpf import LoadedObject
from kubetrace.engines.source import object_path
from kubetrace.node.host import Host
from kubetrace.tracers import find

TRACER = find("reads")


@pytest.mark.parametrize(
    ("options", "by", "more"),
    [
        ({}, "file", {}),
        ({"configmaps": True}, "process", {"filter_by_cgroup": 1, "memory_on_v1": 1}),
        ({"volume": "settings"}, "volume", {"node_mount_namespace": 5}),
    ],
)
def test_the_verifier_accepts_every_kprobe_program(
    options: Mapping[str, object], by: str, more: Mapping[str, int]
) -> None:
    wiring = TRACER.wiring(options, by, False, Host(Path("/")))
    with LoadedObject(
        object_path("reads"),
        hook="kprobe",
        optional=TRACER.optional,
        constants={**TRACER.constants(options), **wiring.constants, **more},
        unneeded=wiring.unneeded,
        attach=False,
    ) as loaded:
        assert set(loaded.missing) <= {"splice", "splice_begin"}
