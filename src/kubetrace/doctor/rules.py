"""From facts to findings: pure, so that every rule can be tested without the node it is about.

Each finding is one line of `kubetrace doctor`, named as errors name it (errors.KubetraceError.check).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kubetrace.views.units import format_bytes

if TYPE_CHECKING:
    from kubetrace.doctor.surroundings import NodeFacts
    from kubetrace.doctor.trial import Trial
    from kubetrace.engines.probe import KernelFacts

Status = Literal["ok", "less", "no"]
"""ok; less: it works, but something is not seen or not sure; no: what needs it does not work."""

CHECKS = (
    "capabilities",
    "lockdown",
    "libbpf",
    "kernel BTF",
    "bcc",
    "module BTF",
    "overlayfs",
    "fexit attach",
    "kprobe attach",
    "tracepoints",
    "ring buffer",
    "tracefs",
    "PSI",
    "node root",
    "host PIDs",
    "cgroups",
    "runtime",
    "kubelet root",
    "free disk",
    "tracers",
)
"""The names of all lines, in the order in which they are shown."""

# include/uapi/linux/capability.h
_CAPABILITIES = {19: "SYS_PTRACE", 21: "SYS_ADMIN", 38: "PERFMON", 39: "BPF"}
_DEBUG = "kubectl debug node/NODE -it --profile=sysadmin --image=IMAGE -- kubetrace ..."
# include/linux/errno.h: the kernel's own, which strerror does not know
_ENOTSUPP = 524
_LOW_BYTES, _LOW_SHARE = 1 << 30, 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it stands, what was found, and what to do where it is not ok."""

    check: str
    status: Status
    found: str
    do: str = ""


def findings(kernel: KernelFacts, node: NodeFacts, trials: Sequence[Trial]) -> list[Finding]:
    """One for each of CHECKS, in that order."""
    made = {finding.check: finding for finding in (*_of_kernel(kernel), *_of_node(node), _of_tracers(trials))}
    return [made[name] for name in CHECKS]


def works(trials: Sequence[Trial]) -> bool:
    """Whether any tracer does."""
    return any(trial.attached or trial.waits for trial in trials)


def capability_names(held: int) -> list[str]:
    """Those that matter here."""
    return [f"CAP_{name}" for bit, name in _CAPABILITIES.items() if held >> bit & 1]


# The kernel.


def _may_load(kernel: KernelFacts) -> bool:
    held = capability_names(kernel.capabilities)
    return "CAP_SYS_ADMIN" in held or {"CAP_BPF", "CAP_PERFMON"} <= set(held)


def _of_kernel(kernel: KernelFacts) -> Iterator[Finding]:
    yield _capabilities(kernel)
    yield _lockdown(kernel)
    if kernel.libbpf is None:
        yield Finding("libbpf", "no", "libbpf.so.1 cannot be loaded", "apt-get install libbpf1")
    else:
        yield Finding("libbpf", "ok", kernel.libbpf)
    if kernel.btf_bytes is None:
        found = "/sys/kernel/btf/vmlinux is missing (CONFIG_DEBUG_INFO_BTF)"
        if kernel.bcc:
            yield Finding("kernel BTF", "less", found, "nothing: bcc serves; a newer kernel starts faster")
        else:
            yield Finding("kernel BTF", "no", found, "a kernel of a current distribution (Debian: since 5.10), or bcc")
    else:
        yield Finding("kernel BTF", "ok", f"/sys/kernel/btf/vmlinux, {format_bytes(kernel.btf_bytes)}")
    if kernel.bcc:
        yield Finding("bcc", "ok", "installed")
    elif kernel.btf_bytes is not None:
        yield Finding("bcc", "ok", "not installed, and not needed: the kernel has BTF")
    else:
        yield Finding("bcc", "no", "not installed, and the kernel has no BTF", "apt-get install python3-bpfcc")
    yield _module_btf(kernel)
    if kernel.overlay_loaded:
        yield Finding("overlayfs", "ok", "built in" if kernel.overlay_btf == "kernel" else "loaded")
    else:
        yield Finding("overlayfs", "no", "not loaded: copyup waits for it", "modprobe overlay")
    yield _fexit(kernel)
    yield _kprobe(kernel)
    attempts = (("tracepoints", kernel.tracepoint), ("ring buffer", kernel.ring_buffer))
    for check, code in attempts:
        if code == 0:
            yield Finding(check, "ok", "attached" if check == "tracepoints" else "made (Linux 5.8)")
        else:
            yield Finding(check, "no", _refused(kernel, code), _remedy(kernel, code, "Linux 5.8 or newer"))
    yield _tracefs(kernel)
    if kernel.pressure:
        yield Finding("PSI", "ok", "/proc/pressure")
    else:
        found = "off (psi=0, or CONFIG_PSI_DEFAULT_DISABLED): cgroups shows no pressure"
        yield Finding("PSI", "less", found, "boot with psi=1, if pressure matters")


