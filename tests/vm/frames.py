"""The frames that scripts/vm and its agent in the guest exchange over one virtio serial port.

A frame is one byte of kind, four bytes of payload length (big endian), and the payload. One ordered stream of bytes
in each direction carries everything: what the command reads and prints, the terminal's size, signals, progress, and
the exit status, which therefore cannot overtake the last output.

===========  =========  ==========================================================================
kind         direction  payload
===========  =========  ==========================================================================
START        to guest   JSON: argv, cwd, env, tty (three booleans), rows, columns, node, cgroup
STDIN        to guest   bytes for the command; empty means end of file
RESIZE       to guest   two unsigned 16-bit numbers: rows, columns
SIGNAL       to guest   one byte: the signal's number, for the command's process group
HELLO        to host    text: the guest's kernel release; the agent listens
PROGRESS     to host    text: one line for the caller's stderr
RUNNING      to host    empty: the command was started, terminal and signals are its own from now on
CONSUMED     to host    unsigned 32-bit number: bytes of STDIN that the command's end has taken
STDOUT       to host    bytes
STDERR       to host    bytes
EXIT         to host    signed 32-bit number: exit status, or minus the signal that ended the command
===========  =========  ==========================================================================

CONSUMED keeps STDIN from filling the port: the host has at most `WINDOW_BYTES` outstanding, so that a signal or a
resize always gets through to a command that does not read.
"""

import struct
from collections.abc import Iterator

START, STDIN, RESIZE, SIGNAL = 1, 2, 3, 4
HELLO, PROGRESS, RUNNING, CONSUMED, STDOUT, STDERR, EXIT = 16, 17, 18, 19, 20, 21, 22

PORT_NAME = "kubetrace"
WINDOW_BYTES = 256 * 1024
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024

_HEADER = struct.Struct("!BI")


class FrameError(Exception):
    """The stream is not made of frames: something else wrote to the port."""


def pack(kind: int, payload: bytes = b"") -> bytes:
    """One frame, ready to be written."""
    return _HEADER.pack(kind, len(payload)) + payload


class Reader:
    """Cuts a stream of bytes, fed in pieces of any size, into frames."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (kind, payload) for each frame that `data` completes; raise FrameError for what cannot be one."""
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._pending)
            if not START <= kind <= EXIT or length > MAX_PAYLOAD_BYTES:
                raise FrameError(f"a frame of kind {kind} and {length} bytes")
            end = _HEADER.size + length
            if len(self._pending) < end:
                return
            payload = bytes(self._pending[_HEADER.size : end])
            del self._pending[:end]
            yield kind, payload
