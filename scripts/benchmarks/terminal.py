"""A program on a terminal of its own, as a user has it; what it draws is read and thrown away, or looked for."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class OnTerminal:
    """A child on a pty. `wanted` are bytes to look for: `seen_s` is when they came, by time.perf_counter."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        wanted: bytes = b"",
        columns: int = 160,
        lines: int = 55,
    ) -> None:
        self._leader, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._wanted, self._tail = wanted, b""
        self.seen_s = 0.0
        self.bytes = 0
        self._seen = threading.Event()
        self.begun_s = time.perf_counter()
        self.process = subprocess.Popen(
            command, env=environment, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
        )
        os.close(terminal)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._leader, 65536)
            except OSError:  # EIO: the other end is closed
                break
            if not data:
                break
            self.bytes += len(data)
            self._tail = (self._tail + data)[-(1 << 16) :]
            if self._wanted and not self.seen_s and self._wanted in self._tail:
                self.seen_s = time.perf_counter()
                self._seen.set()
        self._seen.set()

    def wait_for_row(self, timeout_s: float = 60) -> float:
        """Seconds from before exec until the wanted bytes were drawn; raises RuntimeError with the screen."""
        self._seen.wait(timeout_s)
        if not self.seen_s:
            screen = self._tail.decode(errors="replace")
            raise RuntimeError(f"the child never showed {self._wanted!r}: {screen[-2000:]}")
        return self.seen_s - self.begun_s

    @property
    def screen(self) -> str:
        """The last bytes that it drew."""
        return self._tail.decode(errors="replace")

    def end(self) -> None:
        """As a user would: SIGINT; the summary is read."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(5)
        os.close(self._leader)


def resident(pid: int) -> int:
    """VmRSS in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, its threads included (proc(5), /proc/PID/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> int:
    """How many descriptors it holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))
