"""Weighted sums of V: a vector of V is of sixteen columns, a sum is one chain over the tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import gcd
from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import Var

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.kernels.cpu.attention_task import CHUNK_PAGES, Here, Task, at, first_token
from mlc_llm.kernels.cpu.kv_bytes import DIGITS, joined
from mlc_llm.kernels.cpu.kv_format import LANES
from mlc_llm.kernels.cpu.quantize import Quantized
from mlc_llm.kernels.cpu.vector import (
    fma,
    get,
    held,
    iconst,
    lane_sum,
    prefetch,
    put,
    registers,
    span,
    splat,
)
from mlc_llm.quantization.scheme import GROUP_SIZE


class Columns(NamedTuple):
    """Some columns of one KV head, and the sums of its queries there."""

    first: Expr
    """Vector of the head."""
    kv_head: Expr
    state: Expr
    """Vector of the segment's sums where the first query's are kept."""
    sums: list[list[Var]]
    """[query and digit][vector]"""

    def faded(self, task: Task, query: int, v: int) -> Expr:
        """The sum of the earlier chunks."""
        kept = task.scratch.segment.values.get(self.state + (query * task.shape.vectors + v))
        return kept * task.scratch.fade[at(query)]


def add_values(task: Task, here: Here, nth: Expr) -> None:
    """Fade the sums of the earlier chunks and add this chunk's: `block.vectors` vectors of V."""
    fmt, block, vectors = task.fmt, task.block, task.shape.vectors
    first = T.bind(nth * block.vectors)
    kv_head = T.bind(task.work.first_head + here.nth)
    state = T.bind(here.nth * (block.queries * vectors) + first)
    count = block.queries * (DIGITS if fmt.counts else 1)
    sums = [[registers(LANES, fmt.sum_dtype) for _ in range(block.vectors)] for _ in range(count)]
    some = Columns(first, kv_head, state, sums)
    for j, query in enumerate(sums):
        for v, value_sum in enumerate(query):
            start = iconst(0, LANES) if fmt.counts else some.faded(task, j, v)
            put(value_sum, start, LANES)
    with T.serial(here.count) as p:
        _add_page(task, here, some, p)
    _keep(task, some)


def _add_page(task: Task, here: Here, some: Columns, p: Expr) -> None:
    """The tokens of the chunk's page p that the sequence has."""
    fmt = task.fmt
    page = task.page(here.page0 + p)
    ahead = T.bind(task.scratch.ahead[p + CHUNK_PAGES])
    left = task.work.end - first_token(here.page0 + p)
    tokens = T.bind(T.min(left, T.int64(PAGE_SIZE)))
    # What a slot without a token holds may not be a number, unless it is bytes.
    partly = fmt.pack - 1 if fmt.scaled else 0
    groups = T.bind(T.floordiv(tokens + partly, fmt.pack))
    with T.serial(groups) as group:
        _add_tokens(task, some, p, page, ahead, group, whole=True)
    if fmt.pack == 2:
        with T.If(groups * fmt.pack < tokens), T.Then():
            _add_tokens(task, some, p, page, ahead, groups, whole=False)


def _add_tokens(
    task: Task, some: Columns, p: Expr, page: Expr, ahead: Expr, group: Expr, whole: bool
) -> None:
    """Tokens group * pack, ... of a page, or of them only the first."""
    fmt, args, vectors = task.fmt, task.args, range(task.block.vectors)
    row = T.bind(group * task.shape.vectors + some.first)
    for v in vectors[:: fmt.per_line]:
        line = (row + v) * (fmt.pack * LANES)
        prefetch(args.pool, args.layer, 0, 0, 0, ahead + line)
    stored = [args.pool[args.layer, page, some.kv_head, 1, fmt.at(row + v)] for v in vectors]
    values = [fmt.load(value if whole else fmt.only_even(value)) for value in stored]
    for j, query in enumerate(some.sums):
        first_weight = T.bind((p + j * CHUNK_PAGES) * (LANES // fmt.pack))
        factors = fmt.factors(task.scratch.factors, [], first_weight + group)
        for value, value_sum in zip(values, query, strict=True):
            fmt.advance(value_sum, factors, value)  # in bytes, weights have no sign


def _keep(task: Task, some: Columns) -> None:
    """Write the sums back to memory."""
    fmt, scratch = task.fmt, task.scratch
    digits = DIGITS if fmt.counts else 1
    for j in range(task.block.queries):
        for v in range(task.block.vectors):
            done = get(some.sums[j * digits][v], LANES)
            if fmt.counts:
                whole = joined(done, get(some.sums[j * digits + 1][v], LANES))
                done = fma(fmt.level, whole, scratch.units[at(j)], some.faded(task, j, v), LANES)
            scratch.segment.values.put(some.state + (j * task.shape.vectors + v), done)


def store(task: Task, nth: Expr) -> None:
    """Divide by the sums of weights and write the rows; a repeated row is written again."""
    shape, block, sums, work = task.shape, task.block, task.scratch.segment, task.work
    head = T.bind((work.first_head + nth) * shape.group + work.part * block.heads)
    for j in range(block.queries):
        query = T.bind(nth * block.queries + j)
        scale = T.bind(T.float32(1) / lane_sum(sums.total.get(query), LANES))
        column = T.bind((head + j % block.heads) * shape.head_dim)
        _write(task, task.row_of(j), column, partial(_result, task, query, scale))


def _result(task: Task, query: Expr, scale: Expr, start: Expr, lanes: int) -> Expr:
    """Columns of a query's result from `start` on."""
    values = task.scratch.segment.values
    return values.get(query * task.shape.vectors, start, lanes) * splat(scale, lanes)


def _write(task: Task, row: Expr, column: Expr, result: Callable[[Expr, int], Expr]) -> None:
    """One head of a row, from its column of the whole result on."""
    size, out = task.shape.head_dim, task.args.out
    if isinstance(out, Quantized):
        row, first = held(row), held(T.floordiv(column, GROUP_SIZE))
        with T.serial(T.int64(size // GROUP_SIZE)) as group:
            low, high = (result(group * GROUP_SIZE + half, LANES) for half in (0, LANES))
            out.write(row, T.bind(first + group), low, high)
        return
    lanes = gcd(size, LANES)  # no vector of `out` crosses from one head to the next
    with T.serial(T.int64(size // lanes)) as v:
        place = [row, span(column + v * lanes, lanes)]
        T.buffer_store(out, result(v * lanes, lanes), place)
