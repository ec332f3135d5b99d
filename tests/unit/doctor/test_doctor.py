"""The doctor's rules over facts written by hand, its lines, and the names by which errors refer to it."""

from __future__ import annotations

import ast
import errno
import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from kubetrace import errors
from kubetrace.doctor import rules
from kubetrace.doctor.report import lines
from kubetrace.doctor.rules import CHECKS, Finding, findings
from kubetrace.doctor.surroundings import Disk, NodeFacts, Runtime, node_facts
from kubetrace.doctor.trial import Trial
from kubetrace.engines.probe import KernelFacts
from kubetrace.errors import HookMissing, KubetraceError, PermissionDenied
from kubetrace.node.host import Host
from tests.nodes import captured

PACKAGE = Path(inspect.getfile(errors)).parent

KERNEL = KernelFacts(
    release="6.1.0-56-amd64",
    machine="x86_64",
    root=True,
    capabilities=(1 << 41) - 1,
    lockdown="none",
    libbpf="1.1",
    bcc=False,
    btf_bytes=5 << 20,
    overlay_loaded=True,
    overlay_btf="module",
    fexit=0,
    kprobe=0,
    kprobes_built_in=True,
    perf_paranoid=2,
    tracepoint=0,
    ring_buffer=0,
    tracefs="/sys/kernel/tracing",
    pressure=True,
)
NODE = NodeFacts(
    name="node1",
    root="/",
    first_root=True,
    first_pids=True,
    cgroups="v2",
    cgroup_trouble="",
    driver="systemd",
    runtime="containerd",
    state="/run/containerd",
    store="/var/lib/containerd",
    containers=7,
    kubelet_root="/var/lib/kubelet",
    disk_path="/var/lib/containerd",
    disk_bytes=100 << 30,
    disk_free_bytes=60 << 30,
    runtimes=(Runtime("containerd", "/run/containerd", 7),),
    stores=("/var/lib/containerd",),
)
TRIALS = [Trial("copyup", "auto", "fentry"), Trial("copyup", "kprobe", "kprobe"), Trial("starts", "auto", "raw_tp")]


def find(check: str, kernel: KernelFacts = KERNEL, node: NodeFacts = NODE) -> Finding:
    (found,) = [finding for finding in findings(kernel, node, TRIALS) if finding.check == check]
    return found


def test_a_healthy_node_is_ok_in_every_line() -> None:
    found = findings(KERNEL, NODE, TRIALS)
    assert [finding.check for finding in found] == list(CHECKS)
    assert {finding.status for finding in found} == {"ok"}
    assert [finding.check for finding in found if finding.do] == []


