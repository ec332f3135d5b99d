"""The agent in the guest: prepares the node's disks and cgroups, runs one command, and carries its input and output.

Started by the kernel's init through a few lines of shell (machine.BOOT_SCRIPT) as soon as the disk with this file is
mounted. It imports little, since every module costs milliseconds under emulation.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable
from typing import Any

from tests.vm import frames

RUN = "/run/kubetrace-vm"
TOOLS = f"{RUN}/tools"
DISK = f"{RUN}/disk"

# What a node keeps on its disk. The roots are bind mounts of the same paths on the disk's file system, so the root
# column of mountinfo reads /var/lib/kubelet/... as on a node that has everything on one file system.
DISK_ROOTS = ("/var/lib/containerd", "/var/lib/kubelet", "/var/log")

MS_BIND = 4096

# Controllers in the groups in which systemd mounts them on a cgroup v1 node.
V1_GROUPS = (
    "cpuset",
    "cpu,cpuacct",
    "blkio",
    "devices",
    "freezer",
    "net_cls,net_prio",
    "perf_event",
    "hugetlb",
    "pids",
)

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, fstype: str | None = None, flags: int = 0, data: str = "") -> None:
    """Call mount(2), making the target directory first; raise OSError."""
    os.makedirs(target, exist_ok=True)
    encoded = [None if text is None else text.encode() for text in (source, target, fstype, data)]
    if _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), target)


class Port:
    """The virtio serial port to the host."""

    def __init__(self) -> None:
        self.fd = os.open(self._device(), os.O_RDWR | os.O_CLOEXEC)
        self.reader = frames.Reader()

    # The guest runs no udev, so /dev/virtio-ports may not exist; the kernel's own names are in sysfs.
    @staticmethod
    def _device() -> str:
        for port in os.listdir("/sys/class/virtio-ports"):
            with open(f"/sys/class/virtio-ports/{port}/name") as file:
                if file.read().strip() == frames.PORT_NAME:
                    return f"/dev/{port}"
        raise SystemExit("the guest has no virtio serial port named " + frames.PORT_NAME)

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Write one frame; blocks while the host is not reading."""
        data = memoryview(frames.pack(kind, payload))
        while data:
            data = data[os.write(self.fd, data) :]

    def receive(self) -> list[tuple[int, bytes]]:
        """Frames completed by one read; the machine is switched off when the host has gone."""
        data = os.read(self.fd, 65536)
        if not data:
            power_off()
        return list(self.reader.feed(data))

    def progress(self, line: str) -> None:
        """Show one line to the person who waits."""
        self.send(frames.PROGRESS, line.encode())


def power_off() -> None:
    """Switch the machine off at once: whoever started it is gone."""
    with open("/proc/sysrq-trigger", "w") as file:
        file.write("o")
    time.sleep(60)


def write_text(path: str, text: str) -> None:
    """Write one of the kernel's control files."""
    with open(path, "w") as file:
        file.write(text)


def mount_node_disk() -> None:
    """Mount the fresh ext4 disk where a node keeps containerd's, kubelet's and log files."""
    for path in DISK_ROOTS:
        mount(f"{DISK}{path}", path, flags=MS_BIND)


def unmount_node_disk() -> None:
    """Leave the node's disk clean, to be used again by another machine."""
    for path in (*DISK_ROOTS, DISK):
        if _libc.umount2(path.encode(), 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    os.sync()


def mount_cgroups(mode: str) -> None:
    """Arrange /sys/fs/cgroup as a node of this mode has it: 'v2', 'v1' or 'hybrid'.

    The init has mounted cgroup2. For v1 the controllers must leave it before anything uses them: once memory was in
    use on v2, mounting it as v1 says busy.
    """
    root = "/sys/fs/cgroup"
    if mode == "v2":
        with open(f"{root}/cgroup.controllers") as file:
            controllers = file.read().split()
        write_text(f"{root}/cgroup.subtree_control", " ".join("+" + name for name in controllers))
        return
    _libc.umount2(root.encode(), 2)
    mount("tmpfs", root, "tmpfs", data="mode=755")
    mount("cgroup", f"{root}/memory", "cgroup", data="memory")
    for group in V1_GROUPS:
        try:
            mount("cgroup", f"{root}/{group}", "cgroup", data=group)
        except OSError:
            os.rmdir(f"{root}/{group}")
            continue
        for name in group.split(",") if "," in group else ():
            os.symlink(group, f"{root}/{name}")
    mount("cgroup", f"{root}/systemd", "cgroup", data="none,name=systemd")
    if mode == "hybrid":
        mount("cgroup2", f"{root}/unified", "cgroup2")


def hierarchies() -> list[str]:
    """Mount points of the cgroup hierarchies: one on v2, one for each controller or group of them on v1."""
    root = "/sys/fs/cgroup"
    if os.path.exists(f"{root}/cgroup.procs"):
        return [root]
    return sorted(entry.path for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))


