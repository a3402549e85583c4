"""NumPy twins of the kernels, under the same names: what each one means, slowly.

Sums are float64. The packed layouts are those of `models.parameters`; `pack_float`, `pack_q4` and
their inverses are the plainest way to say them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_llm.compiler.abi import TILE_ROWS, round_up
from mlc_llm.models.parameters import ROW_BLOCK
from mlc_llm.quantization.scheme import GROUP_SIZE

Array = NDArray[Any]

SMALLEST = 1e-20


def pad(matrix: Array, rows: int, cols: int) -> Array:
    """`matrix` with zeros up to `rows` x `cols`."""
    return np.pad(matrix, ((0, rows - matrix.shape[0]), (0, cols - matrix.shape[1])))


def pack_float(matrix: Array) -> Array:
    """[N, K] to [Np/16, Kp, 16] of the same dtype."""
    rows, cols = round_up(matrix.shape[0], ROW_BLOCK), round_up(matrix.shape[1], GROUP_SIZE)
    blocks = pad(matrix, rows, cols).reshape(rows // ROW_BLOCK, ROW_BLOCK, cols)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1))


def unpack_float(packed: Array) -> Array:
    """[Np/16, Kp, 16] to [Np, Kp]."""
    return packed.transpose(0, 2, 1).reshape(-1, packed.shape[1])


def quantize_q4(matrix: Array) -> tuple[Array, Array]:
    """MLC's 4-bit groups: nibbles uint8[N, Kp] of 0..14 and scales float16[N, Kp/32]."""
    cols = round_up(matrix.shape[1], GROUP_SIZE)
    groups = pad(matrix, matrix.shape[0], cols).reshape(matrix.shape[0], -1, GROUP_SIZE)
    scales = (np.abs(groups).max(-1) / 7).astype(np.float16)
    divisors = np.where(scales == 0, np.float16(1), scales).astype(np.float32)
    nibbles = np.clip(np.rint(groups / divisors[..., None]) + 7, 0, 14).astype(np.uint8)
    return nibbles.reshape(matrix.shape[0], cols), scales


def pack_q4(nibbles: Array, scales: Array) -> tuple[Array, Array]:
    """Nibbles [N, Kp], scales [N, Kp/32] to words int32[Np/16, Kp/32, 4, 16] and scales
    float16[Np/16, Kp/32, 16]."""
    rows, cols = round_up(nibbles.shape[0], ROW_BLOCK), nibbles.shape[1]
    groups = cols // GROUP_SIZE
    filled = np.full((rows, cols), 7, np.uint8)
    filled[: nibbles.shape[0]] = nibbles
    split = filled.reshape(-1, ROW_BLOCK, groups, 2, 4, 4)
    packed = (split[:, :, :, 0] | split[:, :, :, 1] << 4).transpose(0, 2, 3, 1, 4)
    words = np.ascontiguousarray(packed).view(np.int32)[..., 0]
    blocks = pad(scales, rows, groups).reshape(-1, ROW_BLOCK, groups)
    return words, np.ascontiguousarray(blocks.transpose(0, 2, 1))


def unpack_q4(words: Array, scales: Array) -> Array:
    """The float32 matrix [Np, Kp] that packed nibbles and scales stand for."""
    blocks, groups = words.shape[:2]
    packed = np.ascontiguousarray(words).view(np.uint8).reshape(blocks, groups, 4, ROW_BLOCK, 4)
    halves = np.stack([packed & 15, packed >> 4], axis=2)  # [block, group, half, j, row, i]
    values = halves.transpose(0, 4, 1, 2, 3, 5).reshape(blocks, ROW_BLOCK, groups, GROUP_SIZE)
    per_row = scales.astype(np.float32).transpose(0, 2, 1)
    matrix: Array = (values.astype(np.float32) - 7) * per_row[..., None]
    return matrix.reshape(blocks * ROW_BLOCK, groups * GROUP_SIZE)


def quantize_q8(matrix: Array) -> tuple[Array, Array]:
    """8-bit groups: bytes uint8[N, Kp] of 0..254 and scales float16[N, Kp/32]."""
    cols = round_up(matrix.shape[1], GROUP_SIZE)
    groups = pad(matrix, matrix.shape[0], cols).reshape(matrix.shape[0], -1, GROUP_SIZE)
    scales = (np.abs(groups).max(-1) / 127).astype(np.float16)
    divisors = np.where(scales == 0, np.float16(1), scales).astype(np.float32)
    codes = np.clip(np.rint(groups / divisors[..., None]) + 127, 0, 254).astype(np.uint8)
    return codes.reshape(matrix.shape[0], cols), scales


def pack_q8(codes: Array, scales: Array) -> tuple[Array, Array]:
    """Bytes [N, Kp], scales [N, Kp/32] to words int32[Np/16, Kp/32, 8, 16] and scales
    float16[Np/16, Kp/32, 16]."""
    rows, cols = round_up(codes.shape[0], ROW_BLOCK), codes.shape[1]
    groups = cols // GROUP_SIZE
    filled = np.full((rows, cols), 127, np.uint8)
    filled[: codes.shape[0]] = codes
    packed = filled.reshape(-1, ROW_BLOCK, groups, 8, 4).transpose(0, 2, 3, 1, 4)
    words = np.ascontiguousarray(packed).view(np.int32)[..., 0]
    blocks = pad(scales, rows, groups).reshape(-1, ROW_BLOCK, groups)
    return words, np.ascontiguousarray(blocks.transpose(0, 2, 1))


