"""The cosines and sines of the rotary embedding, as the table that `step` takes.

Angles are computed in float64: at position 100,000 a float32 angle is off by a hundredth of a turn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlc_llm.models.architecture import Architecture, RopeScaling


def rope_table(arch: Architecture, num_positions: int) -> NDArray[np.float32]:
    """float32[num_positions, head_dim]: D/2 cosines, then D/2 sines, of every position."""
    angles = np.outer(np.arange(num_positions, dtype=np.float64), frequencies(arch))
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def frequencies(arch: Architecture) -> NDArray[np.float64]:
    """Radians per position of each pair: theta^(-2i / D), rescaled where the model asks for it."""
    pairs = np.arange(0, arch.head_dim, 2, dtype=np.float64)
    plain = arch.rope_theta ** (-pairs / arch.head_dim)
    return plain if arch.rope_scaling is None else _llama3(plain, arch.rope_scaling)


def _llama3(plain: NDArray[np.float64], scaling: RopeScaling) -> NDArray[np.float64]:
    """Slow rotations are stretched by `factor`, fast ones kept, those between are blended.

    What counts is how often a pair turns within the context the model was first trained for.
    """
    turns = scaling.original_max_position_embeddings * plain / (2 * np.pi)
    width = scaling.high_freq_factor - scaling.low_freq_factor
    keep = np.clip((turns - scaling.low_freq_factor) / width, 0.0, 1.0)
    return plain * (keep + (1 - keep) / scaling.factor)
