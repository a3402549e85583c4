"""Groups of 32 along a row, a float16 scale each. q4f16_1, bit for bit as MLC stores it:

    q_scale[n, g]    float16   max |w| of the group / 7
    q_weight[n, t]   uint32    nibble i (bits 4 i..) is column 8 t + i;
                               value = (nibble - 7) * q_scale
    nibble = clip(round_half_even(w / q_scale + 7), 0, 14), every operation rounded to float16

q8f16_1 is the same with bytes: 127 for 7, 254 for 14, four columns to a word, and codes that are
nearest to the scale as it is stored, in float32 (`encode.quantize_groups`).

A tail shorter than a group uses its own elements only and fills its word with zeros. A group whose
scale rounds to zero stores nibble 7, so that it decodes to zero.

The arithmetic below is float32 and gives the same bits as float16 arithmetic would, because
* + and / of 11-bit numbers rounded to 24 bits, then to 11, round as if once (24 >= 2 * 11 + 2);
* a quotient of two 11-bit numbers is never half-way between two 11-bit numbers, so splitting by
  multiplication (T. J. Dekker, 1971) rounds it to 11 bits correctly;
* a quotient too small for float16's normal range changes nothing once 7 is added.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlc_llm.quantization.floats import FloatArray, widen_halves
from mlc_llm.quantization.scheme import GROUP_SIZE, Codes

WordArray = NDArray[np.uint32]
HalfArray = NDArray[np.float16]

WORD_ELEMENTS = 8
GROUP_WORDS = GROUP_SIZE // WORD_ELEMENTS
MAX_INT = 7

_SPLITTER = np.float32((1 << 13) + 1)


class Quantized(NamedTuple):
    """A matrix [N, K]: `words` uint32 [N, B * ceil(K / 32)] of codes of B bits, `scales` float16
    [N, ceil(K / 32)]."""

    words: WordArray
    scales: HalfArray

    @property
    def codes(self) -> Codes:
        """What the words hold."""
        return Codes(self.words.shape[1] // self.scales.shape[1])


def quantize(weights: NDArray[Any]) -> Quantized:
    """Quantize a floating matrix [N, K], rounded to float16 first.

    A row with a NaN, an infinity or a value beyond float16 has a scale that is not finite.
    Memory: about 20 bytes for each element; pass chunks of rows.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        halves = weights.astype(np.float16, copy=False)
    return quantize_halves(widen_halves(halves.view(np.uint16)))


def quantize_halves(weights: FloatArray) -> Quantized:
    """`quantize` for a float32 matrix [N, K] whose every value is a float16 value or not finite."""
    rows, cols = weights.shape
    groups = -(-cols // GROUP_SIZE)
    if tail := groups * GROUP_SIZE - cols:
        weights = np.pad(weights, ((0, 0), (0, tail)))
    grouped = weights.reshape(rows * groups, GROUP_SIZE)
    with np.errstate(over="ignore", invalid="ignore"):
        scales = (_group_maxima(grouped) / np.float32(MAX_INT)).astype(np.float16)
        divisors = scales.astype(np.float32)
        divisors[divisors == 0] = np.inf
        codes = _codes(grouped / divisors[:, None])
    words = join_nibbles(codes).reshape(rows, groups * GROUP_WORDS)
    if tail:
        words[:, -GROUP_WORDS:] &= tail_mask(cols, Codes(4))
    return Quantized(words, scales.reshape(rows, groups))


def dequantize(quantized: Quantized, cols: int) -> FloatArray:
    """The matrix [N, cols] that the codes stand for; float32 holds every product exactly."""
    rows, groups = quantized.scales.shape
    codes = quantized.codes
    shifts = np.arange(0, 32, codes.bits, dtype=np.uint32)
    mask = np.uint32((1 << codes.bits) - 1)
    whole = (quantized.words[:, :, None] >> shifts & mask).astype(np.float32)
    values = whole.reshape(rows, groups, GROUP_SIZE) - np.float32(codes.zero)
    values *= quantized.scales.astype(np.float32)[:, :, None]
    return values.reshape(rows, groups * GROUP_SIZE)[:, :cols]


def tail_mask(cols: int, codes: Codes) -> WordArray:
    """Bits of the words of a row's last group that belong to columns before `cols`."""
    each = 32 // codes.bits
    first = (cols - 1) // GROUP_SIZE * GROUP_SIZE + np.arange(codes.words) * each
    kept = np.clip(cols - first, 0, each).astype(np.uint64)
    return ((np.uint64(1) << kept * np.uint64(codes.bits)) - np.uint64(1)).astype(np.uint32)


def word_of_zeros(codes: Codes) -> int:
    """A word that stands for nothing but zeros."""
    return sum(codes.zero << at for at in range(0, 32, codes.bits))


def fill_tail(quantized: Quantized, cols: int) -> WordArray:
    """The words of a matrix with `cols` columns, every code past the last decoding to zero."""
    if cols % GROUP_SIZE == 0:
        return quantized.words
    codes = quantized.codes
    mask = tail_mask(cols, codes)
    filled = quantized.words.copy()
    filled[:, -codes.words :] &= mask
    filled[:, -codes.words :] |= ~mask & np.uint32(word_of_zeros(codes))
    return filled


def _group_maxima(grouped: FloatArray) -> FloatArray:
    """max |w| of each row of 32: maxima over windows of 2, 4, .. 32 that start at every element.

    Long contiguous passes: four times faster than a reduction whose inner loop has 32 elements.
    """
    window = np.abs(grouped).reshape(-1)
    for step in (1, 2, 4, 8, 16):
        window = np.maximum(window[:-step], window[step:])
    return window[::GROUP_SIZE]


def _codes(quotients: FloatArray) -> NDArray[np.uint8]:
    """clip(round(quotient + 7), 0, 14) in float16 steps; overwrites its argument."""
    products = quotients * _SPLITTER
    np.subtract(products, quotients, out=quotients)
    np.subtract(products, quotients, out=quotients)
    quotients += np.float32(MAX_INT)
    bits = quotients.view(np.uint32)
    odd = bits >> np.uint32(13)
    odd &= np.uint32(1)
    odd += np.uint32(0xFFF)
    bits += odd
    bits &= np.uint32(0xFFFFE000)
    np.rint(quotients, out=quotients)
    np.clip(quotients, 0, 2 * MAX_INT, out=quotients)
    return quotients.astype(np.uint8)


def join_nibbles(codes: NDArray[np.uint8]) -> WordArray:
    """Eight bytes in a row, each below 16, become one word with the first in the lowest bits."""
    pairs = codes.reshape(-1).view("<u8")
    for shift, mask in (
        (4, 0x00FF00FF00FF00FF),
        (8, 0x0000FFFF0000FFFF),
        (16, 0x00000000FFFFFFFF),
    ):
        pairs = (pairs | pairs >> np.uint64(shift)) & np.uint64(mask)
    return pairs.astype(np.uint32)
