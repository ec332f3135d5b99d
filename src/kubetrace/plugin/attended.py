"""What `kubectl kubetrace` asks of the kubetrace in a debug pod: begin when it listens, end when it leaves.

`kubectl debug` attaches some time after the container has started, and whatever was written before is lost; and when
the laptop that listens is gone, nobody would end the tracing. With KUBETRACE_ATTENDED in its environment, kubetrace
waits

- on a terminal for its size, which is 0x0 until kubectl has sent the first one;
- elsewhere for a first line on stdin. A second one then ends it, as Ctrl-C does, and so does a minute without a byte:
  the end of stdin is not told to a container that kubectl debug has made (it does not ask for stdinOnce).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time

VARIABLE = "KUBETRACE_ATTENDED"
_LOOK_AGAIN_S = 0.02
# Then it begins all the same: not every client sends a size.
_LONGEST_WAIT_S = 30.0
BEGIN = END = b"\n"
ALIVE = b"."
# Who attends sends ALIVE every few seconds.
_SILENCE_S = 60.0


def begin() -> None:
    """Wait for whoever attends, if anyone is to. Raises KeyboardInterrupt when they have gone already."""
    if not os.environ.pop(VARIABLE, ""):
        return
    if sys.stdin is not None and sys.stdin.isatty():
        deadline = time.monotonic() + _LONGEST_WAIT_S
        while _has_no_size() and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN_S)
        return
    while (byte := os.read(0, 1)) != BEGIN:
        if not byte:
            raise KeyboardInterrupt
    threading.Thread(target=_end_when_alone, daemon=True).start()


def _has_no_size() -> bool:
    try:
        return 0 in os.get_terminal_size(0)
    except OSError:
        return False


def _end_when_alone() -> None:
    poller = select.poll()
    poller.register(0, select.POLLIN)
    try:
        while poller.poll(_SILENCE_S * 1000):
            data = os.read(0, 4096)
            if not data or END in data:
                break
    except OSError:
        pass
    os.kill(os.getpid(), signal.SIGINT)
