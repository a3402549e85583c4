"""Products with matrices in groups and activations quantized to 8 bits, in whole numbers.

Each group of 32 columns gives an exact int32 sum; its product with the two scales is added in
float32. So the levels differ only where their multiply-add rounds.
"""

from __future__ import annotations

from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.compiler.abi import TILE_ROWS
from mlc_llm.kernels.cpu.dot import dot_group
from mlc_llm.kernels.cpu.epilogue import (
    PANEL_BLOCKS,
    Epilogue,
    GatedOutput,
    Sums,
    is_gated,
    output_args,
)
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.matmul import for_each_tile, new_sums
from mlc_llm.kernels.cpu.quantize import Quantized
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
from mlc_llm.quantization.scheme import GROUP_SIZE, Codes

GROUPS_AHEAD = {1: 20, 2: 24}
MOST_AHEAD = 36
"""How far ahead weights are asked for, by rows of a tile: 6 to 10 KB. One row uses them as fast as
memory gives them, and what is asked for too early waits in a small cache for nothing: at 20 groups
it gets 90 % of the bandwidth, at 36 and without 80 %. Four rows get 92 % at 36, half without.
In groups of 4-bit weights; those of 8 bits are twice as long."""


Place = tuple[Expr, Expr]
"""Where a quantized row lies: its tile, and its number in it."""


class Operands(NamedTuple):
    """Quantized rows and a matrix."""

    xq: Var
    xs: Var
    xc: Var
    w: Var
    s: Var


def linear_grouped(
    level: Level,
    codes: Codes,
    num_blocks: int,
    cols: int,
    num_rows: int,
    epilogue: Epilogue,
    bias: bool = False,
    softcap: float | None = None,
) -> PrimFunc:
    """(xq int32[t, G, 8, 8], xs f32[t, G, 8], xc int32[t, G, 8], w int32[num_blocks, G, B, 16],
    s f16[num_blocks, G, 16][, bias f32[N]][, residual f32[n, N]], y f32[n, N]).

    B is the bits of a code. G is cols / 32 rounded up, t is n / 8 rounded up; xq, xs, xc come from `quantize`. N is
    `num_rows`, or num_blocks * 8 for gated epilogues. Rows of xq past n are never read.
    """
    together = 2 if is_gated(epilogue) else 1

    def emit() -> None:
        n = symbol("n")
        operands = operands_grouped(codes, num_blocks, cols)
        out = output_args(level, epilogue, num_blocks, num_rows, n, bias, softcap)

        def tile(row: Expr, block: Expr, rows: int, blocks: int) -> None:
            places = neighbours(row, rows)
            out.expect(row, block, rows, blocks)
            out.write(row, block, sums_grouped(level, operands, places, block, blocks))

        work = num_blocks * ROW_BLOCK * cols
        for_each_tile(level, n, num_blocks, work, lambda _: together, tile)

    return prim_func(emit)


def gated_grouped(
    level: Level, codes: Codes, num_blocks: int, cols: int, epilogue: Epilogue
) -> PrimFunc:
    """Bitwise `quantize` of a gated `linear_grouped`: (xq, xs, xc, w, s, n int64, then xq, xs, xc of the
    num_blocks * 8 columns made). The blocks of gate and up fill whole panels."""

    def emit() -> None:
        operands = operands_grouped(codes, num_blocks, cols)
        n = T.arg("n", T.int64())
        out = GatedOutput(level, epilogue, Quantized(num_blocks // PANEL_BLOCKS, codes))

        def tile(row: Expr, block: Expr, rows: int, _blocks: int) -> None:
            def sums_of(start: Expr) -> Sums:
                return sums_grouped(level, operands, neighbours(row, rows), start, 2)

            out.write(row, block, rows, sums_of)

        work = num_blocks * ROW_BLOCK * cols
        for_each_tile(level, n, num_blocks, work, lambda _: PANEL_BLOCKS, tile)

    return prim_func(emit)


def operands_grouped(codes: Codes, num_blocks: int, cols: int) -> Operands:
    """Append the parameters."""
    tiles, groups = symbol("t"), -(-cols // GROUP_SIZE)
    return Operands(
        arg("xq", (tiles, groups, TILE_ROWS, 8), "int32"),
        arg("xs", (tiles, groups, TILE_ROWS), "float32"),
        arg("xc", (tiles, groups, TILE_ROWS), "int32"),
        arg("w", (num_blocks, groups, codes.words, ROW_BLOCK), "int32"),
        arg("s", (num_blocks, groups, ROW_BLOCK), "float16"),
    )


def neighbours(row: Expr, rows: int) -> list[Place]:
    """Rows row, row + 1, ... of one tile."""
    tile = T.bind(T.floordiv(row, TILE_ROWS))
    first = T.bind(T.floormod(row, TILE_ROWS))
    return [(tile, first + i) for i in range(rows)]


def sums_grouped(
    level: Level, use: Operands, places: list[Place], block: Expr, blocks: int
) -> Sums:
    """The sums of the rows at `places` and `blocks` blocks, one block after the other."""
    lanes = TRAITS[level].lanes
    parts = [span(p * lanes, lanes) for p in range(ROW_BLOCK // lanes)]
    rows = len(places)
    sums = new_sums(level, blocks, rows)
    words = int(use.w.shape[2])
    ahead = GROUPS_AHEAD.get(rows, MOST_AHEAD) * 4 // words
    for b in range(blocks):
        with T.serial(T.int64(int(use.w.shape[1]))) as g:
            for j in range(words):
                prefetch(use.w, block + b, g + ahead, j, 0)
            prefetch(use.s, block + b, g + ahead, 0)
            at = [(tile, g, row) for tile, row in places]
            dots = dot_group(
                level,
                [[use.w[block + b, g, j, part] for j in range(words)] for part in parts],
                [[use.xq[(*i, j)] for j in range(8)] for i in at],
                [use.xc[i] for i in at],
            )
            for p, part in enumerate(parts):
                scale = T.bind(widen_half(level, use.s[block + b, g, part], lanes))
                for i in range(rows):
                    both = scale * splat(use.xs[at[i]], lanes)
                    total = sums[b][i][p]
                    put(total, fma(level, dots[i][p], both, get(total, lanes), lanes), lanes)
    return sums
