"""Takes names of special tokens out of a text that comes piece by piece. Pure."""

from __future__ import annotations

import re


class Markers:
    """Holds back an end of the text that may still become one of the names."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._held = ""
        self._names = re.compile("|".join(map(re.escape, names))) if names else None
        self._beginnings = frozenset(name[:i] for name in names for i in range(1, len(name)))
        self._longest = max(map(len, names), default=0)

    def feed(self, text: str) -> str:
        """What is certain to be no name."""
        if self._names is None:
            return text
        *before, text = self._names.split(self._held + text)  # a name that is gone joins nothing
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            if text[-size:] in self._beginnings:
                self._held = text[-size:]
                return "".join(before) + text[:-size]
        self._held = ""
        return "".join(before) + text

    def finish(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return held
