"""What changes single logits before sampling: bias, penalties for generated tokens, masked end
tokens.

Each changes few of the many logits, so all are sparse: ids and values, applied to a copy of the
row.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from mlc_llm.protocol.generation import GenerationConfig
from mlc_workers.sampling.mask import Mask

Row = NDArray[np.float32]
_Ids = NDArray[np.int64]


class TokenCounts:
    """How often each token was generated, as two parallel arrays that grow by doubling."""

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._ids: _Ids = np.zeros(16, np.int64)
        self._counts: Row = np.zeros(16, np.float32)

    def add(self, token_id: int) -> None:
        """Count one more."""
        slot = self._slots.setdefault(token_id, len(self._slots))
        if slot == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[slot] = token_id
        self._counts[slot] += 1

    @property
    def ids(self) -> _Ids:
        """Every token generated so far, once."""
        return self._ids[: len(self._slots)]

    @property
    def counts(self) -> Row:
        """How often each of `ids` was."""
        return self._counts[: len(self._slots)]


class Adjustments:
    """The adjustments of one choice: logit bias, then penalties, then end tokens masked.

    Penalties look at generated tokens only, not at the prompt: x -= presence + count * frequency,
    then x / repetition, or x * repetition where x is negative.
    """

    def __init__(self, config: GenerationConfig, vocab_size: int) -> None:
        bias = config.logit_bias
        self._bias_ids: _Ids = np.fromiter(bias.keys(), np.int64, len(bias))
        self._bias: Row = np.fromiter(bias.values(), np.float32, len(bias))
        self._frequency = np.float32(config.frequency_penalty)
        self._presence = np.float32(config.presence_penalty)
        self._repetition = np.float32(config.repetition_penalty)
        stops = sorted({token_id for token_id in config.stop_token_ids if token_id < vocab_size})
        self._stop_ids: _Ids = np.array(stops, np.int64)
        self._min_tokens = config.min_tokens if stops else 0
        penalized = bool(self._frequency or self._presence or self._repetition != 1)
        self._generated = TokenCounts() if penalized else None

    def of_another_choice(self) -> Adjustments:
        """Those of a new choice of the same request: what was asked for is in memory once."""
        other = copy.copy(self)
        other._generated = None if self._generated is None else TokenCounts()
        return other

    def observe(self, token_id: int) -> None:
        """This token was generated."""
        if self._generated is not None:
            self._generated.add(token_id)

    def apply(self, row: Row, position: int, mask: Mask | None = None) -> Row:
        """The row to sample from: the same array when there is nothing to change, else a copy.

        Only the tokens of `mask` will be looked at. Where it leaves nothing but end
        tokens the text is complete, and they are not held back.
        """
        penalized = self._generated is not None and position > 0
        masked = position < self._min_tokens and not self._must_end(mask)
        if not (len(self._bias_ids) or penalized or masked):
            return row
        row = row.copy()
        row[self._bias_ids] += self._bias
        if penalized:
            self._penalize(row)
        if masked:
            row[self._stop_ids] = -np.inf
        return row

    def _must_end(self, mask: Mask | None) -> bool:
        return mask is not None and mask.num_allowed == mask.count(self._stop_ids)

    def _penalize(self, row: Row) -> None:
        assert self._generated is not None
        ids = self._generated.ids
        x = row[ids] - (self._presence + self._generated.counts * self._frequency)
        row[ids] = np.where(x < 0, x * self._repetition, x / self._repetition)
