"""One `kubectl debug` for each node, read side by side; whatever happens, their pods are deleted at the end.

On a terminal a single node's kubetrace gets the terminal itself. Otherwise stdin is a pipe (-i without -t: a terminal
would mix stderr into stdout and end lines with CR LF) whose first line lets kubetrace begin and whose second ends it
(attended.py), so that nothing it says is lost; and since it is told every few seconds that somebody listens, it does
not outlive who does.
"""

from __future__ import annotations

import contextlib
import queue
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubetrace.errors import ClusterError, KubetraceError
from kubetrace.plugin.attended import ALIVE, BEGIN, END
from kubetrace.plugin.kubectl import Kubectl, is_log, last_words, missing

# A pod whose container does not run by then is given up; its image may have to be pulled.
START_TIMEOUT_S = 180.0
_ASK_S = 5.0
_ALIVE_S = 5.0
END_S = 15.0
_MOST_LINE_BYTES = 16 << 20
_PIECE_BYTES = 1 << 16
_EXIT_CODE_S = 3.0
_LOSSES = re.compile(r"\d+ events? (?:was|were) lost\.")


@dataclass
class Stream:
    """kubetrace on one node."""

    node: str
    process: subprocess.Popen[bytes]
    begun: float
    words: deque[str] = field(default_factory=lambda: deque(maxlen=50))
    """The last lines of stderr."""
    heard: bool = False
    """Whether it has said anything on stdout."""
    waits: str = ""
    """Why its pod does not run, as last heard."""
    open: int = 2


@dataclass(frozen=True)
class Said:
    """Something from a node: a `line` of its stdout; or why nothing comes yet; or its end, `failed` with a reason."""

    node: str
    line: bytes = b""
    waits: str = ""
    ended: bool = False
    failed: str = ""


