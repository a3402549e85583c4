"""The sampler of the engine: rows of logits and what is remembered of each choice, to tokens.

A row is sampled by itself: nothing of the batch reaches it, so a choice gets the same tokens alone
and in company. Its memory is advanced only when all rows of a call are done; a call that raised can
be made again.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlc_llm.protocol.generation import GenerationConfig
from mlc_workers.sampling.draw import draw
from mlc_workers.sampling.limits import check_generation
from mlc_workers.sampling.logprobs import raw_logprobs
from mlc_workers.sampling.mask import Mask
from mlc_workers.sampling.penalties import Adjustments
from mlc_workers.sampling.restrictions import restrictions
from mlc_workers.sampling.uniform import stream_key, uniform

Row = NDArray[np.float32]

GREEDY_BELOW = 1e-5
"""Temperatures up to this are greedy."""


class Pick(NamedTuple):
    """A sampled token, with log-probabilities of the raw distribution if they were asked for."""

    token_id: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


class Unsampleable(ArithmeticError):
    """The logits of one row are not numbers, or leave no token."""


class ChoiceMemory:
    """What the sampler remembers of one choice."""

    def __init__(self, config: GenerationConfig, index: int, adjustments: Adjustments) -> None:
        seed = secrets.randbits(64) if config.seed is None else config.seed
        self.config = config
        self.key = stream_key(seed, index)
        self.position = 0
        """Tokens generated so far."""
        self.adjustments = adjustments
        self.restrictions = restrictions(config)

    def observe(self, token_id: int) -> None:
        """This token was generated."""
        self.position += 1
        self.adjustments.observe(token_id)
        if self.restrictions is not None:
            self.restrictions.observe(token_id)


class NumpySampler:
    """Samples on the host. One thread at a time."""

    def __init__(self, vocab_size: int) -> None:
        """`vocab_size`: tokens that exist; columns of logits beyond it are never looked at."""
        self._vocab_size = vocab_size
        self._scratch = np.empty(vocab_size, np.float32)
        self._opened: ChoiceMemory | None = None
        """The choice that was opened last: the next one is mostly of the same request."""

    def check(self, generation: GenerationConfig) -> str | None:
        """Why a request cannot be sampled, in one sentence, or None."""
        return check_generation(generation, self._vocab_size)

    def open(self, generation: GenerationConfig, index: int) -> ChoiceMemory:
        """The memory of choice `index` of a new request; without a seed, one is drawn."""
        last = self._opened
        if last is not None and last.config is generation:
            adjustments = last.adjustments.of_another_choice()
        else:
            adjustments = Adjustments(generation, self._vocab_size)
        self._opened = ChoiceMemory(generation, index, adjustments)
        return self._opened

    def observe(self, memory: object, token_id: int) -> None:
        """As if `token_id` had been sampled, to the last effect on what is sampled after it."""
        assert isinstance(memory, ChoiceMemory)
        memory.observe(token_id)

    def sample(
        self,
        logits: NDArray[np.float32],
        memories: Sequence[object],
        masks: Sequence[Mask | None] | None = None,
    ) -> list[Pick | Exception]:
        """One pick per row of float32[b, >= vocab_size]; `Unsampleable` for a row with bad logits.

        `memories` come from `open`. A mask says which tokens may be picked, None: all may. `logits`
        is only read, and nothing keeps a view of it.
        """
        picks: list[Pick | Exception] = []
        masks = masks or [None] * len(memories)
        for row, memory, mask in zip(logits[:, : self._vocab_size], memories, masks, strict=True):
            assert isinstance(memory, ChoiceMemory)
            try:
                picks.append(self._pick(row, memory, mask))
            except Unsampleable as error:
                picks.append(error)
        for pick, memory in zip(picks, memories, strict=True):
            if isinstance(pick, Pick) and isinstance(memory, ChoiceMemory):
                memory.observe(pick.token_id)
        return picks

    def _pick(self, row: NDArray[np.float32], memory: ChoiceMemory, mask: Mask | None) -> Pick:
        config = memory.config
        adjusted = memory.adjustments.apply(row, memory.position, mask)
        if memory.restrictions is not None:
            adjusted = memory.restrictions.apply(adjusted, row)
        if mask is not None:
            adjusted = _masked(mask, adjusted, row)
        token_id = int(adjusted.argmax())  # a NaN counts as the largest, so this finds it as well
        if not math.isfinite(adjusted[token_id]):
            raise Unsampleable(f"the best of {len(adjusted)} logits is {adjusted[token_id]}")
        if config.temperature > GREEDY_BELOW and len(adjusted) > 1:
            u = uniform(memory.key, memory.position)
            token_id = draw(adjusted, config, u, self._scratch[: len(adjusted)])
        if mask is not None and mask.ids is not None:
            token_id = int(mask.ids[token_id])
        if not config.logprobs:
            return Pick(token_id)
        logprob, top = raw_logprobs(row, token_id, config.top_logprobs, self._scratch)
        return Pick(token_id, logprob, top)


def _masked(
    mask: Mask, adjusted: NDArray[np.float32], row: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What the mask leaves. What a grammar needs wins over what else the request forbids."""
    if mask.ids is not None and not len(mask.ids):
        raise Unsampleable("the grammar leaves no token")
    left = mask.apply(adjusted)
    return left if adjusted is row or left.max() > -math.inf else mask.apply(row)
