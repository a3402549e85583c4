"""A runner without a model: its KV pool holds token ids, its next token is a function of the
sequence.

It reads sequences through the page table, as the device does, so a page that is shared, copied,
freed or listed wrongly changes the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_workers.scheduler.plan import Plan, Span


def next_token(tokens: Sequence[int], vocab_size: int) -> int:
    """What the model says after these tokens."""
    return crc32(np.asarray(tokens, np.int32).tobytes()) % vocab_size


def continuation(
    prompt: Sequence[int], num_tokens: int, vocab_size: int, *, shift: int = 0
) -> list[int]:
    """What the model generates alone; `shift` stands for another sampler's choice."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append((next_token(tokens, vocab_size) + shift) % vocab_size)
    return tokens[len(prompt) :]


def wanted_ends(span: Span) -> list[int]:
    """Lengths of the beginnings of the sequence after which logits are wanted."""
    first = span.start + span.first_read + 1
    ends = [] if span.pooled else list(range(first, first + span.num_read))
    return [*ends, span.start + len(span.tokens)] if span.sample else ends


class FakeRunner:
    """`run(plan)` as the real runner has it; `plans` keeps what was run."""

    def __init__(self, page_table: NDArray[np.int32], num_pages: int, vocab_size: int) -> None:
        self.page_table = page_table
        self.vocab_size = vocab_size
        self.pool = np.full((num_pages, PAGE_SIZE), -1, np.int32)
        self.plans: list[Plan] = []
        self._hidden: list[list[float]] = []

    def run(self, plan: Plan) -> NDArray[np.float32]:
        """float32[b, vocab]: 1.0 at the next token of each row that is wanted, 0.0 elsewhere."""
        self.plans.append(plan)
        for source, target in plan.copies:
            self.pool[target] = self.pool[source]
        for span in plan.spans:
            for position, token in enumerate(span.tokens, span.start):
                page = self.page_table[span.row, position // PAGE_SIZE]
                self.pool[page, position % PAGE_SIZE] = token
        wanted = [(span, end) for span in plan.spans for end in wanted_ends(span)]
        logits = np.zeros((len(wanted), self.vocab_size), np.float32)
        for row, (span, end) in enumerate(wanted):
            pages = self.page_table[span.row, : -(-end // PAGE_SIZE)]
            tokens = self.pool[pages].reshape(-1)[:end]
            assert (tokens >= 0).all(), "a position was read that was never written"
            logits[row, next_token(tokens.tolist(), self.vocab_size)] = 1.0
        self._hidden = [
            [float(position), float(token), 1.0]
            for span in plan.spans
            if span.pooled
            for position, token in list(enumerate(span.tokens, span.start))[
                span.first_read : span.first_read + span.num_read
            ]
        ]
        return logits

    def hidden(self) -> NDArray[np.float64]:
        """Position, token and 1 of each token that is pooled."""
        return np.array(self._hidden, np.float64).reshape(-1, 3)
