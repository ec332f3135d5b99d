"""No change makes a tracer more than a twentieth dearer for what it traces: counted in instructions, in the VM.

    scripts/vm --kernel 6.1 --count-instructions -- python3 -m pytest tests/cost

The reference is instructions.json beside this file. A change that is worth its price, or that made something cheaper,
renews it: the same with `python3 scripts/benchmarks/cost_guest.py 3 --reference`, whose output it is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from benchmarks import cost_guest

REFERENCE = Path(__file__).with_name("instructions.json")
ROUNDS = 3
DEARER = 1.05
# What a run differs from the next by, in instructions: what the kernel puts off falls into one or the other. A cgroup
# takes memory for each CPU, which costs as the maps before it left the allocator: the same programs added 6,400 to one
# in one run, 42,600 in another and, beside a map of 512 bytes more, 91,400.
NOISE = {
    "exec": 3000,
    "cgroup": 60_000,
    "connect": 1500,
    "copy_up": 300,
    "rename": 250,
    "open_write": 100,
    "file_create": 400,
}
LITTLE = 60
# What an operation may cost at most, whatever it cost before: counted for a container, outside overlays.
MOST = {"file_open": 450, "file_stat": 610, "file_unlink": 530}


@pytest.fixture(scope="session")
def added() -> dict[str, int]:
    """Tracer, hook and operation -> the instructions that tracing adds to it."""
    found = cost_guest.added(cost_guest.measure(ROUNDS, peers=False))
    print(json.dumps(found, indent=1))
    return found


CASES = [f"{name}, {hook}, {operation}" for (name, hook), of in cost_guest.OURS.items() for operation in of]


def test_the_reference_has_every_operation() -> None:
    assert sorted(json.loads(REFERENCE.read_text())) == sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_it_is_not_dearer(case: str, added: dict[str, int]) -> None:
    known = json.loads(REFERENCE.read_text())[case]
    noise = NOISE.get(case.rpartition(", ")[2], LITTLE)
    assert added[case] <= known * DEARER + noise, f"{known} instructions before"


@pytest.mark.parametrize("operation", MOST)
def test_an_operation_on_a_file_costs_little(operation: str, added: dict[str, int]) -> None:
    assert added[f"files, fentry, {operation}"] <= MOST[operation]
