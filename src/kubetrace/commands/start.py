"""The console script: --help from what is beside it, everything else through group.py.

Importing click takes longer than Python itself does to start, so who only asks for help does not wait for it.
"""

from __future__ import annotations

import gc
import os
import sys

from kubetrace.commands.help import columns, help_text


def main() -> int:
    """The exit status: 0; 2 where a command is missing. Whatever is not a call for help is group.py's."""
    asked = sys.argv[1:]
    if asked in ([], ["-h"], ["--help"]):
        try:
            print(help_text(columns()), flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0 if asked else 2
    # Nothing of what an import makes is ever garbage: looking for it takes 5 ms of the way to the first row.
    gc.disable()
    from kubetrace.commands.group import main as everything

    gc.enable()
    everything()
    return 0
