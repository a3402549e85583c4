"""Bounds and sums over a vocabulary, against the plain way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_workers.sampling.groups import GROUPS, at_most_kth, total

SIZES = st.sampled_from(
    [1, 2, GROUPS - 1, 8 * GROUPS - 1, 8 * GROUPS, 8 * GROUPS + 1, 40 * GROUPS + 7]
)


@given(
    size=SIZES, k=st.integers(1, 2 * GROUPS), seed=st.integers(0, 99), spread=st.integers(1, 300)
)
def test_at_least_k_reach_the_bound_and_few_more(size: int, k: int, seed: int, spread: int) -> None:
    k = min(k, size)
    row = np.random.default_rng(seed).integers(-spread, spread, size).astype(np.float32)
    bound = at_most_kth(row, k)
    assert np.count_nonzero(row >= bound) >= k
    assert np.count_nonzero(row > bound) < max(4 * k, 64) or k > GROUPS // 8


def test_a_row_with_fewer_finite_values_than_k_keeps_them_all() -> None:
    row = np.full(10 * GROUPS, -np.inf, np.float32)
    row[[3, GROUPS + 3, 5]] = 1.0
    assert at_most_kth(row, 20) == -math.inf
    assert at_most_kth(row, 2) == 1.0


@given(size=SIZES, seed=st.integers(0, 99))
def test_the_sum_is_exact_to_float32(size: int, seed: int) -> None:
    row = np.random.default_rng(seed).random(size, np.float32)
    assert total(row) == pytest.approx(float(row.sum(dtype=np.float64)), rel=1e-6)
