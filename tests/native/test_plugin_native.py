"""kubectl kubetrace at the boundary to kubectl: a fake cluster in a directory, real kubetrace on its nodes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.cgroup_pods import Pod

from .conftest import DEADLINE_S, ROOT, until
from .stub_api import Api

PLUGIN = [sys.executable, "-c", "from kubetrace.commands.plugin import main; main()"]
RECORDING = str(ROOT / "tests" / "recordings" / "copyup-1.ktrace")
REPLAY = ["replay", RECORDING, "copyup", "--final"]


class Cluster:
    """What the fake kubectl knows, and what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kubectl = directory / "kubectl"
        self.kubectl.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).parent / "fake_kubectl.py"} "$@"\n')
        self.kubectl.chmod(self.kubectl.stat().st_mode | stat.S_IXUSR)
        (directory / "pods").mkdir()
        self.environment = {
            **os.environ,
            "FAKE_CLUSTER": str(directory),
            "KUBECTL": str(self.kubectl),
            "KUBETRACE_IMAGE": "registry.example/kubetrace:1",
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "200",
            "TERM": "xterm-256color",
        }

    def has(self, pods: dict[str, str] | None = None, *, namespace: str = "", **nodes: dict[str, Any]) -> None:
        cluster = {"nodes": nodes, "pods": pods or {}, "namespace": namespace}
        (self.directory / "cluster.json").write_text(json.dumps(cluster))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*PLUGIN, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def start(self, *words: str, out: Path) -> subprocess.Popen[bytes]:
        with open(out, "wb") as file:
            return subprocess.Popen(
                [*PLUGIN, *words], env=self.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE
            )

    def calls(self, verb: str) -> list[list[str]]:
        lines = (self.directory / "calls.jsonl").read_text().splitlines()
        return [call for line in lines if (call := json.loads(line))[0] == verb]

    @property
    def pods(self) -> list[str]:
        return os.listdir(self.directory / "pods")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    assert made.pods == [], "a debug pod was left behind"


def test_nodes_are_one_table_and_a_failing_one_is_a_row(cluster: Cluster) -> None:
    cluster.has(n1={"run": REPLAY}, n2={"run": REPLAY}, n3={"fails": 'error: nodes "n3" is forbidden: no way'})
    done = cluster.run("copyup", "--node", "n1,n2,n3", "--by", "pod")
    assert done.returncode == 1
    last = done.stdout.split("kubetrace copyup")[-1].splitlines()
    assert last[0].startswith(" · 0 of 3 nodes · 1 failed · ")
    # whole above the table, and as a row of it
    assert last[1] == 'n3 failed: nodes "n3" is forbidden: no way'
    assert last[2].split()[:4] == ["NODE", "STATUS", "NAMESPACE", "POD"]
    web = [line.split() for line in last if "web-0" in line and line.startswith(("n1 ", "n2 "))]
    # the recording's own table by pod: five copy-ups of web-0, twice
    assert [(cells[0], cells[2], cells[3], cells[4]) for cells in web] == [
        ("n1", "shop", "web-0", "5"),
        ("n2", "shop", "web-0", "5"),
    ]
    assert any(line.startswith("n3  ") and 'failed: nodes "n3" is forbidden: no way' in line for line in last[3:])
    assert any(line.startswith("LOST 34 events · 12 copy-ups · 2 unattributed") for line in last), last
    assert "n1: 6 copy-ups, 10 MiB copied" in done.stdout and "n2: 6 copy-ups" in done.stdout
    assert 'n3: error: nodes "n3" is forbidden: no way' in done.stderr
    assert len(cluster.calls("debug")) == 3 and len(cluster.calls("delete")) == 1


