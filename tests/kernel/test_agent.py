"""The agent on a node, as root with just the DaemonSet's capabilities: copyup's metrics are those of the workload."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents import ONLY_THESE, Agent
from tests.vm import cri, images

from .conftest import SHELL

PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    directory = tmp_path_factory.mktemp("agent")
    # Linux' own most; Debian's kernels have 3, and keep kprobes for CAP_SYS_ADMIN then
    PARANOID.write_text("2")
    with Agent(directory, "copyup", "cgroups", before=ONLY_THESE, command=("kubetrace",)) as running:
        yield running
    PARANOID.write_text("3")


@pytest.mark.one_kernel
def test_where_kprobes_are_kept_for_the_administrator_it_says_so() -> None:
    assert PARANOID.read_text() == "3\n"
    done = subprocess.run(
        [*ONLY_THESE, "kubetrace", "copyup", "-d", "0.1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "kernel.perf_event_paranoid is 3" in done.stderr and "sysctl kernel.perf_event_paranoid=2" in done.stderr
    assert done.stderr.splitlines()[-1] == "See:  kubetrace doctor, line 'kprobe attach'"


@pytest.mark.one_kernel
def test_least_rights_attach_and_count_exactly(agent: Agent, node: cri.Node) -> None:
    with open(f"/proc/{agent.process.pid}/status") as file:
        (held,) = [line.split()[1] for line in file if line.startswith("CapEff:")]
    # bits 19, 24, 38 and 39 of include/uapi/linux/capability.h
    assert int(held, 16) == 1 << 19 | 1 << 24 | 1 << 38 | 1 << 39
    status, text = agent.get("/healthz")
    assert status == 200 and "copyup: attached by" in text and "cgroups: attached by" in text
    pod = node.run_pod("fleet", "web-0", qos="burstable")
    try:
        container = pod.start_container("app", images.WEB, SHELL)
        # five whole files, whose sizes the image's lower layer tells
        names = [f"/app/data/{number:03}.dat" for number in range(5)]
        script = "stat -c %s " + " ".join(names) + "; for f in " + " ".join(names) + "; do echo >> $f; done"
        out, err, code = container.exec(["sh", "-c", script])
        assert code == 0, (out, err)
        sizes = [int(line) for line in out.split()]
        assert len(sizes) == 5 and all(sizes)
        labels = {"namespace": "fleet", "pod": "web-0", "container": "app"}
        total = float(sum(sizes))
        agent.wait_until(lambda: agent.value("kubetrace_copyup_bytes_total", **labels) == total, f"{total} bytes")
        # each file (the directories /app and /app/data are part of the first one's row), and /etc, which runc copies up
        # for the mount point of /etc/hosts
        assert agent.value("kubetrace_copyup_files_total", **labels) == 5 + 1
        assert agent.value("kubetrace_copyup_errors_total", **labels) == 0
        (image,) = [
            own["image"] for own, _ in agent.samples("kubetrace_copyup_bytes_total") if labels.items() <= own.items()
        ]
        assert image == images.WEB
        # the entrypoint and what was executed in it
        agent.wait_until(lambda: (agent.value("kubetrace_cgroups_execs_total", **labels) or 0) >= 2, "2 execs")
    finally:
        pod.remove()
    for kind in ("ring_full", "map_full", "missed_return", "missed_run"):
        assert agent.value("kubetrace_lost_events_total", tracer="copyup", kind=kind) == 0
    # no module's BTF without CAP_SYS_ADMIN (bpf_btf_get_next_id): overlayfs is hooked by kprobes
    (hook,) = [own["hook"] for own, _ in agent.samples("kubetrace_tracer_up") if own["tracer"] == "copyup"]
    assert "kprobe" in hook
    assert os.path.exists("/sys/kernel/tracing/kprobe_events")
    ours = rf":kubetrace_\d+_{agent.process.pid}_"
    assert re.search(ours, Path("/sys/kernel/tracing/kprobe_events").read_text())