def unpack_q8(words: Array, scales: Array) -> Array:
    """The float32 matrix [Np, Kp] that packed bytes and scales stand for."""
    blocks, groups = words.shape[:2]
    packed = np.ascontiguousarray(words).view(np.uint8).reshape(blocks, groups, 8, ROW_BLOCK, 4)
    values = packed.transpose(0, 3, 1, 2, 4).reshape(blocks, ROW_BLOCK, groups, GROUP_SIZE)
    per_row = scales.astype(np.float32).transpose(0, 2, 1)
    matrix: Array = (values.astype(np.float32) - 127) * per_row[..., None]
    return matrix.reshape(blocks * ROW_BLOCK, groups * GROUP_SIZE)


def unpack_groups(words: Array, scales: Array) -> Array:
    """The matrix that packed codes of 4 or 8 bits and their scales stand for."""
    return unpack_q4(words, scales) if words.shape[2] == 4 else unpack_q8(words, scales)


def alternate_gate_up(gate: Array, up: Array) -> Array:
    """Rows of `gate` and `up` [I, K] in the block order of a gate_up matrix [2 Ip, K]."""
    rows = round_up(gate.shape[0], GROUP_SIZE)
    both = [pad(m, rows, m.shape[1]).reshape(-1, ROW_BLOCK, m.shape[1]) for m in (gate, up)]
    return np.stack(both, axis=1).reshape(2 * rows, -1)


def silu(x: Array) -> Array:
    """x / (1 + e^-x)."""
    result: Array = x / (1 + np.exp(-x))
    return result


def _finish(sums: Array, num_rows: int, epilogue: str, residual: Array | None) -> Array:
    if epilogue == "silu_mul":
        blocks = sums.reshape(sums.shape[0], -1, 2, ROW_BLOCK)
        sums = silu(blocks[:, :, 0]) * blocks[:, :, 1]
        return sums.reshape(sums.shape[0], -1).astype(np.float32)
    sums = sums[:, :num_rows]
    if epilogue == "add":
        assert residual is not None
        sums = residual + sums
    return sums.astype(np.float32)


def linear_float(
    x: Array, w: Array, num_rows: int, epilogue: str = "store", residual: Array | None = None
) -> Array:
    """x [n, K] times the transpose of packed `w`, finished by `epilogue`."""
    matrix = unpack_float(w).astype(np.float64)[:, : x.shape[1]]
    return _finish(x.astype(np.float64) @ matrix.T, num_rows, epilogue, residual)


def linear_grouped(
    xq: Array,
    xs: Array,
    w: Array,
    s: Array,
    n: int,
    num_rows: int,
    epilogue: str = "store",
    residual: Array | None = None,
) -> Array:
    """Quantized activations times the transpose of packed (w, s), finished by `epilogue`."""
    matrix = unpack_groups(w, s).astype(np.float64)
    return _finish(dequantize(xq, xs)[:n] @ matrix.T, num_rows, epilogue, residual)


def quantize(x: Array, zero: int = 7) -> tuple[Array, Array, Array]:
    """x [n, K] to tiles (xq, xs, xc) of 8 rows for codes around `zero`; rows past n are zero."""
    n = x.shape[0]
    padded = pad(x, round_up(n, TILE_ROWS), round_up(x.shape[1], GROUP_SIZE))
    tiles = padded.reshape(-1, TILE_ROWS, padded.shape[1] // GROUP_SIZE, GROUP_SIZE)
    groups = tiles.transpose(0, 2, 1, 3)
    largest = np.maximum(np.abs(groups).max(-1), np.float32(SMALLEST))
    whole = np.rint(groups * (np.float32(127) / largest)[..., None]).astype(np.int8)
    xq = np.ascontiguousarray(whole).view(np.int32)
    xs = (largest * np.float32(1 / 127)).astype(np.float32)
    return xq, xs, (-zero * whole.astype(np.int32).sum(-1)).astype(np.int32)


def dequantize(xq: Array, xs: Array) -> Array:
    """The float64 rows [8 t, Kp] that quantized activations stand for."""
    tiles, groups = xq.shape[:2]
    whole = np.ascontiguousarray(xq).view(np.int8).reshape(tiles, groups, TILE_ROWS, GROUP_SIZE)
    values: Array = whole.astype(np.float64) * xs.astype(np.float64)[..., None]
    return values.transpose(0, 2, 1, 3).reshape(tiles * TILE_ROWS, groups * GROUP_SIZE)


def rms_norm(x: Array, weight: Array, eps: float, cols_padded: int) -> Array:
    """x / rms(x) * weight, zeros up to cols_padded."""
    wide = x.astype(np.float64)
    scaled = wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + eps) * weight
    return pad(scaled.astype(np.float32), x.shape[0], cols_padded)


def rms_norm_quantize(
    x: Array, weight: Array, eps: float, zero: int = 7
) -> tuple[Array, Array, Array]:
    """`quantize` of `rms_norm`."""
    return quantize(rms_norm(x, weight, eps, round_up(x.shape[1], GROUP_SIZE)), zero)


def embed(ids: Array, table: Array, hidden: int) -> Array:
    """Rows of an unpacked table."""
    rows: Array = table[ids][:, :hidden].astype(np.float32)
    return rows


def take_rows(x: Array, last: Array) -> Array:
    """x[last]."""
    rows: Array = x[last]
    return rows