def test_top_of_several_nodes_is_one_table_the_worst_first(cluster: Cluster) -> None:
    def recorded(name: str) -> list[str]:
        return ["replay", str(Path(RECORDING).with_name(name)), "top", "--final"]

    # of the one node copy-ups alone are known, of the other cgroups
    cluster.has(n1={"run": recorded("copyup-1.ktrace")}, n2={"run": recorded("cgroups-1.ktrace")})
    done = cluster.run("top", "--node", "n1,n2")
    assert done.returncode == 0, done.stderr
    last = done.stdout.split("kubetrace top")[-1].splitlines()
    head = next(line for line in last if line.startswith("NODE"))
    assert head.split()[:2] == ["NODE", "STATUS"] and {"COPIED", "OOM"} <= set(head.split())
    assert "BADNESS" not in head
    rows = [line.split() for line in last[last.index(head) + 1 :]]
    # a process that was killed is worse than a copy-up that failed, wherever they were
    named = [row for row in rows if "ledger-0" in row or "web-0" in row]
    assert [row[0] for row in named][:2] == ["n2", "n1"]
    assert "OOM 1" in last[last.index(head) + 1] and "COPY-ERR 1" in last[last.index(head) + 2]
    assert "n1: copyup: 6 copy-ups, 10 MiB copied" in done.stdout and "n2: cgroups: " in done.stdout


def test_json_of_all_nodes_is_one_stream_of_whole_objects(cluster: Cluster) -> None:
    cluster.has(n1={"run": REPLAY}, n2={"fails": "error: gone"}, n3={"run": REPLAY})
    done = cluster.run("copyup", "--all-nodes", "-o", "json")
    assert done.returncode == 1
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    for node in ("n1", "n3"):
        kinds = [item["type"] for item in objects if item["node"] == node]
        # all of the recording's, the first ones too
        assert kinds.count("copyup") == 6 and kinds[-1] == "summary"
    assert [item for item in objects if item["node"] == "n2"] == [{"type": "error", "node": "n2", "error": "gone"}]


def test_two_real_tracers_are_merged_as_events_come(cluster: Cluster, tmp_path: Path) -> None:
    """Two kubetrace processes on this kernel, each of which sees the container that starts while both run."""
    cluster.has(n1={}, n2={})
    out = tmp_path / "out"
    running = cluster.start("cgroups", "--node", "n1,n2", "-n", "shop", "-o", "json", out=out)
    pod = Pod("shop", only=("unified", "memory"))

    def objects() -> list[dict[str, Any]]:
        return [json.loads(line) for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def seen_by_both() -> bool:
        made = pod.container("app")
        made.run("/bin/true")
        made.remove()
        # one that was there before its tracer was may be gone before it has a name
        return {item["node"] for item in objects() if item.get("container") == "app"} == {"n1", "n2"}

    try:
        until(seen_by_both, "not seen by both")
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=DEADLINE_S)
    finally:
        running.kill()
        pod.remove()
    assert running.returncode == 0, errors
    # Ctrl-C ended both in their own way, and their last words were still read
    assert sorted(item["node"] for item in objects() if item["type"] == "summary") == ["n1", "n2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_live_table_of_two_real_tracers_ends_with_no_pod_left(
    cluster: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    cluster.has(n1={}, n2={})
    out = tmp_path / "out"
    running = cluster.start("cgroups", "--node", "n1,n2", "-i", "200ms", out=out)
    try:
        until(lambda: "2 of 2 nodes" in out.read_text(), f"no table: {out.read_text()}")
        running.send_signal(number)
        _, errors = running.communicate(timeout=DEADLINE_S)
    finally:
        running.kill()
    assert running.returncode == 0, errors
    text = out.read_text()
    assert re.search(r"^n1: \d+ cgroups? created", text, re.MULTILINE)
    assert re.search(r"^n2: \d+ cgroups? created", text, re.MULTILINE)


def test_a_pod_that_waits_says_why_and_is_deleted(cluster: Cluster, tmp_path: Path) -> None:
    cluster.has(n1={"waits": "ImagePullBackOff"})
    out = tmp_path / "out"
    running = cluster.start("copyup", "--node", "n1", "-i", "500ms", out=out)
    try:
        until(lambda: "starting: ImagePullBackOff: so it is" in out.read_text(), "no reason")
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=DEADLINE_S)
    finally:
        running.kill()
    assert running.returncode == 1