def _capabilities(kernel: KernelFacts) -> Finding:
    held = ", ".join(capability_names(kernel.capabilities))
    user = "root" if kernel.root else "not root"
    if not _may_load(kernel):
        found = f"{user}, with {held}" if held else f"{user}, without CAP_BPF and CAP_PERFMON"
        return Finding("capabilities", "no", found, _DEBUG if kernel.root else "sudo kubetrace ...")
    if not kernel.capabilities >> 19 & 1:
        found = f"{held}; without CAP_SYS_PTRACE mounts that come later are not seen from a pod"
        return Finding("capabilities", "less", found, "add CAP_SYS_PTRACE")
    if not kernel.capabilities >> 21 & 1 and kernel.overlay_btf == "module":
        instead = "" if _wants_sys_admin(kernel) else "kprobes serve, "
        found = f"{held}; without CAP_SYS_ADMIN no BTF of modules: {instead}image layers are not told"
        return Finding("capabilities", "less", found, "add CAP_SYS_ADMIN, if layers matter")
    return Finding("capabilities", "ok", held)


def _lockdown(kernel: KernelFacts) -> Finding:
    if kernel.lockdown == "confidentiality":
        found = "confidentiality: BPF may not read the kernel's memory (kernel_lockdown(7))"
        return Finding("lockdown", "no", found, "boot with lockdown=integrity, or without lockdown")
    return Finding("lockdown", "ok", kernel.lockdown or "none")


def _module_btf(kernel: KernelFacts) -> Finding:
    if kernel.overlay_btf is not None:
        where = "/sys/kernel/btf/overlay" if kernel.overlay_btf == "module" else "overlayfs is in the kernel's own"
        return Finding("module BTF", "ok", where)
    if not kernel.overlay_loaded:
        return Finding("module BTF", "less", "overlayfs is not loaded", "modprobe overlay")
    found = "none of overlayfs (Linux 5.11 is the first): it is hooked by kprobes"
    if kernel.kprobe == 0:
        return Finding("module BTF", "less", found, "nothing: kprobes serve; a newer kernel has it")
    return Finding("module BTF", "no", found, "a newer kernel, or one with kprobes")


def _fexit(kernel: KernelFacts) -> Finding:
    if kernel.fexit == 0:
        return Finding("fexit attach", "ok", "attached")
    status: Status = "less" if kernel.kprobe == 0 else "no"
    do = "nothing: kprobes serve" if status == "less" else _remedy(kernel, kernel.fexit, "a distribution's kernel")
    return Finding("fexit attach", status, _refused(kernel, kernel.fexit), do)


def _kprobe(kernel: KernelFacts) -> Finding:
    if kernel.kprobe == 0:
        return Finding("kprobe attach", "ok", "attached")
    found = _refused(kernel, kernel.kprobe)
    if not kernel.kprobes_built_in:
        found = "this kernel was built without kprobes (CONFIG_KPROBES)"
    if _wants_sys_admin(kernel):
        found = f"refused: kernel.perf_event_paranoid is {kernel.perf_paranoid}, so kprobes ask for CAP_SYS_ADMIN"
        do = "add CAP_SYS_ADMIN, or on the node: sysctl kernel.perf_event_paranoid=2"
        return Finding("kprobe attach", "no" if kernel.overlay_btf != "kernel" else "less", found, do)
    status: Status = "less" if kernel.fexit == 0 else "no"
    do = "nothing: fentry serves" if status == "less" else _remedy(kernel, kernel.kprobe, "a distribution's kernel")
    return Finding("kprobe attach", status, found, do)


def _wants_sys_admin(kernel: KernelFacts) -> bool:
    # Of overlayfs as a module fentry needs the BTF, which asks for the same capability.
    return (
        kernel.kprobe in (errno.EPERM, errno.EACCES)
        and _may_load(kernel)
        and "CAP_SYS_ADMIN" not in capability_names(kernel.capabilities)
        and kernel.perf_paranoid > 2
    )


