"""Sums and bounds over a vocabulary, at the speed of memory: many groups of tokens at once.

Token i belongs to group i % GROUPS, so that one vector instruction serves as many groups as it has
lanes; NumPy's reductions of a whole row are several times slower.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]

GROUPS = 512


def total(row: Row) -> float:
    """The sum, rounded to float32 within a group only."""
    whole = len(row) // GROUPS * GROUPS
    sums = row[:whole].reshape(-1, GROUPS).sum(axis=0)
    return float(sums.sum(dtype=np.float64) + row[whole:].sum(dtype=np.float64))


def at_most_kth(row: Row, k: int) -> np.float32:
    """A value that at least k of the row reach, and as a rule few more. 1 <= k <= len(row)."""
    if k > GROUPS // 4 or len(row) < 8 * GROUPS:
        return np.float32(np.partition(row, len(row) - k)[len(row) - k])
    whole = len(row) // GROUPS * GROUPS
    largest = row[:whole].reshape(-1, GROUPS).max(axis=0)  # k groups have k different tokens
    return np.float32(np.partition(largest, GROUPS - k)[GROUPS - k])
