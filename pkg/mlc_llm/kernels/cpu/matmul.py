"""The loops around a packed matrix product.

Token rows come in chunks and row blocks in panels; every chunk with every panel is a task, and
threads take runs of neighbouring tasks. Inside a task, tiles of token rows pass over the panel's
weights, which stay in the core's caches meanwhile; the last, shorter tile has code of its own for
every height, so one function serves decode (n = 1) and prefill (n = 512). The order of the sums of
one output is the same in all of them.

Does not know how weights are stored, nor what becomes of the sums.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import Var

from mlc_llm.kernels.cpu.epilogue import PANEL_BLOCKS, Sums
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.vector import held, put, registers
from mlc_llm.models.parameters import ROW_BLOCK

CHUNK_ROWS = 256
"""Token rows that a panel passes over at most. They stay in a core's second cache from panel to panel,
and the core that has made them reads them: 2 to 4 % of a prompt's time. 128 are as fast, 512 slower."""

SMALL_PRODUCT = 1 << 20
"""Multiply-adds below which a product stays on the calling thread."""


def new_sums(level: Level, blocks: int, rows: int) -> Sums:
    """Zeroed sums of a tile."""
    lanes = TRAITS[level].lanes
    sums = [
        [[registers(lanes) for _ in range(ROW_BLOCK // lanes)] for _ in range(rows)]
        for _ in range(blocks)
    ]
    for block in sums:
        for parts in block:
            for part in parts:
                put(part, T.broadcast(T.float32(0), lanes), lanes)
    return sums


def for_each_tile(
    level: Level,
    n: Var,
    num_blocks: int,
    work: int,
    blocks_of: Callable[[int], int],
    tile: Callable[[Expr, Expr, int, int], None],
) -> None:
    """Cover all token rows and blocks by `tile(row, block, rows, blocks)`.

    `work` is multiply-adds of one token row, `blocks_of(rows)` how many blocks a tile of that
    height takes at once. A tile that would reach past the last block moves back and computes some
    blocks again, to the same bits.
    """
    tile_rows = TRAITS[level].tile_rows

    def pass_over(row: Expr, first: Expr, rows: int) -> None:
        blocks = min(blocks_of(rows), num_blocks)
        whole_panels = num_blocks % PANEL_BLOCKS == 0
        count = PANEL_BLOCKS if whole_panels else T.min(PANEL_BLOCKS, num_blocks - first)
        with T.serial(T.ceildiv(count, blocks)) as step:
            wanted = first + step * blocks
            if not whole_panels:
                wanted = T.min(wanted, T.int64(num_blocks - blocks))
            tile(row, T.bind(wanted), rows, blocks)

    def panel(index: Expr, start: Expr, stop: Expr) -> None:
        first = T.bind(index * PANEL_BLOCKS)
        with T.serial(T.floordiv(stop - start, tile_rows)) as t:
            pass_over(start + t * tile_rows, first, tile_rows)
        rest = T.bind(T.floormod(stop - start, tile_rows))
        for rows in range(1, tile_rows):
            with T.If(rest == rows), T.Then():
                pass_over(stop - rows, first, rows)

    panels = -(-num_blocks // PANEL_BLOCKS)

    def spread() -> None:
        """Chunks of about the same height, and none of them empty."""
        chunks = held(T.max(T.ceildiv(n, T.int64(CHUNK_ROWS)), T.int64(1)))
        height = held(T.ceildiv(T.ceildiv(n, chunks), T.int64(tile_rows)) * tile_rows)
        with T.parallel(chunks * panels) as work:
            start = held(T.floordiv(work, panels) * height)
            panel(T.floormod(work, panels), start, held(T.min(start + height, n)))

    if num_blocks <= PANEL_BLOCKS:
        panel(T.int64(0), T.int64(0), n)
    elif work >= SMALL_PRODUCT:
        spread()
    else:
        with T.If(n * work < SMALL_PRODUCT):
            with T.Then(), T.serial(T.int64(panels)) as index:
                panel(index, T.int64(0), n)
            with T.Else():
                spread()
