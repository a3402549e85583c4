"""A context in segments: the softmax begins anew with each, and what they come to is added in order.

So it does not matter to a row's result who computes which segment. Segments are of SEGMENT_TOKENS and
start at position 0 of the sequence.

A segment of which a row attends to no token adds exactly nothing: its largest score is MASKED, and
so the factor of its sums is exactly 0.0, or of the sums before it once a token counts.
"""

from __future__ import annotations

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr

from mlc_llm.compiler.abi import PAGE_SIZE, SEGMENT_TOKENS
from mlc_llm.kernels.cpu.attention_task import CHUNK_PAGES, MASKED, Task, Vectors
from mlc_llm.kernels.cpu.exp2 import exp2
from mlc_llm.kernels.cpu.kv_format import LANES
from mlc_llm.kernels.cpu.vector import const, fma, held

SEGMENT_CHUNKS = SEGMENT_TOKENS // (CHUNK_PAGES * PAGE_SIZE)


def num_chunks(task: Task) -> Expr:
    """Chunks of the context."""
    return T.floordiv(task.work.num_pages + (CHUNK_PAGES - 1), CHUNK_PAGES)


def skipped_chunks(task: Task) -> Expr:
    """Chunks before the window of a block's first row, and so of all its rows."""
    window = task.shape.window
    if window is None:
        return T.int64(0)
    before = T.Cast("int64", task.args.positions[task.work.rows[0]]) + (1 - window)
    return T.floordiv(T.max(before, T.int64(0)), CHUNK_PAGES * PAGE_SIZE)


def segments(task: Task) -> tuple[Expr, Expr]:
    """The first segment that a block of queries attends to, and the end of the last."""
    first = T.floordiv(skipped_chunks(task), SEGMENT_CHUNKS)
    stop = T.floordiv(num_chunks(task) + (SEGMENT_CHUNKS - 1), SEGMENT_CHUNKS)
    return held(first), held(stop)


def chunks(task: Task, segment: Expr) -> tuple[Expr, Expr]:
    """The first chunk of a segment that is gone through, and the end of the last."""
    first = T.max(segment * SEGMENT_CHUNKS, skipped_chunks(task))
    stop = T.min((segment + 1) * SEGMENT_CHUNKS, num_chunks(task))
    return held(first), held(stop)


def begin(task: Task, nth: Expr) -> None:
    """Clear the sums for the nth segment that is gone through; those before it are set aside."""
    segment, earlier = task.scratch.segment, task.scratch.earlier
    queries = held(task.work.heads * task.block.queries)
    for now, before, count, start in zip(
        segment, earlier, (1, 1, task.shape.vectors), (MASKED, 0.0, 0.0), strict=True
    ):
        with T.serial(queries * count) as vector:
            with T.If(nth > 0), T.Then():
                before.put(vector, now.get(vector))
            now.put(vector, const(start, LANES))


def fold(task: Task) -> None:
    """Add what the segments before it have come to to the segment's sums."""
    segment, earlier = task.scratch.segment, task.scratch.earlier
    level, vectors = task.fmt.level, task.shape.vectors
    with T.serial(held(task.work.heads * task.block.queries)) as query:
        before, top = T.bind(earlier.top.get(query)), T.bind(segment.top.get(query))
        now = T.bind(T.max(before, top))
        old = exp2(level, T.bind(before - now), LANES)
        new = exp2(level, T.bind(top - now), LANES)

        def add(sums: Vectors, others: Vectors, index: Expr) -> None:
            kept = T.bind(others.get(index) * old)
            sums.put(index, fma(level, sums.get(index), new, kept, LANES))

        segment.top.put(query, now)
        add(segment.total, earlier.total, query)
        for v in range(vectors):
            add(segment.values, earlier.values, query * vectors + v)
