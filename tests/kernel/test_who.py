"""kubetrace who on a live node: every kind of query about every container gives what the node was made with."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.vm import cri

# Not batch-0: test_cgroups.py kills its worker, which ran before any tracer.
with open("/run/kubetrace-node.json") as file:
    PODS = [pod for pod in json.load(file)["pods"] if pod["name"] != "batch-0"]
CONTAINERS = [(pod, container) for pod in PODS for container in pod["containers"]]


def who(*queries: str) -> list[dict[str, object]]:
    done = subprocess.run(["kubetrace", "who", "-o", "json", *queries], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("pod", "container"), CONTAINERS, ids=[f"{p['name']}-{c['name']}" for p, c in CONTAINERS])
@pytest.mark.each_cgroup_mode
def test_every_kind_of_query_names_the_container(pod: dict[str, str], container: dict[str, str]) -> None:
    upper = container["upperdir"]
    snapshot = os.path.basename(os.path.dirname(upper))
    queries = [
        f"cgroup:{container['cgroup_id']}",
        f"pid:{container['pid']}",
        container["container_id"],
        container["container_id"][:13],
        f"{upper}/app",
        f"snapshot:{snapshot}",
        container["rootfs"],
        f"/proc/{container['pid']}/root/app",
    ]
    answers = who(*queries)
    # each answer repeats its query so that it asks for just this one: a prefix is completed
    queries[3] = container["container_id"]
    assert [answer["query"] for answer in answers] == queries
    for answer in answers:
        assert {
            "namespace": pod["namespace"],
            "pod": pod["name"],
            "pod_uid": pod["uid"],
            "container": container["name"],
            "container_id": container["container_id"],
            "node": os.uname().nodename,
        }.items() <= answer.items()


@pytest.mark.one_kernel
def test_it_needs_no_live_containerd(node: cri.Node) -> None:
    pod, container = CONTAINERS[0]
    node.stop_containerd()
    try:
        (answer,) = who(container["container_id"])
    finally:
        node.start_containerd()
    assert (answer["pod"], answer["container"]) == (pod["name"], container["name"])


@pytest.mark.one_kernel
def test_nothing_found_is_a_clear_error() -> None:
    done = subprocess.run(["kubetrace", "who", "cgroup:999999999"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ") and "999999999" in done.stderr and "Traceback" not in done.stderr
