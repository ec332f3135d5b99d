"""A filter as one types it: plain words, those behind ! exclude; and where a text matches, to be highlighted."""

from __future__ import annotations

from collections.abc import Sequence


class Filter:
    """Which texts are wanted: those with every word, and with no word that stands behind a `!`; case is ignored.

    `shop !sidecar` is what has shop and not sidecar. A lone `!` and no text at all exclude nothing.
    """

    def __init__(self, text: str) -> None:
        """As it was typed."""
        self.text = text
        words = text.lower().split()
        self.words = [word for word in words if not word.startswith("!")]
        self.without = [word[1:] for word in words if word.startswith("!") and len(word) > 1]

    def __bool__(self) -> bool:
        """Whether it asks for anything."""
        return bool(self.words or self.without)

    def matches(self, texts: Sequence[str]) -> bool:
        """Whether a row of these texts is wanted: a word may be in any of them."""
        joined = "\n".join(texts).lower()
        return all(word in joined for word in self.words) and not any(word in joined for word in self.without)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the wanted words stand in a text: (begin, end), in order, none inside another."""
        lower = text.lower()
        if len(lower) != len(text):  # some characters have a longer lower case: places would not fit
            return []
        found: list[tuple[int, int]] = []
        for word in self.words:
            at = lower.find(word)
            while at >= 0:
                found.append((at, at + len(word)))
                at = lower.find(word, at + len(word))
        merged: list[tuple[int, int]] = []
        for begin, end in sorted(found):
            if merged and begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        return merged
