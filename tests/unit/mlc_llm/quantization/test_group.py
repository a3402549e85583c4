"""q4f16_1 against a scalar implementation that does float16 arithmetic one operation at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mlc_llm.quantization.group import Quantized, dequantize, fill_tail, quantize

HALF = np.float16


def scalar_quantize(matrix: NDArray[np.float16]) -> tuple[list[list[int]], list[list[np.float16]]]:
    """Nibbles and scales of every row, as the format defines them."""
    nibbles, scales = [], []
    for row in matrix:
        groups = [row[start : start + 32] for start in range(0, len(row), 32)]
        found = [HALF(max(abs(w) for w in group)) / HALF(7) for group in groups]
        scales.append(found)
        nibbles.append(
            [scalar_code(w, s) for group, s in zip(groups, found, strict=True) for w in group]
        )
    return nibbles, scales


def scalar_code(weight: np.float16, scale: np.float16) -> int:
    if scale == 0:
        return 7
    return int(min(max(np.rint(weight / scale + HALF(7)), HALF(0)), HALF(14)))


def stored_nibbles(quantized: Quantized, cols: int) -> list[list[int]]:
    words = [[int(word) for word in row] for row in quantized.words]
    return [[row[k // 8] >> 4 * (k % 8) & 15 for k in range(cols)] for row in words]


def half_matrices(elements: st.SearchStrategy[int]) -> st.SearchStrategy[NDArray[np.float16]]:
    shapes = st.tuples(st.integers(1, 3), st.integers(1, 70))
    return arrays(np.uint16, shapes, elements=elements).map(lambda bits: bits.view(HALF))


SIGN = st.sampled_from((0, 0x8000))
ANY_FINITE = st.builds(lambda bits, sign: bits | sign, st.integers(0, 0x7BFF), SIGN)
ALMOST_ZERO = st.builds(lambda bits, sign: bits | sign, st.integers(0, 40), SIGN)
OF_ONE_SIZE = st.builds(lambda bits, sign: bits | sign, st.integers(0x3800, 0x4800), SIGN)


@settings(deadline=None, max_examples=30)
@given(half_matrices(ANY_FINITE | OF_ONE_SIZE) | half_matrices(ALMOST_ZERO))
def test_every_code_and_scale_is_that_of_float16_arithmetic(matrix: NDArray[np.float16]) -> None:
    quantized = quantize(matrix)
    nibbles, scales = scalar_quantize(matrix)
    assert stored_nibbles(quantized, matrix.shape[1]) == nibbles
    assert quantized.scales.tolist() == scales


@pytest.mark.parametrize("largest", range(0x0001, 0x7C00, 1531))
def test_codes_agree_for_all_values_below_a_largest_one(largest: int) -> None:
    bits = np.arange(0, largest, max(1, largest // 4000), dtype=np.uint16)
    bits = np.resize(np.concatenate((bits, bits | 0x8000)), (260, 31))
    matrix = np.pad(bits, ((0, 0), (0, 1)), constant_values=largest).view(HALF)
    scale = HALF(matrix[0, 31] / HALF(7))
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.clip(np.rint(matrix / scale + HALF(7)), 0, 14)
    expected = np.where(scale == 0, HALF(7), codes).astype(int).tolist()
    assert stored_nibbles(quantize(matrix), 32) == expected


@settings(deadline=None, max_examples=30)
@given(half_matrices(ANY_FINITE))
def test_dequantizing_gives_code_minus_seven_times_scale_exactly(matrix: NDArray[Any]) -> None:
    rows, cols = matrix.shape
    values = dequantize(quantize(matrix), cols)
    nibbles, scales = scalar_quantize(matrix)
    for n in range(rows):
        for k in range(cols):
            assert float(values[n, k]) == (nibbles[n][k] - 7) * float(scales[n][k // 32])


def test_a_code_of_fifteen_decodes_to_plus_eight() -> None:
    quantized = Quantized(np.full((1, 4), 0xFFFFFFFF, np.uint32), np.ones((1, 1), HALF))
    assert dequantize(quantized, 32).tolist() == [[8.0] * 32]


def test_a_group_of_zeros_decodes_to_zeros() -> None:
    quantized = quantize(np.zeros((2, 64), np.float32))
    assert quantized.words.tolist() == [[0x77777777] * 8] * 2
    assert not dequantize(quantized, 64).any()


def test_a_tail_is_zero_filled_on_disk_and_decodes_to_zero_when_filled() -> None:
    quantized = quantize(np.ones((1, 36), np.float32))
    assert quantized.words[0, 4:].tolist() == [0xEEEE, 0, 0, 0]
    filled = Quantized(fill_tail(quantized, 36), quantized.scales)
    assert dequantize(filled, 64)[0, 36:].tolist() == [0.0] * 28


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_what_float16_cannot_hold_shows_in_the_scale(bad: float) -> None:
    matrix = np.ones((2, 64), np.float32)
    matrix[1, 40] = bad
    finite = np.isfinite(quantize(matrix).scales)
    assert finite.tolist() == [[True, True], [True, False]]