def make_cgroup(path: str) -> list[str]:
    """Make a cgroup in every hierarchy, ready to take processes; its directories."""
    made = []
    for hierarchy in hierarchies():
        directory = hierarchy
        for part in path.split("/"):
            parent, directory = directory, f"{directory}/{part}"
            os.makedirs(directory, exist_ok=True)
            # A v1 cpuset takes no process before it has CPUs and memory nodes; those of its parent will do.
            if hierarchy.endswith("/cpuset"):
                for name in ("cpuset.cpus", "cpuset.mems"):
                    with open(f"{parent}/{name}") as file:
                        write_text(f"{directory}/{name}", file.read())
        made.append(directory)
    return made


def enter_cgroup(path: str) -> None:
    """Move this process to `path` in every hierarchy, as systemd starts services and sessions in theirs."""
    for directory in make_cgroup(path):
        write_text(f"{directory}/cgroup.procs", "0")


class Command:
    """The caller's command: a child in a session of its own, on a pseudo terminal, pipes, or some of both."""

    def __init__(self, start: dict[str, Any]) -> None:
        tty_in, tty_out, tty_err = start["tty"]
        self.terminal = slave = -1
        if tty_out:
            self.terminal, slave = os.openpty()
            self.resize(start["rows"], start["columns"])
        theirs = [-1, -1, -1]
        # Each end that stays here has a descriptor of its own, also where two lead to the one terminal.
        if tty_in and tty_out:
            self.stdin, theirs[0] = os.dup(self.terminal), slave
        else:
            theirs[0], self.stdin = os.pipe()
        if tty_out:
            stdout, theirs[1] = os.dup(self.terminal), slave
        else:
            stdout, theirs[1] = os.pipe()
        self.outputs = {stdout: frames.STDOUT}
        if tty_out and tty_err:
            theirs[2] = slave
        else:
            stderr, theirs[2] = os.pipe()
            self.outputs[stderr] = frames.STDERR
        self.pid = os.fork()
        if self.pid == 0:
            self._become(theirs, slave, start)
        for fd in {*theirs, slave} - {-1}:
            os.close(fd)
        for fd in (self.stdin, *self.outputs):
            os.set_blocking(fd, False)

    # In the child. Every way out of here is exec or _exit.
    def _become(self, theirs: list[int], slave: int, start: dict[str, Any]) -> None:
        try:
            os.setsid()
            if slave >= 0:
                fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            # Dup upwards first: one of the sources may itself be 0, 1 or 2.
            copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in theirs]
            for target, fd in enumerate(copies):
                os.dup2(fd, target)
            # Python ignores SIGPIPE, and a child inherits that; a command must die of a closed pipe as usual.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            enter_cgroup("user.slice/session-1.scope")
            os.chdir(start["cwd"])
            os.environ.clear()
            os.environ.update(start["env"])
            os.execvpe(start["argv"][0], start["argv"], start["env"])
        except BaseException as error:
            reason = getattr(error, "strerror", None) or str(error)
            os.write(2, f"Error: {start['argv'][0]}: {reason}\n".encode())
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal this size; the kernel sends SIGWINCH when it changed."""
        if self.terminal >= 0:
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send_signal(self, number: int) -> None:
        """Send a signal to the command and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Carrier:
    """Carries bytes between the port and the command until the command has ended."""

    def __init__(self, port: Port, command: Command) -> None:
        self._port, self._command = port, command
        self._poller = select.poll()
        self._stdin: int | None = command.stdin
        self._stdin_ending = False
        self._pending = bytearray()

    def run(self) -> int:
        """The command's exit status; minus the signal's number if one ended it."""
        ended = os.pidfd_open(self._command.pid)
        for fd in (self._port.fd, ended, *self._command.outputs):
            self._poller.register(fd, select.POLLIN)
        while True:
            for fd, events in self._poller.poll():
                if fd == self._port.fd:
                    if not events & select.POLLIN:
                        power_off()
                    self._receive()
                elif fd == self._stdin:
                    self._give_input()
                elif fd in self._command.outputs:
                    self._take_output(fd)
                elif fd == ended:
                    # What the command printed before it ended is in the pipes; what a child that outlives it prints
                    # later is not waited for.
                    for output in list(self._command.outputs):
                        while self._take_output(output):
                            pass
                    _, status = os.waitpid(self._command.pid, 0)
                    return os.waitstatus_to_exitcode(status)

    def _receive(self) -> None:
        for kind, payload in self._port.receive():
            if kind == frames.STDIN and payload:
                self._pending += payload
            elif kind == frames.STDIN:
                self._stdin_ending = True
            elif kind == frames.RESIZE:
                self._command.resize(*struct.unpack("!HH", payload))
            elif kind == frames.SIGNAL:
                self._command.send_signal(payload[0])
        self._give_input()

    def _give_input(self) -> None:
        waiting = len(self._pending)
        try:
            while self._pending and self._stdin is not None:
                del self._pending[: os.write(self._stdin, self._pending[:65536])]
        except BlockingIOError:
            pass
        except OSError:
            self._close_input()
        if self._stdin is None:
            # The command has closed its end: what comes has no reader, as in a pipe.
            self._pending.clear()
        taken = waiting - len(self._pending)
        if taken:
            self._port.send(frames.CONSUMED, struct.pack("!I", taken))
        if self._stdin is None:
            return
        if self._pending:
            self._poller.register(self._stdin, select.POLLOUT)
        elif self._stdin_ending:
            self._close_input()
        else:
            # Registered even when idle, poll() would report each moment in which the pipe can be written.
            with contextlib.suppress(KeyError):
                self._poller.unregister(self._stdin)

    def _close_input(self) -> None:
        if self._stdin is not None:
            with contextlib.suppress(KeyError):
                self._poller.unregister(self._stdin)
            os.close(self._stdin)
            self._stdin = None

    def _take_output(self, fd: int) -> bool:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return False
        except OSError:  # EIO: no process has the terminal open any more
            data = b""
        if not data:
            self._poller.unregister(fd)
            del self._command.outputs[fd]
            return False
        self._port.send(self._command.outputs[fd], data)
        return True


