"""The README promises what the tests run."""

import re
from pathlib import Path

from kubetrace import tracers
from tests.vm.kernels import SUITES

README = (Path(__file__).parent.parent.parent / "README.md").read_text()


def test_the_supported_kernels_are_those_that_scripts_test_boots() -> None:
    section = README.split("## Supported kernels")[1].split("## ")[0]
    assert re.findall(r"^\| (\d[\d.]+) \|", section, re.MULTILINE) == list(SUITES)


def test_every_tracer_has_its_row() -> None:
    for name in tracers.names():
        assert f"| `kubetrace {name}` |" in README