def _tracefs(kernel: KernelFacts) -> Finding:
    if kernel.tracefs is not None:
        return Finding("tracefs", "ok", kernel.tracefs)
    if not kernel.kprobes_built_in:
        return Finding("tracefs", "ok", "not needed without kprobes")
    status: Status = "ok" if kernel.fexit == 0 and kernel.overlay_btf is not None else "less"
    found = "takes no kprobes" if status == "less" else "takes no kprobes; fentry needs none"
    do = "mount -t tracefs none /sys/kernel/tracing (else returns may be missed, and are counted)"
    return Finding("tracefs", status, found, do if status == "less" else "")


def _refused(kernel: KernelFacts, code: int | None) -> str:
    if code is None:
        return "not tried without libbpf"
    if code == _ENOTSUPP:
        return "refused: this architecture has no BPF trampolines in this kernel (ENOTSUPP; arm64: since Linux 6.0)"
    return f"refused: {os.strerror(code)}"


def _remedy(kernel: KernelFacts, code: int | None, otherwise: str) -> str:
    if code is None:
        return "apt-get install libbpf1"
    if code in (errno.EPERM, errno.EACCES):
        if not _may_load(kernel):
            return "see capabilities"
        if kernel.lockdown == "confidentiality":
            return "see lockdown"
    return otherwise


# The node.


def _of_node(node: NodeFacts) -> Iterator[Finding]:
    if node.root == "/" and not node.first_pids and node.runtime is None and node.kubelet_root is None:
        yield Finding("node root", "less", "/: no node's, by what is in it", "--host-root DIR; " + _DEBUG)
    else:
        yield Finding("node root", "ok", node.root if node.root != "/" else "/ (this is the node)")
    yield _host_pids(node)
    if node.cgroups is None:
        do = "mount -t cgroup2 none /sys/fs/cgroup, or --host-root DIR"
        yield Finding("cgroups", "no", node.cgroup_trouble or "none mounted", do)
    elif node.driver is None:
        yield Finding("cgroups", "less", f"{node.cgroups}; no pods' cgroups", "start a pod; is the kubelet running?")
    else:
        yield Finding("cgroups", "ok", f"{node.cgroups}, {node.driver} driver")
    yield _runtime(node)
    if node.kubelet_root is None:
        do = "is this a Kubernetes node? --host-root DIR"
        yield Finding("kubelet root", "less", "not found: volumes have no names", do)
    else:
        yield Finding("kubelet root", "ok", node.kubelet_root)
    yield _disk(node)


def _host_pids(node: NodeFacts) -> Finding:
    if node.first_root and node.first_pids:
        return Finding("host PIDs", "ok", "the node's; PID 1's root can be entered")
    if node.first_root:
        # as on a node that is a container itself (kind)
        return Finding("host PIDs", "less", "PID 1 is not the machine's first process", "nothing, on a nested node")
    found = "PID 1's root cannot be entered: mounts that come later are not seen"
    return Finding("host PIDs", "less", found, "hostPID and CAP_SYS_PTRACE; " + _DEBUG)


def _runtime(node: NodeFacts) -> Finding:
    if node.runtime is None:
        do = "is this a Kubernetes node? --host-root DIR"
        return Finding("runtime", "less", "none found: containers have no names", do)
    if not node.runtimes:
        if node.runtime != "containerd":
            return Finding(
                "runtime", "less", f"{node.runtime}: untested; image layers stay unknown", "tell us how it goes"
            )
        return Finding(
            "runtime", "less", f"containerd: {node.state}, without pods", "start a pod; is the kubelet running?"
        )
    found = "; ".join(f"{one.name}: {one.state} ({one.containers} containers)" for one in node.runtimes)
    if not node.stores:
        return Finding("runtime", "less", f"{found}; its root was not found", "--host-root DIR")
    return Finding("runtime", "ok", f"{found}; {', '.join(node.stores)}")


def _disk(node: NodeFacts) -> Finding:
    found = [(one.path, one.size_bytes, one.free_bytes) for one in node.disks]
    found = found or [(node.disk_path, node.disk_bytes, node.disk_free_bytes)]
    text = "; ".join(f"{format_bytes(free)} of {format_bytes(size)} at {path}" for path, size, free in found)
    if any(free < _LOW_BYTES or free < _LOW_SHARE * size for _, size, free in found):
        return Finding("free disk", "less", text, "record elsewhere; kubetrace copyup shows what fills it")
    return Finding("free disk", "ok", text)


# The tracers.


def _of_tracers(trials: Sequence[Trial]) -> Finding:
    names = list(dict.fromkeys(trial.tracer for trial in trials))
    working = [name for name in names if any(t.tracer == name and (t.attached or t.waits) for t in trials)]
    found = f"{len(working)} of {len(names)} work here"
    if len(working) == len(names):
        return Finding("tracers", "ok", found)
    return Finding("tracers", "less" if working else "no", found, "see each below")