class Streams:
    """Nodes side by side; use as a context manager, which ends with no debug pod left."""

    def __init__(
        self, kubectl: Kubectl, image: str, arguments: Mapping[str, Sequence[str]], *, raw: bool = False
    ) -> None:
        """`arguments`: node -> kubetrace's. `raw`: what comes is bytes, and not lines."""
        self._raw = raw
        self._kubectl = kubectl
        self._commands = {node: kubectl.debug(node, image, given, terminal=False) for node, given in arguments.items()}
        self._queue: queue.SimpleQueue[tuple[Stream, bool, bytes | None]] = queue.SimpleQueue()
        self._streams: dict[str, Stream] = {}
        self._asked = self._told = time.monotonic()
        self._waits: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
        self._asker: threading.Thread | None = None
        self.troubles: list[str] = []
        """What could not be cleared away."""
        self.lost = False
        """Whether a kubetrace ended so because of --strict (errors.EventsLost)."""

    def __enter__(self) -> Streams:
        """Start them. Raises ClusterError."""
        try:
            for node, command in self._commands.items():
                self._start(node, command)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, node: str, command: Sequence[str]) -> None:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise missing() from error
        stream = self._streams[node] = Stream(node, process, time.monotonic())
        self._tell(stream, BEGIN)
        for is_error, pipe in ((False, process.stdout), (True, process.stderr)):
            threading.Thread(target=self._read, args=(stream, is_error, pipe), daemon=True).start()

    def _tell(self, stream: Stream, what: bytes) -> None:
        # A pipe that kubectl does not read from holds this for hours.
        with contextlib.suppress(OSError, ValueError):
            assert stream.process.stdin is not None
            stream.process.stdin.write(what)
            stream.process.stdin.flush()

    def _read(self, stream: Stream, is_error: bool, pipe: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            as_bytes = self._raw and not is_error
            while line := pipe.read1(_PIECE_BYTES) if as_bytes else pipe.readline(_MOST_LINE_BYTES):
                self._queue.put((stream, is_error, line))
        self._queue.put((stream, is_error, None))

    @property
    def running(self) -> bool:
        """Whether any has not ended."""
        return any(stream.open for stream in self._streams.values())

    def read(self, timeout_s: float) -> Iterator[Said]:
        """What has come, after at most so long."""
        if time.monotonic() - self._told > _ALIVE_S:
            self._told = time.monotonic()
            for stream in self._streams.values():
                self._tell(stream, ALIVE)
        yield from self._overdue()
        with contextlib.suppress(queue.Empty):
            while True:
                stream, is_error, line = self._queue.get(timeout=max(0.0, timeout_s))
                timeout_s = 0.0
                if line is None:
                    stream.open -= 1
                    if not stream.open:
                        yield self._end(stream)
                elif is_error:
                    stream.words.append(line.decode("utf-8", "surrogateescape").rstrip())
                else:
                    stream.heard = True
                    yield Said(stream.node, line if self._raw else line.rstrip(b"\r\n"))

    def _overdue(self) -> Iterator[Said]:
        silent = [stream for stream in self._streams.values() if stream.open and not stream.heard]
        with contextlib.suppress(queue.Empty):
            waits = self._waits.get_nowait()
            for stream in silent:
                stream.waits = waits.get(stream.node, "")
            yield from (Said(stream.node, waits=stream.waits) for stream in silent if stream.waits)
        now = time.monotonic()
        for stream in silent:
            if now - stream.begun > START_TIMEOUT_S and stream.process.poll() is None:
                stream.words.append(f"nothing came from it in {START_TIMEOUT_S:.0f} s")
                stream.process.terminate()
        if silent and now - self._asked > _ASK_S and (self._asker is None or not self._asker.is_alive()):
            self._asked = now
            self._asker = threading.Thread(target=self._ask, daemon=True)
            self._asker.start()

    def _ask(self) -> None:
        with contextlib.suppress(KubetraceError):
            self._waits.put({pod.node: pod.waits for pod in self._kubectl.debug_pods()})

    def _end(self, stream: Stream) -> Said:
        status = stream.process.wait()
        text = "\n".join(stream.words)
        # kubetrace's own first word, else kubectl's last; kubectl does not hand kubetrace's exit status on
        own = next((line.removeprefix("Error: ") for line in stream.words if line.startswith("Error: ")), "")
        if _LOSSES.fullmatch(own):  # --strict: it ran, and has said all
            self.lost, own, status = True, "", 0
        failed = own or (last_words(text).removeprefix("error: ") or f"kubectl: {status}" if status else "")
        return Said(stream.node, ended=True, failed=failed)

    def words(self, node: str) -> Sequence[str]:
        """The last lines that a node's kubetrace, or kubectl, has written to stderr."""
        return [line for line in self._streams[node].words if not is_log(line)]

    def stop(self) -> None:
        """Let every kubetrace end as with Ctrl-C: their summaries are still read. One that has not begun never will."""
        for stream in self._streams.values():
            if stream.waits and not stream.heard:
                stream.process.terminate()
            self._tell(stream, END)
            with contextlib.suppress(OSError):
                if stream.process.stdin is not None:
                    stream.process.stdin.close()

    def __exit__(self, *_error: object) -> None:
        """End all that runs, and delete the pods."""
        with undisturbed():
            self.stop()
            for stream in self._streams.values():
                if stream.process.poll() is None:
                    stream.process.terminate()
            for stream in self._streams.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    stream.process.wait(END_S)
                stream.process.kill()
                stream.process.wait()
            self.troubles += clear_away(self._kubectl)


def on_terminal(kubectl: Kubectl, node: str, image: str, arguments: Sequence[str]) -> int:
    """Run kubetrace on one node in this terminal; its exit status. Raises ClusterError."""
    begun = None
    asked: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: asked.append(number)) for number in _ENDS}
    troubles: list[str] = []
    status: int | None = None
    try:
        begun = subprocess.Popen(kubectl.debug(node, image, arguments, terminal=True))
        while (status := _poll(begun)) is None:
            if asked and asked != [signal.SIGINT] * len(asked):
                begun.terminate()  # of Ctrl-C kubectl and kubetrace know by themselves
        if status == 0:
            status = _exit_code(kubectl)
    except FileNotFoundError as error:
        raise missing() from error
    finally:
        with undisturbed():
            if begun is not None:
                begun.kill()
                begun.wait()
                troubles = clear_away(kubectl)
        for number, handler in before.items():
            signal.signal(number, handler)
    if troubles:
        raise ClusterError("; ".join(troubles), do="kubectl delete pod NAME")
    return status


_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _poll(process: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(0.2)
    return None


def _exit_code(kubectl: Kubectl) -> int:
    # The kubelet tells the API server a moment after kubectl has come back.
    deadline = time.monotonic() + _EXIT_CODE_S
    with contextlib.suppress(KubetraceError):
        while (pods := kubectl.debug_pods()) and time.monotonic() < deadline:
            codes = [pod.exit_code for pod in pods if pod.exit_code is not None]
            if codes:
                return max(codes)
            time.sleep(0.3)
    return 0


def clear_away(kubectl: Kubectl) -> list[str]:
    """Delete this run's debug pods; what could not be is said."""
    names: list[str] = []
    try:
        names = [pod.name for pod in kubectl.debug_pods()]
        if names:
            kubectl.delete(names)
    except KubetraceError as error:
        left = f"pod{'s' * (len(names) != 1)} {', '.join(names)}" if names else "debug pods"
        return [f"{left} may be left behind: {error.what} {error.why}"]
    return []


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Clearing away is not interrupted: it ends by itself, kubectl's time-outs see to that."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
