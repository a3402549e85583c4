"""What the loop asks of a sampler (`mlc_workers.sampling` is the real one)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlc_llm.protocol.generation import GenerationConfig
from mlc_workers.sampling.mask import Mask
from mlc_workers.sampling.sampler import Pick


class Sampler(Protocol):
    """Chooses tokens. What it remembers of a choice is opaque to the loop."""

    def check(self, generation: GenerationConfig) -> str | None:
        """Why a request cannot be sampled, in one sentence, or None."""
        ...

    def open(self, generation: GenerationConfig, index: int) -> object:
        """The memory of choice `index` of a new request."""
        ...

    def observe(self, memory: object, token_id: int) -> None:
        """A choice has a token that was not sampled."""
        ...

    def sample(
        self,
        logits: NDArray[np.float32],
        memories: Sequence[object],
        masks: Sequence[Mask | None] | None = None,
    ) -> Sequence[Pick | Exception]:
        """One pick per row of float32[b, vocab]; an exception where one row cannot be sampled.

        A mask has the tokens that may be picked; None: all may.
        """
        ...
