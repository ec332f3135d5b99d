"""From a kubelet's settings to what it does at which number: image garbage collection and eviction. Pure.

The rules are the kubelet's (kubernetes pkg/kubelet/eviction/{defaults_linux,helpers}.go, pkg/kubelet/images/
image_gc_manager.go; the cmd/kubelet/app merges flags over the file):

- Any signal set in evictionHard takes the defaults from all others, unless mergeDefaultEvictionSettings is set.
- A percentage is of the capacity; 0 % and 100 % switch a signal off. A signal acts where less than that is available.
- Image garbage collection begins where 100 - int(available * 100 / capacity) reaches imageGCHighThresholdPercent.
- On a node with one disk the signals of imagefs and nodefs are both observed on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Action = Literal["image GC", "evicts", "evicts after"]

NODEFS: Final = "nodefs"
IMAGEFS: Final = "imagefs"
IMAGE_GC: Final = "imagefs.usage"
DEFAULT: Final = "default"
_SIGNALS: Final = ("nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")
_DEFAULT_HARD: Final[Mapping[str, str]] = {
    "nodefs.available": "10%",
    "nodefs.inodesFree": "5%",
    "imagefs.available": "15%",
    "imagefs.inodesFree": "5%",
}
# k/k 121834
_SINCE: Final[Mapping[str, str]] = {"imagefs.inodesFree": "default since 1.30"}
_DEFAULT_HIGH: Final = 85

_QUANTITY = re.compile(r"\+?(\d{1,18})(?:\.(\d{0,9}))?(?:([KMGTPE])i|([kMGTPE])|([mnu])|[eE](\d{1,2}))?", re.ASCII)
_PERCENTAGE = re.compile(r"\+?(\d{1,3}(?:\.\d{1,9})?)%", re.ASCII)
_BINARY: Final = {suffix: 1024**power for power, suffix in enumerate("KMGTPE", 1)}
_DECIMAL: Final = {suffix: 1000**power for power, suffix in enumerate("kMGTPE", 1)}


@dataclass(frozen=True, slots=True)
class Threshold:
    """The kubelet acts where less than this is available: `percent` of the capacity, or `amount` (bytes or inodes).

    `grace_s` is that of a soft one. `source` is the flag or file that sets it, or `default`.
    """

    signal: str
    action: Action
    percent: float | None
    amount: int | None
    source: str
    grace_s: float = 0.0

    @property
    def filesystem(self) -> str:
        """nodefs or imagefs."""
        return self.signal.partition(".")[0]

    @property
    def of_inodes(self) -> bool:
        """Whether it is about inodes; else bytes."""
        return self.signal.endswith(".inodesFree")

    def least(self, capacity: int) -> int:
        """What has to be available at least of a capacity, so that the kubelet does not act."""
        if self.percent is None:
            return self.amount or 0
        if self.action == "image GC":
            # int() takes the part of a percent off: 85 % begins at less than 16 % available
            wanted = capacity * (101 - self.percent) / 100
            return -int(-wanted // 1)
        return int(capacity * self.percent / 100)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is known of a kubelet's thresholds, and for what is not known, why."""

    known: tuple[Threshold, ...]
    unknown: Mapping[str, str]
    """Signal -> why nothing is known of it."""


def thresholds(values: Mapping[str, tuple[Any, str]] | None, problem: str | None) -> Thresholds:
    """Those of a kubelet by its settings (node.kubelet_settings.Settings); `values` None: no kubelet was seen."""
    if values is None:
        why = problem or "no kubelet is seen to run"
        return Thresholds((), dict.fromkeys((*_SIGNALS, IMAGE_GC), why))
    unknown: dict[str, str] = {}
    known = [*_hard(values, problem, unknown), *_soft(values, unknown)]
    high, source = values.get("imageGCHighThresholdPercent", (None, DEFAULT))
    if high is None and problem is not None:
        unknown[IMAGE_GC] = problem
    else:
        percent = _DEFAULT_HIGH if high is None else _whole(high)
        if percent is None or not 0 <= percent <= 100:
            unknown[IMAGE_GC] = f"{source} has a percentage that is none"
        elif percent < 100:
            known.append(Threshold(IMAGE_GC, "image GC", float(percent), None, source))
    return Thresholds(tuple(known), unknown)


