"""Activations to 8 bits: one scale per row and group of 32 columns, in tiles of 8 rows.

    xq int32[t, G, 8, 8]    word j of row i holds columns 4 j .. 4 j + 3 of the group
    xs float32[t, G, 8]     largest magnitude / 127
    xc int32[t, G, 8]       -zero times the sum of the group: weights are stored with `zero` added

Row r is row r % 8 of tile r / 8. Rows of the last tile past n are left as they were.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.compiler.abi import TILE_ROWS
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.vector import (
    arg,
    const,
    for_each_row,
    iconst,
    intrinsic,
    prim_func,
    span,
    splat,
    symbol,
)
from mlc_llm.quantization.scheme import GROUP_SIZE, Codes

SMALLEST = 1e-20
"""A group of zeros is divided by this instead of by zero."""


class Quantized:
    """The three output parameters, and how a row reaches them."""

    def __init__(self, groups: int, codes: Codes) -> None:
        tiles = symbol("t")
        self.zero = codes.zero
        self.groups = groups
        self.xq = arg("xq", (tiles, groups, TILE_ROWS, 8), "int32")
        self.xs = arg("xs", (tiles, groups, TILE_ROWS), "float32")
        self.xc = arg("xc", (tiles, groups, TILE_ROWS), "int32")

    def write(self, row: Expr, group: Expr, low: Expr, high: Expr) -> None:
        """Quantize columns 0..15 (`low`) and 16..31 (`high`) of one group of one row."""
        low, high = T.bind(low), T.bind(high)
        at = [T.floordiv(row, TILE_ROWS), group, T.floormod(row, TILE_ROWS)]
        largest = T.bind(_largest(low, high))
        inverse = T.bind(splat(T.float32(127) / largest, 16))
        whole = [T.bind(_round(half * inverse)) for half in (low, high)]
        for j, half in enumerate(whole):
            words = T.reinterpret("int32x4", T.Cast("int8x16", half))
            T.buffer_store(self.xq, words, [*at, span(4 * j, 4)])
        T.buffer_store(self.xs, largest * T.float32(1.0 / 127.0), at)
        total = intrinsic("int32", "llvm.vector.reduce.add", whole[0] + whole[1])
        T.buffer_store(self.xc, T.int32(-self.zero) * total, at)


def quantize(level: Level, cols: int, codes: Codes) -> PrimFunc:
    """(x f32[n, cols], xq, xs, xc) for weights that are such codes; zeros fill the last group."""

    def emit() -> None:
        n = symbol("n")
        x = arg("x", (n, cols), "float32")
        out = Quantized(-(-cols // GROUP_SIZE), codes)

        def row(r: Expr) -> None:
            for_each_group(
                cols,
                lambda first: x[r, span(first, 16)],
                lambda column: x[r, column],
                lambda group, low, high: out.write(r, group, low, high),
            )

        for_each_row(n, row)

    return prim_func(emit)


def for_each_group(
    cols: int,
    vector: Callable[[Expr], Expr],
    scalar: Callable[[Expr], Expr],
    emit: Callable[[Expr, Expr, Expr], None],
) -> None:
    """Run `emit(group, columns 0..15, columns 16..31)` over a row; zeros fill the last group.

    `vector(first)` reads 16 columns, `scalar(column)` one.
    """
    with T.serial(T.int64(cols // GROUP_SIZE)) as group:
        first = group * GROUP_SIZE
        emit(group, vector(first), vector(first + 16))
    if rest := cols % GROUP_SIZE:
        group = T.int64(cols // GROUP_SIZE)
        scratch = padded(rest, lambda i: scalar(group * GROUP_SIZE + i))
        emit(group, scratch[span(0, 16)], scratch[span(16, 16)])


def padded(count: int, scalar: Callable[[Expr], Expr]) -> Var:
    """32 values of which the first `count` are read and the others are zero."""
    scratch = T.alloc_buffer((GROUP_SIZE,), "float32", scope="global")
    for half in (0, 16):
        T.buffer_store(scratch, const(0.0, 16), [span(half, 16)])
    with T.serial(count) as i:
        T.buffer_store(scratch, scalar(i), [i])
    return scratch


def _largest(low: Expr, high: Expr) -> Expr:
    """The largest magnitude, as whole numbers: floats of one sign are ordered like their bits, and a
    NaN is above all, so it reaches the scale and is not lost."""
    magnitudes = [
        T.bitwise_and(T.reinterpret("int32x16", half), iconst(0x7FFFFFFF, 16))
        for half in (low, high)
    ]
    reduced = intrinsic("int32", "llvm.vector.reduce.smax", T.max(*magnitudes))
    return T.reinterpret("float32", T.max(reduced, T.reinterpret("int32", T.float32(SMALLEST))))


def _round(values: Expr) -> Expr:
    return T.Cast("int32x16", intrinsic("float32x16", "llvm.rint", values))
