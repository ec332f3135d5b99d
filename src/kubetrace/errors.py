"""The errors that a user can meet, each with what happened, why, and what to do.

    KubetraceError              anything kubetrace says instead of a traceback; exit status 1
     ├── UsageError             what was asked cannot be (unknown column, group or pod id); exit status 2
     ├── EngineError            the kernel or libbpf said no
     │    ├── PermissionDenied  not root, or without CAP_BPF and CAP_PERFMON
     │    ├── HookMissing       the running kernel has no such function (or its module is not loaded)
     │    ├── LoadRefused       the verifier, lockdown or libbpf refused the object
     │    └── LibraryMissing    libbpf.so.1 or a compiled object is not installed
     ├── NodeError              the node's files are not what a node's are (no cgroup tree, no /proc)
     ├── ClusterError           kubectl or the API server said no
     ├── RecordingError         a file is not a recording, or one of a newer version
     ├── OutputError            the terminal or file cannot be written
     └── EventsLost             it ran, but lost events, and --strict was given; exit status 3

Each that a node or its kernel is to blame for names the line of `kubetrace doctor` that explains it.
Only commands/exits.py prints them and exits.
"""

from __future__ import annotations

from collections.abc import Sequence


class KubetraceError(Exception):
    """What happened, why, and what to do: one line each; `detail` is shown with -v only.

    `check` is the line of `kubetrace doctor` that looks at the cause (doctor/rules.py); each class has its usual one.
    """

    exit_status = 1
    check = ""

    def __init__(self, what: str, *, why: str = "", do: str = "", detail: str = "", check: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.do = do
        self.detail = detail
        if check is not None:
            self.check = check

    @property
    def see(self) -> str:
        """Where more is said about it; empty where nothing is."""
        return f"kubetrace doctor, line '{self.check}'" if self.check else ""

    def __str__(self) -> str:
        """The lines that a user reads."""
        lines = [self.what]
        if self.why:
            lines.append(self.why)
        if self.do:
            lines.append(f"Try:  {self.do}")
        if self.see:
            lines.append(f"See:  {self.see}")
        return "\n".join(lines)


class UsageError(KubetraceError):
    """What was asked cannot be answered as it was written."""

    exit_status = 2


def no_such(what: str, word: str, known: Sequence[str], *, option: str = "") -> UsageError:
    """`what` names the kind and the word ("there is no command 'copyp'"); `known` are those that there are.

    What is meant, where a known one is near, else all of them, is what to try, behind `option`.
    """
    import difflib

    lower = {name.lower(): name for name in reversed(known)}
    near = [lower[name] for name in difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.65)]
    lead = f"{option} " if option else ""
    if near:
        meant = " or ".join(repr(name) for name in near)
        return UsageError(f"{what}.", why=f"Did you mean {meant}?", do=lead + near[0])
    return UsageError(f"{what}.", do=lead + "|".join(known))


class EngineError(KubetraceError):
    """The kernel or libbpf said no."""

    check = "tracers"


class PermissionDenied(EngineError):
    """The process lacks the right to load or attach BPF programs."""

    check = "capabilities"


class HookMissing(EngineError):
    """The running kernel has none of the functions a tracer can hook."""

    check = "kprobe attach"


class LoadRefused(EngineError):
    """The verifier, the kernel's lockdown or libbpf refused the object."""

    check = "tracers"


class LibraryMissing(EngineError):
    """libbpf.so.1, or the compiled object of a tracer, is not there."""

    check = "libbpf"


class NodeError(KubetraceError):
    """The node's own files are not what those of a Linux node are."""

    check = "node root"


class ClusterError(KubetraceError):
    """kubectl, or the API server behind it, said no."""


class RecordingError(KubetraceError):
    """A file that was to be read is not a recording that this version understands."""


class OutputError(KubetraceError):
    """The terminal or the file that was to be written cannot be."""


class EventsLost(KubetraceError):
    """Everything was done, but not everything was seen, and --strict asked to be told."""

    exit_status = 3
