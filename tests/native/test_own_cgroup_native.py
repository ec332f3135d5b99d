"""A tracer in a container finds its own cgroup, to leave it out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.vm.cgroup_pods import Container, Pod

_OWN = (
    "import json, pathlib, sys\n"
    "from kubetrace.node.host import Host\n"
    "print(json.dumps(Host(pathlib.Path(sys.argv[1])).own_cgroups()))"
)


@pytest.fixture
def container() -> Iterator[Container]:
    pod = Pod(only=("unified",))
    yield pod.container("app")
    pod.remove()


def own_cgroups(*before: str, root: str = "/") -> list[list[int]]:
    """What a process finds that is started through these words."""
    command = [*before, sys.executable, "-c", _OWN, root]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[list[int]] = json.loads(done.stdout)
    return found


def entering(container: Container, script: str = "") -> list[str]:
    (directory,) = container.directories
    return ["sh", "-c", f'echo 0 > {directory}/cgroup.procs && {script} exec "$@"', "sh"]


def test_on_the_node_itself_there_is_none() -> None:
    assert own_cgroups() == []


def test_a_container_finds_its_own_by_the_path(container: Container) -> None:
    assert own_cgroups(*entering(container)) == [[0, os.stat(container.directories[0]).st_ino]]


def test_in_a_cgroup_namespace_it_is_the_root_of_what_is_seen(container: Container) -> None:
    mount_point = container.pod.roots["unified"]
    again = f'umount -l {mount_point} && mount -t cgroup2 none {mount_point} && exec "$@"'
    before = [*entering(container), "unshare", "--cgroup", "--mount", "sh", "-c", again, "sh"]
    found = own_cgroups(*before, root=f"/proc/{os.getpid()}/root")
    assert found == [[0, os.stat(container.directories[0]).st_ino]]
