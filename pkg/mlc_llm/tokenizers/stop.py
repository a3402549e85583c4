"""Stop strings over a text that arrives in pieces: pure, text in and text out.

Knuth, Morris and Pratt's automaton, one per stop string, walked side by side. A character is shown
as soon as no stop string can start at or before it, and never if one does; where several end on the
same character, the text is cut at the one that starts first. The result depends on the text alone,
not on how it was cut into pieces.
"""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct


class StopSet(Struct, frozen=True):
    """Stop strings made ready for matching; shared by every stream that has the same ones."""

    patterns: tuple[tuple[str, list[int]], ...]
    """(stop string, its failure function)."""
    first: re.Pattern[str]
    """Finds a character that begins some stop string."""


@lru_cache(maxsize=64)
def stop_set(strings: tuple[str, ...]) -> StopSet:
    """Prepare non-empty stop strings. Time and memory grow with their total length."""
    first = "|".join(re.escape(character) for character in sorted({text[0] for text in strings}))
    return StopSet(tuple((text, _failure(text)) for text in strings), re.compile(first))


def _failure(pattern: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    table = [0] * len(pattern)
    matched = 0
    for index in range(1, len(pattern)):
        while matched and pattern[index] != pattern[matched]:
            matched = table[matched - 1]
        matched += pattern[index] == pattern[matched]
        table[index] = matched
    return table


class StopStrings:
    """Withholds what may become a stop string; ends at the first that is complete."""

    __slots__ = ("_held", "_keep", "_matched", "_set", "stopped")

    def __init__(self, strings: tuple[str, ...], *, keep: bool = False) -> None:
        """`keep`: whether the stop string itself is shown."""
        self._set = stop_set(strings)
        self._keep = keep
        self._matched = [0] * len(strings)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> tuple[str, bool]:
        """Text that is safe to show, and whether a stop string was met."""
        if self.stopped:
            return "", True
        start = 0
        if not self._held:
            begin = self._set.first.search(text)
            if begin is None:
                return text, False
            start = begin.start()
        known = self._held + text
        for position in range(len(self._held) + start, len(known)):
            met = self._step(known[position])
            if met:
                self.stopped = True
                self._held = ""
                return known[: position + 1 - met * (not self._keep)], True
        safe = len(known) - max(self._matched)
        self._held = known[safe:]
        return known[:safe], False

    def finish(self) -> str:
        """The text that was withheld, once it is known that no more will come."""
        held, self._held = self._held, ""
        return held

    def _step(self, character: str) -> int:
        """Advance by one character; the length of the longest stop string that ends here, or 0."""
        met = 0
        for index, (pattern, failure) in enumerate(self._set.patterns):
            matched = self._matched[index]
            while matched and pattern[matched] != character:
                matched = failure[matched - 1]
            matched += pattern[matched] == character
            self._matched[index] = matched
            if matched == len(pattern):
                met = max(met, matched)
        return met
