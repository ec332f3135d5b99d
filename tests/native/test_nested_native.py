"""Containers in a container: their cgroups are beside the pods', and what runs in them descends from the pod's own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.cgroup_pods import Pod, remove_cgroup

from .conftest import DEADLINE_S, until

INNER = "d" * 64
# The outer container's entrypoint: a child that runs what the inner container does, as docker's shim would.
ENTRYPOINT = "sleep 300 & wait"


def who(*queries: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "kubetrace", "who", "-o", "json", *queries]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def pod() -> Iterator[Pod]:
    pod = Pod("build", "ci-0")
    try:
        yield pod
    finally:
        pod.remove()


def test_docker_in_a_pod_has_the_pods_names(pod: Pod) -> None:
    container = pod.container("dind")
    entrypoint = container.start("/bin/sh", "-c", ENTRYPOINT)
    inner = [f"{root}/docker/{INNER}" for root in pod.roots.values()]
    children = Path(f"/proc/{entrypoint.pid}/task/{entrypoint.pid}/children")
    try:
        until(
            lambda: Path(f"/proc/{entrypoint.pid}/cmdline").read_bytes().startswith(b"/bin/sh"), "it is the entrypoint"
        )
        until(lambda: children.read_text().split(), "its child is there")
        (child,) = children.read_text().split()
        for directory in inner:
            os.makedirs(directory)
            Path(directory, "cgroup.procs").write_text(child)
        for answer in who(f"pid:{child}", INNER):
            assert (answer["namespace"], answer["pod"], answer["container"]) == ("build", "ci-0", "dind")
            assert (answer["pod_uid"], answer["container_id"]) == (pod.uid, INNER)
            # its image is not the outer one's
            assert (answer["names_from"], answer["image"]) == ("ancestry", None)
            assert answer["cgroup_path"] == f"/docker/{INNER}"
        (outer,) = who(f"pid:{entrypoint.pid}")
        assert (outer["container_id"], outer["names_from"]) == (container.id, "config.json")
    finally:
        for pid in (*map(int, children.read_text().split()), entrypoint.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        entrypoint.wait()
        for directory in inner:
            if os.path.isdir(directory):
                remove_cgroup(directory)
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(directory))
