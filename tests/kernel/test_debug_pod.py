"""kubetrace's own image in the pods that `kubectl debug node` makes, with each of its profiles.

Needs scripts/vm --image. What a profile gives a pod is written here by hand from kubectl's own source
(pkg/cmd/debug/profiles.go, the node style; debug.go, generateNodeDebugPod), and handed to the runtime as the kubelet
does. baseline and restricted would have a network namespace of their own, for which the guest has no CNI.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import kubetrace
from tests.vm import cri, images

IMAGE = f"registry.example/kubetrace:{kubetrace.__version__}"
DEADLINE_S = 240
REMEDY = "Try:  kubectl debug node/NODE -it --profile=sysadmin --image=IMAGE -- kubetrace copyup -n shop"
ENVIRONMENT = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
TOKEN = cri.Volume(
    "secret", "kube-api-access-x7x2k", "/var/run/secrets/kubernetes.io/serviceaccount", files={"token": "eyJhbGci"}
)
ROOT = cri.Volume("host-path", "host-root", "/host", host_path="/")


@dataclass(frozen=True)
class Profile:
    """What a profile sets in the pod of a node."""

    host_root: bool = False
    host_namespaces: bool = False
    security: cri.Security = field(default_factory=cri.Security)


# runAsNonRoot is the kubelet's to check (test_the_kubelet_refuses_...); a user has to be given for it to pass.
PROFILES = {
    "legacy": Profile(host_root=True, host_namespaces=True),
    "general": Profile(host_root=True, host_namespaces=True),
    "baseline": Profile(),
    "restricted": Profile(security=cri.Security(drop=("ALL",), user=65532, no_new_privileges=True, seccomp=True)),
    "netadmin": Profile(host_namespaces=True, security=cri.Security(add=("NET_ADMIN", "NET_RAW"))),
    "sysadmin": Profile(host_root=True, host_namespaces=True, security=cri.Security(privileged=True)),
}


def debug(node: cri.Node, profile: str, *command: str) -> cri.Container:
    """`kubectl debug node/NODE --profile=PROFILE --image=IMAGE -- COMMAND`."""
    given = PROFILES[profile]
    pod = node.run_pod(
        "default",
        f"node-debugger-{os.uname().nodename}-{profile[:5]}",
        qos="besteffort",
        labels={"app.kubernetes.io/managed-by": "kubectl-debug"},
        volumes=[TOKEN, *([ROOT] if given.host_root else [])],
        host_namespaces=given.host_namespaces,
        privileged=given.security.privileged,
    )
    return pod.start_container("debugger", IMAGE, command, env=ENVIRONMENT, security=given.security)


def wait_until(done: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def output(container: cri.Container) -> list[dict[str, Any]]:
    return [json.loads(text) for stream, text in container.log() if stream == "stdout"]


@pytest.fixture(scope="module", autouse=True)
def image(node: cri.Node) -> None:
    tar = os.environ.get("KUBETRACE_IMAGE")
    assert tar, "the machine was started without the image: scripts/vm --image ..."
    command = ["ctr", "-n", "k8s.io", "images", "import", tar]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- the profiles that may not load BPF ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refused(node: cri.Node) -> dict[str, tuple[int, list[str], list[str]]]:
    """Profile -> exit code, lines of stderr, files in the writable layer; all at once, to save time.

    Profiles that make the same pod (legacy and general) are run once.
    """
    alike = {given: name for name, given in PROFILES.items() if name != "sysadmin"}
    profiles = list(alike.values())

    def run(profile: str) -> tuple[int, list[str], list[str]]:
        container = debug(node, profile, "kubetrace", "copyup", "-n", "shop")
        upper = container.upperdir
        code = container.wait(DEADLINE_S)
        written = [name for _, _, names in os.walk(upper) for name in names]
        lines = [text for stream, text in container.log() if stream == "stderr"]
        container.pod.remove()
        return code, lines, written

    with ThreadPoolExecutor(len(profiles)) as pool:
        found = dict(zip(profiles, pool.map(run, profiles), strict=True))
    return {name: found[alike[given]] for name, given in PROFILES.items() if name != "sysadmin"}


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "sysadmin"])
@pytest.mark.one_kernel(full=("6.1",))
def test_another_profile_says_what_is_missing_and_what_works(
    profile: str, refused: dict[str, tuple[int, list[str], list[str]]]
) -> None:
    code, lines, written = refused[profile]
    assert code == 1
    assert lines[:2] == ["Error: this pod lacks CAP_BPF and CAP_PERFMON: it may not load BPF programs.", REMEDY]
    assert written == []


@pytest.mark.one_kernel(full=("6.1",))
def test_the_kubelet_refuses_the_image_where_root_is_not_allowed(node: cri.Node) -> None:
    # pkg/kubelet/kuberuntime/security_context_others.go, verifyRunAsNonRoot: no user, or 0, is root
    found = node.image(IMAGE)
    assert (found.uid.value, found.username) == (0, "")


# -- sysadmin --------------------------------------------------------------------------------------------------------


@dataclass
class Session:
    """A debug pod that shows copy-ups, and a pod that was made after it."""

    debugger: cri.Container
    late: cri.Container

    def kubetrace(self, *arguments: str) -> list[dict[str, Any]]:
        """Another command in the debug pod, as from its shell."""
        out, err, code = self.debugger.exec(["kubetrace", *arguments], DEADLINE_S)
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def session(node: cri.Node) -> Iterator[Session]:
    # hostIPC: /dev/shm is the node's
    ready = Path("/dev/shm/ready")
    ready.unlink(missing_ok=True)
    debugger = debug(node, "sysadmin", "kubetrace", "copyup", "-o", "json", "--ready-file", str(ready))
    wait_until(lambda: ready.exists() or debugger.ended, debugger.log)
    assert ready.exists(), debugger.log()
    secret = cri.Volume("secret", "token", "/etc/token", files={"password": "hunter2\n"})
    pod = node.run_pod("shop", "late-0", volumes=[secret])
    yield Session(debugger, pod.start_container("app", images.WEB, ["sh", "-c", "exec sleep infinity"]))
    # as Ctrl-C does
    os.kill(debugger.pid, signal.SIGINT)
    assert debugger.wait(DEADLINE_S) == 0
    assert output(debugger)[-1]["type"] == "summary"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda made: made.remove(), [pod, debugger.pod]))


@pytest.mark.one_kernel(full=("6.1",))
def test_a_copy_up_of_another_pod_is_shown_with_its_names(session: Session) -> None:
    out, err, code = session.late.exec(["sh", "-c", "echo level=4 >> /app/hundred-kib"])
    assert code == 0, (out, err)
    wait_until(lambda: any(o.get("path") == "/app/hundred-kib" for o in output(session.debugger)), session.debugger.log)
    (event,) = (o for o in output(session.debugger) if o.get("path") == "/app/hundred-kib")
    expected = {
        "node": os.uname().nodename,
        "namespace": "shop",
        "pod": "late-0",
        "pod_uid": session.late.pod.uid,
        "container": "app",
        "container_id": session.late.container_id,
        "image": images.WEB,
        "trigger": "open-write",
        "copied_bytes": os.stat(f"{session.late.upperdir}/app/hundred-kib").st_size - len("level=4\n"),
    }
    assert {key: event.get(key) for key in expected} == expected
    assert images.APP_LINE.startswith(event["created_by"]), event


@pytest.mark.one_kernel(full=("6.1",))
def test_who_sees_mounts_that_are_newer_than_the_pod(session: Session) -> None:
    late = session.late
    queries = [late.container_id, f"pid:{late.pid}", f"cgroup:{late.cgroup_id}", late.rootfs]
    # a tmpfs: only its device tells whose it is
    queries.append(f"{late.pod.volumes[0].directory(late.pod.uid)}/password")
    assert not os.path.exists(f"/proc/{session.debugger.pid}/root/host{queries[-1]}"), "/host has it after all"
    answers = session.kubetrace("who", "-o", "json", *queries)
    assert [(a["query"], a["namespace"], a["pod"]) for a in answers] == [(q, "shop", "late-0") for q in queries]


@pytest.mark.one_kernel(full=("6.1",))
def test_what_ran_so_far_wrote_nothing_to_the_nodes_disk(session: Session) -> None:
    upper = session.debugger.upperdir
    assert [f"{where}/{name}" for where, _, names in os.walk(upper) for name in names] == []


@pytest.mark.one_kernel(full=("6.1",))
def test_a_recording_holds_all_tracers_and_not_the_recorder(session: Session, tmp_path: Path) -> None:
    ready, file = Path("/dev/shm/recording"), Path(f"{session.debugger.upperdir}/tmp/node.ktrace")
    ready.unlink(missing_ok=True)
    command = ["kubetrace", "record", "copyup", "writes", "cgroups", "/tmp/node.ktrace"]
    command += ["--hook", "kprobe", "--ready-file", str(ready)]
    done: list[tuple[str, str, int]] = []
    recorder = threading.Thread(target=lambda: done.append(session.debugger.exec(command, 2 * DEADLINE_S)))
    recorder.start()
    wait_until(lambda: ready.exists() or bool(done), lambda: done)
    assert not done
    # the pod's /sys/kernel/tracing is empty, and yet the probes with many instances are made
    assert re.search(rf":kubetrace_\d+_{process('record')}_", kprobe_events(tmp_path))
    out, err, code = session.late.exec(
        ["sh", "-c", "dd if=/dev/zero of=/app/new bs=4099 count=23; touch /app/one-mib; seq 9 > /tmp/x"]
    )
    assert code == 0, (out, err)
    # a second of frames of its own, written to its own writable layer
    size = file.stat().st_size
    wait_until(lambda: file.stat().st_size > size, lambda: file.stat().st_size)
    os.kill(process("record"), signal.SIGINT)
    recorder.join(DEADLINE_S)
    (code,) = {code for _, _, code in done}
    assert code == 0, done
    copied = replay("copyup", file, "--by", "file")
    assert ("late-0", "app", "/app/one-mib") in {(o["pod"], o["container"], o["path"]) for o in copied if "path" in o}
    written = [o for o in replay("writes", file, "--by", "destination") if o["type"] == "writes"]
    late = {o["destination_kind"]: o["bytes_total"] for o in written if o["pod"] == "late-0"}
    assert late["writable layer"] >= 23 * 4099
    # the runtime's log of what another kubetrace printed there is the node's, and shown
    own = [o for o in written if o["container_id"] == session.debugger.container_id]
    assert {o["destination_kind"] for o in own} <= {"container log"}, own
    executed = [o for o in replay("cgroups", file) if o.get("pod") == "late-0"]
    assert "exec" in {o["event"] for o in executed}, executed[:3]


def replay(tracer: str, file: Path, *options: str) -> list[dict[str, Any]]:
    command = ["kubetrace", "replay", str(file), tracer, "--final", "-o", "json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def kprobe_events(mount_point: Path) -> str:
    subprocess.run(["mount", "-t", "tracefs", "tracefs", mount_point], check=True)
    try:
        return (mount_point / "kprobe_events").read_text()
    finally:
        subprocess.run(["umount", mount_point], check=True)


def process(word: str) -> int:
    """The kubetrace process with this word in its command line."""
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0") if entry.isdecimal() else []
            if word.encode() in words and any(w.endswith(b"kubetrace") for w in words):
                return int(entry)
    raise AssertionError(f"no kubetrace {word} runs")
