"""The agent on this kernel, with tracepoints alone, and a real Prometheus that scrapes it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.agents import DEADLINE_S, LEAST, ONLY_THESE, Agent
from tests.vm.cgroup_pods import Pod

from .conftest import ROOT

KUBETRACE = (sys.executable, "-c", "from kubetrace.commands.group import main; main()")


def agent(directory: Path, *words: str) -> Agent:
    return Agent(directory, *words, before=ONLY_THESE, command=KUBETRACE)


def test_counters_are_those_of_the_workload_and_the_agent_tells_how_it_stands(tmp_path: Path) -> None:
    with agent(tmp_path, "cgroups") as running:
        assert running.get("/healthz") == (200, "cgroups: attached by raw_tp\n")
        # of this run alone: another may run beside it
        pod = Pod("shop", name=f"web-{os.getpid()}", only=("unified", "memory"))
        try:
            app = pod.container("app")
            for _ in range(23):
                app.run("/bin/true")
            labels = {"namespace": "shop", "pod": pod.name}
            name = "kubetrace_cgroups_execs_total"
            running.wait_until(lambda: running.value(name, **labels, container="app") == 23, "23 programs")
        finally:
            pod.remove()
        assert running.value("kubetrace_tracer_up", tracer="cgroups", hook="raw_tp") == 1
        assert running.value("kubetrace_lost_events_total", tracer="cgroups", kind="ring_full") == 0
        assert running.value("kubetrace_unattributed_events_total", tracer="cgroups") is not None
        assert (running.value("kubetrace_process_cpu_seconds_total") or 0) > 0
        assert (running.value("kubetrace_process_resident_memory_bytes") or 0) > 1 << 20
        assert running.value("kubetrace_build_info", kernel=os.uname().release) == 1
        assert running.get("/nothing")[0] == 404


def test_label_sets_are_bounded_and_the_total_is_kept(tmp_path: Path) -> None:
    # of this run alone: another may run beside it
    crowd = f"crowd-{os.getpid()}"
    with agent(tmp_path, "cgroups", "-n", crowd, "--max-series", "5") as running:
        pod = Pod(crowd, name="many-0", only=("unified", "memory"))
        try:
            for number in range(11):
                pod.container(f"c{number}").run("/bin/true")
            name = "kubetrace_cgroups_execs_total"
            running.wait_until(lambda: sum(value for _, value in running.samples(name)) == 11, "all are counted")
            found = {labels["container"]: value for labels, value in running.samples(name)}
        finally:
            pod.remove()
        assert len(found) == 6 and found["(overflow)"] == 6
        assert running.value("kubetrace_series_overflowed_total", tracer="cgroups") == 6


def test_a_tracer_that_cannot_be_attached_leaves_the_others_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # no object of that name is there
    (tmp_path / "objects").mkdir()
    shutil.copy(ROOT / "src/kubetrace/objects" / os.uname().machine / "cgroups.bpf.o", tmp_path / "objects")
    monkeypatch.setenv("KUBETRACE_OBJECTS", str(tmp_path / "objects"))
    with agent(tmp_path, "cgroups", "copyup") as running:
        status, text = running.get("/healthz")
        assert (status, text.splitlines()[0]) == (200, "cgroups: attached by raw_tp")
        assert "copyup.bpf.o is not installed" in text and "copyup.bpf.o is not installed" in running.errors()
        assert running.value("kubetrace_tracer_up", tracer="copyup", hook="") == 0


def test_where_the_nodes_kernel_allows_no_tracer_the_agent_serves_that(tmp_path: Path) -> None:
    if not kernel_has_neither():
        pytest.skip("this kernel has fentry or kprobes, so that copyup can be attached")
    with agent(tmp_path, "copyup") as running:
        status, text = running.get("/healthz")
        # a liveness probe that failed would start it again for ever
        assert status == 200 and text.startswith("copyup: ")
        assert "no tracer can be attached on this node" in running.errors()
        assert running.value("kubetrace_tracer_up", tracer="copyup", hook="") == 0


def kernel_has_neither() -> bool:
    done = subprocess.run([*KUBETRACE, "doctor", "-o", "json"], stdout=subprocess.PIPE, text=True, check=False)
    checks: dict[str, str] = {check["check"]: check["status"] for check in json.loads(done.stdout)["checks"]}
    return {checks["fexit attach"], checks["kprobe attach"]} == {"no"}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["starts"], 2, "starts has no metrics"),
        (["nothing"], 2, "there is no tracer 'nothing'"),
        (["cgroups", "--listen", "9435"], 2, "is not an ADDRESS:PORT"),
        (["cgroups", "--listen", "192.0.2.1:9435"], 1, "cannot listen on 192.0.2.1:9435"),
        (["cgroups", "--max-series", "0"], 2, "--max-series"),
    ],
)
def test_what_cannot_be_is_said(words: list[str], status: int, said: str) -> None:
    command = [*KUBETRACE, "agent", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == status and said in done.stderr and "Traceback" not in done.stderr, done.stderr


# Prometheus.


def _prometheus() -> str:
    cache = Path(os.environ.get("KUBETRACE_CACHE") or Path.home() / ".cache" / "kubetrace")
    found = shutil.which("prometheus") or str(cache / "prometheus/usr/bin/prometheus")
    assert os.access(found, os.X_OK), "scripts/setup test unpacks Debian's prometheus"
    return found


def _query(port: int, text: str) -> list[dict[str, Any]]:
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": text})
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found
    except OSError:
        return []


def test_a_real_prometheus_scrapes_it(tmp_path: Path) -> None:
    with agent(tmp_path, "cgroups", "-n", "shop") as running:
        config = tmp_path / "prometheus.yml"
        target = running.url.removeprefix("http://")
        config.write_text(
            "global: {scrape_interval: 1s}\n"
            f"scrape_configs: [{{job_name: kubetrace, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        with open(tmp_path / "prometheus.log", "wb") as log:
            prometheus = subprocess.Popen(
                [
                    _prometheus(),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={tmp_path / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                ],
                stdout=log,
                stderr=log,
            )
        pod = Pod("shop", name=f"web-{os.getpid()}", only=("unified", "memory"))

        def find(pattern: str) -> Any:
            assert prometheus.poll() is None, (tmp_path / "prometheus.log").read_text()
            return re.search(pattern, (tmp_path / "prometheus.log").read_text())

        try:
            # its own choice: a port that was free a moment ago may be another's
            listens = r"msg=\"?Listening on.*address=127\.0\.0\.1:(\d+)"
            running.wait_until(lambda: find(listens) is not None, "Prometheus listens")
            port = int(find(listens)[1])
            app = pod.container("app")
            for _ in range(17):
                app.run("/bin/true")
            execs = f'kubetrace_cgroups_execs_total{{namespace="shop",pod="{pod.name}",container="app"}}'
            attached = 'kubetrace_tracer_up{tracer="cgroups",hook="raw_tp"}'

            def has(query: str, value: str) -> bool:
                return [item["value"][1] for item in _query(port, query)] == [value]

            # each by itself: a scrape that a busy machine lets wait for more than a second counts as none
            for query, value in ((execs, "17"), ('up{job="kubetrace"}', "1"), (attached, "1")):
                running.wait_until(partial(has, query, value), query)
        finally:
            prometheus.terminate()
            prometheus.wait(DEADLINE_S)
            pod.remove()


# The manifests.


@pytest.fixture(params=["", "components"])
def manifests(request: pytest.FixtureRequest, tmp_path: Path) -> list[dict[str, Any]]:
    """What kubectl makes of deploy/, as it is (all tests here, and tests/kernel/test_agent.py, run with these rights),
    and with the components in.
    """
    import yaml

    directory = tmp_path / "deploy"
    shutil.copytree(ROOT / "deploy", directory)
    if request.param:
        text = (directory / "kustomization.yaml").read_text()
        (directory / "kustomization.yaml").write_text(text.replace("# components:", "components:"))
    done = subprocess.run(["kubectl", "kustomize", str(directory)], capture_output=True, check=True)
    found = list(yaml.safe_load_all(done.stdout))
    added = _daemon_set(found)["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"]["add"]
    assert tuple(added) == (*LEAST, *(["SYS_ADMIN"] if request.param else []))
    return found


def _daemon_set(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [item for item in manifests if item["kind"] == "DaemonSet"]
    return found


def _check(value: Any, kind: str, path: str) -> None:
    """That the API's own types, as its Python client has them, know every field and its type."""
    from kubernetes import client

    # list[X] and dict(str, X), or List[X] and Dict[str, X], by the client's version
    if kind.lower().startswith("list["):
        assert isinstance(value, list), path
        for at, item in enumerate(value):
            _check(item, kind[5:-1], f"{path}[{at}]")
    elif kind.lower().startswith("dict"):
        assert isinstance(value, dict) and all(isinstance(item, str) for item in value.values()), path
    elif kind in ("str", "int", "bool", "object"):
        assert kind == "object" or isinstance(value, {"str": str, "int": int, "bool": bool}[kind]), path
    else:
        model = getattr(client, kind)
        types = {json_name: model.openapi_types[name] for name, json_name in model.attribute_map.items()}
        assert isinstance(value, dict) and value.keys() <= types.keys(), (path, value.keys() - types.keys())
        for name, item in value.items():
            _check(item, types[name], f"{path}.{name}")


