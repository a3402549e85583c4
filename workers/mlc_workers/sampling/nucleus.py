"""top_p where it keeps many tokens: only those near the cut are put in order.

Every 16th token tells between which two weights the cut lies, most likely: the tail that goes is
many tokens of little weight each, so their mass is what a sample tells best. Tokens above these two
stay, tokens below go, and among those between them the sums decide. Where the guess was wrong the
sums show it. Masses of blocks of tokens are kept on the way: the inverse CDF begins with them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]

BLOCK = 256
LEAST_SIZE = 8 * BLOCK
_STRIDE = 16
_STEP = 32
"""Of the sample, how finely its sums are looked at."""
_DEVIATIONS = 3
"""By how many standard deviations of a share in the sample the two weights lie apart from it."""
LEAST_KEPT = 1 / 16
"""Of the vocabulary; where fewer tokens are kept, it is faster to sort them."""


class Between(NamedTuple):
    """Bounds on the weights of the tokens of which some are kept."""

    low: np.float32
    high: np.float32


def bracket(weights: Row, left_out: float) -> Between | None:
    """Weights that the last kept token lies between, most likely; None: few tokens are kept.

    `left_out` is the mass of the others.
    """
    if len(weights) < LEAST_SIZE:
        return None
    sample = np.sort(weights[::_STRIDE])
    steps = sample[: len(sample) // _STEP * _STEP].reshape(-1, _STEP).sum(axis=1)
    middle = int(np.searchsorted(np.cumsum(steps), left_out / _STRIDE)) * _STEP
    spread = int(_DEVIATIONS * math.sqrt(len(sample)) / 2) + _STEP
    most = int(len(sample) * (1 - LEAST_KEPT))
    if middle + spread > most:
        return None
    return Between(sample[max(middle - spread, 0)], sample[middle + spread])


def leave_out(
    weights: Row, order: Row, between: Between, kept_mass: float
) -> NDArray[np.floating[Any]] | None:
    """Set to 0 what top_p leaves out; returns the mass of each block of tokens.

    `order` has the logits, by which tokens are ordered. None, with `weights` used up, when the cut
    is not between those weights.
    """
    near = np.flatnonzero((weights >= between.low) & (weights < between.high))
    values, logits = weights[near], order[near]
    np.multiply(weights, weights >= between.high, out=weights)
    masses = block_sums(weights)
    rest = kept_mass - float(masses.sum(dtype=np.float64))
    sums = np.cumsum(np.sort(values)[::-1], dtype=np.float64)
    if not 0 < rest <= (sums[-1] if len(sums) else 0.0):
        return None
    count = int(np.searchsorted(sums, rest)) + 1
    kept = first(logits, count, np.partition(logits, len(logits) - count)[len(logits) - count])
    weights[near[kept]] = values[kept]
    more = np.bincount(near[kept] // BLOCK, weights=values[kept], minlength=len(masses))
    return masses + more


def first(row: Row, count: int, least: np.float32) -> NDArray[np.int64]:
    """The first `count` ids by (logit descending, id ascending), in order of ids.

    `least` is the smallest logit among them.
    """
    ids = np.flatnonzero(row >= least)
    surplus = len(ids) - count
    if surplus > 0:
        ids = np.delete(ids, np.flatnonzero(row[ids] == least)[-surplus:])
    return ids


def block_sums(weights: Row) -> Row:
    """Masses of `BLOCK` tokens each, the last of what is left."""
    whole = len(weights) // BLOCK * BLOCK
    sums = weights[:whole].reshape(-1, BLOCK).sum(axis=1)
    return np.append(sums, weights[whole:].sum()) if whole < len(weights) else sums
