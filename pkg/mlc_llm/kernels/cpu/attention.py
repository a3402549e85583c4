"""Causal attention over the paged KV pool, one kernel for prefill, decode and mixed batches.

A task (`attention_task`) goes through the pages once, chunk by chunk, with all its heads: scores
(`attention_scores`), their softmax (`attention_weights`), sums of V (`attention_values`). Chunks are
of CHUNK_PAGES pages and start at page 0 of the sequence, whatever the tile; so many of them are a
segment (`attention_segments`), and tasks may share a row's segments (`attention_share`). How K and V
are stored and multiplied: `kv_format`.

What must stay true, for a row's result to be bitwise the same in every batch and tile:
* a score is one chain of multiply-adds over d; a value is one chain over the tokens in order;
* borders of chunks and segments depend on positions only, and segments are added in order;
* a masked token adds exactly nothing, and so does a whole masked chunk or segment: those before a
  window may be skipped or not.
Blocking (how many queries, pages and vectors share registers) is then free.

The pool may hold anything in slots that no row owns: their scores are masked by selection, never by
arithmetic, and their values are not read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc

from mlc_llm.compiler.abi import PAGE_SIZE, TILE_ROWS
from mlc_llm.kernels.cpu.attention_ahead import look_ahead
from mlc_llm.kernels.cpu.attention_scores import round_queries, score_pages
from mlc_llm.kernels.cpu.attention_segments import begin, chunks, fold, segments
from mlc_llm.kernels.cpu.attention_share import Apart, Share, join, keep, new_apart
from mlc_llm.kernels.cpu.attention_task import (
    CHUNK_PAGES,
    Arguments,
    Block,
    Here,
    Shape,
    Task,
    Work,
    block_of,
    new_arguments,
    new_scratch,
)
from mlc_llm.kernels.cpu.attention_values import add_values, store
from mlc_llm.kernels.cpu.attention_weights import weigh
from mlc_llm.kernels.cpu.kv_format import KvFormat
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.vector import held, prim_func
from mlc_llm.quantization.scheme import GROUP_SIZE, Codes, KvDtype


def attention(
    level: Level,
    heads: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: KvDtype,
    window: int | None = None,
    softcap: float | None = None,
    codes: Codes | None = None,
) -> PrimFunc:
    """(q[n, Hq, Dp], pool, page_table, tiles, positions, layer int64, out f32[n, Hq * D]).

    Layouts as in `compiler.abi`; q as `rope.rope_append` returns it. With a `window` a row attends
    to so many of the latest tokens; with a `softcap` its scores become softcap * tanh(score /
    softcap). With `codes`, in place of `out` come xq, xs, xc: bitwise `quantize` of it. D is then a
    multiple of 32.
    """
    if codes is not None and head_dim % GROUP_SIZE:
        raise ValueError(f"heads of {head_dim} columns are not whole groups of {GROUP_SIZE}")
    shape = Shape(heads, kv_heads, head_dim, kv_dtype, window, softcap)
    fmt = KvFormat(level, kv_dtype)
    # One row alone (decode) must not pay for a block of rows; many rows must fill one.
    alone = block_of(fmt, shape, 1)
    crowd = block_of(fmt, shape, TILE_ROWS)

    def emit() -> None:
        args = new_arguments(fmt, shape, codes)
        num_tiles = args.tiles.shape[0]
        tasks = T.bind(T.Cast("int64", args.tiles[0, 3]))
        apart = new_apart(shape, alone, args)
        spans = T.bind(T.max(T.floordiv(tasks, shape.kv_heads), T.int64(1)))
        parts = T.bind(T.floordiv(tasks, spans))
        with fmt.instructions():
            with T.parallel(num_tiles * tasks) as work:
                nth = held(T.floordiv(work, num_tiles))
                tile = held(_folded(T.floormod(work, num_tiles), num_tiles))
                part, span = held(T.floordiv(nth, spans)), held(T.floormod(nth, spans))
                share = Share(tile, part, parts, span, spans)
                with T.If(args.tiles[tile, 1] == 1):
                    with T.Then():
                        _each_block(fmt, shape, alone, args, share, partial(_attend_row, apart))
                    with T.Else():
                        _each_block(fmt, shape, crowd, args, share, _attend)
            with T.If(spans > 1), T.Then(), T.parallel(num_tiles * shape.kv_heads) as work:
                tile = held(T.floordiv(work, shape.kv_heads))
                head = held(T.floormod(work, shape.kv_heads))
                share = Share(tile, head, T.int64(shape.kv_heads), T.int64(0), spans)
                _each_block(fmt, shape, alone, args, share, partial(join, apart))

    return prim_func(emit)


def _folded(nth: Expr, count: Expr) -> Expr:
    """First, last, second, last but one, ...: threads take contiguous ranges of work, and the late
    tiles of a prompt cost more than the early ones."""
    half = T.floordiv(nth, 2)
    return T.Select(T.floormod(nth, 2) == 0, half, count - 1 - half)


def _each_block(
    fmt: KvFormat,
    shape: Shape,
    block: Block,
    args: Arguments,
    share: Share,
    compute: Callable[[Task, Share], None],
) -> None:
    """All blocks of queries that a task has of its tile."""
    scratch = new_scratch(fmt, shape, block)
    first = held(T.Cast("int64", args.tiles[share.tile, 0]))
    stop = held(first + T.Cast("int64", args.tiles[share.tile, 1]))
    seq = held(T.Cast("int64", args.tiles[share.tile, 2]))
    heads = held(T.floordiv(shape.kv_heads, share.parts))
    with (
        T.serial(T.floordiv(stop - first + (block.rows - 1), block.rows)) as nth,
        T.serial(T.int64(shape.group // block.heads)) as of_group,
    ):
        rows = [T.bind(T.min(first + nth * block.rows + i, stop - 1)) for i in range(block.rows)]
        end = held(T.Cast("int64", args.positions[rows[-1]]) + 1)
        num_pages = held(T.floordiv(end + (PAGE_SIZE - 1), PAGE_SIZE))
        work = Work(rows, of_group, T.bind(share.part * heads), heads, seq, end, num_pages)
        compute(Task(fmt, shape, block, args, scratch, work), share)


def _attend(task: Task, _share: Share) -> None:
    """One block of queries, from its first segment to its rows of the result."""
    round_queries(task)
    first, stop = segments(task)
    with T.serial(stop - first) as nth:
        begin(task, nth)
        _attend_segment(task, held(first + nth))
        with T.If(nth > 0), T.Then():
            fold(task)
    with T.serial(task.work.heads) as head:
        store(task, head)


def _attend_row(apart: Apart, task: Task, share: Share) -> None:
    """One row's block of queries, or its segments of it where the context is shared."""
    round_queries(task)
    first, stop = share.segments(task)
    with T.serial(stop - first) as nth:
        segment = held(first + nth)
        begin(task, nth)
        _attend_segment(task, segment)
        with T.If(share.spans > 1):
            with T.Then():
                keep(task, apart, share.tile, segment)
            with T.Else(), T.If(nth > 0), T.Then():
                fold(task)
    with T.If(share.spans == 1), T.Then(), T.serial(task.work.heads) as head:
        store(task, head)


def _attend_segment(task: Task, segment: Expr) -> None:
    """Sums over one segment, in `scratch`."""
    first, stop = chunks(task, segment)
    with T.serial(stop - first) as chunk, T.serial(task.work.heads) as head:
        page0 = held((chunk + first) * CHUNK_PAGES)
        count = held(T.min(task.work.num_pages - page0, T.int64(CHUNK_PAGES)))
        _attend_chunk(task, Here(head, page0, count))


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
