"""Which tokens each choice of a step may take, found out while the device computes the step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from mlc_workers.request import Choice, GrammarTooComplex, Guide
from mlc_workers.sampling.mask import Mask, Row, Words

MAX_FILL_S = 1.0
"""A choice whose mask takes more time of the processor than this holds up everybody: it fails."""

Masks = list[Mask | Exception | None]
"""Per choice: a mask, None for one without a grammar, or what went wrong."""


class MaskFiller:
    """Fills the masks of one step at a time, in a thread of its own."""

    def __init__(self, vocab_size: int) -> None:
        """`vocab_size`: columns of logits that may be sampled."""
        self._vocab_size = vocab_size
        self._pool: ThreadPoolExecutor | None = None
        self._words: Words = np.empty((0, 0), np.uint32)
        self._biases: Row = np.empty((0, 0), np.float32)

    def begin(self, choices: Sequence[Choice]) -> Future[Masks] | None:
        """Start on the masks of these choices; None when none of them follows a grammar.

        No guide may be touched until the future is done, and its masks are valid until the next
        call.
        """
        guides = [choice.guide for choice in choices]
        if not any(guides):
            return None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "masks")
        return self._pool.submit(self._fill, guides)

    def _fill(self, guides: Sequence[Guide | None]) -> Masks:
        present = [guide for guide in guides if guide is not None]
        self._make_room(len(present), present[0].num_words)
        rows = iter(zip(self._words, self._biases, strict=True))
        return [None if guide is None else self._fill_one(guide, *next(rows)) for guide in guides]

    def _make_room(self, num_rows: int, num_words: int) -> None:
        if len(self._words) < num_rows:
            self._words = np.empty((num_rows, num_words), np.uint32)
            self._biases = np.empty((num_rows, num_words * 32), np.float32)

    def _fill_one(self, guide: Guide, words: Words, room: Row) -> Mask | Exception:
        began = time.thread_time()
        try:
            guide.fill(words)
            mask = Mask(words, self._vocab_size, room)
        except Exception as error:
            return error
        if time.thread_time() - began > MAX_FILL_S:
            return GrammarTooComplex("one token took more than a second")
        return mask