def test_a_pod_names_its_node_and_selects_itself(cluster: Cluster) -> None:
    cluster.has({"shop/web-0": "n2"}, n1={}, n2={"run": REPLAY})
    done = cluster.run("copyup", "--pod", "shop/web-0", "-o", "json", "--context", "prod")
    assert done.returncode == 0, done.stderr
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert {item["pod"] for item in objects if item["type"] == "copyup"} == {"web-0"}
    calls = cluster.calls("--context=prod")
    (debug,) = [call for call in calls if call[1] == "debug"]
    assert "node/n2" in debug and [call[1] for call in calls] == ["get", "get", "debug", "get", "delete"]


@pytest.mark.parametrize("words", [["web-0", "-n", "shop"], ["pod/web-0"], ["shop/web-0"]])
def test_a_pod_is_named_as_for_kubectl(cluster: Cluster, words: list[str]) -> None:
    cluster.has({"shop/web-0": "n2", "jobs/web-0": "n1"}, namespace="shop", n1={}, n2={"run": REPLAY})
    done = cluster.run("copyup", *words, "-o", "jsonpath={.node} {.pod}")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {"n2 web-0"}


def test_names_of_the_cluster_are_completed(cluster: Cluster) -> None:
    nodes: dict[str, dict[str, Any]] = {"worker-1": {}, "worker-2": {}, "other": {}}
    cluster.has({"shop/web-0": "worker-1", "jobs/batch-0": "worker-2"}, namespace="", **nodes)

    def completed(*words: str) -> list[str]:
        done = cluster.run("__complete", *words)
        assert (done.returncode, done.stderr) == (0, "")
        *found, directive = [line.partition("\t")[0] for line in done.stdout.splitlines()]
        assert directive == ":4"
        return found

    assert completed("copyup", "--node", "work") == ["worker-1", "worker-2"]
    assert completed("copyup", "--node", "worker-1,o") == ["worker-1,other"]
    assert completed("copyup", "-n", "sh") == ["shop"]
    assert completed("copyup", "-n", "shop", "") == ["web-0"]
    assert completed("copyup", "--pod", "jobs/") == ["jobs/batch-0"]
    assert completed("doctor", "--context", "pr") == ["prod"]
    cluster.environment["KUBECTL"] = "/nonexistent/kubectl"
    assert completed("copyup", "--node", "work") == []


def test_a_recording_is_brought_back_whole(cluster: Cluster, tmp_path: Path) -> None:
    """Two kubetrace processes on this kernel write to pipes; what comes here is as if it had been made here."""
    cluster.has(n1={}, n2={})
    file = tmp_path / "node.ktrace"
    running = cluster.start("record", "cgroups", "starts", str(file), "--node", "n1,n2", out=tmp_path / "out")
    files = [tmp_path / f"node-{node}.ktrace" for node in ("n1", "n2")]
    try:
        # each has begun: its header is here
        until(lambda: all(path.exists() and path.stat().st_size for path in files), "nothing came")
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=DEADLINE_S)
    finally:
        running.kill()
    assert running.returncode == 0, errors
    said = (tmp_path / "out").read_text()
    for node, path in zip(("n1", "n2"), files, strict=True):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        info = subprocess.run(
            [sys.executable, "-m", "kubetrace", "info", path, "-o", "json"], capture_output=True, check=True
        )
        found = json.loads(info.stdout)
        assert found["complete"] and found["node"] == node and not found["damage"]
        assert [one["name"] for one in found["tracers"]] == ["cgroups", "starts"]
        assert found["bytes"] == path.stat().st_size
        assert re.search(rf"^{node}: \d+ events? in .*node-{node}\.ktrace\.$", said, re.MULTILINE), said
        assert f"View it: kubetrace replay {path}\n" in said
    again = cluster.run("record", "cgroups", str(files[0]), "--node", "n1", "-d", "0.1")
    assert again.returncode == 2 and "exists." in again.stderr
    again = cluster.run("record", "cgroups", str(files[0]), "--node", "n1", "-d", "0.1", "--force")
    assert again.returncode == 0, again.stderr


