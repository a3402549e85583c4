"""The cosines and sines of the rotary embedding, as the table that `step` takes.

Angles are computed in float64: at position 100,000 a float32 angle is off by a hundredth of a turn.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mlc_llm.models.architecture import Architecture, LinearRope, LongRope, RopeScaling, YarnRope

Floats = NDArray[np.float64]


def rope_table(arch: Architecture, num_positions: int) -> NDArray[np.float32]:
    """float32[num_positions, rope_width]: R/2 cosines, then R/2 sines, of every position, with R
    `rope_dim`; then the same with the base of sliding layers, where they have their own; then the
    same for layers that do not turn, where there are any.

    A model of learned positions has a table that never turns.
    """
    magnitude = 1.0
    if isinstance(arch.rope_scaling, YarnRope | LongRope):
        magnitude = arch.rope_scaling.attention_factor
    tables = [magnitude * _turns(frequencies(arch, num_positions), num_positions)]
    if arch.sliding_rope_theta is not None:
        tables.append(_turns(_plain(arch, arch.sliding_rope_theta), num_positions))
    if arch.unrotated_layers:
        tables.append(_turns(np.zeros(arch.rope_dim // 2), num_positions))
    return np.concatenate(tables, axis=1).astype(np.float32)


def frequencies(arch: Architecture, num_positions: int) -> Floats:
    """Radians per position of each pair: theta^(-2i / R), rescaled where the model asks for it in
    sequences of up to so many positions."""
    if arch.learned_positions:
        return np.zeros(arch.rope_dim // 2)
    plain = _plain(arch, arch.rope_theta)
    match arch.rope_scaling:
        case None:
            return plain
        case LinearRope(factor=factor):
            return plain / factor
        case LongRope() as long:
            is_short = num_positions <= long.original_max_position_embeddings
            return np.asarray(plain / np.array(long.factors if is_short else long.long_factors))
        case YarnRope():
            return _yarn(plain, arch.rope_scaling, arch.rope_theta)
        case RopeScaling():
            return _llama3(plain, arch.rope_scaling)


def _plain(arch: Architecture, theta: float) -> Floats:
    pairs = np.arange(0, arch.rope_dim, 2, dtype=np.float64)
    return np.power(theta, -pairs / arch.rope_dim)


def _turns(each: Floats, num_positions: int) -> Floats:
    angles = np.outer(np.arange(num_positions, dtype=np.float64), each)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def _yarn(plain: Floats, scaling: YarnRope, theta: float) -> Floats:
    """Pairs that turn more than beta_fast times within the original context are kept, those that
    turn less than beta_slow times are stretched, and the ramp between is linear in the pair."""
    rope_dim = 2 * len(plain)

    def pair_that_turns(times: float) -> float:
        wavelengths = scaling.original_max_position_embeddings / (times * 2 * math.pi)
        return rope_dim * math.log(wavelengths) / (2 * math.log(theta))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope_dim - 1)
    width = high - low if high != low else 0.001
    stretched = np.clip((np.arange(len(plain)) - low) / width, 0.0, 1.0)
    return np.asarray(plain * (1 - stretched) + plain / scaling.factor * stretched)


def _llama3(plain: Floats, scaling: RopeScaling) -> Floats:
    """Slow rotations are stretched by `factor`, fast ones kept, those between are blended.

    What counts is how often a pair turns within the context the model was first trained for.
    """
    turns = scaling.original_max_position_embeddings * plain / (2 * np.pi)
    width = scaling.high_freq_factor - scaling.low_freq_factor
    keep = np.clip((turns - scaling.low_freq_factor) / width, 0.0, 1.0)
    return plain * (keep + (1 - keep) / scaling.factor)
