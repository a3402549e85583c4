"""q4f16_1 with scales that are searched for: the same format as `group`, closer to the weights.

`group` takes the scale that gives the largest magnitude of a group the code 14 (+7). Here all
sixteen codes are used, -7 to +8 times a scale of either sign, and of several scales the one is kept
whose codes q leave the least sum of squares: for given codes the best scale is <x, q> / <q, q>, and
it leaves <x, x> - <x, q>^2 / <q, q> (the idea of llama.cpp's search for its 4-bit scales).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlc_llm.quantization.floats import FloatArray
from mlc_llm.quantization.group import GROUP_WORDS, MAX_INT, Quantized, join_nibbles, tail_mask
from mlc_llm.quantization.scheme import CODES, GROUP_SIZE

LEVELS = (8.0, 7.5, 7.0, 8.6, 6.5, 9.2)
"""How many times a scale the value of the largest magnitude is, to begin with."""

HIGHEST = 15 - MAX_INT
BLOCK_GROUPS = 2048
"""Groups that are searched at a time: their values stay in a core's cache."""


def quantize_closest(weights: FloatArray) -> Quantized:
    """Quantize a float32 matrix [N, K] whose every value is a float16 value or not finite.

    A group with a value that is not finite gets a scale that is not.
    """
    rows, cols = weights.shape
    groups = -(-cols // GROUP_SIZE)
    if tail := groups * GROUP_SIZE - cols:
        weights = np.pad(weights, ((0, 0), (0, tail)))
    grouped = weights.reshape(rows * groups, GROUP_SIZE)
    scales = np.empty(len(grouped), np.float16)
    codes = np.empty(grouped.shape, np.uint8)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for first in range(0, len(grouped), BLOCK_GROUPS):
            block = slice(first, first + BLOCK_GROUPS)
            scales[block], codes[block] = _search(grouped[block])
    words = join_nibbles(codes).reshape(rows, groups * GROUP_WORDS)
    if tail:
        words[:, -GROUP_WORDS:] &= tail_mask(cols, CODES["q4"])
    return Quantized(words, scales.reshape(rows, groups))


def _search(grouped: FloatArray) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Scales and codes of some groups [n, 32]."""
    extreme = _extremes(grouped)
    best_gain = np.zeros(len(grouped), np.float32)
    best = extreme / np.float32(HIGHEST)
    inverse = np.float32(1) / np.where(extreme == 0, np.float32(np.inf), extreme)
    codes = np.empty_like(grouped)
    for level in LEVELS:
        np.multiply(grouped, (inverse * np.float32(level))[:, None], out=codes)
        _round(codes)
        product = np.einsum("ij,ij->i", grouped, codes)
        square = np.einsum("ij,ij->i", codes, codes)
        scale = product / np.maximum(square, np.float32(1))
        gain = product * scale
        better = gain > best_gain
        np.copyto(best, scale, where=better)
        np.copyto(best_gain, gain, where=better)
    scales = best.astype(np.float16)
    stored = scales.astype(np.float32)
    stored[stored == 0] = np.inf
    np.divide(grouped, stored[:, None], out=codes)
    _round(codes)
    codes += np.float32(MAX_INT)
    return scales, codes.astype(np.uint8)


def _extremes(grouped: FloatArray) -> FloatArray:
    """The value of the largest magnitude of each group, with its sign."""
    high, low = grouped.max(axis=1), grouped.min(axis=1)
    found: FloatArray = np.where(high >= -low, high, low)
    return found


def _round(codes: FloatArray) -> None:
    np.rint(codes, out=codes)
    np.clip(codes, -MAX_INT, HIGHEST, out=codes)
