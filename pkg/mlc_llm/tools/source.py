"""Text that arrives in pieces, for parsers written as generators.

A parser takes what it knows from the front and yields where it needs more; whoever feeds the source
resumes it. What has been taken since the last `settle` is remembered, bounded, so that it can be
given back as plain text. Decisions depend on the text alone, never on how it was cut.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
Waits = Generator[None, None, T]
"""A parser: yields to wait for more text, returns what it read."""

MAX_TAKEN = 1 << 20
"""Characters that a call may have, markers included."""
MAX_BLANKS = 64
"""Blanks before a marker that are withheld, because they belong to it."""
MAX_MARKER = 64
"""Characters of the longest marker."""
BLANKS = re.compile(r"[ \t\r\n]*")


class NotACall(Exception):
    """What was taken is no call, or not a whole one."""


class Source:
    """The text so far; `text[at:]` is what has not been taken."""

    def __init__(self, max_taken: int) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self._max_taken = max_taken
        self._taken: list[str] = []
        self._num_taken = 0

    def add(self, text: str) -> None:
        """The next piece."""
        self.text = self.text[self.at :] + text
        self.at = 0

    def settle(self) -> str:
        """What was taken since the last time; it is forgotten."""
        taken = "".join(self._taken)
        self._taken.clear()
        self._num_taken = 0
        return taken

    def take(self, count: int) -> str:
        """At most `count` characters. Raises NotACall when too many have been taken."""
        room = self._max_taken - self._num_taken
        if count > 0 and room <= 0:
            raise NotACall
        taken = self.text[self.at : self.at + min(count, room)]
        self.at += len(taken)
        self._num_taken += len(taken)
        self._taken.append(taken)
        return taken

    def skip(self, count: int) -> str:
        """Like `take`, but not remembered and not bounded: for plain text."""
        skipped = self.text[self.at : self.at + count]
        self.at += len(skipped)
        return skipped

    def char(self) -> Waits[str]:
        """The next character, not taken; "" at the end of the text."""
        while self.at == len(self.text):
            if self.ended:
                return ""
            yield
        return self.text[self.at]

    def literal(self, word: str) -> Waits[bool]:
        """Take `word` when it comes next; else take nothing."""
        if not (yield from self.comes(word)):
            return False
        if self._max_taken - self._num_taken < len(word):
            raise NotACall
        self.take(len(word))
        return True

    def expect(self, word: str) -> Waits[None]:
        """Take `word`. Raises NotACall when something else comes."""
        if not (yield from self.literal(word)):
            raise NotACall

    def comes(self, word: str) -> Waits[bool]:
        """Whether `word` comes next; takes nothing."""
        while not self.text.startswith(word, self.at):
            if self.ended or not word.startswith(self.text[self.at : self.at + len(word)]):
                return False
            yield
        return True

    def closing(self, word: str) -> Waits[None]:
        """Take `word` after blanks when it comes; drop what the text ended in the middle of it."""
        yield from self.blanks()
        if not (yield from self.literal(word)) and self.ended:
            rest = self.text[self.at :]
            if word.startswith(rest):
                self.skip(len(rest))

    def blanks(self) -> Waits[str]:
        """Take the blanks and line ends that come next."""
        return (yield from self.run(BLANKS))

    def run(self, pattern: re.Pattern[str]) -> Waits[str]:
        """Take all characters that come next and match `pattern`, which is one class, starred."""
        taken = ""
        while (yield from self.char()):
            match = pattern.match(self.text, self.at)
            count = match.end() - self.at if match else 0
            if count == 0:
                break
            taken += self.take(count)
        return taken


def certain(text: str, start: int, markers: Iterable[str]) -> int:
    """Up to where `text` from `start` is what it is, whatever comes next.

    What follows may be the beginning of a marker, or blanks before one.
    """
    rest = text[max(start, len(text) - MAX_MARKER) :]
    withheld = max(
        (
            size
            for marker in markers
            for size in range(min(len(marker) - 1, len(rest)), 0, -1)
            if rest.endswith(marker[:size])
        ),
        default=0,
    )
    return before_blanks(text, start, len(text) - withheld)


def before_blanks(text: str, start: int, end: int) -> int:
    """Where the blanks before `end` begin, as far as they are withheld."""
    least = max(start, end - MAX_BLANKS)
    return least + len(text[least:end].rstrip(" \t\r\n"))
