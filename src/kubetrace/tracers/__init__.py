"""The tracers: one module or package each, named as its bpf/NAME.bpf.c; found by looking, listed nowhere.

A module of this package is a tracer and has `TRACER`, an object of a class that fulfils kit.tracer.Tracer.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubetrace.kit.tracer import Tracer


def names() -> list[str]:
    """Every tracer's name, without importing any."""
    import pkgutil

    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Tracer:
    """The tracer of that name; raises ModuleNotFoundError."""
    tracer: Tracer = importlib.import_module(f"{__name__}.{name}").TRACER
    return tracer
