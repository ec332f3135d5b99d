"""scripts/vm: run a command on a Debian kernel in QEMU, as if it were a local command.

vng (virtme-ng) describes the machine: the host's root file system read-only over 9p, the checkout writable, the
kernel's modules, a small initramfs. QEMU then runs as a direct child of this process, so that it can never outlive it.
The command's input, output, terminal and status go through frames.py over one virtio serial port.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO, Any

from tests.vm import accel, console, frames, guest, kernels, stage

BOOT_FAILED = 125
TIMED_OUT = 124
KERNEL_DIED = 123

# Ten times what a boot takes; beside other work, three times.
BOOT_LIMIT_S = 120
GRACE_S = 10

# How often the console is read for the kernel's death, and how long QEMU is then given to end by itself: a kernel that
# panics restarts, which ends QEMU (-no-reboot), but it may also hang on its way there.
LOOK_S = 5
DYING_S = 10

MEMORY_BYTES = 3 << 30

# The directories over which vng lays a writable overlay. /usr and /lib are left out: nobody writes there, and every
# file of every program would be looked up twice.
OVERLAYS = ("/etc", "/home", "/opt", "/root", "/srv", "/tmp", "/var")

# Runs as the init's only script. The disks are found by the serial numbers given to them below, as no udev names them.
# The tools disk is the first, and once it is mounted nothing more needs to come over 9p. -S, as the agent wants no
# packages.
BOOT_SCRIPT = f"""
modprobe -a virtio_blk ext4
mount=mount
for name in tools source disk; do
    for disk in /sys/block/vd*; do
        read serial < $disk/serial
        [ "$serial" = $name ] && break
    done
    [ "$serial" = $name ] || continue
    mode=ro
    [ $name = disk ] && mode=rw
    mkdir -p {guest.RUN}/$name
    $mount -t ext4 -o $mode,noatime /dev/${{disk##*/}} {guest.RUN}/$name
    mount="{guest.TOOLS}/bin/busybox mount"
done
PYTHONPATH={guest.RUN}/source exec {guest.TOOLS}/bin/python3 -S -m tests.vm.guest
"""

# All that QEMU emulates, but for what so costs more than it saves: strings copied byte by byte (rep movsb, rep stosb),
# the fifth level of page tables, and checks around each access to user memory.
_CPU = "max,-erms,-fsrm,-la57,-smap,-smep,-umip,-pku"

# virtme-run, but for the root, which the guest only reads, to be looked up once: to ask the host for each part of each
# path takes milliseconds where that is busy, and there are a hundred for a process.
_VIRTME_RUN = """
import sys
from virtme import mkinitramfs
from virtme.commands.run import main
asked = mkinitramfs._MOUNT_ROOT_HOST
mkinitramfs._MOUNT_ROOT_HOST = asked.replace(",access=any,", ",access=any,cache=loose,")
assert asked != mkinitramfs._MOUNT_ROOT_HOST
sys.exit(main())
"""

# Of the caller's environment, what a command may care about; the rest describes the host.
_ENVIRONMENT_PREFIXES = ("KUBETRACE_", "PYTEST_", "HYPOTHESIS_", "LC_")
_ENVIRONMENT_NAMES = {"TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "LANG", "TZ", "CI", "COLUMNS", "LINES"}


class Stopped(BaseException):
    """A signal asked this process to end now."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class MachineError(Exception):
    """The machine did not do its part: it failed to boot, stopped early or ran out of time."""

    def __init__(self, message: str, status: int = BOOT_FAILED) -> None:
        super().__init__(message)
        self.status = status


class NotBooted(MachineError):
    """The agent in the machine has never answered; `reason` in a few words."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message, status)
        self.reason = reason


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    kernel: str
    node: str
    cgroup: str
    timeout_s: float
    command: list[str]
    cache: Path
    count_instructions: bool = False
    possible_cpus: int | None = None
    image: bool = False
    accel: str = "auto"
    explain: bool = False
    runtime: str = stage.RUNTIMES[0]


def note(line: str) -> None:
    """Show one line of progress on stderr."""
    print(f"vm: {line}", file=sys.stderr, flush=True)


def parse(arguments: list[str]) -> Options:
    """Read the command line; exits with a usage message when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="scripts/vm",
        description="Run a command on a Debian kernel in a virtual machine (with KVM where that works, else under "
        "software emulation), in this checkout, with kubetrace on PATH. Its output and exit status are the command's.",
        epilog="Exit status: the command's; 123 when the machine's kernel dies (an Oops, a panic, a boot that does not "
        "end), 124 when the time is up, 125 when the machine fails.",
    )
    parser.add_argument(
        "--kernel",
        default="6.1",
        help=f"one of {', '.join(kernels.SUITES)} (default 6.1), or a directory with boot/vmlinuz-* and lib/modules",
    )
    parser.add_argument(
        "--node",
        nargs="?",
        const="busy",
        default="",
        choices=["busy", "quiet"],
        help="start containerd and pods first; --node=quiet: pods that only sleep",
    )
    parser.add_argument(
        "--containerd",
        default=stage.RUNTIMES[0],
        choices=stage.RUNTIMES,
        help="the node's containerd and runc: 1 (default: this release's, 1.6), or 2 (2.1, of a newer Debian)",
    )
    parser.add_argument("--cgroup", default="v2", choices=["v2", "v1", "hybrid"], help="cgroup mode (default v2)")
    parser.add_argument(
        "--count-instructions",
        action="store_true",
        help="one CPU whose clock counts instructions: a nanosecond in the guest is one (QEMU -icount shift=0)",
    )
    parser.add_argument(
        "--image",
        action="store_true",
        help="build kubetrace's image first; its tar is $KUBETRACE_IMAGE for the command",
    )
    parser.add_argument(
        "--accel",
        default=os.environ.get("KUBETRACE_ACCEL") or "auto",
        choices=accel.MODES,
        help="auto (default, or $KUBETRACE_ACCEL): KVM if this kernel boots with it on this host, which is tried once; "
        "kvm: or fail; emulation: also with --count-instructions",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="when the command fails, show the ends of the kernel's and containerd's logs, and the node's pods",
    )
    parser.add_argument(
        "--possible-cpus",
        type=int,
        metavar="N",
        help="CPUs that the kernel is ready for (nr_cpu_ids), of which the machine has two: what is kept for each is",
    )
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="time for it all (default 900)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    given = parser.parse_args(arguments)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        parser.error("no command given. Example:  scripts/vm -- kubetrace copyup")
    if given.cgroup != "v2" and given.kernel in ("6.12", "7.2"):
        parser.error(f"Debian's {given.kernel} has no cgroup v1 memory controller; use --kernel 5.10 or 6.1")
    # argparse does not look at a default
    if given.accel not in accel.MODES:
        parser.error(f"KUBETRACE_ACCEL is {given.accel!r}; it can be {', '.join(accel.MODES)}")
    node = "quiet" if given.node and os.environ.get("KUBETRACE_NODE") == "quiet" else given.node
    kernel = os.path.abspath(given.kernel) if os.path.isdir(given.kernel) else given.kernel
    cache = stage.cache_directory()
    return Options(
        kernel=kernel,
        node=node,
        cgroup=given.cgroup,
        timeout_s=given.timeout,
        command=command,
        cache=cache,
        count_instructions=given.count_instructions,
        possible_cpus=given.possible_cpus,
        image=given.image,
        runtime=given.containerd,
        accel=given.accel,
        explain=given.explain,
    )


# How many machines may run at once; scripts/test says so to those that it starts.
AT_ONCE_VARIABLE = "KUBETRACE_MACHINES"


def at_once(environment: Mapping[str, str] = os.environ) -> int:
    """How many machines may run at once: $KUBETRACE_MACHINES, else one. Raises MachineError."""
    asked = environment.get(AT_ONCE_VARIABLE) or "1"
    if not asked.isdecimal() or int(asked) < 1:
        raise MachineError(f"{AT_ONCE_VARIABLE} is {asked[:40]!r}; it is how many machines run at once, such as 2.")
    return int(asked)


@contextlib.contextmanager
def turn(cache: Path) -> Iterator[int]:
    """Wait until one more machine may run, with a message; the number of this one among those that run, from 0."""
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(open(cache / f"machine-{number}.lock", "a+")) for number in range(at_once())]
        number = next((number for number, place in enumerate(places) if _locked(place)), None)
        if number is None:
            number = 0
            places[0].seek(0)
            other = places[0].read().strip() or "unknown"
            note(f"another machine is running (process {other}); waiting for it to end ...")
            fcntl.flock(places[0], fcntl.LOCK_EX)
        places[number].truncate(0)
        places[number].write(str(os.getpid()))
        places[number].flush()
        yield number


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def own_directory(cache: Path, number: int) -> Iterator[Path]:
    """A directory for the machine of this number while it runs; what one that was killed has left goes first."""
    for left_over in cache.glob(f"run-{number}-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f"run-{number}-") as name:
        yield Path(name)


def qemu_command(
    kernel: kernels.Kernel,
    run: Path,
    disks: dict[str, tuple[Path, str]],
    log: Path,
    *,
    count_instructions: bool = False,
    possible_cpus: int | None = None,
    kvm: bool = False,
) -> list[str]:
    """The QEMU command line for this kernel, as vng's virtme-run composes it, with our disks and port."""
    # The init mounts the kernel's modules on /lib/modules, which a machine without a kernel package does not have.
    initramfs = run / "initramfs"
    initramfs.unlink(missing_ok=True)
    overlays = OVERLAYS if os.path.isdir("/lib/modules") else (*OVERLAYS, "/lib")
    command = [
        *(sys.executable, "-c", _VIRTME_RUN, "--show-command", "--dry-run"),
        *("--kimg", str(kernel.image), "--mods=auto"),
        # The same machine with KVM and without: virtme-run would take another (microvm), and emulate if KVM fails.
        *(
            "--disable-kvm",
            "--force-9p",
            "--cpus",
            "1" if count_instructions else "2",
            "--memory",
            f"{MEMORY_BYTES >> 30}G",
            "--name",
            "node1",
        ),
        *("--cwd", str(stage.CHECKOUT), "--rwdir", str(stage.CHECKOUT)),
        *(argument for path in overlays if os.path.isdir(path) for argument in ("--overlay-rwdir", path)),
        *("--save-initramfs", str(initramfs), "--show-boot-console"),
        # Emulated, a retpoline buys no safety and costs time. What was translated is found again at the same address
        # only: libc anew for every process would be half of its time.
        *("--kopt", "mitigations=off", "--kopt", "norandmaps", "--kopt", "loglevel=4"),
        # the emulated time stamp counter is one for all CPUs; a host's may not be
        *(() if kvm else ("--kopt", "tsc=reliable")),
        # A kernel whose code has gone wrong ends the machine at once (panic=-1 and -no-reboot are virtme-run's) instead
        # of running on with a lock held until the time is up. It prints all of its death, whatever the loglevel.
        *("--kopt", "oops=panic"),
        # Cgroups and namespaces come and go in three quarters of the time. What that takes varies: not where it counts.
        *(() if count_instructions else ("--kopt", "rcupdate.rcu_expedited=1")),
        *(("--kopt", f"possible_cpus={possible_cpus}", "--kopt", "preempt=full") if possible_cpus else ()),
        *("--script-sh", BOOT_SCRIPT),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if "qemu" in line and " -kernel " in line]
    if done.returncode != 0 or not lines:
        raise MachineError(f"virtme-ng cannot describe the machine: {(done.stderr or done.stdout).strip()}")
    qemu = shlex.split("\n".join(lines))
    qemu += ["-chardev", f"socket,id=kubetrace,path={run}/port"]
    qemu += ["-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=kubetrace,name={frames.PORT_NAME}"]
    if kvm:
        qemu[qemu.index("-cpu") + 1] = "host"
        qemu += ["-accel", "kvm"]
    elif count_instructions:
        qemu += ["-icount", "shift=0"]
    else:
        qemu[qemu.index("-cpu") + 1] = _CPU
        for device in ("9p", "blk", "serial"):
            # the CPU that asks does it: to wake a thread for it takes longer
            qemu += ["-global", f"virtio-{device}-pci.ioeventfd=off"]
    for name, (disk, access) in disks.items():
        qemu += ["-drive", f"if=none,id={name},file={disk},format=raw,cache=unsafe,{access}"]
        qemu += ["-device", f"virtio-blk-pci,drive={name},serial={name}"]
    return [_redirected(argument, log) for argument in qemu]


# vng connects the script to the caller's descriptors. Ours speaks through the port; what the kernel and the init print
# goes to the log, appended, since several devices write there.
def _redirected(argument: str, log: Path) -> str:
    if argument.startswith("stdio,id="):
        return "null,id=" + argument.split("id=")[1].split(",")[0]
    if argument.startswith("file,id=ret"):
        return "null,id=ret"
    if argument.startswith("file,id=") and "path=/proc/self/fd/" in argument:
        return argument.split(",path=")[0] + f",path={log},append=on"
    return argument


class Terminal:
    """The caller's terminal: raw while the command runs, restored whatever happens."""

    def __init__(self) -> None:
        self.is_tty = [os.isatty(fd) for fd in (0, 1, 2)]
        self._saved: list[Any] | None = None

    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        for fd in (1, 0, 2):
            with contextlib.suppress(OSError):
                size = os.get_terminal_size(fd)
                return size.lines, size.columns
        return 24, 80

    def raw(self) -> None:
        """Hand every key to the command, also Ctrl-C; only when both ends of the conversation are this terminal."""
        if self.is_tty[0] and self.is_tty[1]:
            self._saved = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSADRAIN)

    def restore(self, broken_off: bool) -> None:
        """Give the terminal back as it was; after a command that could not clean up, also its screen and cursor."""
        if self._saved is None:
            return
        if broken_off:
            with contextlib.suppress(OSError):
                os.write(1, b"\x1b[?1049l\x1b[?25h\x1b[0m\r\n")
        termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        self._saved = None


