"""Tasks that share a tile of attention: its KV heads, and of one row the segments of its context.

Of a shared context every task keeps what its segments come to, apart; afterwards they are added in
order, as one task alone would have added them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import Var

from mlc_llm.compiler.abi import MAX_SHARED, PAGE_SIZE, SEGMENT_TOKENS
from mlc_llm.kernels.cpu.attention_segments import begin, fold, segments
from mlc_llm.kernels.cpu.attention_task import Arguments, Block, Shape, Task, Vectors, at
from mlc_llm.kernels.cpu.attention_values import store
from mlc_llm.kernels.cpu.kv_format import LANES
from mlc_llm.kernels.cpu.vector import held


class Share(NamedTuple):
    """What a task has of its tile."""

    tile: Expr
    part: Expr
    parts: Expr
    """Tasks that share the KV heads."""
    span: Expr
    spans: Expr
    """Tasks that share the segments of the context: runs of neighbours, as equal as can be."""

    def segments(self, task: Task) -> tuple[Expr, Expr]:
        """The first segment of the task, and the end of the last."""
        first, stop = segments(task)
        count = held(stop - first)
        mine = first + T.floordiv(count * self.span, self.spans)
        return held(mine), held(first + T.floordiv(count * (self.span + 1), self.spans))


class Apart(NamedTuple):
    """Sums of segments whose context is shared: vectors of [tile][KV head][part of the group]
    [segment], and there top, total and values of the block's queries."""

    sums: Var
    width: Expr
    """Segments that a row of the page table has room for."""


def new_apart(shape: Shape, block: Block, args: Arguments) -> Apart:
    """Memory for what MAX_SHARED heads come to; what is not used of it is never touched.

    TVM allocates before the first statement: the size is made from sizes of tensors alone.
    """
    width = T.floordiv(args.table.shape[1] * PAGE_SIZE + (SEGMENT_TOKENS - 1), SEGMENT_TOKENS)
    heads = T.min(args.tiles.shape[0] * shape.kv_heads, T.int64(MAX_SHARED))
    size = heads * width * (shape.group // block.heads * _vectors(shape, block) * LANES)
    return Apart(T.alloc_buffer((size,), "float32", scope="global"), width)


def _vectors(shape: Shape, block: Block) -> int:
    """Vectors of a block's sums over a segment, for one KV head."""
    return block.queries * (2 + shape.vectors)


def keep(task: Task, apart: Apart, tile: Expr, segment: Expr) -> None:
    """Lay down what a segment has come to."""

    def move(sums: Vectors, index: Expr, place: Expr) -> None:
        T.buffer_store(apart.sums, sums.get(index), [at(place)])

    _move(task, apart, tile, segment, move)


def join(apart: Apart, task: Task, share: Share) -> None:
    """Add up all segments of a block of queries, and write its rows of the result."""

    def move(sums: Vectors, index: Expr, place: Expr) -> None:
        sums.put(index, apart.sums[at(place)])

    first, stop = segments(task)
    with T.serial(stop - first) as nth:
        begin(task, nth)
        _move(task, apart, share.tile, held(first + nth), move)
        with T.If(nth > 0), T.Then():
            fold(task)
    with T.serial(task.work.heads) as head:
        store(task, head)


def _move(
    task: Task, apart: Apart, tile: Expr, segment: Expr, move: Callable[[Vectors, Expr, Expr], None]
) -> None:
    """Between the sums of a segment and where they are kept: vector by vector."""
    shape, block, work, sums = task.shape, task.block, task.work, task.scratch.segment
    with T.serial(work.heads) as nth:
        head = (tile * shape.kv_heads + (work.first_head + nth)) * (shape.group // block.heads)
        place = held(((head + work.part) * apart.width + segment) * _vectors(shape, block))
        for kept, count in zip(sums, (1, 1, shape.vectors), strict=True):
            run = block.queries * count
            with T.serial(T.int64(run)) as i:
                move(kept, nth * run + i, place + i)
            place = T.bind(place + run)
