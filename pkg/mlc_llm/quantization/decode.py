"""The float32 values of stored codes, for every quantization that is not served as it lies.

Pure array functions on some rows [n, K] of a matrix; the formats are drawn in `storage`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_llm.quantization.float8 import widen_e4m3
from mlc_llm.quantization.floats import FloatArray
from mlc_llm.quantization.storage import Storage

WordArray = NDArray[np.uint32]

AWQ_SHIFTS = np.array([4 * (i % 2 * 4 + i // 2) for i in range(8)], np.uint32)
"""Where column i of eight lies in a word of AutoAWQ."""
IN_ORDER = np.arange(0, 32, 4, dtype=np.uint32)
"""Where nibble i lies in a word of GPTQ."""


def group_values(words: WordArray, scales: FloatArray, storage: Storage, cols: int) -> FloatArray:
    """Codes uint32 [n, words] and scales [n, groups], the input axis last in both."""
    rows, groups = scales.shape
    shifts = np.arange(storage.word_elements, dtype=np.uint32) * np.uint32(storage.bits)
    mask = np.uint32((1 << storage.bits) - 1)
    codes = (words[:, :, None] >> shifts & mask).astype(np.float32)
    values: FloatArray = codes.reshape(rows, groups, storage.group) - np.float32(storage.max_int)
    values *= scales[:, :, None]
    return np.ascontiguousarray(values.reshape(rows, -1)[:, :cols])


def nibbles(words: WordArray, shifts: NDArray[np.uint32]) -> FloatArray:
    """uint32 [a, b] of eight nibbles each as [a, 8 b], nibble i at shifts[i]."""
    spread = words[:, :, None] >> shifts & np.uint32(15)
    values: FloatArray = spread.reshape(len(words), -1).astype(np.float32)
    return values


def affine_values(
    codes: FloatArray, zeros: FloatArray, scales: FloatArray, groups: NDArray[Any]
) -> FloatArray:
    """(code - zero) * scale: codes [K, n]; zeros and scales [G, n]; groups [K] names row k's."""
    values: FloatArray = (codes - zeros[groups]) * scales[groups]
    return values


def block_values(
    bits: NDArray[np.uint8],
    scales: FloatArray,
    first: int,
    block: tuple[int, int],
    matrix_rows: int,
) -> FloatArray:
    """float8 [n, K], the first row being row `first` of all; scales of all.

    Blocks begin anew after every `matrix_rows` rows, which are a matrix of a stack.
    """
    values = widen_e4m3(bits)
    places = first + np.arange(len(bits))
    matrices, within = places // matrix_rows, places % matrix_rows
    rows = matrices * -(-matrix_rows // block[0]) + within // block[0]
    cols = np.arange(bits.shape[1]) // block[1]
    values *= scales[rows][:, cols]
    return values