def bring_up_node(port: Port, start: dict[str, Any]) -> int:
    """Run tests.vm.node in a process of its own, showing its lines as progress; its exit status."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 2)
        os.dup2(writing, 1)
        python = f"{TOOLS}/bin/python3"
        os.execve(python, [python, "-m", "tests.vm.node", start["node"]], start["env"])
    os.close(writing)
    with os.fdopen(reading) as lines:
        for line in lines:
            port.progress(line.rstrip("\n"))
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """Serve one command, then wait for the host to end the machine."""
    port = Port()
    port.send(frames.HELLO, os.uname().release.encode())
    received: list[tuple[int, bytes]] = []
    while not received:
        received = port.receive()
    kind, payload = received.pop(0)
    if kind != frames.START:
        raise SystemExit(f"the first frame is of kind {kind}, not START")
    start: dict[str, Any] = json.loads(payload)
    _step(mount_node_disk)
    _step(lambda: mount_cgroups(start["cgroup"]))
    status = bring_up_node(port, start) if start["node"] else 0
    if status == 0 and start["node"] == "prepare":
        _step(unmount_node_disk)
    elif status == 0:
        port.send(frames.RUNNING)
        status = Carrier(port, Command(start)).run()
        if status != 0 and start["explain"]:
            explain(port, start)
    else:
        port.progress("the node did not come up; its containerd log ends so:")
        for line in _tail("/var/log/containerd.log", 10):
            port.progress("  " + line)
        status = 125
    port.send(frames.EXIT, struct.pack("!i", status))
    select.select([], [], [])


def _step(action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        # To the console, which is the log that the host names when there is no HELLO or no EXIT.
        print(f"kubetrace vm agent: {error}", file=sys.stderr, flush=True)
        raise


def explain(port: Port, start: dict[str, Any]) -> None:
    """After a command that failed, show what the kernel and the node have said meanwhile."""
    parts = [("the kernel's log ends so:", kernel_log()[-60:])]
    if start["node"]:
        parts.append(("containerd's log ends so:", _tail("/var/log/containerd.log", 20)))
        parts.append(("the node's pods:", _pods("/run/kubetrace-node.json")))
    for title, lines in parts:
        port.progress(title)
        for line in lines:
            port.progress("  " + line)


def kernel_log() -> list[str]:
    """What the kernel has logged, line by line, with the seconds since its boot."""
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        return [str(error)]
    lines = []
    while True:
        try:
            # one record: priority,number,microseconds,flags;text
            record = os.read(log, 8192).decode(errors="replace")
        except BrokenPipeError:  # records were overwritten before they were read
            continue
        except OSError:  # EAGAIN: that was all
            break
        fields, _, text = record.partition(";")
        lines.append(f"{int(fields.split(',')[2]) / 1e6:.3f} {text.partition(chr(10))[0]}")
    os.close(log)
    return lines


def _pods(path: str) -> list[str]:
    try:
        with open(path) as file:
            return [f"{pod['namespace']}/{pod['name']}" for pod in json.load(file)["pods"]]
    except OSError as error:
        return [str(error)]


def _tail(path: str, count: int) -> list[str]:
    try:
        with open(path, errors="replace") as file:
            return file.read().splitlines()[-count:]
    except OSError as error:
        return [str(error)]


if __name__ == "__main__":
    main()
