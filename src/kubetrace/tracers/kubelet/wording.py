"""What was done, in words: of each act its outcome and its detail, as --events shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kubetrace.kit.identity import text_of
from kubetrace.views.units import format_bytes, format_duration

if TYPE_CHECKING:
    from kubetrace.views.columns import Value

FIRST, ENTERED, EXECUTED, TERMINAL, IGNORED, KERNEL = (1 << at for at in range(6))
"""Of kubelet_act.flags (bpf/kubelet.bpf.c)."""
STARTED_AGAIN, STOPPED, OUT_OF_MEMORY, AGENT = (1 << at for at in range(16, 20))
"""What the board adds to them: of a start, of an end, of whom a runtime or the kubelet sent a signal."""
_MAPPED: Final = bytes(10) + b"\xff\xff"
SIGTERM, SIGKILL = 15, 9
_TARGET_BYTES: Final = 160


def what_of(event: Any) -> str:
    """Which act."""
    name: str = event.NAMES["what"][event.what]
    return name.replace("-", "_")


def pace(period_ns: int) -> str:
    """Every how long something comes, to a tenth of a second: a probe's period is whole seconds."""
    return format_duration(round(period_ns / 1e8) * 100_000_000)


def signal_name(number: int) -> str:
    """SIGTERM and the like."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def arguments(event: Any) -> list[bytes]:
    """A command line, as it was given to execve; [] where it is not known."""
    text: bytes = event.text[: event.text_bytes]
    return text.removesuffix(b"\0").split(b"\0") if text else []


def command(event: Any) -> bytes | None:
    """The same as one would type it in a shell; None where it is not known."""
    import shlex  # here, as below: --help imports this module

    words = [word.decode("utf-8", "surrogateescape") for word in arguments(event)]
    if not words:
        return None
    return shlex.join(words).encode("utf-8", "surrogateescape")


def _shown_command(event: Any) -> bytes | None:
    # one that was longer ends with an ellipsis
    line = command(event)
    return line + "…".encode() if line is not None and event.text_cut else line


def target(event: Any) -> Value:
    """What tells the acts of one kind on one container apart: the command, the port, the signal."""
    what = what_of(event)
    if what in ("exec", "start"):
        line = _shown_command(event)
        return line[:_TARGET_BYTES] + "…".encode() if line is not None and len(line) > _TARGET_BYTES else line
    if what == "connect":
        return endpoint(event)
    if what in ("stop", "kill", "signal"):
        return signal_name(event.number)
    if what == "exit":
        return ending(event.status)
    if what == "run":
        return program(event)
    if what in OF_FILES:
        return text(event)
    return text_of(event.comm)


OF_FILES: Final = ("refresh", "rotate", "collect", "mount", "umount")
"""What is done to files."""


def text(event: Any) -> bytes:
    """Of what is done to files: the volume, the container, the store."""
    name: bytes = event.text[: event.text_bytes]
    return name


def program(event: Any) -> bytes:
    """A runtime's program with its subcommand, such as runc exec."""
    words = arguments(event)
    name = words[0].rpartition(b"/")[2] if words else text_of(event.comm)
    verb = subcommand(words) if is_runtime(name) else b""
    if name.startswith(b"containerd-shim") and words[-1] in (b"start", b"delete"):
        verb = words[-1]
    return name + b" " + verb if verb else name


def is_runtime(name: bytes) -> bool:
    """Whether a program is one of those that the OCI has a command line for."""
    return name in (b"runc", b"crun", b"youki")


# Options of runc and crun that take a value of their own, as runtimes give them: --root DIRECTORY, --log FILE.
_WITH_VALUE: Final = frozenset({b"--root", b"--log", b"--log-format", b"--criu", b"--rootless"})


def subcommand(words: list[bytes]) -> bytes:
    """The first word that is neither an option nor the value of one."""
    skip = False
    for word in words[1:]:
        if skip:
            skip = False
        elif word in _WITH_VALUE:
            skip = True
        elif not word.startswith(b"-"):
            return word
    return b""