class Session:
    """One machine and one command in it, from the start of QEMU to the exit status."""

    def __init__(
        self,
        options: Options,
        kernel: kernels.Kernel,
        run: Path,
        log: Path,
        choice: accel.Choice,
        on_boot: Callable[[], None],
    ) -> None:
        self._options, self._kernel, self._run, self._log = options, kernel, run, log
        self._choice, self._on_boot = choice, on_boot
        self._boot_limit_s = accel.TRIAL_LIMIT_S if choice.trial else BOOT_LIMIT_S
        self._started = self._looked = time.monotonic()
        self._died: float | None = None
        self._deadline = self._started + options.timeout_s
        self._kill_at: float | None = None
        self._interrupts = 0
        self._terminal = Terminal()
        self._reader = frames.Reader()
        self._port: socket.socket | None = None
        self._running = False
        self._status: int | None = None
        self._outstanding = 0
        self._stdin_watched = False
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        (run / "port").unlink(missing_ok=True)
        self._listener.bind(str(run / "port"))
        self._listener.listen(1)

    def run(self, qemu: list[str]) -> int:
        """Start QEMU, serve the command until it ends, and end QEMU; the command's exit status."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGWINCH, self._on_resize)
        with open(self._log, "wb") as log:
            process = subprocess.Popen(
                qemu,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"TMPDIR": str(self._run)},
                preexec_fn=_die_with_parent,
                process_group=0,
            )
        broken_off = True
        try:
            ended = os.pidfd_open(process.pid)
            self._selector.register(wake_read, selectors.EVENT_READ)
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._selector.register(ended, selectors.EVENT_READ)
            while self._status is None:
                for key, _ in self._selector.select(self._time_left()):
                    if key.fileobj is self._listener:
                        self._port, _ = self._listener.accept()
                        self._selector.register(self._port, selectors.EVENT_READ)
                    elif key.fileobj is self._port:
                        self._on_port()
                    elif key.fd == wake_read:
                        os.read(wake_read, 4096)
                    elif key.fd == 0:
                        self._on_stdin()
                    elif key.fd == ended and self._status is None:
                        raise self._ended_early()
            broken_off = False
            return self._status
        finally:
            # Nothing in the machine is worth an orderly shutdown: its disks are thrown away, 9p writes through.
            process.kill()
            process.wait()
            self._terminal.restore(broken_off)
            signal.set_wakeup_fd(-1)

    # Seconds until the next thing that must happen by itself; raises when that is now.
    def _time_left(self) -> float:
        now = time.monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            raise Stopped(signal.SIGTERM)
        if self._died is None and now >= min(self._looked + LOOK_S, self._deadline):
            self._looked = now
            if console.death(self._log.read_bytes()) is not None:
                self._died = now
        if self._died is not None and now >= min(self._died + DYING_S, self._deadline):
            raise self._ended_early()
        if now >= self._deadline:
            raise MachineError(
                f"time is up: the machine was ended after {self._options.timeout_s:g} s (--timeout).", TIMED_OUT
            )
        limits = [self._deadline, self._looked + LOOK_S if self._died is None else self._died + DYING_S]
        if self._port is None or not self._reader_started:
            boot_limit = self._started + self._boot_limit_s
            if now >= boot_limit:
                reason = f"Linux {self._kernel.release} did not boot within {self._boot_limit_s} s"
                raise NotBooted(f"{reason}.\n{self._console_end()}", KERNEL_DIED, reason)
            limits.append(boot_limit)
        if self._kill_at is not None:
            limits.append(self._kill_at)
        return min(limits) - now

    # What to raise when the machine is at its end before the command is.
    def _ended_early(self) -> MachineError:
        log = self._log.read_bytes()
        if (line := console.death(log)) is not None:
            status, reason = KERNEL_DIED, f"its kernel died: {line}"
            message = f"the machine's kernel, Linux {self._kernel.release}, died: {line}\n{self._console_end()}"
        else:
            status = BOOT_FAILED
            reason = console.complaint(log) or "QEMU ended without a message"
            message = f"the machine stopped before the command did: {reason}. Its console: {self._log}"
        return MachineError(message, status) if self._reader_started else NotBooted(message, status, reason)

    def _console_end(self) -> str:
        tail = "".join(f"\n  {last}" for last in console.last_words(self._log.read_bytes()))
        return f"The end of its console ({self._log}):{tail}"

    _reader_started = False

    def _send(self, kind: int, payload: bytes = b"") -> None:
        if self._port is not None:
            with contextlib.suppress(OSError):  # QEMU is ending; its descriptor says so next
                self._port.sendall(frames.pack(kind, payload))

    # A signal before the command runs ends everything. Later it goes to the command, which may want to finish its
    # work: a third Ctrl-C, a second SIGTERM, or GRACE_S after the first one, end the machine.
    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if not self._running or self._kill_at is not None:
            raise Stopped(number)
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 2:
                raise Stopped(number)
        elif number != signal.SIGQUIT:
            self._kill_at = time.monotonic() + GRACE_S
        self._send(frames.SIGNAL, bytes([number]))

    def _on_resize(self, _number: int, _frame: FrameType | None) -> None:
        if self._running:
            self._send(frames.RESIZE, struct.pack("!HH", *self._terminal.size()))

    def _on_port(self) -> None:
        assert self._port is not None
        data = self._port.recv(1 << 18)
        if not data:
            self._selector.unregister(self._port)
            return
        for kind, payload in self._reader.feed(data):
            if kind == frames.STDOUT:
                _write_all(1, payload)
            elif kind == frames.STDERR:
                _write_all(2, payload)
            elif kind == frames.CONSUMED:
                self._outstanding -= struct.unpack("!I", payload)[0]
                self._watch_stdin()
            elif kind == frames.PROGRESS:
                # while the command runs the agent says nothing, so it has ended, and lines need a terminal in order
                self._terminal.restore(broken_off=False)
                note(payload.decode(errors="replace"))
            elif kind == frames.HELLO:
                self._reader_started = True
                took = time.monotonic() - self._started
                note(f"booted Linux {payload.decode()} {self._choice.words} in {took:.0f} s")
                self._on_boot()
                self._send(frames.START, json.dumps(self._start()).encode())
            elif kind == frames.RUNNING:
                self._running = True
                self._terminal.raw()
                # The window may have changed during the boot.
                self._send(frames.RESIZE, struct.pack("!HH", *self._terminal.size()))
                self._stdin_open = True
                self._watch_stdin()
            elif kind == frames.EXIT:
                status = struct.unpack("!i", payload)[0]
                self._status = status if status >= 0 else 128 - status
                return

    _stdin_open = False

    def _watch_stdin(self) -> None:
        wanted = self._stdin_open and self._outstanding < frames.WINDOW_BYTES
        if wanted and not self._stdin_watched:
            try:
                self._selector.register(0, selectors.EVENT_READ)
            except PermissionError:  # a regular file or /dev/null: always ready, but not for epoll
                self._on_stdin()
                return
            except ValueError:  # closed by the caller
                self._end_stdin()
                return
        elif not wanted and self._stdin_watched:
            self._selector.unregister(0)
        self._stdin_watched = wanted

    def _on_stdin(self) -> None:
        while True:
            try:
                data = os.read(0, 65536)
            except OSError:
                data = b""
            if not data:
                self._end_stdin()
                return
            self._outstanding += len(data)
            self._send(frames.STDIN, data)
            if self._stdin_watched or self._outstanding >= frames.WINDOW_BYTES:
                break
        self._watch_stdin()

    def _end_stdin(self) -> None:
        self._stdin_open = False
        self._send(frames.STDIN)
        if self._stdin_watched:
            self._selector.unregister(0)
            self._stdin_watched = False

    def _start(self) -> dict[str, object]:
        rows, columns = self._terminal.size()
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in _ENVIRONMENT_NAMES or name.startswith(_ENVIRONMENT_PREFIXES)
        }
        environment |= {
            "PATH": f"{guest.TOOLS}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LD_LIBRARY_PATH": f"{guest.TOOLS}/lib/compiler",
            "HOME": "/root",
            "TMPDIR": f"{guest.DISK}/tmp",
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            # The checkout is the host's: leave no compiled files there, and do not spend time on writing them.
            "PYTHONDONTWRITEBYTECODE": "1",
            "KUBETRACE_VM": self._kernel.release,
        }
        return {
            "argv": self._options.command,
            "cwd": str(stage.CHECKOUT),
            "env": environment,
            "tty": self._terminal.is_tty,
            "rows": rows,
            "columns": columns,
            "node": self._options.node,
            "cgroup": self._options.cgroup,
            "explain": self._options.explain,
        }


# In the child, before exec: QEMU dies even when this process is killed without a chance to clean up.
def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            # Somebody has made the shared terminal or pipe non-blocking.
            selector = selectors.DefaultSelector()
            selector.register(fd, selectors.EVENT_WRITE)
            selector.select()


def run(options: Options) -> int:
    """Prepare the kernel and the disks, run the command in the machine; the exit status for this process."""
    cache = options.cache
    cache.mkdir(parents=True, exist_ok=True)
    if options.image:
        # handed on to the command with the rest of our variables; the guest reads it over 9p
        (tar,) = stage.kubetrace_image(cache, note).glob("kubetrace-*[0-9].tar")
        os.environ["KUBETRACE_IMAGE"] = str(tar)
    with turn(cache) as number, own_directory(cache, number) as directory:
        kernel = kernels.find(options.kernel, cache, note)
        return boot(options, kernel, directory, node_disk(options, kernel, directory))


def node_disk(options: Options, kernel: kernels.Kernel, run: Path) -> tuple[Path, str]:
    """The node's disk and how QEMU opens it: a fresh one, or for a node one that holds the images already."""
    if not options.node:
        return stage.node_disk(run), "readonly=off"
    tools = stage.tools_disk(options.cache, note, options.runtime)
    prepared = tools.with_name(tools.name.replace("tools-", "node-"))
    if not prepared.exists():
        note("importing the node's images into a disk, once for all machines to come ...")
        fresh = stage.node_disk(run)
        status = boot(replace(options, node="prepare", command=["true"]), kernel, run, (fresh, "readonly=off"))
        if status != 0:
            raise MachineError("the node's images could not be imported.", status)
        for old in options.cache.glob(f"node-{options.runtime}-*.ext4"):
            old.unlink()
        fresh.rename(prepared)
    # Writes go to a temporary file of QEMU's.
    return prepared, "snapshot=on"


