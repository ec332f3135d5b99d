"""What a recording knows of a pod, against what the live run printed of it and what was written into it by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kubetrace.attribution.facts import ContainerSeen, Fact, LabelsSeen, LayerSeen, MountSeen, OverlaySeen
from kubetrace.attribution.facts import ImageSeen as Image
from kubetrace.recording.reader import Recording
from kubetrace.session.recorded_pod import meant, recorded_pods
from kubetrace.stream.steps import Step, Tick
from tests.unit.recordings import HEADER, record

RECORDINGS = Path(__file__).parents[2] / "recordings"
UID = "5f3b9a52-7d1c-4f6e-9d55-1f0f2f8f4c11"
APP, OLD = "a" * 64, "b" * 64


def run(*arguments: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "kubetrace", "pod", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["copyup", "cgroups", "starts"])
def test_containers_and_events_are_those_of_the_live_run(name: str) -> None:
    file = RECORDINGS / f"{name}-1.ktrace"
    printed = [json.loads(line) for line in file.with_suffix(".jsonl").read_text().splitlines()]
    told = [one for one in printed if one.get("pod_uid") and one.get("container_id")]
    with Recording(file) as recording:
        pods = recorded_pods(recording)
    for uid in {one["pod_uid"] for one in told}:
        (pod,) = meant(pods, uid)
        names = {(one["container_id"], one["container"]) for one in told if one["pod_uid"] == uid}
        assert {(one.container_id, one.container) for one in pod.containers.values()} >= names
        live = Counter(one["container_id"] for one in told if one["pod_uid"] == uid)
        if name == "copyup":
            # an event is a line there; other tracers conclude several from one record, or one from several
            assert {one.container_id: one.events["copyup"] for one in pod.containers.values() if one.events} == live
        assert {(one["namespace"], one["pod"]) for one in told if one["pod_uid"] == uid} == {(pod.namespace, pod.pod)}


def written(path: Path) -> Path:
    def seen(container_id: str, name: str | None, **more: Any) -> ContainerSeen:
        given: dict[str, Any] = {
            "kind": "container",
            "namespace": "shop",
            "pod": "web-0",
            "container": name,
            "pod_uid": UID,
            "image": "registry.example/web:1",
            "sandbox_id": None,
            "source": "config.json",
            "time_ns": 1,
            **more,
        }
        return ContainerSeen(container_id, **given)

    base = f"/var/lib/kubelet/pods/{UID}"
    facts: list[Fact] = [
        seen(APP, "app"),
        # another source knows less, and takes nothing away
        seen(APP, None, image=None, source="log links", time_ns=2),
        seen(OLD, "\x1b[2Jevil"),
        LabelsSeen(UID, ("app=web", "tier=front"), 1),
        OverlaySeen(0x300007, APP, "/run/x/rootfs", "/s/9/fs", "/s/9/work", ("/s/2/fs", "/s/1/fs"), 1),
        LayerSeen("/s/1/fs", "1", "sha256:" + "1" * 64, None, 1),
        LayerSeen("/s/2/fs", "2", None, "its metadata is gone", 1),
        Image("sha256:" + "9" * 64, ("registry.example/web:1",), ("sha256:" + "1" * 64,), ("COPY app /app",), None, 1),
        MountSeen(5, "/", f"{base}/volumes/kubernetes.io~secret/creds", "tmpfs", "tmpfs", 1),
        MountSeen(6, "/", f"{base}/volumes/broken", "tmpfs", "tmpfs", 1),
        MountSeen(7, "/", "/var/lib/kubelet/pods/other/volumes/kubernetes.io~secret/creds", "tmpfs", "tmpfs", 1),
    ]
    record(path, [Step(facts, [], {}, Tick(1_000_000_000, 10, 20))], HEADER)
    return path


def test_what_was_learned_of_a_pod_is_told(tmp_path: Path) -> None:
    file = written(tmp_path / "a.ktrace")
    code, out, err = run("shop/web-0", "--from", file, "-o", "json")
    assert (code, err) == (0, "")
    pod = json.loads(out)
    assert (pod["pod_uid"], pod["labels"], pod["node"]) == (UID, {"app": "web", "tier": "front"}, HEADER.node)
    app, _ = pod["containers"]
    assert (app["container"], app["image"], app["writable"]) == ("app", "registry.example/web:1", {"path": "/s/9/fs"})
    assert app["layers"] == [
        {"layer": 1, "directory": "/s/1/fs", "created_by": "COPY app /app"},
        {"layer": 2, "directory": "/s/2/fs", "created_by": None},
    ]
    (volume,) = pod["volumes"]
    assert (volume["name"], volume["kind"], volume["fstype"]) == ("creds", "kubernetes.io~secret", "tmpfs")
    shown = run("shop/web-0", "--from", file)[1]
    assert "\x1b" not in shown
    for said in ("container app", "1 of 2  COPY app /app  /s/1/fs", "creds  secret  tmpfs", "app=web, tier=front"):
        assert said in shown


@pytest.mark.parametrize("query", ["shop/web-0", "web-0", UID, "aaaaaa"])
def test_a_pod_is_meant_by_its_name_its_uid_or_a_container(tmp_path: Path, query: str) -> None:
    with Recording(written(tmp_path / "a.ktrace")) as recording:
        assert [pod.pod_uid for pod in meant(recorded_pods(recording), query)] == [UID]


def test_what_the_recording_does_not_know_is_said(tmp_path: Path) -> None:
    file = written(tmp_path / "a.ktrace")
    for query in ("shop/web-1", "aaa", "jobs/web-0"):
        code, out, err = run(query, "--from", file)
        assert code == 1 and not out and f"No pod of this recording is known as '{query}'" in err
    code, _, err = run("shop/web-0", "--from", tmp_path / "none.ktrace")
    assert code != 0 and "none.ktrace" in err