@pytest.mark.parametrize(
    ("check", "change", "status", "do"),
    [
        ("PSI", {"pressure": False}, "less", "psi=1"),
        ("capabilities", {"capabilities": 0}, "no", "kubectl debug"),
        ("capabilities", {"capabilities": 0, "root": False}, "no", "sudo"),
        # what a debug pod of any other profile has
        ("capabilities", {"capabilities": 0xA80425FB}, "no", "--profile=sysadmin"),
        # CAP_BPF and CAP_PERFMON without CAP_SYS_PTRACE
        ("capabilities", {"capabilities": 1 << 39 | 1 << 38}, "less", "CAP_SYS_PTRACE"),
        ("capabilities", {"capabilities": 1 << 39}, "no", "kubectl debug"),
        # the DaemonSet's
        ("capabilities", {"capabilities": 1 << 39 | 1 << 38 | 1 << 19}, "less", "CAP_SYS_ADMIN, if layers matter"),
        ("capabilities", {"capabilities": 1 << 39 | 1 << 38 | 1 << 19, "overlay_btf": "kernel"}, "ok", ""),
        ("lockdown", {"lockdown": "confidentiality"}, "no", "lockdown=integrity"),
        ("lockdown", {"lockdown": "integrity"}, "ok", ""),
        ("lockdown", {"lockdown": None}, "ok", ""),
        ("libbpf", {"libbpf": None}, "no", "apt-get install libbpf1"),
        ("kernel BTF", {"btf_bytes": None}, "no", "a kernel of a current distribution"),
        ("kernel BTF", {"btf_bytes": None, "bcc": True}, "less", "bcc serves"),
        ("bcc", {"btf_bytes": None}, "no", "apt-get install python3-bpfcc"),
        ("bcc", {"btf_bytes": None, "bcc": True}, "ok", ""),
        ("module BTF", {"overlay_btf": None}, "less", "kprobes serve"),
        ("module BTF", {"overlay_btf": None, "kprobe": errno.ENOENT}, "no", "a newer kernel"),
        ("module BTF", {"overlay_btf": "kernel"}, "ok", ""),
        ("overlayfs", {"overlay_loaded": False}, "no", "modprobe overlay"),
        ("fexit attach", {"fexit": errno.EOPNOTSUPP}, "less", "kprobes serve"),
        ("fexit attach", {"fexit": errno.EPERM, "kprobe": errno.EPERM, "capabilities": 0}, "no", "see capabilities"),
        ("fexit attach", {"fexit": None, "kprobe": None, "libbpf": None}, "no", "libbpf1"),
        ("kprobe attach", {"kprobe": errno.ENOENT, "kprobes_built_in": False}, "less", "fentry serves"),
        ("kprobe attach", {"kprobe": 1, "fexit": 1, "lockdown": "confidentiality"}, "no", "see lockdown"),
        # the DaemonSet's capabilities on Debian
        (
            "kprobe attach",
            {"kprobe": errno.EACCES, "capabilities": 1 << 39 | 1 << 38 | 1 << 19, "perf_paranoid": 3},
            "no",
            "sysctl kernel.perf_event_paranoid=2",
        ),
        ("tracepoints", {"tracepoint": errno.EACCES, "capabilities": 0}, "no", "see capabilities"),
        ("ring buffer", {"ring_buffer": errno.EINVAL}, "no", "Linux 5.8"),
        ("tracefs", {"tracefs": None}, "ok", ""),
        ("tracefs", {"tracefs": None, "overlay_btf": None}, "less", "mount -t tracefs"),
    ],
)
def test_what_a_kernel_lacks_is_said_with_what_to_do(
    check: str, change: dict[str, object], status: str, do: str
) -> None:
    found = find(check, replace(KERNEL, **change))  # type: ignore[arg-type]
    assert found.status == status and do in found.do, found
    assert bool(found.do) == (status != "ok")


@pytest.mark.parametrize(
    ("check", "change", "status", "words"),
    [
        ("node root", {"root": "/host"}, "ok", "/host"),
        ("host PIDs", {"first_root": False}, "less", "mounts that come later are not seen"),
        ("host PIDs", {"first_pids": False}, "less", "not the machine's first"),
        ("cgroups", {"cgroups": None, "cgroup_trouble": "No cgroup hierarchy."}, "no", "No cgroup hierarchy."),
        ("cgroups", {"driver": None}, "less", "no pods' cgroups"),
        ("cgroups", {"cgroups": "hybrid", "driver": "cgroupfs"}, "ok", "hybrid, cgroupfs driver"),
        ("runtime", {"runtime": None, "state": None, "runtimes": ()}, "less", "none found"),
        ("runtime", {"runtime": "docker (cri-dockerd)", "runtimes": ()}, "less", "docker (cri-dockerd): untested"),
        ("runtime", {"runtimes": ()}, "less", "/run/containerd, without pods"),
        ("runtime", {"stores": ()}, "less", "its root was not found"),
        (
            *("runtime", {"runtimes": (*NODE.runtimes, Runtime("CRI-O", "/run/crio", 3))}, "ok"),
            "containerd: /run/containerd (7 containers); CRI-O: /run/crio (3 containers); /var/lib/containerd",
        ),
        (
            *("free disk", {"disks": (Disk("/var/lib/kubelet", 90 << 30, 50 << 30), Disk("/srv", 8 << 30, 1 << 29))}),
            *("less", "50 GiB of 90 GiB at /var/lib/kubelet; 512 MiB of 8.0 GiB at /srv"),
        ),
        ("kubelet root", {"kubelet_root": None}, "less", "volumes have no names"),
        ("free disk", {"disk_free_bytes": 1023 << 20}, "less", "of 100 GiB"),
        ("free disk", {"disk_free_bytes": 4 << 30}, "less", "4.0 GiB of 100 GiB"),
        ("free disk", {"disk_free_bytes": 6 << 30}, "ok", "6.0 GiB of 100 GiB"),
    ],
)
def test_what_a_node_lacks_is_said(check: str, change: dict[str, object], status: str, words: str) -> None:
    found = find(check, node=replace(NODE, **change))  # type: ignore[arg-type]
    assert found.status == status and words in found.found, found
    assert bool(found.do) == (status != "ok")


