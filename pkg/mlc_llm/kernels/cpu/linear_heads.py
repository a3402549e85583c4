"""Products of each head of a row with a matrix of its own."""

from __future__ import annotations

from functools import partial
from math import gcd
from typing import Literal

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc

from mlc_llm.kernels.cpu.epilogue import output_args
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.linear_float import blocks_of_tile, operands_float, sums_float
from mlc_llm.kernels.cpu.matmul import for_each_tile
from mlc_llm.kernels.cpu.vector import prim_func, symbol
from mlc_llm.models.parameters import ROW_BLOCK


def linear_heads(
    level: Level,
    weights: Literal["f32", "f16"],
    heads: int,
    num_rows: int,
    cols: int,
    stride: int,
) -> PrimFunc:
    """(x f32[n, heads * stride], w [heads * num_rows / 16, Kp, 16], y f32[n, heads * num_rows]).

    Of each head of x the first `cols` columns are read. num_rows is a multiple of 16.
    """
    per_head = num_rows // ROW_BLOCK
    num_blocks = heads * per_head

    def emit() -> None:
        n = symbol("n")
        operands = operands_float(weights, n, num_blocks, cols, heads * stride)
        out = output_args(level, "store", num_blocks, heads * num_rows, n)

        def tile(row: Expr, block: Expr, rows: int, blocks: int) -> None:
            first = T.bind(T.floordiv(block, per_head) * stride)
            places = [(row + i, first) for i in range(rows)]
            out.write(row, block, sums_float(level, operands, places, block, blocks))

        usual = partial(blocks_of_tile, level, False)
        work = num_blocks * ROW_BLOCK * cols
        for_each_tile(level, n, num_blocks, work, lambda rows: gcd(usual(rows), per_head), tile)

    return prim_func(emit)
