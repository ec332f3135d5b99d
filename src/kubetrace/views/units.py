"""Numbers and times as people read them, and sizes and durations as people type them.

Tables show binary bytes with their suffix and short durations; machine formats keep whole bytes and nanoseconds.
"""

from __future__ import annotations

import re
import time

from kubetrace.errors import UsageError

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def format_bytes(n: int) -> str:
    """`999 B`, `4.9 KiB`, `64 MiB`: at most 8 cells for any n >= 0; one decimal below ten units."""
    if n < 0:
        return "-" + format_bytes(-n)
    if n < 1024:
        return f"{n} B"
    for power in range(1, len(_BINARY)):
        unit = 1 << 10 * power
        tenths = (n * 10 + unit // 2) // unit
        if tenths < 100:
            return f"{tenths // 10}.{tenths % 10} {_BINARY[power]}"
        whole = (n + unit // 2) // unit
        if whole < 1024:
            return f"{whole} {_BINARY[power]}"
    return ">999 EiB"


def format_duration(ns: int) -> str:
    """`870 ns`, `12 µs`, `3.4 ms`, `1.2 s`, `2m05s`, `1h02m`, `3d04h`: at most 7 cells up to 999 days."""
    if ns < 0:
        return "-" + format_duration(-ns)
    if ns < 1000:
        return f"{ns} ns"
    for unit, suffix in ((1_000, "µs"), (1_000_000, "ms"), (1_000_000_000, "s")):
        tenths = (ns * 10 + unit // 2) // unit
        if tenths < 100:
            return f"{tenths // 10}.{tenths % 10} {suffix}"
        whole = (ns + unit // 2) // unit
        if whole < (1000 if suffix != "s" else 60):
            return f"{whole} {suffix}"
    s = (ns + 500_000_000) // 1_000_000_000
    if s < 3600:
        return f"{s // 60}m{s % 60:02}s"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02}m"
    return f"{s // 86400}d{s % 86400 // 3600:02}h"


def format_count(n: int) -> str:
    """Exact up to six digits, then `1.2M`, `34M`, `5.6G`: at most 6 cells up to 10^18."""
    if n < 0:
        return "-" + format_count(-n)
    if n < 1_000_000:
        return str(n)
    for unit, suffix in ((10**6, "M"), (10**9, "G"), (10**12, "T"), (10**15, "P")):
        tenths = (n * 10 + unit // 2) // unit
        if tenths < 100:
            return f"{tenths // 10}.{tenths % 10}{suffix}"
        whole = (n + unit // 2) // unit
        if whole < 1000:
            return f"{whole}{suffix}"
    return f"{n // 10**18}E"


def format_percent(percent: float) -> str:
    """Percentage points: `0%`, `<0.1%`, `0.4%`, `12%`."""
    if percent < 0:
        return "-" + format_percent(-percent)
    if percent == 0:
        return "0%"
    if percent < 0.1:
        return "<0.1%"
    return f"{percent:.1f}%" if percent < 9.95 else f"{percent:.0f}%"


def format_cpu(milli: int) -> str:
    """Thousandths of a CPU, as Kubernetes writes them: `250m`, `1500m`."""
    return f"{milli}m"


def format_elapsed(seconds: float) -> str:
    """A running clock: `0:42`, `1:02:07`, `3d01:02:07`; part seconds are dropped."""
    s = max(0, int(seconds))
    if s < 3600:
        return f"{s // 60}:{s % 60:02}"
    if s < 86400:
        return f"{s // 3600}:{s % 3600 // 60:02}:{s % 60:02}"
    return f"{s // 86400}d{s % 86400 // 3600:02}:{s % 3600 // 60:02}:{s % 60:02}"


def format_time(wall_ns: int, local: bool = False) -> str:
    """RFC 3339 with nanoseconds: `2026-11-23T18:02:03.123456789Z`, or with the local zone's offset.

    `wall_ns` is nanoseconds since 1970 in UTC; one that no calendar has (a damaged recording) is returned as a number.
    """
    s, ns = divmod(wall_ns, 1_000_000_000)
    try:
        t = time.localtime(s) if local else time.gmtime(s)
    except (OverflowError, ValueError, OSError):
        return str(wall_ns)
    zone = "Z"
    if local:
        minutes = t.tm_gmtoff // 60
        zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    return f"{t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02}T{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}.{ns:09}{zone}"


def format_clock(wall_ns: int) -> str:
    """The local time of day for lines: `18:02:03.123`; nanoseconds since 1970 in, whole milliseconds out."""
    s, ns = divmod(wall_ns, 1_000_000_000)
    try:
        t = time.localtime(s)
    except (OverflowError, ValueError, OSError):
        return str(wall_ns)
    return f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}.{ns // 1_000_000:03}"


_SIZE = re.compile(r"(\d{1,19})(?:\.(\d{1,9}))?\s*([kKMGTPE]?)(i?)([bB]?)", re.ASCII)
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


def parse_size(text: str) -> int:
    """Bytes from `4096`, `64Ki`, `1.5GiB`, `10M`: Kubernetes' quantities, so Ki is 1024 and K (or k) is 1000.

    A part of a byte is dropped. Raises UsageError for anything else, and for 2^63 and more.
    """
    match = _SIZE.fullmatch(text.strip())
    size = -1
    if match and (match[3] or not match[4]):
        whole, fraction, prefix, binary, _ = match.groups(default="")
        unit = (1024 if binary else 1000) ** _POWERS[prefix]
        size = int(whole + fraction) * unit // 10 ** len(fraction)
    if not 0 <= size < 1 << 63:
        raise UsageError(
            f"{_quoted(text)} is not a size.",
            why="A size is a number with Ki, Mi, Gi (1024) or k, M, G (1000), or a number of bytes.",
            do="64Ki, 1.5GiB, 10M or 4096",
        )
    return size


_DURATION = re.compile(r"(?:\d{1,15}(?:\.\d{1,9})?(?:ns|us|µs|μs|ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|μs|ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds from `500ms`, `2s`, `1m30s`, `1.5h`, or a bare number of seconds. Raises UsageError for anything else."""
    bare = text.strip()
    if re.fullmatch(r"\d{1,15}(?:\.\d{1,9})?", bare, re.ASCII):
        return float(bare)
    if not _DURATION.fullmatch(bare):
        raise UsageError(
            f"{_quoted(text)} is not a duration.",
            why="A duration is a number with ns, us, ms, s, m, h or d, several in a row, or a number of seconds.",
            do="500ms, 2s, 1m30s or 2",
        )
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(bare))


def _quoted(text: str) -> str:
    from kubetrace.views.text import escape

    return f"'{escape(text[:40])}'"
