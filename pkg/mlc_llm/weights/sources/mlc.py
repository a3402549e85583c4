"""Matrices of an MLC folder whose quantization no kernel reads, as float32 rows.

The names and shapes of their codes are drawn in `quantization.storage`. 4-bit groups of 32 are not
here: they are served as they lie (`binding`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_llm.quantization.decode import (
    AWQ_SHIFTS,
    affine_values,
    block_values,
    group_values,
    nibbles,
)
from mlc_llm.quantization.float8 import widen_e4m3
from mlc_llm.quantization.floats import FloatArray
from mlc_llm.quantization.storage import AWQ_GROUP, BLOCK, Storage
from mlc_llm.weights.source import (
    DecodedTensor,
    StoredTensor,
    decoded,
    read_columns,
    read_floats,
    read_rows,
)

Find = Callable[[str, tuple[int, ...], tuple[str, ...]], StoredTensor]
"""The stored tensor of a name, which must have this shape and one of these dtypes."""

SCALES = ("F16", "BF16", "F32")


def coded_matrix(
    base: str, rows: int, cols: int, stack: int, storage: Storage, transposed: bool, find: Find
) -> DecodedTensor:
    """The matrix [rows, cols] called `base` + "weight"; `find` raises for what is not there.

    Its rows are those of `stack` matrices one after the other, or of one (0)."""
    if storage.kind == "group":
        return _group(base, rows, cols, storage, transposed, find)
    if storage.kind == "awq":
        return _awq(base, rows, cols, find)
    if storage.kind == "tensor":
        return _tensor(base, rows, cols, find)
    return _block(base, rows, cols, rows // (stack or 1), find)


def _group(
    base: str, rows: int, cols: int, storage: Storage, transposed: bool, find: Find
) -> DecodedTensor:
    groups = -(-cols // storage.group)

    def shape(width: int) -> tuple[int, int]:
        return (width, rows) if transposed else (rows, width)

    words = find(f"{base}q_weight", shape(groups * storage.group_words), ("U32",))
    scales = find(f"{base}q_scale", shape(groups), SCALES)
    read = read_columns if transposed else read_rows

    def values(first: int, last: int) -> FloatArray:
        some = read_floats(scales, first, last, transposed)
        return group_values(read(words, first, last), some, storage, cols)

    return decoded(words, f"{base}weight", (rows, cols), values)


def _awq(base: str, rows: int, cols: int, find: Find) -> DecodedTensor:
    groups = -(-cols // AWQ_GROUP)
    words = find(f"{base}qweight", (cols, rows // 8), ("U32", "I32"))
    zeros = find(f"{base}qzeros", (groups, rows // 8), ("U32", "I32"))
    scales = find(f"{base}scales", (groups, rows), SCALES)
    return awq_matrix(f"{base}weight", words, zeros, scales)


def awq_matrix(
    name: str, words: StoredTensor, zeros: StoredTensor, scales: StoredTensor
) -> DecodedTensor:
    """An AutoAWQ matrix; its group is what the shapes say."""
    cols, rows = words.shape[0], words.shape[1] * 8
    group_of = np.arange(cols) // -(-cols // scales.shape[0])

    def codes(tensor: StoredTensor, first: int, last: int) -> FloatArray:
        begin, end = first // 8, -(-last // 8)
        some = np.ascontiguousarray(read_columns(tensor, begin, end).T).view(np.uint32)
        return nibbles(some, AWQ_SHIFTS)[:, first - begin * 8 : last - begin * 8]

    def values(first: int, last: int) -> FloatArray:
        some = read_floats(scales, first, last, True).T
        matrix = affine_values(codes(words, first, last), codes(zeros, first, last), some, group_of)
        return np.ascontiguousarray(matrix.T)

    return decoded(words, name, (rows, cols), values)


def _tensor(base: str, rows: int, cols: int, find: Find) -> DecodedTensor:
    bits = find(f"{base}q_weight", (rows, cols), ("F8_E4M3",))
    scale = find(f"{base}q_scale", (1,), SCALES)
    find(f"{base}q_calibration_scale", (1,), SCALES)  # of activations, which stay floats here

    def values(first: int, last: int) -> FloatArray:
        return widen_e4m3(read_rows(bits, first, last)) * read_floats(scale, 0, 1)

    return decoded(bits, f"{base}weight", (rows, cols), values)


def _block(base: str, rows: int, cols: int, matrix_rows: int, find: Find) -> DecodedTensor:
    bits = find(f"{base}weight", (rows, cols), ("F8_E4M3",))
    shape = (rows // matrix_rows * -(-matrix_rows // BLOCK), -(-cols // BLOCK))
    scales = find(f"{base}weight_scale_inv", shape, SCALES)
    return block_matrix(f"{base}weight", bits, scales, (BLOCK, BLOCK), matrix_rows)


def block_matrix(
    name: str,
    bits: StoredTensor,
    scales: StoredTensor,
    block: tuple[int, int],
    matrix_rows: int,
) -> DecodedTensor:
    """A float8 matrix, or a stack of those of `matrix_rows` rows, whose blocks have scales."""
    known: list[NDArray[Any]] = []

    def values(first: int, last: int) -> FloatArray:
        if not known:  # read once; twice at the same time does no harm
            known.append(read_floats(scales, 0, scales.shape[0]))
        return block_values(read_rows(bits, first, last), known[0], first, block, matrix_rows)

    return decoded(bits, name, bits.shape, values)