def _hard(values: Mapping[str, tuple[Any, str]], problem: str | None, unknown: dict[str, str]) -> list[Threshold]:
    given, source = values.get("evictionHard", (None, DEFAULT))
    merged = values.get("mergeDefaultEvictionSettings", (False, ""))[0] is True
    pairs = _pairs(given)
    if pairs is None:
        if given is not None:
            unknown.update(dict.fromkeys(_SIGNALS, f"{source} is not understood"))
            return []
        pairs = {}
    found = []
    for signal in _SIGNALS:
        if signal in pairs:
            text, where = pairs[signal], source
        elif not pairs or merged:
            if problem is not None:
                unknown[signal] = problem
                continue
            text, where = _DEFAULT_HARD[signal], _SINCE.get(signal, DEFAULT)
        else:
            # switched off by those that are set
            continue
        made = _threshold(signal, "evicts", text, where)
        if made is None:
            unknown[signal] = f"{where}: {text[:40]!r} is no quantity"
        elif not _is_off(made):
            found.append(made)
    return found


def _soft(values: Mapping[str, tuple[Any, str]], unknown: dict[str, str]) -> list[Threshold]:
    given, source = values.get("evictionSoft", (None, ""))
    pairs = _pairs(given) or {}
    graces = _pairs(values.get("evictionSoftGracePeriod", (None, ""))[0], between="=") or {}
    found = []
    for signal in _SIGNALS:
        if signal not in pairs:
            continue
        made = _threshold(signal, "evicts after", pairs[signal], source)
        grace = _seconds(graces.get(signal, ""))
        if made is None or grace is None:
            unknown.setdefault(f"{signal} (soft)", f"{source}: it has no quantity or no grace period")
        elif not _is_off(made):
            found.append(Threshold(signal, "evicts after", made.percent, made.amount, source, grace))
    return found


def _pairs(given: object, between: str = "<") -> dict[str, str] | None:
    """A file's mapping, or a flag's list: signal -> text. None if it is neither."""
    if isinstance(given, dict):
        return {str(key): str(value).strip() for key, value in given.items()}
    if not isinstance(given, str):
        return None
    found = {}
    for part in filter(None, given.split(",")):
        signal, sign, text = part.partition(between)
        if not sign:
            return None
        found[signal.strip()] = text.strip()
    return found


def _threshold(signal: str, action: Action, text: str, source: str) -> Threshold | None:
    if (match := _PERCENTAGE.fullmatch(text)) is not None:
        percent = float(match[1])
        return Threshold(signal, action, percent, None, source) if percent <= 100 else None
    amount = quantity(text)
    return Threshold(signal, action, None, amount, source) if amount is not None else None


def _is_off(threshold: Threshold) -> bool:
    return threshold.percent in (0.0, 100.0) or (threshold.percent is None and not threshold.amount)


def quantity(text: str) -> int | None:
    """A quantity of Kubernetes as a whole number, rounded up: 1Gi, 500M, 1.5Gi, 1e9, 2048; None if it is none."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    whole, fraction, binary, decimal, small, exponent = match.groups(default="")
    digits = int(whole + fraction)
    unit = _BINARY.get(binary) or _DECIMAL.get(decimal) or int("1" + int(exponent or 0) * "0")
    below = int("1" + len(fraction) * "0") * {"": 1, "m": 10**3, "u": 10**6, "n": 10**9}[small]
    return -(-digits * unit // below)


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 4 else None


_DURATION_PART = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(h|m|s|ms|us|µs|ns)", re.ASCII)
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def _seconds(text: str) -> float | None:
    # Go's time.ParseDuration
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def growth(samples: list[tuple[int, int]]) -> float | None:
    """How much a number grows in a second: the slope of the line that fits its samples best (least squares).

    Samples are (nanoseconds, value). None for fewer than two times.
    """
    if len(samples) < 2:
        return None
    begun = samples[0][0]
    times = [(at - begun) / 1e9 for at, _ in samples]
    first = samples[0][1]
    values = [value - first for _, value in samples]
    mean_time, mean_value = sum(times) / len(times), sum(values) / len(values)
    spread = sum((at - mean_time) ** 2 for at in times)
    if not spread:
        return None
    shared = sum((at - mean_time) * (value - mean_value) for at, value in zip(times, values, strict=True))
    return shared / spread


def time_left_s(available: int, least: int, growth_per_s: float | None) -> float | None:
    """Seconds until less than `least` is available, if use grows on like this; 0: it is so now. None: it does not."""
    if available < least:
        return 0.0
    if growth_per_s is None or growth_per_s <= 0:
        return None
    return (available - least) / growth_per_s