def address(event: Any) -> str:
    """Of a connection, as people write it."""
    import ipaddress

    if event.address[:12] == _MAPPED:
        return str(ipaddress.IPv4Address(event.address[12:]))
    return str(ipaddress.IPv6Address(event.address))


def endpoint(event: Any) -> str:
    """Address and port."""
    host = address(event)
    return f"[{host}]:{event.port}" if ":" in host else f"{host}:{event.port}"


def ending(status: int) -> str:
    """How a process ended: exit 3, SIGKILL."""
    number = status & 0x7F
    return signal_name(number) if number else f"exit {status >> 8 & 0xFF}"


def failed(event: Any) -> bool:
    """Whether it went wrong: an answer other than 0, none at all, an end that nobody asked for."""
    what = what_of(event)
    if what == "connect":
        return bool(event.status) or not event.flags & EXECUTED
    if what in ("exec", "run"):
        return bool(event.status)
    if what == "exit":
        return bool(event.status) and not event.flags & STOPPED
    return what in ("kill", "oom_kill")


def outcome(event: Any) -> str | None:
    """In a few words."""
    what = what_of(event)
    if what == "exec":
        if not event.flags & EXECUTED:
            return "not started"
        if event.status & 0x7F and event.number:
            return f"killed by {'runtime' if event.flags & AGENT else 'another'}"
        return ending(event.status)
    if what in ("run", "exit"):
        return "out of memory" if event.flags & OUT_OF_MEMORY else ending(event.status)
    if what == "connect":
        if not event.flags & EXECUTED:
            return _errno(event.status) if event.status else "no answer"
        return _errno(event.status) if event.status else "answered"
    if what in ("stop", "signal", "kill"):
        return "ignored" if event.flags & IGNORED else "sent"
    return None


def _errno(number: int) -> str:
    import errno

    return errno.errorcode.get(number, str(number))


def _after(event: Any) -> str:
    return f", {format_duration(event.duration)} after the stop" if event.flags & STOPPED else ""


def detail(event: Any) -> Value:
    """The rest: the command, by whom, and what follows from it."""
    what = what_of(event)
    cause = text_of(event.cause_comm)
    if what == "exec":
        line = _shown_command(event) or b"(the runtime could not execute it)"
        if event.status & 0x7F and event.number:
            line += b" (" + signal_name(event.number).encode() + b" by " + cause + b": "
            line += b"it took too long, or who asked has gone)" if event.flags & AGENT else b"not by the runtime)"
        return line
    if what == "connect":
        said = endpoint(event)
        if event.flags & EXECUTED:
            return f"{said} sent {format_bytes(event.sent)}, received {format_bytes(event.received)}"
        return said
    if what == "stop":
        by = signal_name(event.number).encode() + b" by " + cause
        return by + b": no handler for it, so the whole grace period will be waited" * bool(event.flags & IGNORED)
    if what == "kill":
        return f"SIGKILL{_after(event)} by ".encode() + cause
    if what == "signal":
        return signal_name(event.number).encode() + b" by " + cause
    if what == "exit":
        return f"{ending(event.status)}{_after(event)}"
    if what == "start":
        line = _shown_command(event) or b""
        if event.flags & STARTED_AGAIN:
            return f"again, {format_duration(event.duration)} after {ending(event.status)}: ".encode() + line
        return line
    if what == "oom_kill":
        whole = "the container's first process" if event.flags & FIRST else "the container goes on without it"
        return text_of(event.comm) + f" (pid {event.pid}): {whole}".encode()
    if what == "refresh":
        how = b"filled for the first time" if event.flags & FIRST else b"has new contents"
        return b"volume " + text(event) + b" " + how
    if what == "rotate":
        return b"log of " + text(event) + f", {format_bytes(event.received)}, begun anew".encode()
    if what == "collect":
        return f"{event.number} snapshot{'s' * (event.number != 1)} removed from ".encode() + text(event)
    if what in OF_FILES:
        return b"volume " + text(event)
    named = program(event)
    # what is in a runtime's own command line besides is directories, and the container that is told in front
    return named if b" " in named else _shown_command(event)
