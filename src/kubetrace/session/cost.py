"""What tracing takes: this process, and the programs in the kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kubetrace.stream.steps import Tick
from kubetrace.views.units import format_count, format_duration, format_percent

_COST_OVER_NS = 500_000_000
_LOOK_AGAIN_NS = 500_000_000


class OwnCost:
    """kubetrace's own CPU time, in percent of one core between two ticks."""

    def __init__(self) -> None:
        """From the first tick on."""
        self._then = Tick(0, 0, 0)
        self._percent: float | None = None

    def percent(self, tick: Tick) -> float | None:
        """Since the tick that was at least half a second before; None until there was one."""
        passed = tick.elapsed_ns - self._then.elapsed_ns
        if passed >= _COST_OVER_NS:
            self._percent = max(0.0, 100.0 * (tick.cpu_ns - self._then.cpu_ns) / passed)
            self._then = tick
        return self._percent


class Overhead:
    """What the tracer's programs take, as the kernel measures it; as bpftop shows it."""

    def __init__(self, runs: Callable[[], Mapping[str, tuple[int, int]]]) -> None:
        """`runs`: program -> (nanoseconds, how often) so far."""
        self._runs = runs
        self._then: Mapping[str, tuple[int, int]] = {}
        self._then_ns = 0
        self._text = "BPF -"
        self.total: Mapping[str, tuple[int, int]] = {}

    def look(self, tick: Tick, *, last: bool = False) -> str:
        """BPF 0.31% (1,204 runs/s, 257 ns each, most in return__fentry), since the look before."""
        passed = tick.elapsed_ns - self._then_ns
        if passed <= 0 or (passed < _LOOK_AGAIN_NS and not last):
            return self._text
        self.total = now = self._runs()
        spent = {name: (ns - self._then.get(name, (0, 0))[0]) for name, (ns, _) in now.items()}
        count = sum(runs - self._then.get(name, (0, 0))[1] for name, (_, runs) in now.items())
        share = format_percent(100 * sum(spent.values()) / passed)
        self._text = f"BPF {share} ({format_count(round(count * 1e9 / passed))} runs/s"
        if count:
            most = max(spent, key=lambda name: spent[name])
            self._text += f", {format_duration(sum(spent.values()) // count)} each, most in {most}"
        self._text += ")"
        self._then, self._then_ns = now, tick.elapsed_ns
        return self._text

    def summary(self, elapsed_ns: int) -> str:
        """The same over the whole run."""
        spent, count = (sum(pair[at] for pair in self.total.values()) for at in (0, 1))
        each = f", {format_duration(spent // count)} each" if count else ""
        share = format_percent(100 * spent / max(1, elapsed_ns))
        return f"BPF programs ran {format_count(count)} times{each}: {share} of a core."
