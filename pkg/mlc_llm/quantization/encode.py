"""Rows of a matrix as MLC stores them, for every quantization that starts from floats.

Pure array functions on some rows [n, K]; the formats are drawn in `storage`. 4-bit groups with
float16 scales are `group.quantize`, bit for bit as MLC computes them; here codes are chosen for the
scale that is stored, after it was rounded to its dtype, in float32 arithmetic.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlc_llm.quantization.float8 import E4M3_MAX, round_e4m3
from mlc_llm.quantization.floats import FloatArray, widen_bfloats, widen_halves
from mlc_llm.quantization.group import Quantized
from mlc_llm.quantization.storage import BLOCK, STORAGES, ModelDtype, Storage

WordArray = NDArray[np.uint32]

TENSOR_SCALE_MIN = 1 / (E4M3_MAX * 512)
"""Least scale of a whole float8 tensor."""


def bfloat_bits(values: FloatArray) -> NDArray[np.uint16]:
    """bfloat16 bits, to nearest, ties to even; a NaN stays one."""
    bits = values.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))) >> np.uint32(16)
    quiet = bits >> np.uint32(16) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def rounded(values: FloatArray, dtype: ModelDtype) -> FloatArray:
    """The values as a file of this dtype holds them: MLC stores float32 in 16 bits."""
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return widen_halves(values.astype(np.float16).view(np.uint16))
    return widen_bfloats(bfloat_bits(values))


def quantize_groups(weights: FloatArray, storage: Storage) -> tuple[WordArray, FloatArray]:
    """Codes uint32 [n, words] and scales [n, groups] already rounded to the storage's dtype."""
    rows, cols = weights.shape
    groups = -(-cols // storage.group)
    padded = np.pad(weights, ((0, 0), (0, groups * storage.group - cols)))
    grouped = padded.reshape(rows, groups, storage.group)
    scales = rounded(np.abs(grouped).max(axis=2) / np.float32(storage.max_int), storage.dtype)
    divisors = np.where(scales == 0, np.float32(np.inf), scales)
    with np.errstate(invalid="ignore"):
        nearest = np.rint(grouped / divisors[:, :, None]) + np.float32(storage.max_int)
        codes = np.clip(nearest, 0, 2 * storage.max_int).astype(np.uint32).reshape(rows, -1)
    codes[:, cols:] = 0
    return _joined(codes, storage), scales


def quantize_bytes(weights: FloatArray) -> Quantized:
    """q8f16_1 of a matrix [n, K] whose values are float16's."""
    words, scales = quantize_groups(weights, STORAGES["q8f16_1"])
    return Quantized(words, scales.astype(np.float16))


def quantize_tensor(weights: FloatArray, scale: np.float32) -> NDArray[np.uint8]:
    """float8 bits of rows of a matrix with one scale."""
    return round_e4m3(weights / scale)


def tensor_scale(largest: float) -> np.float32:
    """The scale of a float8 matrix by its largest magnitude, as bfloat16 can store it.

    Rounded upwards, so that the largest magnitude stays within float8's range.
    """
    exact = np.array([max(largest / E4M3_MAX, TENSOR_SCALE_MIN)], np.float32)
    bits = (exact.view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)
    return np.float32(widen_bfloats(bits.astype(np.uint16))[0])


def quantize_blocks(weights: FloatArray) -> tuple[NDArray[np.uint8], FloatArray]:
    """float8 bits [n, K] and scales of blocks of 128 x 128; the first row starts a block."""
    rows, cols = weights.shape
    down, across = -(-rows // BLOCK), -(-cols // BLOCK)
    padded = np.pad(np.abs(weights), ((0, down * BLOCK - rows), (0, across * BLOCK - cols)))
    largest = padded.reshape(down, BLOCK, across, BLOCK).max(axis=(1, 3))
    scales = np.array([[tensor_scale(float(value)) for value in row] for row in largest])
    spread = np.repeat(np.repeat(scales, BLOCK, axis=0)[:rows], BLOCK, axis=1)[:, :cols]
    return round_e4m3(weights / spread), scales.astype(np.float32)


def _joined(codes: WordArray, storage: Storage) -> WordArray:
    """Codes [n, K'] side by side in words, the first in the lowest bits."""
    parts = codes.reshape(len(codes), -1, storage.word_elements)
    words = np.zeros(parts.shape[:2], np.uint32)
    for i in range(storage.word_elements):
        words |= parts[:, :, i] << np.uint32(storage.bits * i)
    return words
