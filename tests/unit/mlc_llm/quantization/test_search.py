"""Searched scales are those of q4f16_1, and never further from the weights than plain rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlc_llm.quantization import search
from mlc_llm.quantization.group import dequantize, quantize_halves
from mlc_llm.quantization.search import quantize_closest

Floats = NDArray[np.float32]


def halves(matrix: NDArray[Any]) -> Floats:
    return matrix.astype(np.float16).astype(np.float32)


def squares(matrix: Floats, found: Floats) -> NDArray[np.float64]:
    """Sums of squares of the error of each group of a matrix [n, 32]."""
    error = matrix.astype(np.float64) - found
    return np.asarray((error * error).sum(axis=1))


@given(seed=st.integers(0, 1 << 32), spread=st.floats(0.1, 4), size=st.floats(1e-3, 1e3))
def test_no_group_is_further_from_its_weights_than_with_plain_rounding(
    seed: int, spread: float, size: float
) -> None:
    rng = np.random.default_rng(seed)
    matrix = halves(size * rng.standard_normal((40, 32)) * rng.random((40, 32)) ** spread)
    plain = squares(matrix, dequantize(quantize_halves(matrix), 32))
    found = squares(matrix, dequantize(quantize_closest(matrix), 32))
    assert (found <= plain * 1.01 + 1e-12).all()
    assert found.sum() < 0.95 * plain.sum()


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_that_are_codes_already_are_kept(sign: int) -> None:
    codes = np.random.default_rng(0).integers(-7, 9, (50, 32)).astype(np.float32)
    codes[:, 0] = 8
    matrix = codes * np.float32(sign * 0.015625)
    assert np.array_equal(dequantize(quantize_closest(matrix), 32), matrix)


def test_a_group_of_zeros_decodes_to_zeros() -> None:
    quantized = quantize_closest(np.zeros((2, 64), np.float32))
    assert quantized.words.tolist() == [[0x77777777] * 8] * 2
    assert not dequantize(quantized, 64).any()


def test_values_below_every_scale_decode_to_zero() -> None:
    matrix = np.full((1, 32), np.float32(2**-24))
    assert np.abs(dequantize(quantize_closest(matrix), 32)).max() <= 2**-24


def test_the_largest_values_there_are_stay_finite() -> None:
    matrix = np.full((1, 32), np.float32(65504))
    matrix[0, ::2] *= -1
    found = dequantize(quantize_closest(matrix), 32)
    assert np.allclose(found, matrix, rtol=0.15)


def test_a_tail_uses_its_own_elements_and_is_zero_filled() -> None:
    matrix = halves(np.random.default_rng(1).standard_normal((3, 36)))
    quantized = quantize_closest(matrix)
    assert not quantized.words[:, 5:].any()
    alone = quantize_closest(np.pad(matrix[:, 32:], ((0, 0), (0, 28))))
    assert np.array_equal(quantized.scales[:, 1:], alone.scales)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = halves(np.random.default_rng(2).standard_normal((9, 96)))
    whole = quantize_closest(matrix)
    monkeypatch.setattr(search, "BLOCK_GROUPS", 4)
    cut = quantize_closest(matrix)
    assert np.array_equal(whole.words, cut.words)
    assert np.array_equal(whole.scales, cut.scales)
