"""A greedy sampler that can be told to fail, and a vocabulary of single characters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.tokenizers.table import DecodeRules, TokenTable
from mlc_llm.tokenizers.text_stream import TextStream
from mlc_llm.tokenizers.token_bytes import TokenBytes
from mlc_workers.sampling.mask import Mask
from mlc_workers.sampling.sampler import Pick

BAD_SEED = 666
"""A request with this seed cannot be sampled."""


class FakeSampler:
    """Choice i takes the token i after the most likely one; under a mask, the one that this token
    counts to, round and round.
    """

    def check(self, generation: GenerationConfig) -> str | None:
        return "n must be at least 1" if generation.n < 1 else None

    def open(self, generation: GenerationConfig, index: int) -> object:
        return (generation.seed, index)

    def observe(self, memory: object, token_id: int) -> None:
        """What it remembers does not change."""

    def sample(
        self,
        logits: NDArray[np.float32],
        memories: Sequence[object],
        masks: Sequence[Mask | None] | None = None,
    ) -> Sequence[Pick | Exception]:
        allowed = masks or [None] * len(memories)
        return [
            self._pick(row, memory) if mask is None else self._pick_of(row, memory, mask)
            for row, memory, mask in zip(logits, memories, allowed, strict=True)
        ]

    def _pick_of(self, row: NDArray[np.float32], memory: object, mask: Mask) -> Pick | Exception:
        free = self._pick(row, memory)
        assert mask.ids is not None
        return (
            Pick(int(mask.ids[free.token_id % len(mask.ids)])) if isinstance(free, Pick) else free
        )

    def _pick(self, row: NDArray[np.float32], memory: object) -> Pick | Exception:
        assert isinstance(memory, tuple)
        seed, index = memory
        if seed == BAD_SEED:
            return ValueError("bad seed")
        token = (int(row.argmax()) + index) % len(row)
        return Pick(token, -0.5, ((token, -0.5),))


class FakeTexts:
    """Token t is the t-th character from U+4E00 on: three bytes, no two alike."""

    def __init__(self, vocab_size: int) -> None:
        texts = [self.text_of([t]).encode() for t in range(vocab_size)]
        self.table = TokenTable(TokenBytes(texts), DecodeRules())

    @staticmethod
    def text_of(tokens: Sequence[int]) -> str:
        return "".join(chr(0x4E00 + token) for token in tokens)

    def open(self, generation: GenerationConfig) -> TextStream:
        return TextStream(self.table, generation.stop_strs)

    def bytes_of(self, token_id: int) -> bytes:
        return self.table.bytes_of(token_id)
