"""Rising sums by label set, bounded in number: from rows that come and go to counters that only rise. Pure.

A row is what a tracer says a label set has come to; its growth since the last look is added to the label set's own
sums. At most `limit` label sets have sums of their own; the growth of all others goes to one overflow series, so that
the total stays exact. A label set that has not grown for long enough gives its place back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Labels = tuple[str, ...]
OVERFLOW = "(overflow)"
_LONGEST_LABEL = 256


def standing(rows: Iterable[tuple[Labels, float | None]], *, limit: int, sums: bool) -> Mapping[Labels, float]:
    """Numbers as they stand, the largest `limit` of them; what is not known of a label set is not served.

    `sums`: rows of one label set are added up, and so is what finds no place; else the last one counts, and the
    smallest are kept.
    """
    found: dict[Labels, float] = {}
    for labels, value in rows:
        if value is not None:
            labels = tuple([label[:_LONGEST_LABEL] for label in labels])
            found[labels] = found.get(labels, 0.0) + value if sums else value
    if len(found) <= limit:
        return found
    order = sorted(found, key=lambda labels: found[labels], reverse=sums)
    kept = {labels: found[labels] for labels in order[:limit]}
    if sums:
        kept[(OVERFLOW,) * len(order[0])] = sum(found[labels] for labels in order[limit:])
    return kept


class Series:
    """The counters of one tracer under one set of label names."""

    def __init__(self, labels: int, values: int, *, limit: int, idle_s: float) -> None:
        """`labels` and `values` are their numbers; `limit` that of label sets, overflow not among them."""
        self._zero = [0.0] * values
        self._limit, self._idle_s = limit, idle_s
        self._sums: dict[Labels, list[float]] = {}
        self._grown: dict[Labels, float] = {}
        self._before: Mapping[Labels, Sequence[float]] = {}
        self._held: set[Labels] = set()
        self._folded: set[Labels] = set()
        self._overflow: Labels = (OVERFLOW,) * labels
        self._overflow_sums: list[float] | None = None
        self.overflowed = 0
        """How often a label set found no place of its own."""

    def begin_again(self) -> None:
        """Rows count from zero again (the tracer was attached anew); sums stay."""
        self._before, self._held = {}, set()

    def absorb(self, rows: Iterable[tuple[Labels, Sequence[float]]], now_s: float, *, hold_new: bool = False) -> None:
        """Take in how every row stands. One that is gone, and comes again, counts from zero.

        `hold_new`: a row that was not there before is taken in at the next call; a container whose name is learned a
        moment after its first event would be counted under its id too.
        """
        joined: dict[Labels, list[float]] = {}
        for labels, values in rows:
            # what is too long for a label may then be the same as another
            labels = tuple([label[:_LONGEST_LABEL] for label in labels])
            known = joined.get(labels)
            joined[labels] = list(values) if known is None else [a + b for a, b in zip(known, values, strict=True)]
        held = {labels for labels in joined if labels not in self._before and labels not in self._held}
        if not hold_new:
            held = set()
        for labels in held:
            del joined[labels]
        self._held = held
        for labels, values in joined.items():
            before = self._before.get(labels, self._zero)
            # a row falls when part of it is concluded to be another's: that was counted, and is not taken back
            growth = [max(0.0, now - then) for now, then in zip(values, before, strict=True)]
            if any(growth):
                self._add(labels, growth, now_s)
        self._before = joined
        for labels in [labels for labels, grown in self._grown.items() if now_s - grown > self._idle_s]:
            del self._grown[labels], self._sums[labels]
        self._folded &= joined.keys()

    def _add(self, labels: Labels, growth: Sequence[float], now_s: float) -> None:
        sums = self._sums.get(labels)
        if sums is None:
            if len(self._sums) < self._limit:
                sums = self._sums[labels] = list(self._zero)
                self._folded.discard(labels)
            else:
                if labels not in self._folded:
                    self._folded.add(labels)
                    self.overflowed += 1
                if self._overflow_sums is None:
                    self._overflow_sums = list(self._zero)
                sums = self._overflow_sums
        for at, value in enumerate(growth):
            sums[at] += value
        if sums is not self._overflow_sums:
            self._grown[labels] = now_s

    def __len__(self) -> int:
        """How many label sets have sums of their own."""
        return len(self._sums)

    def read(self) -> Mapping[Labels, Sequence[float]]:
        """Label set -> its sums, a copy; the overflow last, when there is any."""
        found = {labels: tuple(sums) for labels, sums in self._sums.items()}
        if self._overflow_sums is not None:
            found[self._overflow] = tuple(self._overflow_sums)
        return found