def test_a_recording_that_failed_leaves_nothing_behind(cluster: Cluster, tmp_path: Path) -> None:
    cluster.has(n1={"fails": "error: gone"})
    done = cluster.run("record", "cgroups", str(tmp_path / "x.ktrace"), "--node", "n1", "-d", "0.1")
    assert done.returncode == 1 and "gone" in done.stderr and not (tmp_path / "x.ktrace").exists()


def test_objects_of_several_nodes_are_as_of_one(cluster: Cluster) -> None:
    import yaml

    cluster.has(n1={"run": REPLAY}, n2={"run": REPLAY})
    as_json = [json.loads(line) for line in cluster.run("copyup", "--all-nodes", "-o", "json").stdout.splitlines()]
    as_yaml = list(yaml.safe_load_all(cluster.run("copyup", "--all-nodes", "-o", "yaml").stdout))
    assert sorted(map(str, as_yaml)) == sorted(map(str, as_json)) and len(as_json) > 10
    rows = cluster.run("copyup", "--all-nodes", "-o", "jsonpath={.node} {.copied_bytes}").stdout.splitlines()
    wanted = [f"{one['node']} {one['copied_bytes']}" for one in as_json if one["type"] == "copyup"]
    assert sorted(rows) == sorted(wanted)


def test_lost_events_are_status_3_here_too(cluster: Cluster) -> None:
    # the recording has lost 17
    cluster.has(n1={"run": REPLAY}, n2={"run": REPLAY})
    assert cluster.run("copyup", "--all-nodes", "-o", "json").returncode == 0
    for output in (["-o", "json"], ["--by", "pod"]):
        done = cluster.run("copyup", "--all-nodes", "--strict", *output)
        assert done.returncode == 3 and "events were lost" in done.stderr, done
        assert '"type":"error"' not in done.stdout and "failed: " not in done.stdout


def test_tables_as_objects_of_many_nodes_stay_objects(cluster: Cluster) -> None:
    cluster.has(n1={"run": REPLAY}, n2={"run": REPLAY})
    for name in ("json-tables", "windows"):
        done = cluster.run("copyup", "--all-nodes", "-o", name)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        told = {(one["node"], one["type"]) for one in found}
        assert told == {(node, kind) for node in ("n1", "n2") for kind in ("window", "summary")}


@pytest.mark.parametrize(
    ("command", "unknown"),
    [("who", "Nothing on this node is known as 'shop/web-0'"), ("pod", "No pod on this node is known as 'shop/web-0'")],
)
def test_what_belongs_to_a_pod_is_asked_on_its_node(cluster: Cluster, command: str, unknown: str) -> None:
    cluster.has({"shop/web-0": "n2"}, n1={}, n2={})
    done = cluster.run(command, "shop/web-0")
    # this machine has no such pod, and says so itself
    assert done.returncode == 1 and unknown in done.stderr
    (debug,) = cluster.calls("debug")
    assert debug[1] == "node/n2" and debug[debug.index("--") + 1 :] == ["kubetrace", command, "shop/web-0"]


def test_columns_of_many_nodes_are_chosen_here(cluster: Cluster) -> None:
    cluster.has(n1={"run": REPLAY}, n2={"run": REPLAY})
    done = cluster.run("copyup", "--all-nodes", "--by", "pod", "--columns", "pod,errors", "--sort", "-copied")
    last = done.stdout.split("kubetrace copyup")[-1].splitlines()
    assert last[1].split()[:1] == ["NODE"] and [head.strip("▼") for head in last[1].split() if head != "STATUS"] == [
        "NODE",
        "POD",
        "ERRORS",
    ]


