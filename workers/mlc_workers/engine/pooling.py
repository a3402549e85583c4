"""Hidden states of prompts, made one vector each: the first or last token's, or the mean of all.

A prompt may come in chunks and be preempted between them, so the mean is summed up on the way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlc_llm.errors import EngineFault
from mlc_workers.engine.desk import Desk
from mlc_workers.request import Phase
from mlc_workers.scheduler.step import Step


class Mean:
    """Rows are added, their mean is the vector; that of one row is the row."""

    def __init__(self) -> None:
        self._sum: NDArray[np.float64] | None = None
        self._count = 0

    def add(self, rows: NDArray[np.float64]) -> None:
        """Take in float64[n, hidden_size]."""
        total = rows.sum(axis=0)
        self._sum = total if self._sum is None else self._sum + total
        self._count += len(rows)

    def vector(self) -> bytes:
        """The mean, float32 little-endian."""
        if self._sum is None:
            return b""
        return (self._sum / self._count).astype("<f4").tobytes()


class First:
    """The first row is the vector."""

    def __init__(self) -> None:
        self._row: NDArray[np.float64] | None = None

    def add(self, rows: NDArray[np.float64]) -> None:
        """Take in float64[n, hidden_size]."""
        if self._row is None:
            self._row = rows[0].copy()

    def vector(self) -> bytes:
        """The row, float32 little-endian."""
        return b"" if self._row is None else self._row.astype("<f4").tobytes()


def pool_prompts(desk: Desk, step: Step, hidden: NDArray[np.float64]) -> None:
    """Add the hidden states float64[e, hidden_size] of a step to the prompts that want them."""
    for index, row in step.pooled:
        choice, span = step.choices[index], step.plan.spans[index]
        if choice.phase is Phase.FINISHED:
            continue
        rows = hidden[row : row + span.num_read]
        if not np.isfinite(rows).all():
            desk.fail(choice.request, EngineFault("the hidden states are not numbers"))
            continue
        pooled = choice.request.pooled
        if not isinstance(pooled, Mean | First):
            pooled = First() if choice.request.generation.pooling == "cls" else Mean()
            choice.request.pooled = pooled
        pooled.add(rows)
