"""Make what the virtual machine needs and does not have yet, while the rings without it run.

python -m tests.rings.prepare 6.1 5.10 ...      the kernels to fetch
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.rings import matrix
from tests.vm import kernels, machine, stage


def prepare(wanted: Sequence[str], cache: Path) -> None:
    """Kernels, headers, the disk of tools and the node's; the image is made by its tests. Raises as scripts/vm does."""
    cache.mkdir(parents=True, exist_ok=True)
    with machine.turn(cache) as number:
        # the first may be needed to make the node's disk
        for name in wanted:
            kernel = kernels.find(name, cache, machine.note)
            kernels.headers(name, kernel, cache, machine.note)
        for containerd in sorted({"2" if name in matrix.CONTAINERD_2 else "1" for name in wanted}):
            options = machine.parse(["--kernel", wanted[0], "--node=quiet", "--containerd", containerd, "--", "true"])
            with machine.own_directory(cache, number) as directory:
                machine.node_disk(options, kernels.find(wanted[0], cache, machine.note), directory)


def main() -> int:
    """Entry point; the exit status."""
    try:
        prepare(sys.argv[1:] or [matrix.MAIN], stage.cache_directory())
    except (kernels.KernelError, stage.StageError, machine.MachineError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
