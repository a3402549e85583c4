"""Tokens that a request allows or forbids: everything else in the row is -inf.

Never leaves a row without any token: where all that is allowed is an end token that `min_tokens`
holds back, or a forbidden word, the allowed tokens win.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlc_llm.protocol.generation import GenerationConfig

Row = NDArray[np.float32]
Words = tuple[tuple[int, ...], ...]


class Restrictions:
    """The restrictions of one choice, and as much of its last tokens as they look at."""

    def __init__(self, config: GenerationConfig) -> None:
        """The ids were checked to be columns of a row."""
        self._allowed: NDArray[np.int32] = np.frombuffer(config.allowed_token_ids, "<i4")
        self._words: Words = config.bad_words
        self._longest = max((len(word) for word in config.bad_words), default=1) - 1
        self._last: tuple[int, ...] = ()

    def observe(self, token_id: int) -> None:
        """This token was generated."""
        if self._longest:
            self._last = (*self._last, token_id)[-self._longest :]

    def apply(self, adjusted: Row, raw: Row) -> Row:
        """A copy of `adjusted` with nothing in it that is not allowed; `raw` is the same row before
        anything was changed in it.
        """
        row = adjusted.copy()
        if len(self._allowed):
            row = np.full_like(adjusted, -np.inf)
            row[self._allowed] = adjusted[self._allowed]
            if row.max() == -np.inf:
                row[self._allowed] = raw[self._allowed]
        forbidden = self._forbidden()
        if forbidden:
            kept = row[forbidden]
            row[forbidden] = -np.inf
            if row.max() == -np.inf:
                row[forbidden] = kept
        return row

    def _forbidden(self) -> list[int]:
        """Tokens that would complete a forbidden word."""
        return [word[-1] for word in self._words if self._ends_with(word[:-1])]

    def _ends_with(self, beginning: tuple[int, ...]) -> bool:
        return not beginning or self._last[-len(beginning) :] == beginning


def restrictions(config: GenerationConfig) -> Restrictions | None:
    """The restrictions of a new choice, None where there are none."""
    if not (config.allowed_token_ids or config.bad_words):
        return None
    return Restrictions(config)
