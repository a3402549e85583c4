"""Matrices as GPTQ and AWQ store them, and the values that their formulas give."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.folders import Stored

Ints = NDArray[np.int64]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns each nibble of a word holds, from the lowest."""


def packed(codes: Ints, bits: int) -> NDArray[np.int32]:
    """Codes [a, b] in words [a, b * bits / 32], the first in the lowest bits."""
    fields = codes.reshape(len(codes), -1, 32 // bits).astype(np.uint64)
    shifts = np.arange(32 // bits, dtype=np.uint64) * np.uint64(bits)
    words: NDArray[np.int32] = (fields << shifts).sum(axis=2).astype(np.uint32).view(np.int32)
    return words


def gptq(
    base: str, codes: Ints, zeros: Ints, scales: NDArray[np.float16], bits: int = 4, offset: int = 1
) -> dict[str, Stored]:
    """codes [K, N], zeros and scales [G, N]."""
    stored_zeros = (zeros - offset) % (1 << bits)
    return {
        f"{base}.qweight": ("I32", np.ascontiguousarray(packed(codes.T, bits).T)),
        f"{base}.qzeros": ("I32", packed(stored_zeros, bits)),
        f"{base}.scales": ("F16", scales),
    }


def awq(base: str, codes: Ints, zeros: Ints, scales: NDArray[np.float16]) -> dict[str, Stored]:
    def dealt(values: Ints) -> NDArray[np.int32]:
        eights = values.reshape(len(values), -1, 8)[:, :, AWQ_ORDER]
        return packed(eights.reshape(len(values), -1), 4)

    return {
        f"{base}.qweight": ("I32", dealt(codes)),
        f"{base}.qzeros": ("I32", dealt(zeros)),
        f"{base}.scales": ("F16", scales),
    }


def random_codes(k: int, n: int, groups: int, bits: int = 4) -> tuple[Ints, Ints, Any]:
    rng = np.random.default_rng(k + n)
    codes, zeros = (rng.integers(0, 1 << bits, (size, n)) for size in (k, groups))
    return codes, zeros, rng.standard_normal((groups, n)).astype(np.float16)


def values(codes: Ints, zeros: Ints, scales: Any, group_of: Ints) -> NDArray[np.float32]:
    """The matrix [N, K]."""
    found = (codes - zeros[group_of]).astype(np.float32) * scales.astype(np.float32)[group_of]
    return np.ascontiguousarray(found.T)
