"""From rows of a parameter to the tensors that MLC stores for it. Pure: opens no file.

`Encoder` says which tensors a matrix becomes and turns some of its rows into rows of each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from mlc_llm.errors import BadConfig
from mlc_llm.quantization.encode import (
    bfloat_bits,
    quantize_blocks,
    quantize_groups,
    quantize_tensor,
    tensor_scale,
)
from mlc_llm.quantization.floats import FloatArray
from mlc_llm.quantization.group import Quantized
from mlc_llm.quantization.search import quantize_closest
from mlc_llm.quantization.storage import BLOCK, ModelDtype, Storage
from mlc_llm.weights.shards import Record, record

AnyArray = NDArray[Any]
Rounder = Callable[[FloatArray], Quantized]
"""How q4f16_1 codes are chosen for float16 values."""

NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The manifest's name of a model dtype."""


class Encoder(Struct, frozen=True):
    """How one tensor [rows, cols] (or [size]) of floats is stored."""

    records: tuple[Record, ...]
    encode: Callable[[FloatArray | Quantized], tuple[AnyArray, ...]]
    """Some rows, given as they are in float32, as the bytes of each record's rows. Rows may be
    groups already where `group_bits` says so."""
    transposed: bool = False
    """Rows of the floats are columns of the records."""
    once: tuple[AnyArray, ...] = ()
    """Content of the records past those that `encode` gives, which do not depend on rows."""
    group_bits: int = 0
    """Groups of 32 of so many bits are stored as they are."""
    block_rows: int = 1
    """Rows that share a row of the second record. `encode` takes multiples of them, except at the
    end of a matrix."""
    matrix_rows: int = 0
    """Rows of each matrix of a stack, where blocks begin anew; 0: all are of one."""


def plain(name: str, shape: tuple[int, ...], dtype: ModelDtype) -> Encoder:
    """Floats in the model's dtype."""
    return Encoder((record(name, shape, NAMES[dtype]),), lambda rows: (_bits(_plain(rows), dtype),))


def quantized(
    base: str,
    shape: tuple[int, int],
    stack: int,
    storage: Storage,
    transposed: bool,
    rounder: Rounder | None,
) -> Encoder:
    """A matrix, or the rows of `stack` of them, in groups of codes, or in float8 blocks.

    `base` + "weight" is its name."""
    rows, cols = shape
    if storage.kind == "block":
        matrix_rows = rows // (stack or 1)
        scales = (rows // matrix_rows * -(-matrix_rows // BLOCK), -(-cols // BLOCK))
        return Encoder(
            (
                record(f"{base}weight", shape, "float8_e4m3fn"),
                record(f"{base}weight_scale_inv", scales, "float32"),
            ),
            _blocks,
            block_rows=BLOCK,
            matrix_rows=matrix_rows,
        )
    if storage.kind != "group":
        raise BadConfig(
            f"{storage.name} is not made from floats; it is the form of AWQ checkpoints"
        )
    groups = -(-cols // storage.group)
    sizes = (rows, groups * storage.group_words), (rows, groups)
    words, scale = (size[::-1] if transposed else size for size in sizes)
    return Encoder(
        (
            record(f"{base}q_weight", words, "uint32"),
            record(f"{base}q_scale", scale, NAMES[storage.dtype]),
        ),
        _group_encoder(storage, rounder or quantize_closest),
        transposed,
        group_bits=storage.bits if storage.dtype == "F16" and storage.group == 32 else 0,
    )


def whole_tensor(base: str, shape: tuple[int, int], largest: float) -> Encoder:
    """A float8 matrix with one scale, which the largest magnitude decides."""
    scale = tensor_scale(largest)
    one = np.ones(1, np.float32)
    return Encoder(
        (
            record(f"{base}q_weight", shape, "float8_e4m3fn"),
            record(f"{base}q_scale", (1,), "float32"),
            record(f"{base}q_calibration_scale", (1,), "float32"),
        ),
        lambda rows: (quantize_tensor(_plain(rows), scale),),
        once=(bfloat_bits(scale * one), bfloat_bits(one)),
    )


def _bits(rows: FloatArray, dtype: ModelDtype) -> AnyArray:
    """What the file holds: float32 takes 16 bits there."""
    return rows.astype(np.float16) if dtype == "F16" else bfloat_bits(rows)


def _plain(rows: FloatArray | Quantized) -> FloatArray:
    assert isinstance(rows, np.ndarray)
    return rows


def _blocks(rows: FloatArray | Quantized) -> tuple[AnyArray, ...]:
    bits, scales = quantize_blocks(_plain(rows))
    return bits, bfloat_bits(scales)


def _group_encoder(
    storage: Storage, rounder: Rounder
) -> Callable[[FloatArray | Quantized], tuple[AnyArray, ...]]:
    def encode(rows: FloatArray | Quantized) -> tuple[AnyArray, ...]:
        if isinstance(rows, Quantized):
            return rows.words, rows.scales
        if storage.bits == 4 and storage.dtype == "F16":
            found = rounder(rows)
            return found.words, found.scales
        words, scales = quantize_groups(rows, storage)
        return words, _bits(scales, storage.dtype)

    return encode
