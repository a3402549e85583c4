"""Log-probabilities of the raw distribution, before bias, penalties and temperature."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mlc_workers.sampling.groups import at_most_kth, total

Row = NDArray[np.float32]


def top_ids(row: Row, k: int) -> NDArray[np.int64]:
    """The k largest, best first; of equal ones the lower id first. 1 <= k <= len(row)."""
    ids = np.flatnonzero(row >= at_most_kth(row, k))
    order = np.argsort(-row[ids], kind="stable")
    return ids[order[:k]]


def log_normalizer(row: Row, scratch: Row) -> float:
    """log(sum(exp(row))); `scratch` is as long as `row` and is overwritten."""
    largest = row.max()
    np.subtract(row, largest, out=scratch)
    np.exp(scratch, out=scratch)
    return float(largest) + math.log(total(scratch))


def raw_logprobs(
    row: Row, token_id: int, num_top: int, scratch: Row
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The log-probability of `token_id`, and the `num_top` most likely tokens, best first."""
    normalizer = log_normalizer(row, scratch)
    logprob = float(row[token_id]) - normalizer
    if num_top == 0:
        return logprob, ()
    best = [int(i) for i in top_ids(row, min(num_top, len(row))) if row[i] > -np.inf]
    return logprob, tuple((i, float(row[i]) - normalizer) for i in best)
