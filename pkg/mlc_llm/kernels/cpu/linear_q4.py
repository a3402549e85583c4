"""Products with 4-bit matrices and activations quantized to 8 bits, in whole numbers per group.

Each group of 32 columns gives an exact int32 sum; its product with the two scales is added in
float32. So the levels differ only where their multiply-add rounds.
"""

from __future__ import annotations

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc

from mlc_llm.compiler.abi import TILE_ROWS
from mlc_llm.kernels.cpu.dot import dot_group
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.matmul import (
    Epilogue,
    for_each_tile,
    is_gated,
    new_sums,
    output_args,
)
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

PREFETCH_GROUPS = 32
"""How far ahead weights are asked for: 8 KB. Without it decode gets a third of the bandwidth."""


def linear_q4(
    level: Level,
    num_blocks: int,
    cols: int,
    num_rows: int,
    epilogue: Epilogue,
    bias: bool = False,
    softcap: float | None = None,
) -> PrimFunc:
    """(xq int32[t, G, 8, 8], xs f32[t, G, 8], xc int32[t, G, 8], w int32[num_blocks, G, 4, 16],
    s f16[num_blocks, G, 16][, bias f32[N]][, residual f32[n, N]], y f32[n, N]).

    G is cols / 32 rounded up, t is n / 8 rounded up; xq, xs, xc come from `quantize`. N is
    `num_rows`, or num_blocks * 8 for gated epilogues. Rows of xq past n are never read.
    """
    lanes = TRAITS[level].lanes
    groups = -(-cols // GROUP_SIZE)
    parts = [span(p * lanes, lanes) for p in range(ROW_BLOCK // lanes)]

    def emit() -> None:
        n, tiles = symbol("n"), symbol("t")
        xq = arg("xq", (tiles, groups, TILE_ROWS, 8), "int32")
        xs = arg("xs", (tiles, groups, TILE_ROWS), "float32")
        xc = arg("xc", (tiles, groups, TILE_ROWS), "int32")
        w = arg("w", (num_blocks, groups, 4, ROW_BLOCK), "int32")
        s = arg("s", (num_blocks, groups, ROW_BLOCK), "float16")
        out = output_args(level, epilogue, num_blocks, num_rows, n, bias, softcap)

        def tile(row: Expr, block: Expr, rows: int, blocks: int) -> None:
            sums = new_sums(level, blocks, rows)
            t = T.bind(T.floordiv(row, TILE_ROWS))
            first = T.bind(T.floormod(row, TILE_ROWS))
            for b in range(blocks):
                with T.serial(T.int64(groups)) as g:
                    for j in range(4):
                        prefetch(w, block + b, g + PREFETCH_GROUPS, j, 0)
                    prefetch(s, block + b, g + PREFETCH_GROUPS, 0)
                    at = [(t, g, first + i) for i in range(rows)]
                    dots = dot_group(
                        level,
                        [[w[block + b, g, j, part] for j in range(4)] for part in parts],
                        [[xq[(*i, j)] for j in range(8)] for i in at],
                        [xc[i] for i in at],
                    )
                    for p, part in enumerate(parts):
                        scale = T.bind(widen_half(level, s[block + b, g, part], lanes))
                        for i in range(rows):
                            both = scale * splat(xs[at[i]], lanes)
                            total = sums[b][i][p]
                            put(
                                total, fma(level, dots[i][p], both, get(total, lanes), lanes), lanes
                            )
            out.write(row, block, sums)

        def blocks_of(rows: int) -> int:
            return 2 if is_gated(epilogue) else 1

        work = num_blocks * ROW_BLOCK * groups * GROUP_SIZE
        for_each_tile(level, n, num_blocks, work, blocks_of, tile)

    return prim_func(emit)
