"""Where one is in a recording, as a line: ` 18:02:03.000  0:42 of 2:10  ····▁█▂··|··▅·····  paused`."""

from __future__ import annotations

from collections.abc import Sequence

from kubetrace.views.trend import sparkline
from kubetrace.views.units import format_clock, format_elapsed


def timeline(
    happened: Sequence[float], at_ns: int, length_ns: int, wall_ns: int, how: str, cells: int, *, ascii: bool
) -> str:
    """`happened`: how much in each equal part of the recording, `wall_ns` the time of day at `at_ns`; `how` it plays.

    Where nothing happened there is a dot, and where one is a bar.
    """
    clock = format_clock(wall_ns) if wall_ns else "-"
    text = f"{clock}  {format_elapsed(at_ns / 1e9)} of {format_elapsed(length_ns / 1e9)}"
    room = min(100, cells - len(text) - len(how) - 4)
    if room < 10:
        return f"{text}  {how}"
    parts = [0.0] * room
    for number, much in enumerate(happened):
        parts[min(room - 1, number * room // len(happened))] += much
    line = sparkline(parts, ascii=ascii) or ("." if ascii else "·") * room
    here = min(room - 1, at_ns * room // max(1, length_ns))
    line = line[:here] + "|" + line[here + 1 :]
    return f"{text}  {line}  {how}"