def test_what_is_not_there_is_said_in_kubectls_words(cluster: Cluster) -> None:
    cluster.has(n1={})
    done = cluster.run("copyup", "--pod", "shop/nobody")
    assert done.returncode == 1
    assert done.stderr.splitlines()[:2] == [
        "Error: kubectl get pod failed.",
        'Error from server (NotFound): pods "nobody" not found',
    ]
    done = cluster.run("copyup", "-l", "pool=none")
    assert done.returncode == 1 and "no Linux node matches 'pool=none'" in done.stderr


def test_a_selector_chooses(cluster: Cluster) -> None:
    cluster.has(n1={"labels": {"pool": "a"}, "run": REPLAY}, n2={"labels": {"pool": "b"}, "run": REPLAY})
    done = cluster.run("copyup", "-l", "pool=b", "-o", "json")
    assert {json.loads(line)["node"] for line in done.stdout.splitlines()} == {"n2"}


def test_lines_are_led_by_the_node(cluster: Cluster) -> None:
    cluster.has(n1={"run": REPLAY}, n22={"run": REPLAY})
    done = cluster.run("copyup", "--all-nodes", "--events", "--no-headers")
    assert done.returncode == 0, done.stderr
    assert sorted({line[:5] for line in done.stdout.splitlines()}) == ["n1   ", "n22  "]
    assert "\x1b" not in done.stdout
    done = cluster.run("copyup", "--all-nodes", "-o", "csv")
    assert [line for line in done.stdout.splitlines() if line.startswith("node,")] == [done.stdout.splitlines()[0]]
    assert len(done.stdout.splitlines()) == 1 + 2 * 6


def test_the_doctor_of_a_node(cluster: Cluster) -> None:
    cluster.has(n1={})
    done = cluster.run("doctor", "--node", "n1", "-o", "json")
    assert json.loads(done.stdout)["checks"][0]["check"] == "capabilities"


def test_no_kubectl_is_said(cluster: Cluster) -> None:
    cluster.environment["KUBECTL"] = "/nonexistent/kubectl"
    for words in (("--node", "n1"), ("--node", "n1,n2", "-o", "json"), ("--all-nodes",)):
        done = cluster.run("copyup", *words)
        assert done.returncode == 1 and done.stderr.startswith("Error: /nonexistent/kubectl cannot be run."), done


@pytest.mark.parametrize("words", [["--node", "n1"], ["--node", "n1,n2", "-o", "json"], ["--all-nodes"]])
def test_nothing_is_made_where_it_could_not_be_cleared_away(cluster: Cluster, words: list[str]) -> None:
    cluster.has(n1={"run": REPLAY}, n2={"run": REPLAY})
    refusal = "The connection to the server localhost:8080 was refused"
    noise = 'E1130 13:18:31.066270   19180 memcache.go:265] "Unhandled Error" err="refused"'
    cluster.kubectl.write_text(
        f"""#!/bin/sh
case "$*" in "get pods"*) echo '{noise}' >&2; echo '{refusal}' >&2; echo '{noise}' >&2; exit 1;; esac
exec {sys.executable} {Path(__file__).parent / "fake_kubectl.py"} "$@"
"""
    )
    done = cluster.run("copyup", *words)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == ["Error: kubectl get pods failed.", refusal]
    calls = cluster.directory / "calls.jsonl"
    assert not calls.exists() or not cluster.calls("debug")


