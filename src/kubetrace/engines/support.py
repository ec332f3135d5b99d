"""What the running kernel allows, found out by looking and trying; and the words for what it refuses."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from kubetrace.errors import EngineError, HookMissing, PermissionDenied

VMLINUX_BTF = Path("/sys/kernel/btf/vmlinux")
KPROBES = Path("/sys/bus/event_source/devices/kprobe")
_PERF_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
# What Linux itself knows (kernel/events/core.c): no more without CAP_PERFMON.
PERF_PARANOID_MOST = 2
_PREEMPT_MODE = Path("/sys/kernel/debug/sched/preempt")
LOCKDOWN = Path("/sys/kernel/security/lockdown")
# No tracer's programs and maps are so few.
_FEWEST_FILES = 40
# include/uapi/linux/capability.h
_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 21, 38, 39


def effective_capabilities() -> int:
    """This process's, as bits."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def check_rights() -> None:
    """Raises PermissionDenied where no load can succeed: neither CAP_SYS_ADMIN nor CAP_BPF with CAP_PERFMON."""
    held = effective_capabilities()
    if not (held >> _CAP_SYS_ADMIN & 1 or (held >> _CAP_BPF & 1 and held >> _CAP_PERFMON & 1)):
        raise permission_denied("", errno.EPERM)


def locked_down() -> bool:
    """Whether the kernel is locked down for confidentiality: BPF may then not read its memory (kernel_lockdown(7))."""
    try:
        return "[confidentiality]" in LOCKDOWN.read_text()
    except OSError:
        return False


def of_the_node(code: int, log: Iterable[str] = ()) -> EngineError | None:
    """What is to blame for a refusal whichever program it is of; None if the program is.

    The verifier tells a helper that lockdown forbids as one that it does not know: EINVAL. So does libbpf when a map
    found no descriptor, or when it takes a feature for missing because its own trial of it found none.
    """
    if locked_down():
        return PermissionDenied(
            "the kernel is locked down for confidentiality: BPF may not read its memory.",
            why="All tracers read it (kernel_lockdown(7)); who, replay and --hook none need no BPF.",
            do="boot the node with lockdown=integrity, or without lockdown",
            check="lockdown",
        )
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most < _FEWEST_FILES or any(f"(-{errno.EMFILE})" in line for line in log):
        code = errno.EMFILE
    if code in (errno.EMFILE, errno.ENFILE):
        whose = "this process" if code == errno.EMFILE else "all processes together"
        return EngineError(
            f"no more files can be opened ({os.strerror(code)}).",
            why=f"Each program and map is one, some 100 for a tracer; {whose} may have no more (ulimit -n is {most}).",
            do="ulimit -n 1024; kubetrace ..." if code == errno.EMFILE else "sysctl fs.file-max",
            check="",
        )
    return None


def permission_denied(program: str, code: int) -> PermissionDenied:
    """Why the kernel says EPERM or EACCES, and the command that works."""
    what = f"the kernel refused to load {program}: {os.strerror(code)}." if program else "kubetrace may not load BPF."
    held = effective_capabilities()
    may_load = held >> _CAP_SYS_ADMIN & 1 or (held >> _CAP_BPF & 1 and held >> _CAP_PERFMON & 1)
    if not may_load and in_pod():
        lacking = ["CAP_BPF", "CAP_PERFMON"] if not held >> _CAP_BPF & 1 else ["CAP_PERFMON"]
        return PermissionDenied(
            f"this pod lacks {' and '.join(lacking)}: it may not load BPF programs.",
            do="kubectl debug node/NODE -it --profile=sysadmin --image=IMAGE -- "
            + shlex.join(["kubetrace", *sys.argv[1:]]),
        )
    if os.geteuid() != 0:
        return PermissionDenied(
            what, why="This shell is not root; tracing needs CAP_BPF and CAP_PERFMON.", do="sudo kubetrace ..."
        )
    if not may_load:
        return PermissionDenied(
            what,
            why="This shell is root without CAP_BPF and CAP_PERFMON, as in a container or a restricted service.",
            do="a root shell of the node itself, or: kubectl debug node/NODE -it --profile=sysadmin --image=IMAGE",
        )
    if not held >> _CAP_SYS_ADMIN & 1 and perf_paranoid() > PERF_PARANOID_MOST:
        return PermissionDenied(
            what,
            why=f"kernel.perf_event_paranoid is {perf_paranoid()} (Debian, Ubuntu): kprobes ask for CAP_SYS_ADMIN.",
            do="add CAP_SYS_ADMIN, or on the node: sysctl kernel.perf_event_paranoid=2",
            check="kprobe attach",
        )
    return PermissionDenied(
        what,
        why="root, but a security module, seccomp or the kernel's configuration forbids kprobes and fentry here.",
        do="kubetrace -v ... shows the kernel's own words",
        check="tracers",
    )


