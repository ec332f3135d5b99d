"""kubetrace disk on a real kernel: deleted files that are open, by its iterator, in a container and on the node."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

import pytest

from tests.vm import cri, images

with open("/run/kubetrace-node.json") as file:
    PODS = json.load(file)["pods"]
HELD = "exec 7>/tmp/gone; head -c 300000 /dev/urandom >&7; rm /tmp/gone; sync; echo held; exec sleep 1000"


def parts(*options: str) -> list[dict[str, Any]]:
    command = ["kubetrace", "disk", "--once", "--budget", "90%", "-o", "json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [one for one in found if one.get("what") == "part"]


@pytest.mark.each_kernel
def test_deleted_files_that_are_open_are_told_by_the_iterator() -> None:
    node = cri.Node.connect()
    pod = node.run_pod("shop", "held-0")
    try:
        container = pod.start_container("app", images.BATCH, ["sh", "-c", HELD])
        while ("stdout", "held") not in container.log():
            time.sleep(0.05)
        path = "/var/lib/kubelet/held-by-a-test"
        with open(path, "wb") as own:
            own.write(os.urandom(500_000))
            own.flush()
            os.fsync(own.fileno())
            os.unlink(path)
            size = os.fstat(own.fileno()).st_blocks * 512
            held = {one["path"]: one for one in parts() if one["kind"] == "deleted, open"}
        assert {one["how"] for one in held.values()} == {"iterator"}
        # up to 5.10 each thread would be told
        assert (held[path]["used_bytes"], held[path]["users"], held[path]["pod"]) == (size, 1, None)
        assert f"[{os.getpid()}] fd " in held[path]["name"]
        found = held["/tmp/gone"]
        status = os.stat(f"/proc/{container.pid}/fd/7")
        assert (found["used_bytes"], status.st_nlink) == (status.st_blocks * 512, 0)
        assert (found["namespace"], found["pod"], found["container"]) == ("shop", "held-0", "app")
        writable = next(
            one for one in parts() if one["kind"] == "writable layer" and one["container_id"] == container.container_id
        )
        # it is in no walk
        assert writable["used_bytes"] < 300_000
    finally:
        pod.remove()


@pytest.mark.each_kernel
def test_layers_and_images_are_those_of_the_node() -> None:
    listed = subprocess.run(["kubetrace", "images", "-o", "json"], capture_output=True, text=True, check=True).stdout
    found = [json.loads(line) for line in listed.splitlines()]
    used = {(user["pod"], user["container"]) for image in found for user in image["used_by"]}
    assert {(pod["name"], container["name"]) for pod in PODS for container in pod["containers"]} <= used
    layers = sum(one["used_bytes"] for one in parts() if one["kind"] == "image layers")
    by_layer = subprocess.run(
        ["kubetrace", "images", "-o", "json", "--by", "layer"], capture_output=True, text=True, check=True
    ).stdout
    assert layers == sum(json.loads(line)["unpacked_bytes"] for line in by_layer.splitlines()) > 0