def test_tracers_are_counted_by_name_and_one_that_works_is_enough() -> None:
    refused = PermissionDenied("kubetrace may not load BPF.")
    some = [Trial("copyup", "auto", "", error=refused), Trial("starts", "auto", "raw_tp")]
    assert rules.works(some)
    assert findings(KERNEL, NODE, some)[-1] == Finding("tracers", "less", "1 of 2 work here", "see each below")
    assert not rules.works(some[:1])
    assert findings(KERNEL, NODE, some[:1])[-1].status == "no"
    assert rules.works([Trial("copyup", "auto", "", waits=True)])


def test_the_lines_fit_the_width_and_show_what_is_not_ours_escaped() -> None:
    trials = [
        Trial("copyup", "auto", "fentry+raw_tp", missing=("a" * 40 + " " + "b" * 40,)),
        Trial("copyup", "kprobe", "kprobe"),
        Trial("writes", "auto", "", error=HookMissing("no\x1b[2Jhook.", why="because.", do="--hook auto")),
    ]
    node = replace(NODE, name="n\x1b[31m1", kubelet_root=None)
    text = list(lines(KERNEL, node, trials, findings(KERNEL, node, trials), 80))
    assert max(map(len, text)) <= 80
    assert "\x1b" not in "".join(text)
    assert text[0].startswith("kubetrace doctor · node n\\x1b[31m1 · Linux 6.1.0-56-amd64")
    assert "kprobe attach  ok    attached" in text
    assert "copyup         less  by fentry and tracepoints; --hook kprobe works too" in text
    assert "writes         no    no\\x1b[2Jhook. because." in text
    assert " " * 21 + "Try: --hook auto" in text


# The names by which errors refer to it.


def _named_in_source() -> set[str]:
    """Every check="..." and `check = "..."` in the package."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (isinstance(node, ast.keyword) and node.arg == "check") or (
                isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "check" for target in node.targets)
            ):
                names |= {at.value for at in ast.walk(node.value) if isinstance(at, ast.Constant)}
    return {name for name in names if isinstance(name, str) and name not in ("", "fentry")}


def test_every_check_that_an_error_names_is_a_line_of_the_doctor() -> None:
    named = _named_in_source()
    assert {"kprobe attach", "capabilities", "kernel BTF", "cgroups"} <= named
    assert named <= set(CHECKS)


def _subclasses(kind: type[KubetraceError]) -> set[type[KubetraceError]]:
    return {kind}.union(*(_subclasses(sub) for sub in kind.__subclasses__()))


def test_every_error_of_the_kernel_or_the_node_names_a_line() -> None:
    for kind in _subclasses(errors.EngineError) | _subclasses(errors.NodeError):
        assert kind.check in CHECKS, kind
        assert str(kind("what.")).splitlines()[-1] == f"See:  kubetrace doctor, line '{kind.check}'"
    for other in (errors.UsageError, errors.RecordingError, errors.OutputError):
        assert "See:" not in str(other("what."))


def test_every_runtime_of_a_node_is_found(tmp_path: Path) -> None:
    captured.modern("containerd-2.1", tmp_path / "two")
    (tmp_path / "two/var/lib/kubelet").mkdir(parents=True, exist_ok=True)
    found = node_facts(Host(tmp_path / "two"))
    assert [(one.name, one.state) for one in found.runtimes] == [
        ("containerd", "/run/containerd"),
        ("containerd", "/srv/cr/state"),
    ]
    assert found.stores == ("/var/lib/containerd", "/srv/cr/root")
    assert all(one.containers > 3 for one in found.runtimes)
    captured.modern("crio", tmp_path / "crio")
    found = node_facts(Host(tmp_path / "crio"))
    # with stores of fuse-overlayfs beside its own
    assert {(one.name, one.state, one.containers) for one in found.runtimes} == {
        ("CRI-O", "/run/containers/storage", 2),
        ("CRI-O", "/run/crio-run", 2),
        ("CRI-O", "/run/containers/storage-fuse", 1),
        ("CRI-O", "/run/crio-run-fuse", 1),
    }
    assert set(found.stores) >= {"/var/lib/containers/storage", "/srv/storage"}


def test_what_arm64_says_has_words() -> None:
    found = find("fexit attach", kernel=replace(KERNEL, fexit=524))
    assert (found.status, "no BPF trampolines" in found.found) == ("less", True)
