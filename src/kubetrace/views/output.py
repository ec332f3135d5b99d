"""Writing to what the user gave as output, with the two errors that this can end in."""

from __future__ import annotations

import contextlib
import os
import select
import stat
from typing import TextIO

from kubetrace.errors import OutputError


class OutputClosed(OutputError):
    """Whoever read the output went away (`kubetrace ... | head`): an end, not a failure; nothing is said."""

    exit_status = 0


class Reader:
    """Whoever reads a stream: a run that has nothing to write would otherwise never learn that it is for nobody."""

    def __init__(self, stream: TextIO | None) -> None:
        """Of a pipe or socket; any other stream has a reader for ever."""
        self._poller: select.poll | None = None
        with contextlib.suppress(AttributeError, ValueError, OSError):  # not a file, or closed
            descriptor = stream.fileno() if stream is not None else -1
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                # Nothing is asked for: POLLERR and POLLHUP are told all the same (poll(2)).
                self._poller = select.poll()
                self._poller.register(descriptor, 0)

    @property
    def gone(self) -> bool:
        """Whether what is written from now on is read by nobody."""
        return self._poller is not None and bool(self._poller.poll(0))

    def check(self) -> None:
        """Raises OutputClosed if it is gone."""
        if self.gone:
            raise OutputClosed("the reader of the output is gone")


class Output:
    """A text stream whose failures are OutputError (disk full, terminal gone) or OutputClosed (broken pipe)."""

    def __init__(self, stream: TextIO) -> None:
        """Write to a stream that is open already and stays the caller's to close."""
        self.stream = stream

    @property
    def ascii(self) -> bool:
        """Whether only ASCII can be written: the stream has an encoding, and it is not one of Unicode's."""
        encoding = getattr(self.stream, "encoding", None)
        return encoding is not None and not encoding.lower().replace("-", "").startswith("utf")

    def write(self, text: str) -> None:
        """Write text, buffered as the stream buffers. Raises OutputError."""
        try:
            self.stream.write(text)
        except OSError as error:
            raise self._failed(error) from error

    def write_now(self, text: str) -> None:
        """Write text at once, past the stream's buffer, which a signal handler must not enter. Raises OutputError."""
        try:
            self.stream.flush()
            fd = self.stream.fileno()
            data = memoryview(text.encode("ascii" if self.ascii else "utf-8", "replace"))
            while data:
                try:
                    data = data[os.write(fd, data) :]
                except BlockingIOError:  # another process made the shared terminal non-blocking
                    poller = select.poll()
                    poller.register(fd, select.POLLOUT)
                    poller.poll()
        except OSError as error:
            raise self._failed(error) from error

    def flush(self) -> None:
        """Hand over what was written. Raises OutputError."""
        try:
            self.stream.flush()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> OutputError:
        if isinstance(error, BrokenPipeError):
            # Python flushes stdout once more as it exits and would complain there (exit status 120): give what is left
            # in the buffer a place to go, as docs.python.org/3/library/signal.html#note-on-sigpipe does.
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.stream.fileno())
                os.close(null)
            return OutputClosed("the reader of the output is gone")
        name = getattr(self.stream, "name", "the output")
        return OutputError(
            f"cannot write to {name}: {error.strerror or error}",
            do="check the terminal or the free space, or write elsewhere",
        )


def is_terminal(stream: TextIO) -> bool:
    """Whether the stream is a terminal; a closed or strange one is not."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError, OSError):
        return False


def terminal_size(stream: TextIO) -> tuple[int, int]:
    """(columns, lines) of the stream's terminal; COLUMNS and LINES, else 80x24, where it has no size.

    A terminal of kubectl exec is 0x0 until the client sends its first resize message.
    """
    columns = lines = 0
    with contextlib.suppress(AttributeError, ValueError, OSError):
        columns, lines = os.get_terminal_size(stream.fileno())
    return columns or _from_environment("COLUMNS") or 80, lines or _from_environment("LINES") or 24


def _from_environment(name: str) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() and len(value) < 5 else 0