def test_the_manifests_are_of_the_apis_types(manifests: list[dict[str, Any]]) -> None:
    kinds = [item["kind"] for item in manifests]
    assert kinds in (
        ["Namespace", "ServiceAccount", "DaemonSet"],
        ["Namespace", "ServiceAccount", "DaemonSet", "NetworkPolicy"],
    )
    for policy in (item["spec"] for item in manifests if item["kind"] == "NetworkPolicy"):
        # it is of the agent's pods, and of the port that they name
        template = _daemon_set(manifests)["spec"]["template"]
        assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert policy["ingress"][0]["ports"] == [{"port": template["spec"]["containers"][0]["ports"][0]["name"]}]
        assert policy["egress"] == []
    for item in manifests:
        _check(item, f"V1{item['kind']}", item["kind"])


def test_the_daemon_set_has_the_least_rights_and_runs_the_agent(manifests: list[dict[str, Any]]) -> None:
    daemon_set = _daemon_set(manifests)
    pod = daemon_set["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert not security["privileged"] and not security["allowPrivilegeEscalation"]
    assert security["readOnlyRootFilesystem"] and security["capabilities"]["drop"] == ["ALL"]
    assert pod["hostPID"] and not pod.get("hostNetwork") and not pod.get("hostIPC")
    assert [volume["hostPath"]["path"] for volume in pod["volumes"]] == ["/sys/kernel/tracing"]
    # the agent takes these words
    from kubetrace.commands.agent import command

    words = [*container["command"], *container["args"]]
    assert words[:2] == ["kubetrace", "agent"]
    assert command.make_context("agent", words[2:]).params["listen"] == ":9435"
    (port,) = container["ports"]
    annotations = daemon_set["spec"]["template"]["metadata"]["annotations"]
    assert port["containerPort"] == 9435 and annotations["prometheus.io/port"] == "9435"
