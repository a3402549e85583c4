"""One token from one row of logits: temperature, top-k, top-p, min-p, inverse CDF.

The filters take a front part of the tokens ordered by (logit descending, id ascending), so the
result does not depend on how ties happen to be sorted:

    top_k    the first k
    top_p    the fewest whose mass reaches p, of what top_k left, at least one
    min_p    those with at least min_p times the probability of the first

What is left is sampled in order of ids by one uniform number, so a filter that removes little
changes little. A whole vocabulary is never sorted: where most of it stays only the edge is
(`nucleus`), and else a bound is found first, and only what lies above it is looked at closely. The
bound for top_p comes from the tail, which is many tokens of little weight each, so that every 64th
of them tells where the last 1 - p of the mass begin; a bound that turns out too high gives way to
one that cannot be: tokens less likely than (1 - p) / V have less than 1 - p of the mass together.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlc_llm.protocol.generation import GenerationConfig
from mlc_workers.sampling.groups import at_most_kth, total
from mlc_workers.sampling.nucleus import BLOCK, LEAST_KEPT, block_sums, bracket, first, leave_out

Row = NDArray[np.float32]
_Ids = NDArray[np.int64]
_Weights = NDArray[np.float64]

_STRIDE = 64
_SPARE = 0.8
"""Of the mass that top_p leaves out, how much the guessed bound leaves out at most."""
_MARGIN = 0.01
"""The bound on a logit is lowered by this share of the temperature: it may be off by rounding."""


class _Mass(NamedTuple):
    """What top_p goes by, where the weights of all tokens are in the scratch."""

    whole: float
    guess: float
    """A weight such that the tokens below it hold a little less than top_p leaves out, likely."""
    num_above: int
    """Tokens above it, likely."""


def draw(row: Row, config: GenerationConfig, u: float, scratch: Row) -> int:
    """The token at `u` in [0, 1). `row` has a finite maximum; `scratch` is as long, and used up."""
    largest = float(row.max())
    if not is_filtered(config, len(row)):
        _weights(row, largest, config.temperature, scratch)
        return _inverse_cdf_of_many(scratch, u, block_sums(scratch))
    mass = None
    if config.top_p < 1 and not 0 < config.top_k < len(row):
        mass = _mass(row, largest, config, scratch)
        between = None
        if mass.num_above >= len(row) * LEAST_KEPT:
            between = bracket(scratch, (1 - config.top_p) * mass.whole)
        if between is not None and config.min_p < between.low:
            masses = leave_out(scratch, row, between, config.top_p * mass.whole)
            if masses is not None:
                return _inverse_cdf_of_many(scratch, u, masses)
            mass = None
    ids, weights = _keep(row, largest, config, scratch, mass)
    return int(ids[_inverse_cdf(weights, u)[0]])


def is_filtered(config: GenerationConfig, vocab_size: int) -> bool:
    """Whether any filter is on."""
    return config.top_p < 1 or config.min_p > 0 or 0 < config.top_k < vocab_size


def keep(row: Row, config: GenerationConfig, scratch: Row) -> tuple[_Ids, _Weights]:
    """The ids that the filters leave, ascending, and their weights; the likeliest weighs 1.

    Some filter must be on.
    """
    return _keep(row, float(row.max()), config, scratch, None)


def _keep(
    row: Row, largest: float, config: GenerationConfig, scratch: Row, mass: _Mass | None
) -> tuple[_Ids, _Weights]:
    front, whole = _front(row, largest, config, scratch, mass)
    values = np.sort(row[front])[::-1]
    weights = _exact_weights(values, largest, config.temperature)
    count = len(values)
    if config.top_p < 1:
        least = config.top_p * (float(weights.sum()) if whole is None else whole)
        count = min(count, int(np.searchsorted(np.cumsum(weights), least)) + 1)
    if config.min_p > 0:
        count = min(count, int(np.count_nonzero(weights >= config.min_p)))
    ids = front[first(row[front], count, values[count - 1])]
    return ids, _exact_weights(row[ids], largest, config.temperature)


def _front(
    row: Row, largest: float, config: GenerationConfig, scratch: Row, mass: _Mass | None
) -> tuple[_Ids, float | None]:
    """Ids, ascending, of the largest logits, at least those that are kept.

    Also the mass that top_p is a share of; None: that of these logits.
    """
    if 0 < config.top_k < len(row):
        front = np.flatnonzero(row >= at_most_kth(row, config.top_k))
        least = np.partition(row[front], len(front) - config.top_k)[len(front) - config.top_k]
        return front[first(row[front], config.top_k, least)], None
    if config.top_p == 1:
        return _likely(row, largest, config.min_p, config.temperature), None
    whole, guess, _ = mass or _mass(row, largest, config, scratch)
    left_out = (1 - config.top_p) * whole
    front = np.flatnonzero(scratch >= guess)
    if whole - float(scratch[front].sum(dtype=np.float64)) > left_out * (1 - _MARGIN):
        share = max(left_out / len(row), config.min_p, 1e-30)
        front = _likely(row, largest, share, config.temperature)
    return front, whole


def _mass(row: Row, largest: float, config: GenerationConfig, scratch: Row) -> _Mass:
    """Puts the weights of all tokens into the scratch and looks at every 64th of them."""
    whole = _weights(row, largest, config.temperature, scratch)
    left_out = (1 - config.top_p) * whole
    tail = np.sort(scratch[::_STRIDE])
    at = int(np.searchsorted(np.cumsum(tail)[:-1], _SPARE * left_out / _STRIDE))
    return _Mass(whole, float(tail[at]), (len(tail) - at) * _STRIDE)


def _likely(row: Row, largest: float, share: float, temperature: float) -> _Ids:
    """The ids with at least `share` of the weight of the likeliest, and a few more."""
    return np.flatnonzero(row >= largest + temperature * (min(math.log(share), 0.0) - _MARGIN))


def _weights(row: Row, largest: float, temperature: float, out: Row) -> float:
    """exp((row - largest) / temperature) into `out`; returns the sum."""
    np.subtract(row, np.float32(largest), out=out)
    np.multiply(out, np.float32(1 / temperature), out=out)
    np.exp(out, out=out)
    return total(out)


def _exact_weights(x: Row, largest: float, temperature: float) -> _Weights:
    return np.exp((x.astype(np.float64) - largest) / temperature)


def _inverse_cdf(weights: NDArray[np.floating[Any]], u: float) -> tuple[int, float]:
    """Where the running sum passes u of the total, and by how much of the sum u lies inside."""
    cumulated = np.cumsum(weights, dtype=np.float64)
    target = u * cumulated[-1]
    last = np.searchsorted(cumulated, cumulated[-1])  # of those that weigh anything
    at = int(min(np.searchsorted(cumulated, target, side="right"), last))
    before = cumulated[at - 1] if at else 0.0
    return at, float(target - before)


def _inverse_cdf_of_many(weights: Row, u: float, sums: NDArray[np.floating[Any]]) -> int:
    """The same over a whole vocabulary: first among the sums of blocks, then inside one block."""
    block, rest = _inverse_cdf(sums, u)
    inside = weights[block * BLOCK : (block + 1) * BLOCK]
    share = rest / float(inside.sum(dtype=np.float64))
    return block * BLOCK + _inverse_cdf(inside, min(max(share, 0.0), 1.0))[0]