def test_one_node_gets_the_terminal_itself(cluster: Cluster) -> None:
    """As a person has it: kubectl debug -it, a size that comes late, keys that reach kubetrace, no pod left."""
    import fcntl
    import struct
    import termios

    import pyte

    cluster.has(n1={})
    main, side = pty.openpty()
    running = subprocess.Popen(
        [*PLUGIN, "starts", "--node", "n1"], env=cluster.environment, stdin=side, stdout=side, stderr=side
    )
    os.close(side)
    data = b""
    screen = pyte.Screen(100, 24)
    stream = pyte.ByteStream(screen)

    def read(seconds: float) -> None:
        nonlocal data
        import select

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([main], [], [], 0.05)[0]:
                try:
                    new = os.read(main, 65536)
                except OSError:
                    return
                data += new
                stream.feed(new)

    try:
        until(lambda: len(cluster.pods) == 1, "no pod")
        read(1.0)
        # the size has not come yet, so kubetrace has not begun
        assert b"\x1b[?1049h" not in data, data
        fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        deadline = time.monotonic() + DEADLINE_S
        while not any("kubetrace starts" in line for line in screen.display):
            assert time.monotonic() < deadline, data
            read(0.1)
        os.write(main, b"q")
        while running.poll() is None:
            assert time.monotonic() < deadline, data
            read(0.1)
    finally:
        running.kill()
        with contextlib.suppress(OSError):
            os.close(main)
    assert running.wait() == 0, data
    (debug,) = cluster.calls("debug")
    assert "-it" in debug and "--profile=sysadmin" in debug
    assert len(cluster.calls("delete")) == 1


