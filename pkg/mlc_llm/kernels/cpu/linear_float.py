"""Products with float32 and float16 matrices; float16 is widened in registers, sums are float32."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Literal, NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.compiler.abi import round_up
from mlc_llm.kernels.cpu.epilogue import Epilogue, Sums, is_gated, output_args
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.matmul import for_each_tile, new_sums
from mlc_llm.kernels.cpu.vector import (
    arg,
    fma,
    get,
    prefetch,
    prim_func,
    put,
    span,
    splat,
    symbol,
    widen_half,
)
from mlc_llm.models.parameters import ROW_BLOCK
from mlc_llm.quantization.scheme import GROUP_SIZE

PREFETCH_COLUMNS = 64
UNROLL = 4


Place = tuple[Expr, Expr | int]
"""A row of x and its first column that is read."""


class FloatOperands(NamedTuple):
    """Rows and a matrix."""

    x: Var
    w: Var
    cols: int


def linear_float(
    level: Level,
    weights: Literal["f32", "f16"],
    num_blocks: int,
    cols: int,
    num_rows: int,
    epilogue: Epilogue,
    bias: bool = False,
    softcap: float | None = None,
) -> PrimFunc:
    """(x f32[n, cols], w [num_blocks, Kp, 16][, bias f32[N]][, residual f32[n, N]], y f32[n, N]).

    Kp is `cols` rounded up to 32. N is `num_rows`, or num_blocks * 8 for gated epilogues.
    """

    def emit() -> None:
        n = symbol("n")
        operands = operands_float(weights, n, num_blocks, cols)
        out = output_args(level, epilogue, num_blocks, num_rows, n, bias, softcap)

        def tile(row: Expr, block: Expr, rows: int, blocks: int) -> None:
            places: list[Place] = [(row + i, 0) for i in range(rows)]
            out.expect(row, block, rows, blocks)
            out.write(row, block, sums_float(level, operands, places, block, blocks))

        blocks_of = partial(blocks_of_tile, level, is_gated(epilogue))
        for_each_tile(level, n, num_blocks, num_blocks * ROW_BLOCK * cols, blocks_of, tile)

    return prim_func(emit)


def blocks_of_tile(level: Level, gated: bool, rows: int) -> int:
    """Enough independent sums to hide the latency of the multiply-add, no more than fit the
    registers; gate and up come in pairs."""
    if TRAITS[level].lanes == ROW_BLOCK:
        return 4 if rows <= 4 else 2
    return 2 if gated else 1


def operands_float(
    weights: Literal["f32", "f16"], n: Expr, num_blocks: int, cols: int, width: int | None = None
) -> FloatOperands:
    """Append the parameters; rows of x have `width` columns, or just those that are read."""
    dtype = "float32" if weights == "f32" else "float16"
    return FloatOperands(
        arg("x", (n, width or cols), "float32"),
        arg("w", (num_blocks, round_up(cols, GROUP_SIZE), ROW_BLOCK), dtype),
        cols,
    )


def sums_float(
    level: Level, use: FloatOperands, places: list[Place], block: Expr, blocks: int
) -> Sums:
    """The sums of the rows at `places` and `blocks` blocks."""
    sums = new_sums(level, blocks, len(places))
    together = blocks if TRAITS[level].lanes == ROW_BLOCK else 1
    for b in range(0, blocks, together):
        _accumulate(level, use, places, block + b, sums[b : b + together])
    return sums


def _accumulate(
    level: Level, use: FloatOperands, places: list[Place], block: Expr, sums: Sums
) -> None:
    lanes, cols = TRAITS[level].lanes, use.cols

    def load(block: Expr, k: Expr, part: int) -> Expr:
        value = use.w[block, k, span(part * lanes, lanes)]
        return T.bind(value if use.w.dtype == "float32" else widen_half(level, value, lanes))

    def column(k: Expr) -> None:
        for b in range(len(sums)):
            prefetch(use.w, block + b, k + PREFETCH_COLUMNS, 0)
        parts = [
            [load(block + b, k, p) for p in range(ROW_BLOCK // lanes)] for b in range(len(sums))
        ]
        for i, (row, first) in enumerate(places):
            xs = T.bind(splat(use.x[row, first + k], lanes))
            for b, p in product(range(len(sums)), range(ROW_BLOCK // lanes)):
                total = sums[b][i][p]
                put(total, fma(level, parts[b][p], xs, get(total, lanes), lanes), lanes)

    with T.serial(T.int64(cols // UNROLL)) as step:
        for k in range(UNROLL):
            column(step * UNROLL + k)
    for k in range(cols - cols % UNROLL, cols):
        column(T.int64(k))
