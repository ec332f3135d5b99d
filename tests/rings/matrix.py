"""Which test of tests/kernel runs where: the kernels, their cgroup modes, and the markers that stand at the tests.

    one_kernel        on 6.1 with cgroup v2, or on the kernel of `on=`, where what it shows can go wrong.
                      With `scripts/test --full` on every kernel, or on those of `full=(...)`
    each_kernel       on every kernel, with cgroup v2: the parity core
    each_cgroup_mode  once in each cgroup mode; with --full in each mode of each kernel

Each test has one_kernel, or one of the others, or both of these. Whoever runs pytest in the machine by hand gets what
was asked for: tests are left out only where KUBETRACE_PLACE names a place ("6.1 v2"), as scripts/test does.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

# Kernel -> its cgroup modes. The memory controller of cgroup v1 is in Debian's kernels before 6.12 only.
MODES = {
    "6.1": ("v2", "hybrid", "v1"),
    "5.10": ("v2", "v1"),
    "6.12": ("v2",),
    "7.2": ("v2",),
}
# Where the node has containerd 2 and runc of a newer Debian, and 1.6 elsewhere: names are tried on both natively.
CONTAINERD_2 = ("6.12", "7.2")
# The kernel whose headers are fetched, and in which the image is tried: what needs one kernel runs there.
MAIN = "6.1"
# Not beside another machine: emulated on CPUs that it has to share, its kernel is the first to go wrong (a boot that
# ended in a panic, a process that nothing woke; neither of them in four runs alone).
ALONE = ("7.2",)
# Where each cgroup mode is looked at without --full. Hybrid is v1 with an empty v2 tree beside it.
ONCE = {"v2": "6.1", "hybrid": "6.1", "v1": "5.10"}

MARKERS = {
    "one_kernel": "on 6.1 with cgroup v2, or on the kernel of on=; with --full on every kernel, or on those of full=",
    "each_kernel": "on every kernel, with cgroup v2",
    "each_cgroup_mode": "once in each cgroup mode; with --full in each mode of each kernel",
}

PLACE_VARIABLE, FULL_VARIABLE = "KUBETRACE_PLACE", "KUBETRACE_FULL"


@dataclass(frozen=True)
class Place:
    """A kernel and a cgroup mode, as scripts/vm takes them."""

    kernel: str
    cgroup: str

    def __str__(self) -> str:
        return f"{self.kernel} {self.cgroup}"


@dataclass(frozen=True)
class Mark:
    """A marker as it stands at a test."""

    name: str
    on: str = MAIN
    full: Sequence[str] = ()


def places(kernels: Collection[str], full: bool) -> list[Place]:
    """Where the tests of these kernels run, in this order."""
    return [
        Place(kernel, cgroup)
        for kernel, modes in MODES.items()
        for cgroup in modes
        if kernel in kernels and (full or cgroup == "v2" or ONCE[cgroup] == kernel)
    ]


def runs_at(place: Place, full: bool, marks: Iterable[Mark]) -> bool:
    """Whether a test with these markers belongs to this place."""
    for mark in marks:
        if mark.name == "each_cgroup_mode" and (full or ONCE[place.cgroup] == place.kernel):
            return True
        if place.cgroup == "v2" and (
            mark.name == "each_kernel"
            or (mark.name == "one_kernel" and full and place.kernel in (mark.full or MODES))
            or (mark.name == "one_kernel" and not full and place.kernel == mark.on)
        ):
            return True
    return False


def fault(marks: Sequence[Mark]) -> str | None:
    """What is wrong with the markers of a test; None when nothing is."""
    names = [mark.name for mark in marks]
    if not names:
        return f"it has none of {', '.join(MARKERS)} (tests/rings/matrix.py)"
    if len(set(names)) < len(names) or ("one_kernel" in names and len(names) > 1):
        return f"it has {' and '.join(names)}"
    if unknown := {kernel for mark in marks for kernel in (mark.on, *mark.full)} - set(MODES):
        return f"there is no kernel {min(unknown)}"
    return None


def here(environment: Mapping[str, str] = os.environ) -> tuple[Place, bool] | None:
    """The place that scripts/test has named to the machine, and whether all of the matrix is wanted."""
    if name := environment.get(PLACE_VARIABLE):
        kernel, cgroup = name.split()
        return Place(kernel, cgroup), bool(environment.get(FULL_VARIABLE))
    return None
