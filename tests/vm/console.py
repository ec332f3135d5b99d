"""What a guest's kernel has printed on its console: whether it has died, and its last lines."""

import re

# How a kernel says that it goes down, or that its code has gone wrong (it is started with oops=panic, so that is the
# same). What it prints about a process that has crashed ("traps: x[1] general protection fault ip:...") is not meant.
_DEATH = re.compile(
    r"Kernel panic - not syncing"
    r"|Oops: "
    r"|BUG: unable to handle"
    r"|BUG: kernel NULL pointer dereference"
    r"|kernel BUG at"
    r"|general protection fault[,:]"
    # the line of every other trap in the kernel, as in "int3: 0000 [#1] PREEMPT SMP"
    r"|: [0-9a-f]{4} \[#\d+\]"
)

# How many lines are shown at least, and at most: a kernel can die many times over before it is still.
_SHOWN = 40
_SHOWN_DYING = 120

# The firmware clears the screen, and wherever this is shown must not be cleared.
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|.)|[\x00-\x08\x0b-\x1f\x7f]")
_TIME = re.compile(r"^\[ *\d+\.\d+\](\[ *[TC]\d+\])? ")


def lines(log: bytes) -> list[str]:
    """The console's lines that hold anything, without what moves the cursor or sets colours."""
    plain = (_ESCAPES.sub("", line).rstrip() for line in log.decode(errors="replace").split("\n"))
    return [line for line in plain if line]


def death(log: bytes) -> str | None:
    """The first line in which the kernel says that it dies; None while it has said no such thing."""
    for line in lines(log):
        if _DEATH.search(line):
            return _TIME.sub("", line)
    return None


def last_words(log: bytes) -> list[str]:
    """The console's last lines; of a kernel that died, from where it began to, as the first trace says the most."""
    told = lines(log)
    dying = next((number for number, line in enumerate(told) if _DEATH.search(line)), len(told))
    start = max(min(dying, len(told) - _SHOWN), 0)
    return told[start : start + _SHOWN_DYING]


def complaint(log: bytes) -> str | None:
    """What QEMU says about why it ended, without its name; None when it said nothing."""
    for line in lines(log):
        found = re.match(r"qemu-system-\w+: (?:error: )?(?!warning: |info: )(.+)", line)
        if found:
            return found[1]
    return None