def test_the_exit_status_on_a_terminal_is_kubetraces(cluster: Cluster) -> None:
    cluster.has(n1={})
    main, side = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    done = subprocess.Popen(
        [*PLUGIN, "who", "cgroup:999999999", "--node", "n1"],
        env=cluster.environment,
        stdin=side,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    assert done.wait(DEADLINE_S) == 1
    # piece by piece, as a terminal gives it, until the other side is closed
    data = b""
    with contextlib.suppress(OSError):
        while piece := os.read(main, 65536):
            data += piece
    os.close(main)
    assert b"999999999" in data


# The real kubectl, with a stub behind it.


def _kubectl_can_debug_nodes() -> bool:
    with contextlib.suppress(OSError):
        done = subprocess.run(["kubectl", "debug", "--help"], capture_output=True, text=True, check=False)
        return "sysadmin" in done.stdout
    return False


@pytest.mark.skipif(not _kubectl_can_debug_nodes(), reason="kubectl is missing or older than 1.30 (--profile=sysadmin)")
def test_the_real_kubectl_makes_the_pod_that_is_meant(tmp_path: Path) -> None:
    with Api("n1", "n2") as api:
        config = tmp_path / "config"
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "stub", "cluster": {"server": api.url}}],
                    "users": [{"name": "stub", "user": {}}],
                    "current-context": "stub",
                    "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "stub"}}],
                }
            )
        )
        done = subprocess.run(
            [*PLUGIN, "doctor", "--all-nodes", "--image=r.example/k:1", "-o", "json", f"--kubeconfig={config}"],
            env={**os.environ, "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(item["node"] for item in said) == ["n1", "n2"]
    assert {item["type"] for item in said} == {"doctor"}
    assert api.unknown == []
    for pod in api.created:
        spec = pod["spec"]
        (container,) = spec["containers"]
        environment = {item["name"]: item["value"] for item in container["env"]}
        assert environment["NODE_NAME"] == spec["nodeName"] and environment["KUBETRACE_ATTENDED"] == "1"
        assert container["command"] == ["kubetrace", "doctor", "-o", "json"]
        assert (container["image"], container["stdin"], container["tty"]) == ("r.example/k:1", True, False)
        # so the end of our stdin is never told to it: attended.py ends it by a line, or by silence
        assert not container.get("stdinOnce")
        assert spec["hostPID"] and container["securityContext"]["privileged"]
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/host"]
    assert sorted(api.deleted) == sorted(pod["metadata"]["name"] for pod in api.created) and api.pods == {}


@pytest.mark.skipif(not _kubectl_can_debug_nodes(), reason="kubectl is missing or older than 1.30")
@pytest.mark.parametrize(
    "template",
    [
        "{.kind}/{.metadata.name}",
        '{range .spec.template.spec.containers[*]}{.name}={.image}{"\\n"}{end}',
        "{.spec.template.spec.containers[*].name} {.spec.template.spec.containers[-1].image}",
        "{.spec.replicas} {.metadata.creationTimestamp}{.nothing.at.all} {.metadata['name']} {$.kind} {@.kind}",
        "{.metadata.labels}",
        "literal",
    ],
)
def test_a_template_makes_what_kubectl_makes(template: str, tmp_path: Path) -> None:
    from kubetrace.views.jsonpath import Template

    command = ["kubectl", "create", "deployment", "web", "--image=a:1", "--image=b:2", "--dry-run=client", "-o"]

    def kubectl(output: str) -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        return subprocess.run([*command, output], env=environment, capture_output=True, text=True, check=True).stdout

    assert Template(template).text(json.loads(kubectl("json"))) == kubectl(f"jsonpath={template}")


def _kubectl_completes_plugins() -> bool:
    with contextlib.suppress(OSError):
        done = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, check=False)
        with contextlib.suppress(ValueError, KeyError):
            return int(re.sub(r"\D", "", json.loads(done.stdout)["clientVersion"]["minor"])) >= 26
    return False


@pytest.mark.skipif(not _kubectl_completes_plugins(), reason="kubectl is missing or older than 1.26")
def test_the_real_kubectl_completes_the_plugin(tmp_path: Path) -> None:
    for name, function in (("kubectl-kubetrace", "main"), ("kubectl_complete-kubetrace", "complete")):
        code = f"from kubetrace.commands.plugin import {function}; {function}()"
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def completed(*words: str) -> list[str]:
        command = ["kubectl", "__complete", "kubetrace", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return [line.partition("\t")[0] for line in done.stdout.splitlines()]

    assert completed("cop") == ["copyup", ":4"]
    assert completed("writes", "--all-n") == ["--all-nodes", "--all-namespaces", ":4"]
    assert completed("writes", "--by", "dest") == ["destination", ":4"]


def test_the_archive_is_a_plugin_that_kubectl_finds(tmp_path: Path) -> None:
    build = [sys.executable, str(ROOT / "scripts" / "build_plugin.py"), "--uri", "https://example.org/k.tar.gz"]
    for out in ("a", "b"):
        subprocess.run([*build, "--out", str(tmp_path / out)], check=True, capture_output=True)
    packed = (tmp_path / "a" / "kubectl-kubetrace.tar.gz").read_bytes()
    assert packed == (tmp_path / "b" / "kubectl-kubetrace.tar.gz").read_bytes()
    manifest = (tmp_path / "a" / "kubetrace.yaml").read_text()
    assert f"sha256: {hashlib.sha256(packed).hexdigest()}\n" in manifest and "@" not in manifest
    assert "apiVersion: krew.googlecontainertools.github.com/v1alpha2\nkind: Plugin\n" in manifest
    assert re.search(r"^  version: v\d+\.\d+\.\d+$", manifest, re.MULTILINE)
    # krew's own limit (krew.sigs.k8s.io/docs/developer-guide/develop/best-practices)
    assert len(re.findall(r"shortDescription: (.*)", manifest)[0]) <= 50

    subprocess.run(["tar", "-xzf", "a/kubectl-kubetrace.tar.gz"], cwd=tmp_path, check=True)
    # nothing of this environment: the file brings what it needs
    bare = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    alone = [str(tmp_path / "kubectl-kubetrace"), "copyup", "--help"]
    done = subprocess.run(alone, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Usage: kubectl kubetrace copyup" in done.stdout, done
    done = subprocess.run(["kubectl", "kubetrace", "--help"], env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("Usage: kubectl kubetrace COMMAND"), done
