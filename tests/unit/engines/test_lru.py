"""How large an LRU map has to be where many CPUs each take a share of it."""

from __future__ import annotations

import pytest

from kubetrace.engines.attached import lru_entries


@pytest.mark.parametrize(
    ("entries", "cpus", "expected"),
    [
        (4096, 1, 4224),
        (16384, 2, 16384),
        (16384, 96, 16384),
        # 128 CPUs take all 16,384
        (16384, 128, 20480),
        (4096, 256, 36864),
    ],
)
def test_what_cpus_take_for_themselves_leaves_32_shares(entries: int, cpus: int, expected: int) -> None:
    assert lru_entries(entries, cpus) == expected
