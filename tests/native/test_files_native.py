"""files on this machine's kernel: its verifier takes every kprobe program, and its prototypes are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from kubetrace.engines.libbpf import LoadedObject
from kubetrace.engines.library import library
from kubetrace.engines.prototypes import placed, prototypes
from kubetrace.engines.source import object_path
from kubetrace.errors import UsageError
from kubetrace.node.host import Host
from kubetrace.tracers import find

TRACER = find("files")


def load(options: Mapping[str, object], by: str, **constants: int) -> LoadedObject:
    wiring = TRACER.wiring(options, by, False, Host(Path("/")))
    return LoadedObject(
        object_path("files"),
        hook="kprobe",
        optional=TRACER.optional,
        constants={**wiring.constants, **placed(wiring.places), **constants},
        sizes=wiring.sizes,
        unneeded=wiring.unneeded,
        attach=False,
    )


@pytest.mark.parametrize(
    ("by", "constants"),
    [
        ("destination", {}),
        ("directory", {"filter_by_cgroup": 1, "memory_on_v1": 1}),
        ("process", {"node_mount_namespace": 5}),
    ],
)
def test_the_verifier_accepts_every_kprobe_program(by: str, constants: Mapping[str, int]) -> None:
    with load({}, by, **constants) as loaded:
        assert loaded.missing == {}


def test_what_is_not_asked_for_is_not_in_the_kernel() -> None:
    with load({"only": "create, stat"}, "destination") as loaded:
        fds = {p.name: library().bpf_program__fd(p.pointer) for p in loaded._programs()}
    groups = {name.partition("__")[0].removesuffix("_backup") for name, fd in fds.items() if fd >= 0}
    assert groups == {"cgroup_mkdir", "cgroup_rmdir", "open", "create", "create_begin", "stat", "stat_begin"}


def test_events_are_refused_with_what_to_do_instead() -> None:
    with pytest.raises(UsageError, match="tells no single operation"):
        TRACER.wiring({}, "destination", True, Host(Path("/")))


def test_arguments_are_where_the_kernels_btf_has_them() -> None:
    known = prototypes(["vfs_symlink", "security_inode_rmdir", "no_such_function"])
    assert known["security_inode_rmdir"] == {"dir": 0, "dentry": 1, "return": 2, "*": 0}
    symlink = known["vfs_symlink"]
    assert symlink["dentry"] == symlink["dir"] + 1 < symlink["oldname"] < symlink["return"]
    assert "no_such_function" not in known
    assert placed({"one": ("no_such_function", "dir"), "two": ("security_inode_rmdir", "dentry")}) == {"two": 1}
    assert prototypes(["bpf_get_current_task_btf", "d_path"])["d_path"]["*"] == 1
