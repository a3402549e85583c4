"""Products with float32 and float16 matrices; float16 is widened in registers, sums are float32."""

from __future__ import annotations

from typing import Literal

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc

from mlc_llm.compiler.abi import round_up
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.matmul import Epilogue, for_each_tile, new_sums, output_args
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


def linear_float(
    level: Level,
    weights: Literal["f32", "f16"],
    num_blocks: int,
    cols: int,
    num_rows: int,
    epilogue: Epilogue,
) -> PrimFunc:
    """(x f32[n, cols], w [num_blocks, Kp, 16][, residual f32[n, N]], y f32[n, N]).

    Kp is `cols` rounded up to 32. N is `num_rows`, or num_blocks * 8 for "silu_mul".
    """
    lanes = TRAITS[level].lanes

    def emit() -> None:
        n = symbol("n")
        x = arg("x", (n, cols), "float32")
        dtype = "float32" if weights == "f32" else "float16"
        w = arg("w", (num_blocks, round_up(cols, GROUP_SIZE), ROW_BLOCK), dtype)
        out = output_args(level, epilogue, num_blocks, num_rows, n)

        def load(block: Expr, k: Expr, part: int) -> Expr:
            value = w[block, k, span(part * lanes, lanes)]
            return T.bind(value if weights == "f32" else widen_half(level, value, lanes))

        def tile(row: Expr, block: Expr, rows: int, blocks: int) -> None:
            sums = new_sums(level, blocks, rows)

            def column(k: Expr) -> None:
                for b in range(blocks):
                    prefetch(w, block + b, k + PREFETCH_COLUMNS, 0)
                parts = [
                    [load(block + b, k, p) for p in range(ROW_BLOCK // lanes)]
                    for b in range(blocks)
                ]
                for i in range(rows):
                    xs = T.bind(splat(x[row + i, k], lanes))
                    for b in range(blocks):
                        for p, part in enumerate(parts[b]):
                            total = sums[b][i][p]
                            put(total, fma(level, part, xs, get(total, lanes), lanes), lanes)

            with T.serial(T.int64(cols // UNROLL)) as step:
                for k in range(UNROLL):
                    column(step * UNROLL + k)
            for k in range(cols - cols % UNROLL, cols):
                column(T.int64(k))
            out.write(row, block, sums)

        for_each_tile(level, n, num_blocks, num_blocks * ROW_BLOCK * cols, _blocks_of(level), tile)

    return prim_func(emit)


def _blocks_of(level: Level):
    """Blocks at once: enough independent sums to hide the latency of the multiply-add, an even
    number because gate and up come in pairs."""
    wide = TRAITS[level].lanes == ROW_BLOCK
    return lambda rows: 4 if wide and rows <= 4 else 2
