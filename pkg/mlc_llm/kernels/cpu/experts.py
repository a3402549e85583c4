"""Products of rows with the matrices of the experts they were sent to.

Every panel of row blocks is one task: it passes over the experts that have rows (`runs`), and the
rows of each (`order`), so a step reads the weights of no other expert. Rows of one expert share its
weights like the rows of an ordinary product do.

What the experts of a row add to it is added in ascending order of their numbers, which are a
property of the row: the result does not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.compiler.abi import TILE_ROWS
from mlc_llm.kernels.cpu.epilogue import (
    PANEL_BLOCKS,
    Epilogue,
    GatedOutput,
    Output,
    Sums,
    output_args,
)
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.linear_float import blocks_of_tile, operands_float, sums_float
from mlc_llm.kernels.cpu.linear_grouped import operands_grouped, sums_grouped
from mlc_llm.kernels.cpu.quantize import Quantized
from mlc_llm.kernels.cpu.vector import arg, fma, get, prim_func, span, splat, symbol
from mlc_llm.models.architecture import Experts
from mlc_llm.models.parameters import ROW_BLOCK
from mlc_llm.quantization.scheme import CODES, WeightFormat

SumsOf = Callable[[list[Expr], Expr, int], Sums]
"""The sums of these rows and so many blocks from one on."""


class Runs(NamedTuple):
    """Which rows go to which expert; what `route.group_by_expert` returns."""

    order: Var
    runs: Var
    num_runs: Var


def experts_gated(
    level: Level,
    weights: WeightFormat,
    experts: Experts,
    num_blocks: int,
    cols: int,
    epilogue: Epilogue,
) -> PrimFunc:
    """(order int32[m], runs int32[E + 1, 2], num_runs int32[1], rows, weights, result).

    Row p of the result is the gated product of row order[p] / k with its expert. Rows are x f32[n,
    cols], weights w [E * num_blocks, Kp, 16], the result f32[m, N] with N = num_blocks * 8; with
    codes rows and result are what `quantize` makes of such, weights words and scales.
    """

    codes = CODES.get(weights)

    def emit() -> None:
        runs = _runs(experts)
        blocks = experts.count * num_blocks
        sums_of = _operands(level, weights, symbol("n"), blocks, cols)
        out: GatedOutput | Output
        if codes is not None:
            out = GatedOutput(level, epilogue, Quantized(num_blocks // PANEL_BLOCKS, codes))
        else:
            out = output_args(level, epilogue, num_blocks, 0, runs.order.shape[0])

        def tile(expert: Expr, row: Expr, block: Expr, rows: int, together: int) -> None:
            begin = T.bind(expert * num_blocks)
            sources = [
                T.bind(T.Cast("int64", T.floordiv(runs.order[row + i], experts.per_token)))
                for i in range(rows)
            ]
            if isinstance(out, GatedOutput):
                out.write(row, block, rows, lambda b: sums_of(sources, begin + b, 2))
            else:
                out.write(row, block, sums_of(sources, begin + block, together))

        def together(rows: int) -> int:
            return PANEL_BLOCKS if codes else blocks_of_tile(level, True, rows)

        _for_each_run(level, runs, num_blocks, together, tile, lambda _first, _count: None)

    return prim_func(emit)


def experts_add(
    level: Level, weights: WeightFormat, experts: Experts, num_blocks: int, cols: int
) -> PrimFunc:
    """(shares f32[n, k], order, runs, num_runs, rows, weights, residual f32[n, N], y f32[n, N]).

    y is the residual plus what the experts of each row make of it, times their shares. Row p of
    `rows` is what `experts_gated` made of pair order[p]; the rest is as there, N = num_blocks * 16.
    """
    width = num_blocks * ROW_BLOCK
    lanes = TRAITS[level].lanes

    def emit() -> None:
        n = symbol("n")
        shares = arg("shares", (n, experts.per_token), "float32")
        runs = _runs(experts)
        blocks = experts.count * num_blocks
        sums_of = _operands(level, weights, runs.order.shape[0], blocks, cols)
        residual = arg("residual", (n, width), "float32")
        y = arg("y", (n, width), "float32")

        def start(first: Expr, count: int) -> None:
            with T.serial(n) as r:
                for part in range(0, count * ROW_BLOCK, lanes):
                    columns = span(first * ROW_BLOCK + part, lanes)
                    T.buffer_store(y, residual[r, columns], [r, columns])

        def tile(expert: Expr, row: Expr, block: Expr, rows: int, together: int) -> None:
            places: list[Expr] = [row + i for i in range(rows)]
            sums = sums_of(places, expert * num_blocks + block, together)
            for i in range(rows):
                pair = T.bind(runs.order[row + i])
                target = T.bind(T.floordiv(pair, experts.per_token))
                rank = T.floormod(pair, experts.per_token)
                share = T.bind(splat(shares[target, rank], lanes))
                for b, block_sums in enumerate(sums):
                    for p, part in enumerate(block_sums[i]):
                        columns = span((block + b) * ROW_BLOCK + p * lanes, lanes)
                        total = fma(level, share, get(part, lanes), y[target, columns], lanes)
                        T.buffer_store(y, total, [target, columns])

        def together(rows: int) -> int:
            """A divisor of the blocks: nothing may be added twice."""
            wanted = 1 if weights in CODES else blocks_of_tile(level, False, rows)
            return next(
                size for size in (wanted, 2, 1) if size <= wanted and num_blocks % size == 0
            )

        _for_each_run(level, runs, num_blocks, together, tile, start)

    return prim_func(emit)


def _runs(experts: Experts) -> Runs:
    """Append the parameters."""
    return Runs(
        arg("order", (symbol("m"),), "int32"),
        arg("runs", (experts.count + 1, 2), "int32"),
        arg("num_runs", (1,), "int32"),
    )


def _operands(level: Level, weights: WeightFormat, rows: Expr, blocks: int, cols: int) -> SumsOf:
    """Append rows and weights."""
    if weights == "f32" or weights == "f16":
        floats = operands_float(weights, rows, blocks, cols)

        def of_floats(rows: list[Expr], block: Expr, together: int) -> Sums:
            return sums_float(level, floats, [(row, 0) for row in rows], block, together)

        return of_floats
    words = operands_grouped(CODES[weights], blocks, cols)

    def sums_of(rows: list[Expr], block: Expr, together: int) -> Sums:
        places = [
            (T.bind(T.floordiv(row, TILE_ROWS)), T.bind(T.floormod(row, TILE_ROWS))) for row in rows
        ]
        return sums_grouped(level, words, places, block, together)

    return sums_of


def _for_each_run(
    level: Level,
    runs: Runs,
    num_blocks: int,
    together: Callable[[int], int],
    tile: Callable[[Expr, Expr, Expr, int, int], None],
    start: Callable[[Expr, int], None],
) -> None:
    """Cover the blocks of every run and its rows by `tile(expert, row, block, rows, blocks)`, where
    row is a place in `order`; before that `start(block, count)` once for all blocks."""
    tile_rows = TRAITS[level].tile_rows

    def pass_over(expert: Expr, row: Expr, first: Expr, rows: int, count: int) -> None:
        blocks = together(rows)
        with T.serial(T.int64(count // blocks)) as step:
            tile(expert, row, T.bind(first + step * blocks), rows, blocks)

    def panel(first: Expr, count: int) -> None:
        start(first, count)
        with T.serial(T.Cast("int64", runs.num_runs[0])) as i:
            expert = T.bind(T.Cast("int64", runs.runs[i, 0]))
            begin = T.bind(T.Cast("int64", runs.runs[i, 1]))
            end = T.bind(T.Cast("int64", runs.runs[i + 1, 1]))
            with T.serial(T.floordiv(end - begin, tile_rows)) as t:
                pass_over(expert, T.bind(begin + t * tile_rows), first, tile_rows, count)
            rest = T.bind(T.floormod(end - begin, tile_rows))
            for rows in range(1, tile_rows):
                with T.If(rest == rows), T.Then():
                    pass_over(expert, T.bind(end - rows), first, rows, count)

    whole, rest = divmod(num_blocks, PANEL_BLOCKS)
    if whole:
        with T.parallel(T.int64(whole)) as index:
            panel(T.bind(index * PANEL_BLOCKS), PANEL_BLOCKS)
    if rest:
        panel(T.int64(whole * PANEL_BLOCKS), rest)
