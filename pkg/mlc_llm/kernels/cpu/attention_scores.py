"""Scores of a block of queries with the tokens of some pages: products with K, capped and masked.

A vector of K is of sixteen tokens, so one operation advances sixteen scores; a score is one chain of
multiply-adds over d. Scores are in base 2: queries come scaled by log2(e).
"""

from __future__ import annotations

from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import Var

from mlc_llm.kernels.cpu.attention_task import (
    CHUNK_PAGES,
    MASKED,
    Here,
    Shape,
    Task,
    at,
    first_token,
)
from mlc_llm.kernels.cpu.kv_bytes import round_query
from mlc_llm.kernels.cpu.kv_format import LANES
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.rope_heads import LOG2_E
from mlc_llm.kernels.cpu.vector import (
    const,
    get,
    iconst,
    prefetch,
    put,
    registers,
    splat,
    tanh,
)


class Pages(NamedTuple):
    """Some pages of a chunk, and the sums of their scores."""

    first: Expr
    """Page of the chunk."""
    pages: list[Expr]
    """In the pool."""
    kv_head: Expr
    ahead: list[Expr]
    """What to ask memory for, for each of them."""
    head: Expr
    """First query head of the block."""
    of_task: Expr
    """First query of the block among the task's."""
    sums: list[list[Var]]
    """[query][page]"""


def round_queries(task: Task) -> None:
    """Keep the queries of the task in bytes, where they are multiplied so."""
    found, block, shape, work = task.scratch.queries, task.block, task.shape, task.work
    if found is None:
        return
    with T.serial(work.heads) as nth:
        head = T.bind((work.first_head + nth) * shape.group + work.part * block.heads)
        for j in range(block.queries):

            def read(
                at: Expr, row: Expr = task.row_of(j), of: Expr = head + j % block.heads
            ) -> Expr:
                return task.args.q[row, of, at]

            round_query(task.fmt, found, T.bind(nth * block.queries + j), shape.padded, read)


def score_pages(task: Task, here: Here, step: Expr) -> None:
    """Scores of all queries with the 16 tokens of each of `block.pages` pages."""
    fmt, block = task.fmt, task.block
    first = T.bind(step * block.pages)
    pages = [task.page(here.page0 + first + u) for u in range(block.pages)]
    kv_head = T.bind(task.work.first_head + here.nth)
    ahead = [T.bind(task.scratch.ahead[first + u]) for u in range(block.pages)]
    head = T.bind(kv_head * task.shape.group + task.work.part * block.heads)
    of_task = T.bind(here.nth * block.queries)
    sums = [[registers(LANES, fmt.sum_dtype) for _ in pages] for _ in range(block.queries)]
    some = Pages(first, pages, kv_head, ahead, head, of_task, sums)
    _clear(task, some)
    if fmt.scaled:
        _ask_for_scales(task, some)
    with T.serial(T.int64(task.shape.padded // fmt.pack // fmt.per_line)) as line:
        _multiply_line(task, some, line)
    _finish(task, here, some)


def _clear(task: Task, some: Pages) -> None:
    own = task.scratch.queries
    for j, query in enumerate(some.sums):
        start = const(0.0, LANES) if own is None else splat(own.starts[some.of_task + j], LANES)
        for page_sum in query:
            put(page_sum, start, LANES)


def _ask_for_scales(task: Task, some: Pages) -> None:
    pool, layer = task.args.pool, task.args.layer
    for place in some.ahead:
        scales = place + task.fmt.scale_place(0, task.shape.padded)
        prefetch(pool, layer, 0, 0, 0, scales)
        prefetch(pool, layer, 0, 0, 1, scales)


def _multiply_line(task: Task, some: Pages, line: Expr) -> None:
    """Add the products of the columns that lie in one cache line of each page."""
    fmt, args = task.fmt, task.args
    start = line * (fmt.per_line * fmt.pack * LANES)
    for place in some.ahead:
        prefetch(args.pool, args.layer, 0, 0, 0, place + start)
    for i in range(fmt.per_line):
        d = T.bind(line * fmt.per_line + i)
        stored = [args.pool[args.layer, page, some.kv_head, 0, fmt.at(d)] for page in some.pages]
        keys = [fmt.load_key(key) for key in stored]
        for j, query in enumerate(some.sums):
            factors = _factors(task, some, j, d)
            for key, page_sum in zip(keys, query, strict=True):
                fmt.advance(page_sum, key, factors)


def _factors(task: Task, some: Pages, query: int, d: Expr) -> list[Expr]:
    """What the d-th vector of K is multiplied by."""
    fmt, own = task.fmt, task.scratch.queries
    if own is None:
        place = [task.row_of(query), some.head + query % task.block.heads]
        return fmt.factors(task.args.q, place, d)
    columns = (some.of_task + query) * (task.shape.padded // fmt.pack)
    return fmt.factors(own.columns, [], columns + d)


def _finish(task: Task, here: Here, some: Pages) -> None:
    """Make scores of the sums, and keep them."""
    fmt, own = task.fmt, task.scratch.queries
    scales = [task.scales(page, some.kv_head, 0) for page in some.pages if fmt.scaled]
    for j, query in enumerate(some.sums):
        position = splat(task.args.positions[task.row_of(j)], LANES)
        for u, page_sum in enumerate(query):
            token0 = T.Cast("int32", first_token(here.page0 + some.first + u))
            token = T.ramp(token0, 1, LANES)
            score = get(page_sum, LANES)
            if own is not None:
                score = T.Cast("float32x16", score) * splat(own.scales[some.of_task + j], LANES)
            if fmt.scaled:
                score = score * scales[u]
            score = _capped(fmt.level, task.shape, T.bind(score))
            masked = _masked(task.shape, score, token, position)
            T.buffer_store(task.scratch.scores, masked, [at(some.first + u + j * CHUNK_PAGES)])


def _capped(level: Level, shape: Shape, score: Expr) -> Expr:
    if shape.softcap is None:
        return score
    cap = shape.softcap * LOG2_E  # scores are in base 2
    inner = T.bind(score * const(1 / cap, LANES))
    return T.bind(tanh(level, inner, LANES) * const(cap, LANES))


def _masked(shape: Shape, score: Expr, token: Expr, position: Expr) -> Expr:
    """Scores of the tokens that a row at `position` attends to."""
    if shape.window is not None:
        oldest = position - iconst(shape.window - 1, LANES)
        score = T.Select(token >= oldest, score, const(MASKED, LANES))
    return T.Select(token <= position, score, const(MASKED, LANES))
