"""A line about long work, with an estimate of when it ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

EVERY_SECONDS = 1.0
LEAST_DONE = 0.05
"""Share that is done before the rest is estimated from it: a start is slower than what follows."""


class Estimate:
    """Prints to standard error at most once a second."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._begun = self._told = clock()

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if now - self._told < EVERY_SECONDS:
            return
        self._told = now
        line = f"{self._what} {done / total:4.0%}"
        if done >= LEAST_DONE * total:
            line += f", about {(now - self._begun) * (total - done) / done:.0f} s left"
        print(line, file=sys.stderr)
