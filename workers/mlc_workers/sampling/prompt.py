"""How likely each token of a prompt was, from the rows of logits after the tokens before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlc_workers.sampling.logprobs import raw_logprobs
from mlc_workers.sampling.sampler import Unsampleable


class Likelihood(NamedTuple):
    """One token of a prompt in the raw distribution at its position."""

    logprob: float
    rank: int
    """1 for the most likely token, equal ones share the better rank."""
    top: tuple[tuple[int, float], ...]


def likelihoods(rows: NDArray[np.float32], tokens: Sequence[int], num_top: int) -> list[Likelihood]:
    """One per row of float32[n, vocab] and token. Raises `Unsampleable` for a row of no numbers."""
    scratch = np.empty(rows.shape[1], np.float32)
    found = []
    for row, token in zip(rows, tokens, strict=True):
        logprob, top = raw_logprobs(row, token, num_top, scratch)
        if math.isnan(logprob):
            raise Unsampleable("the logits of a token of the prompt are not numbers")
        rank = 1 + int(np.count_nonzero(row > row[token]))
        found.append(Likelihood(logprob, rank, top))
    return found
