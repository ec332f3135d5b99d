"""What kubetrace images takes on a node with 100 images of 1,000 layers and 500 containers."""

from __future__ import annotations

from benchmarks.disk import node, row
from benchmarks.measure import Row, median


def run(rounds: int) -> list[Row]:
    """scripts/bench images."""
    found = node("images", rounds)
    python = median([used for _, used in found["python"]])
    times = median([used for _, used in found["images"]]) / python
    return [
        row("kubetrace images (CPU)", found["images"]),
        row("the same (wall)", found["images"], cpu=False),
        row("kubetrace images --by layer (CPU)", found["layers"]),
        row("kubetrace images --wasted, 20,000 files (CPU)", found["wasted"]),
        row("python3 -c pass (CPU)", found["python"], f"kubetrace images takes {times:.0f} times that"),
    ]
