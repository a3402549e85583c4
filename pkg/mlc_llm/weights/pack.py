"""Rows of a stored matrix into the blocks that kernels stream, and back.

The layout is drawn in `models.parameters`. Everything here works on chunks of rows, so that a
weight never exists twice: `chunks` says which rows go to which blocks, `pack_floats` and
`pack_words` move one chunk. `unpack` is the inverse; tests and oracles read weights through it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlc_llm.compiler.abi import round_up
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.parameters import ROW_BLOCK, ParameterSpec, parameters
from mlc_llm.quantization.group import Quantized, dequantize, fill_tail, word_of_zeros
from mlc_llm.quantization.scheme import GROUP_SIZE, Codes, Scheme

CHUNK_ELEMENTS = 1 << 19
"""Weights handled at a time: passes long enough that threads rarely wait for the interpreter."""

AnyArray = NDArray[Any]


class Chunk(NamedTuple):
    """Rows first..last - 1 of a parameter and the blocks of the packed tensor that they fill."""

    first: int
    last: int
    blocks: slice


def chunks(spec: ParameterSpec) -> Iterator[Chunk]:
    """The chunks of a matrix, each a whole number of blocks; together they fill every block."""
    if spec.stack:
        one = spec.one
        for i in range(spec.stack):
            start, base = i * one.rows, i * one.num_blocks
            for first, last, part in chunks(one):
                moved = slice(base + part.start, base + part.stop, part.step)
                yield Chunk(start + first, start + last, moved)
        return
    step = max(1, CHUNK_ELEMENTS // (spec.cols * ROW_BLOCK)) * ROW_BLOCK
    halves = 2 if spec.kind == "gate_up" else 1
    rows = spec.rows // halves
    padded = spec.num_blocks // halves * ROW_BLOCK
    for half in range(halves):
        for start in range(0, padded, step):
            stop = min(start + step, padded)
            blocks = slice(start // ROW_BLOCK * halves + half, stop // ROW_BLOCK * halves, halves)
            yield Chunk(half * rows + min(start, rows), half * rows + min(stop, rows), blocks)


def pack_floats(matrix: AnyArray, out: AnyArray) -> None:
    """Rows [n, K] of floats into blocks [B, Kp, 16] of float32 or float16, n <= 16 B."""
    rows, cols = matrix.shape
    if rows < len(out) * ROW_BLOCK:
        out[...] = 0
    else:
        out[:, cols:] = 0
    whole = rows // ROW_BLOCK
    grouped = matrix[: whole * ROW_BLOCK].reshape(whole, ROW_BLOCK, cols)
    out[:whole, :cols] = grouped.transpose(0, 2, 1)
    if rest := rows - whole * ROW_BLOCK:
        out[whole, :cols, :rest] = matrix[whole * ROW_BLOCK :].T


def pack_words(quantized: Quantized, cols: int, words: AnyArray, scales: AnyArray) -> None:
    """Rows of groups into blocks int32[B, G, bits, 16] and float16[B, G, 16]; rows <= 16 B."""
    blocks, groups = scales.shape[:2]
    source = fill_tail(quantized, cols)
    source_scales = quantized.scales
    if missing := blocks * ROW_BLOCK - len(source):
        # A scale of zero makes whatever the words hold decode to zero.
        zeros = word_of_zeros(quantized.codes)
        source = np.pad(source, ((0, missing), (0, 0)), constant_values=zeros)
        source_scales = np.pad(source_scales, ((0, missing), (0, 0)))
    if quantized.codes.bits == 4:
        halves = source.view("<u2").reshape(blocks, ROW_BLOCK, groups, 2, 4)
        spread = _spread_nibbles(halves.astype(np.uint32))
        joined = spread[:, :, :, 0] | spread[:, :, :, 1] << np.uint32(4)
    else:
        joined = source.reshape(blocks, ROW_BLOCK, groups, quantized.codes.words)
    words[...] = joined.view(np.int32).transpose(0, 2, 3, 1)
    scales[...] = source_scales.reshape(blocks, ROW_BLOCK, groups).transpose(0, 2, 1)


def unpack_words(words: AnyArray, scales: AnyArray) -> Quantized:
    """The inverse of `pack_words`, padding included: [16 B, bits G] words and [16 B, G] scales."""
    blocks, groups, of_group = words.shape[:3]
    joined = np.ascontiguousarray(words.transpose(0, 3, 1, 2)).view(np.uint32)
    in_rows = np.ascontiguousarray(scales.transpose(0, 2, 1)).reshape(-1, groups)
    if Codes(8).words == of_group:
        return Quantized(joined.reshape(-1, groups * of_group), in_rows)
    low, high = joined & np.uint32(0x0F0F0F0F), joined >> np.uint32(4) & np.uint32(0x0F0F0F0F)
    halves = _gather_nibbles(np.stack((low, high), axis=3)).astype(np.uint16)
    rows = blocks * ROW_BLOCK
    stored = np.ascontiguousarray(halves).reshape(rows, groups * 8).view("<u4")
    return Quantized(stored, in_rows)


def pack(spec: ParameterSpec, stored: AnyArray | Quantized, out: Sequence[AnyArray]) -> None:
    """A whole parameter into the tensors of `spec.tensors(...)`: a float array, or groups."""
    if spec.kind == "vector":
        assert not isinstance(stored, Quantized)
        out[0][...] = stored.reshape(-1)
        return
    for first, last, blocks in chunks(spec):
        if isinstance(stored, Quantized):
            rows = Quantized(stored.words[first:last], stored.scales[first:last])
            pack_words(rows, spec.cols, out[0][blocks], out[1][blocks])
        else:
            pack_floats(stored[first:last], out[0][blocks])


def unpack(spec: ParameterSpec, packed: Sequence[AnyArray]) -> NDArray[np.float32]:
    """The values of a packed parameter as float32 [rows, cols] ([cols] for a vector)."""
    if spec.kind == "vector":
        return packed[0].astype(np.float32)
    if spec.stack:
        pieces = [np.split(array, spec.stack) for array in packed]
        return np.concatenate([unpack(spec.one, one) for one in zip(*pieces, strict=True)])
    if len(packed) == 2:
        quantized = unpack_words(packed[0], packed[1])
        matrix = dequantize(quantized, round_up(spec.cols, GROUP_SIZE))
    else:
        blocks, cols, _ = packed[0].shape
        matrix = packed[0].transpose(0, 2, 1).reshape(blocks * ROW_BLOCK, cols).astype(np.float32)
    if spec.kind == "gate_up":
        halves = matrix.reshape(-1, 2, ROW_BLOCK, matrix.shape[1]).transpose(1, 0, 2, 3)
        matrix = halves.reshape(2, -1, matrix.shape[1])[:, : spec.rows // 2].reshape(
            spec.rows, matrix.shape[1]
        )
    return matrix[: spec.rows, : spec.cols]


def unpack_weights(
    arch: Architecture, scheme: Scheme, packed: Sequence[AnyArray]
) -> dict[str, NDArray[np.float32]]:
    """What `step` computes with, by MLC's parameter names; `packed` is in `step`'s order."""
    remaining = iter(packed)
    return {
        spec.name: unpack(spec, [next(remaining) for _ in _tensors(spec, scheme)])
        for spec in parameters(arch)
    }


def _tensors(spec: ParameterSpec, scheme: Scheme) -> range:
    return range(len(spec.tensors(scheme.format_of(spec.name))))


def _spread_nibbles(halves: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """16 bits in each word become four bytes, one nibble in each."""
    halves = (halves | halves << np.uint32(8)) & np.uint32(0x00FF00FF)
    return (halves | halves << np.uint32(4)) & np.uint32(0x0F0F0F0F)


def _gather_nibbles(spread: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The inverse of `_spread_nibbles`."""
    spread = (spread | spread >> np.uint32(4)) & np.uint32(0x00FF00FF)
    return (spread | spread >> np.uint32(8)) & np.uint32(0x0000FFFF)
