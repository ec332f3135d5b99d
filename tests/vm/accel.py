"""Whether a machine runs with KVM or under QEMU's software emulation, and why.

A /dev/kvm that opens promises little: on some hosts QEMU cannot run a CPU with it, on others (PVM) it can, but no
kernel boots that was not made for them. So only a boot tells whether this kernel boots with KVM on this host. The first
machine is that trial, and what it told is kept.
"""

import fcntl
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MODES = ("auto", "kvm", "emulation")

# A kernel that boots with KVM has done so in a few seconds, also on a busy host.
TRIAL_LIMIT_S = 30

_KVM_CREATE_VM = 0xAE01


class AccelError(Exception):
    """KVM was asked for and is not to be had, with what the user can do about it."""


@dataclass(frozen=True)
class Answer:
    """What a boot with KVM has told: whether the agent answered, and if not, what was in its way."""

    boots: bool
    reason: str = ""


@dataclass(frozen=True)
class Facts:
    """All that the choice depends on: what was asked for, what is in the way of KVM, what an earlier boot has told."""

    asked: str = "auto"
    count_instructions: bool = False
    # why no machine can be made with KVM; empty when only a boot can tell
    obstacle: str = ""
    answer: Answer | None = None


@dataclass(frozen=True)
class Choice:
    """How to boot, and why so in words; `trial` when this boot is to tell whether KVM works."""

    kvm: bool
    reason: str = ""
    trial: bool = False

    @property
    def words(self) -> str:
        """How the machine runs, for a message."""
        return "with KVM" if self.kvm else "under emulation"

    @property
    def explained(self) -> str:
        """How the machine runs and why, for a message."""
        return f"{self.words} ({self.reason})" if self.reason else self.words


def choose(facts: Facts) -> Choice:
    """How to boot; AccelError when KVM was asked for by name and cannot be had."""
    if facts.count_instructions:
        return Choice(kvm=False, reason="KVM does not count instructions")
    if facts.asked == "emulation":
        return Choice(kvm=False, reason="as asked for")
    if facts.asked == "kvm":
        if facts.obstacle:
            raise AccelError(refusal(facts.obstacle))
        # whoever asks by name may have changed something since it failed
        known = facts.answer is not None and facts.answer.boots
        return Choice(kvm=True, reason="as asked for", trial=not known)
    if facts.obstacle:
        return Choice(kvm=False, reason=failed(facts.obstacle))
    if facts.answer is None:
        return Choice(kvm=True, reason="for the first time here", trial=True)
    if facts.answer.boots:
        return Choice(kvm=True)
    return Choice(kvm=False, reason=failed(facts.answer.reason))


def failed(reason: str) -> str:
    """Why a machine is emulated on a host whose KVM is of no use."""
    return f"KVM does not work here: {reason}"


def refusal(reason: str) -> str:
    """The message for who asked for KVM by name and cannot have it."""
    return (
        f"{failed(reason)}. --accel kvm (or KUBETRACE_ACCEL=kvm) was given: leave it out, and the machine runs under "
        "emulation. For KVM, this user must be able to open /dev/kvm, and a host that is itself a virtual machine must "
        "have nested virtualization."
    )


def obstacle(device: str = "/dev/kvm") -> str:
    """Why KVM makes no machine for this user, found without starting one; empty when nothing is in the way."""
    try:
        kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return f"there is no {device}"
    except OSError as error:
        return f"{device} cannot be opened: {error.strerror}"
    try:
        os.close(fcntl.ioctl(kvm, _KVM_CREATE_VM, 0))
    except OSError as error:
        return f"{device} makes no virtual machine: {error.strerror}"
    finally:
        os.close(kvm)
    return ""


class Memory:
    """What earlier boots have told, in a file. Where two machines write it at once, one answer is asked for again.

    An answer holds for this kernel in the guest, this kernel and CPU model of the host, and this version of QEMU.
    """

    def __init__(self, path: Path, release: str, qemu: Path) -> None:
        self._path, self._release, self._qemu = path, release, qemu

    def recall(self) -> Answer | None:
        """What a boot has told; None when there was none."""
        found = self._read().get(self._key())
        if not isinstance(found, dict) or not isinstance(found.get("boots"), bool):
            return None
        return Answer(found["boots"], str(found.get("reason", "")))

    def keep(self, answer: Answer) -> None:
        """Keep what a boot has told."""
        known = self._read() | {self._key(): {"boots": answer.boots, "reason": answer.reason}}
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        new.write_text(json.dumps(known, indent=1) + "\n")
        new.rename(self._path)

    # Made only when it is needed: to ask QEMU takes time.
    def _key(self) -> str:
        command = [str(self._qemu), "--version"]
        version = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\n")[0]
        host = os.uname()
        return f"Linux {self._release} on {host.sysname} {host.release} {host.version}, {_cpu_model()}, {version}"

    # A file that is broken costs one more trial.
    def _read(self) -> dict[str, object]:
        try:
            known = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def gather(asked: str, count_instructions: bool, recall: Callable[[], Answer | None]) -> Facts:
    """The facts for choose(); nothing is looked up that cannot matter, as it costs time at each boot."""
    if count_instructions or asked == "emulation":
        return Facts(asked, count_instructions)
    found = obstacle()
    return Facts(asked, count_instructions, found, None if found else recall())


def _cpu_model(path: str = "/proc/cpuinfo") -> str:
    with open(path) as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown CPU"
