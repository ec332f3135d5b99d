"""The console script: --help from what is beside it, everything else through group.py.

Importing click takes longer than Python itself does to start, so who only asks for help does not wait for it.
"""

from __future__ import annotations

import gc
import os
import sys

from kubetrace.commands.help import COMPLETION, columns, help_text


def main() -> int:
    """The exit status: 0; 2 where a command is missing. Whatever is not a call for help is group.py's."""
    _open_closed()
    asked = sys.argv[1:]
    if COMPLETION in os.environ:
        from kubetrace.commands.group import complete

        complete()
        return 0
    if asked in ([], ["-h"], ["--help"], ["help"]):
        return _help(0 if asked else 2)
    import signal

    # Until commands know what to do with it: a traceback says nothing to who pressed Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Nothing of what an import makes is ever garbage: looking for it takes 5 ms of the way to the first row.
    gc.disable()
    from kubetrace.commands.group import main as everything

    gc.enable()
    everything()
    return 0


def _help(status: int) -> int:
    try:
        print(help_text(columns()), flush=True)
    except OSError as error:
        # what waits to be written must not be tried again at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            print(f"Error: {error.strerror}", file=sys.stderr)
            return 1
    return status


def _open_closed() -> None:
    # Where stdin, stdout or stderr is closed (>&-), the next file that is opened would be it: a recording would hold
    # what is printed. Of stdout each write fails then, and is told as of any that cannot be written.
    for descriptor, mode in ((0, "r"), (1, "w"), (2, "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            # the lowest one that is free
            os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)
            os.set_inheritable(descriptor, True)
            stream = open(descriptor, mode, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
            name = ("stdin", "stdout", "stderr")[descriptor]
            stream.buffer.raw.name = f"<{name}>"  # type: ignore[attr-defined]  # as Python's own
            setattr(sys, name, stream)