def perf_paranoid() -> int:
    """kernel.perf_event_paranoid; where distributions know more than 2, perf_event_open(2) asks for CAP_SYS_ADMIN."""
    try:
        return int(_PERF_PARANOID.read_text())
    except (OSError, ValueError):
        return PERF_PARANOID_MOST


def in_pod() -> bool:
    """Whether this process seems to be in a container: for words only, nothing else is decided by it.

    The kubelet tells every container where the API server is; a container's root is an overlay, a node's hardly ever.
    """
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    return any(line.split()[4] == "/" and " - overlay " in line for line in lines)


def hook_missing(tracer: str, program: str, hook: str, detail: str) -> HookMissing:
    """Why no way of hooking is left, after all that `hook` allows were tried."""
    why = f"{program} found nothing to attach to."
    do = "kubetrace -v ... shows each attempt"
    check = "tracers"
    if not KPROBES.exists():
        why = "It was built without kprobes (CONFIG_KPROBES), and fentry was refused too."
        do = "a distribution's kernel on the node, or scripts/demo, which boots one in a VM"
        check = "kprobe attach"
    elif hook != "auto":
        why = f"{program} cannot be attached by --hook {hook}."
        do = f"kubetrace {tracer} --hook auto"
        check = "fexit attach" if hook == "fentry" else "kprobe attach"
    elif not overlay_loaded():
        why = "overlayfs is not loaded."
        do = "modprobe overlay"
        check = "overlayfs"
    return HookMissing(
        f"this kernel ({os.uname().release}) has nothing that {tracer} can hook.",
        why=why,
        do=do,
        detail=detail,
        check=check,
    )


def has_btf() -> bool:
    """Whether the kernel describes its own types."""
    return VMLINUX_BTF.exists()


def check_btf() -> None:
    """Raises HookMissing when the kernel carries no BTF: objects compiled once cannot be relocated to it."""
    if not has_btf():
        raise HookMissing(
            f"this kernel ({os.uname().release}) has no BTF.",
            why=f"{VMLINUX_BTF} is missing (CONFIG_DEBUG_INFO_BTF), so compiled programs cannot be fitted to it.",
            do=f"apt-get install python3-bpfcc linux-headers-{os.uname().release}, and --engine bcc",
            check="kernel BTF",
        )


def functions_absent(names: Collection[str], *, of_modules: bool = False) -> set[str]:
    """Those of `names` that the kernel's BTF does not mention: a hint of what not to try, not a decision.

    With `of_modules`, that of overlayfs' module is looked through for what the kernel's does not have; kernels before
    5.11 have none. A search of the string table: parsing 5 MB of BTF would cost more than the wrong try that it saves.
    """
    absent = set(names)
    for path in (VMLINUX_BTF, *([VMLINUX_BTF.parent / "overlay"] if of_modules else ())):
        if absent and (path == VMLINUX_BTF or path.exists()):
            # a module's strings begin without a NUL
            table = b"\0" + path.read_bytes()
            absent = {name for name in absent if b"\0" + name.encode() + b"\0" not in table}
    return absent


def preemptible() -> bool:
    """Whether this kernel may preempt a task inside a BPF program, and with it the program for its whole CPU.

    By its build (uname -v), and by the mode chosen at boot where debugfs tells: "none (voluntary) full".
    """
    if "PREEMPT" not in os.uname().version:
        return False
    try:
        modes = _PREEMPT_MODE.read_text()
    except OSError:
        return True
    return not ("(none)" in modes or "(voluntary)" in modes)


def overlay_loaded() -> bool:
    """Whether overlayfs is in the kernel now: built in, or its module is loaded (/proc/filesystems)."""
    try:
        return "\toverlay\n" in Path("/proc/filesystems").read_text()
    except OSError:
        return True