def boot(options: Options, kernel: kernels.Kernel, run: Path, disk: tuple[Path, str]) -> int:
    """Boot the machine with this disk for the node's files and run the command; its exit status."""
    disks = {
        "tools": (stage.tools_disk(options.cache, note, options.runtime), "readonly=on"),
        "source": (stage.source_disk(options.cache, run), "readonly=on"),
        "disk": disk,
    }
    log = options.cache / f"console-{kernel.release}-{options.cgroup}.log"
    memory = accel.Memory(options.cache / "kvm.json", kernel.release, stage.program("qemu-system-x86_64"))
    choice = accel.choose(accel.gather(options.accel, options.count_instructions, memory.recall))

    def start(choice: accel.Choice, on_boot: Callable[[], None]) -> int:
        qemu = qemu_command(
            kernel,
            run,
            disks,
            log,
            count_instructions=options.count_instructions,
            possible_cpus=options.possible_cpus,
            kvm=choice.kvm,
        )
        note(f"booting Linux {kernel.release} {choice.explained} ...")
        return Session(options, kernel, run, log, choice, on_boot).run(qemu)

    if not choice.trial:
        return start(choice, lambda: None)
    try:
        return start(choice, lambda: memory.keep(accel.Answer(True)))
    except NotBooted as error:
        if options.accel == "kvm":
            raise MachineError(f"{accel.refusal(error.reason)} The console: {log}") from error
        reason = error.reason
    # It is KVM's fault only if the machine boots without.
    emulated = accel.Choice(kvm=False, reason=accel.failed(reason))
    return start(emulated, lambda: memory.keep(accel.Answer(False, reason)))


def main() -> int:
    """Entry point of scripts/vm."""
    options = parse(sys.argv[1:])
    try:
        return run(options)
    except (kernels.KernelError, stage.StageError, accel.AccelError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return BOOT_FAILED
    except MachineError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        # The reader of our output has gone, as in `scripts/vm -- yes | head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Stopped as stopped:
        return 128 + stopped.number


if __name__ == "__main__":
    sys.exit(main())
