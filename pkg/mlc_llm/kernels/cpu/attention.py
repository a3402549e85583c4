"""Causal attention over the paged KV pool, one kernel for prefill, decode and mixed batches.

A task (`attention_task`) goes through the pages once, chunk by chunk, with all its heads: scores
(`attention_scores`), their softmax (`attention_weights`), sums of V (`attention_values`). Chunks are
of CHUNK_PAGES pages and start at page 0 of the sequence, whatever the tile. How K and V are stored
and multiplied: `kv_format`.

What must stay true, for a row's result to be bitwise the same in every batch and tile:
* a score is one chain of multiply-adds over d; a value is one chain over the tokens in order;
* chunk borders depend on positions only;
* a masked token adds exactly nothing, and so does a whole masked chunk: chunks before a window may
  be skipped or not.
Blocking (how many queries, pages and vectors share registers) is then free.

The pool may hold anything in slots that no row owns: their scores are masked by selection, never by
arithmetic, and their values are not read.
"""

from __future__ import annotations

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc

from mlc_llm.compiler.abi import PAGE_SIZE, TILE_ROWS
from mlc_llm.kernels.cpu.attention_ahead import look_ahead
from mlc_llm.kernels.cpu.attention_scores import round_queries, score_pages
from mlc_llm.kernels.cpu.attention_task import (
    CHUNK_PAGES,
    MASKED,
    Arguments,
    Block,
    Here,
    Shape,
    Task,
    Work,
    at,
    block_of,
    new_arguments,
    new_scratch,
)
from mlc_llm.kernels.cpu.attention_values import add_values, store
from mlc_llm.kernels.cpu.attention_weights import weigh
from mlc_llm.kernels.cpu.kv_format import LANES, KvFormat
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.vector import const, held, prim_func
from mlc_llm.quantization.scheme import KvDtype


def attention(
    level: Level,
    heads: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: KvDtype,
    window: int | None = None,
    softcap: float | None = None,
) -> PrimFunc:
    """(q[n, Hq, Dp], pool, page_table, tiles, positions, layer int64, out f32[n, Hq * D]).

    Layouts as in `compiler.abi`; q as `rope.rope_append` returns it. With a `window` a row attends
    to so many of the latest tokens; with a `softcap` its scores become softcap * tanh(score /
    softcap).
    """
    shape = Shape(heads, kv_heads, head_dim, kv_dtype, window, softcap)
    fmt = KvFormat(level, kv_dtype)
    # One row alone (decode) must not pay for a block of rows; many rows must fill one.
    alone = block_of(fmt, shape, 1)
    crowd = block_of(fmt, shape, TILE_ROWS)

    def emit() -> None:
        args = new_arguments(fmt, shape)
        num_tiles = args.tiles.shape[0]
        parts = T.bind(T.Cast("int64", args.tiles[0, 3]))
        with fmt.instructions(), T.parallel(num_tiles * parts) as work:
            part = T.bind(T.floordiv(work, num_tiles))
            tile = T.bind(_folded(T.floormod(work, num_tiles), num_tiles))
            with T.If(args.tiles[tile, 1] == 1):
                with T.Then():
                    _attend_tile(fmt, shape, alone, args, tile, part, parts)
                with T.Else():
                    _attend_tile(fmt, shape, crowd, args, tile, part, parts)

    return prim_func(emit)


def _folded(nth: Expr, count: Expr) -> Expr:
    """First, last, second, last but one, ...: threads take contiguous ranges of work, and the late
    tiles of a prompt cost more than the early ones."""
    half = T.floordiv(nth, 2)
    return T.Select(T.floormod(nth, 2) == 0, half, count - 1 - half)


def _attend_tile(
    fmt: KvFormat,
    shape: Shape,
    block: Block,
    args: Arguments,
    tile: Expr,
    part: Expr,
    parts: Expr,
) -> None:
    """The `part`-th of so many parts of the KV heads, for all rows of a tile."""
    scratch = new_scratch(fmt, shape, block)
    first = held(T.Cast("int64", args.tiles[tile, 0]))
    stop = held(first + T.Cast("int64", args.tiles[tile, 1]))
    seq = held(T.Cast("int64", args.tiles[tile, 2]))
    heads = held(T.floordiv(shape.kv_heads, parts))
    with (
        T.serial(T.floordiv(stop - first + (block.rows - 1), block.rows)) as nth,
        T.serial(T.int64(shape.group // block.heads)) as of_group,
    ):
        rows = [T.bind(T.min(first + nth * block.rows + i, stop - 1)) for i in range(block.rows)]
        end = held(T.Cast("int64", args.positions[rows[-1]]) + 1)
        num_pages = held(T.floordiv(end + (PAGE_SIZE - 1), PAGE_SIZE))
        work = Work(rows, of_group, T.bind(part * heads), heads, seq, end, num_pages)
        _attend(Task(fmt, shape, block, args, scratch, work))


def _attend(task: Task) -> None:
    """One block of queries, from its first chunk to its rows of the result."""
    work = task.work
    _clear(task)
    round_queries(task)
    num_chunks = T.floordiv(work.num_pages + (CHUNK_PAGES - 1), CHUNK_PAGES)
    skipped = _skipped_chunks(task)
    with T.serial(num_chunks - skipped) as chunk, T.serial(work.heads) as head:
        page0 = held((chunk + skipped) * CHUNK_PAGES)
        count = held(T.min(work.num_pages - page0, T.int64(CHUNK_PAGES)))
        _attend_chunk(task, Here(head, page0, count))
    with T.serial(work.heads) as head:
        store(task, head)


def _clear(task: Task) -> None:
    scratch, queries = task.scratch, task.block.queries
    with T.serial(task.work.heads * queries) as query:
        T.buffer_store(scratch.top, const(MASKED, LANES), [at(query)])
        T.buffer_store(scratch.total, const(0.0, LANES), [at(query)])
    with T.serial(task.work.heads * (queries * task.shape.padded // LANES)) as vector:
        T.buffer_store(scratch.values, const(0.0, LANES), [at(vector)])


def _skipped_chunks(task: Task) -> Expr:
    """Chunks before the window of a block's first row, and so of all its rows."""
    window = task.shape.window
    if window is None:
        return T.int64(0)
    before = T.Cast("int64", task.args.positions[task.work.rows[0]]) + (1 - window)
    return T.bind(T.floordiv(T.max(before, T.int64(0)), CHUNK_PAGES * PAGE_SIZE))


def _attend_chunk(task: Task, here: Here) -> None:
    block = task.block
    look_ahead(task, here)
    steps = T.bind(T.floordiv(here.count + (block.pages - 1), block.pages))
    with T.serial(steps) as step:
        score_pages(task, here, step)
    with T.serial(T.int64(block.queries)) as query:
        weigh(task, here, query, steps * block.pages)
    with T.serial(T.int64(task.shape.vectors // block.vectors)) as nth:
        add_values(task, here, nth)
