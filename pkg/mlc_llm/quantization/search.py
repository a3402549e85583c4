"""q4f16_1 with scales that are searched for: the same format as `group`, closer to the weights.

`group` takes the scale that gives the largest magnitude of a group the code 14 (+7). Here all
sixteen codes are used, -7 to +8 times a scale of either sign, and of several scales the one is kept
whose codes q leave the least sum of squares: for given codes the best scale is <x, q> / <q, q>, and
it leaves <x, x> - <x, q>^2 / <q, q> (the idea of llama.cpp's search for its 4-bit scales).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlc_llm.quantization.floats import FloatArray
from mlc_llm.quantization.group import (
    GROUP_WORDS,
    MAX_INT,
    WORD_ELEMENTS,
    HalfArray,
    Quantized,
    WordArray,
    tail_mask,
)
from mlc_llm.quantization.scheme import CODES, GROUP_SIZE

LEVELS = (8.0, 7.5, 7.0, 8.6, 6.5, 9.2)
"""How many times a scale the value of the largest magnitude is, to begin with."""

HIGHEST = 15 - MAX_INT
BLOCK_GROUPS = 8192
"""Groups that are searched at a time: few enough that their values stay in a core's cache, many
enough that threads rarely meet at the interpreter's lock."""


Search = Callable[[FloatArray, HalfArray, WordArray], None]
"""Given float32 groups [n, 32], fills in their scales [n] and words [n, 4]. Threads may call it at
once. Libraries have one that is compiled (`kernels.cpu.closest`), with the same bits."""


def quantize_closest(weights: FloatArray, search: Search | None = None) -> Quantized:
    """Quantize a float32 matrix [N, K] whose every value is a float16 value or not finite.

    A group with a value that is not finite gets a scale that is not. `search`: `search_groups`.
    """
    rows, cols = weights.shape
    groups = -(-cols // GROUP_SIZE)
    if tail := groups * GROUP_SIZE - cols:
        weights = np.pad(weights, ((0, 0), (0, tail)))
    grouped = weights.reshape(rows * groups, GROUP_SIZE)
    scales = np.empty(len(grouped), np.float16)
    words = np.empty((len(grouped), GROUP_WORDS), np.uint32)
    (search or search_groups)(grouped, scales, words)
    words = words.reshape(rows, groups * GROUP_WORDS)
    if tail:
        words[:, -GROUP_WORDS:] &= tail_mask(cols, CODES["q4"])
    return Quantized(words, scales.reshape(rows, groups))


def search_groups(grouped: FloatArray, scales: HalfArray, words: WordArray) -> None:
    """The search in NumPy."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for first in range(0, len(grouped), BLOCK_GROUPS):
            block = slice(first, first + BLOCK_GROUPS)
            values = grouped[block].T.copy(order="C")
            scales[block] = _closest_scales(values)
            words[block] = _words(values, scales[block]).T


def _closest_scales(values: FloatArray) -> HalfArray:
    """The scales [n] of some groups [32, n]: side by side, so that passes are long."""
    extreme = _extremes(values)
    inverse = np.float32(1) / np.where(extreme == 0, np.float32(np.inf), extreme)
    codes = np.empty_like(values)
    products, squares = np.empty((2, len(LEVELS), len(extreme)), np.float32)
    for level, product, square in zip(LEVELS, products, squares, strict=True):
        np.multiply(values, inverse * np.float32(level), out=codes)
        _round(codes, level)
        np.einsum("ij,ij->j", values, codes, out=product)
        np.einsum("ij,ij->j", codes, codes, out=square)
    found = products / np.maximum(squares, np.float32(1))
    products *= found
    best = products.argmax(axis=0)
    scales: HalfArray = np.take_along_axis(found, best[None], axis=0)[0].astype(np.float16)
    return scales


def _words(values: FloatArray, scales: HalfArray) -> WordArray:
    """The codes [4, n] of groups [32, n] nearest to their values; overwrites `values`."""
    stored = scales.astype(np.float32)
    stored[stored == 0] = np.inf
    values /= stored
    _round(values, np.inf)
    values += np.float32(MAX_INT)
    codes = values.astype(np.uint8)
    words = codes[::WORD_ELEMENTS].astype(np.uint32)
    for i in range(1, WORD_ELEMENTS):
        words |= codes[i::WORD_ELEMENTS].astype(np.uint32) << np.uint32(4 * i)
    return words


def _extremes(values: FloatArray) -> FloatArray:
    """The value of the largest magnitude of each group, with its sign."""
    high, low = values.max(axis=0), values.min(axis=0)
    found: FloatArray = np.where(high >= -low, high, low)
    return found


def _round(codes: FloatArray, level: float) -> None:
    """To codes there are, in place; `level`: the largest magnitude before."""
    np.rint(codes, out=codes)
    if level > MAX_INT:
        np.clip(codes, -MAX_INT, HIGHEST, out=codes)
