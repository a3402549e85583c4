"""Attention over compressed keys and values (DeepSeek-V2's multi-head latent attention).

A token leaves one latent vector and one rotated key in the pool, which all heads share. Matrices that
make keys and values of a latent are applied to queries before and to results after (`linear_heads`),
so that neither is ever made: latents are keys and values (`latent_pages`).

What must stay true, for a row's result to be bitwise the same in every batch: each row is computed
alone, page by page from the first one on.
"""

from __future__ import annotations

from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.kernels.cpu.exp2 import exp2
from mlc_llm.kernels.cpu.kv_format import LANES, LARGEST
from mlc_llm.kernels.cpu.latent_pages import LatentPages
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.rope_heads import LOG2_E
from mlc_llm.kernels.cpu.vector import (
    arg,
    const,
    fma,
    get,
    lane_sum,
    prim_func,
    put,
    registers,
    span,
    splat,
    symbol,
)
from mlc_llm.models.architecture import Latent
from mlc_llm.quantization.scheme import KvDtype

MASKED = -1e30


class Rows(NamedTuple):
    """The parameters of `latent_attention`."""

    latents: Var
    turned: Var
    pool: Var
    table: Var
    tiles: Var
    positions: Var
    layer: Expr
    out: Var


class Scratch(NamedTuple):
    """State of some heads of a row, in memory: vectors of 16 by head, `values` [head][rank]."""

    top: Var
    total: Var
    fade: Var
    weights: Var
    """Scores of a page, then their weights."""
    values: Var


class Task(NamedTuple):
    """Some heads of one row."""

    pages: LatentPages
    together: int
    """Heads."""
    scale: float
    """What scores are multiplied by, in base 2."""
    use: Rows
    scratch: Scratch
    row: Expr
    head: Expr
    """The first of the heads."""
    seq: Expr

    def load(self, page: Expr, first: Expr) -> Expr:
        """A vector of a page as float32."""
        return self.pages.load(self.use.pool, self.use.layer, page, first)


def latent_attention(
    level: Level, latent: Latent, heads: int, kv_dtype: KvDtype, scale: float
) -> PrimFunc:
    """(q f32[n, Hq rank], turned f32[n, Hq R], pool, page_table, tiles, positions, layer int64,
    out f32[n, Hq rank]); q are queries as latents see them, `turned` is `latent_append`'s, a result
    is a weighted sum of latents. Page table and tiles as in `compiler.abi`."""
    pages, together = LatentPages(level, latent, kv_dtype), heads_together(level, heads)

    def emit() -> None:
        use = _arguments(pages, heads)
        num_tiles = use.tiles.shape[0]
        tasks = num_tiles * (heads // together)
        with T.attr(T.int32(0), "pragma_import_llvm", LARGEST), T.parallel(tasks) as task:
            head = T.bind(T.floordiv(task, num_tiles) * together)
            tile = T.bind(T.floormod(task, num_tiles))
            first = T.bind(T.Cast("int64", use.tiles[tile, 0]))
            seq = T.bind(T.Cast("int64", use.tiles[tile, 2]))
            scratch = _scratch(latent, together)
            with T.serial(T.Cast("int64", use.tiles[tile, 1])) as i:
                row = T.bind(first + i)
                _attend(Task(pages, together, scale * LOG2_E, use, scratch, row, head, seq))

    return prim_func(emit)


def heads_together(level: Level, heads: int) -> int:
    """Heads whose sums fit the registers beside those of as many tokens."""
    most = 4 if TRAITS[level].lanes == LANES else 2
    return next(size for size in (most, 2, 1) if heads % size == 0)


def _arguments(pages: LatentPages, heads: int) -> Rows:
    """Append the parameters."""
    n, latent = symbol("n"), pages.latent
    return Rows(
        latents=arg("q", (n, heads * latent.rank), "float32"),
        turned=arg("turned", (n, heads * latent.rope_dim), "float32"),
        pool=pages.pool(),
        table=arg("page_table", (symbol("seqs"), symbol("width")), "int32"),
        tiles=arg("tiles", (symbol("tiles"), 4), "int32"),
        positions=arg("positions", (n,), "int32"),
        layer=T.arg("layer", T.int64()),
        out=arg("out", (n, heads * latent.rank), "float32"),
    )


def _scratch(latent: Latent, heads: int) -> Scratch:
    def floats(size: int) -> Var:
        return T.alloc_buffer((size,), "float32", scope="global")

    top, total, fade, weights = (floats(heads * LANES) for _ in range(4))
    return Scratch(top, total, fade, weights, floats(heads * latent.rank))


def _attend(task: Task) -> None:
    """Online softmax over the pages of a row."""
    scratch, use, rank = task.scratch, task.use, task.pages.latent.rank
    end = T.bind(T.Cast("int64", use.positions[task.row]) + 1)
    for h in range(task.together):
        T.buffer_store(scratch.top, const(MASKED, LANES), [span(h * LANES, LANES)])
        T.buffer_store(scratch.total, const(0.0, LANES), [span(h * LANES, LANES)])
    with T.serial(T.int64(task.together * rank // LANES)) as v:
        T.buffer_store(scratch.values, const(0.0, LANES), [span(v * LANES, LANES)])
    with T.serial(T.floordiv(end + (PAGE_SIZE - 1), PAGE_SIZE)) as index:
        page = T.bind(T.Cast("int64", use.table[task.seq, index]))
        tokens = T.bind(T.min(end - index * PAGE_SIZE, T.int64(PAGE_SIZE)))
        _score(task, page)
        for h in range(task.together):
            _weigh(task, h, tokens)
        _add_values(task, page, tokens)
    for h in range(task.together):
        total = lane_sum(scratch.total[span(h * LANES, LANES)], LANES)
        inverse = T.bind(splat(T.float32(1) / total, LANES))
        with T.serial(T.int64(rank // LANES)) as v:
            value = scratch.values[span(h * rank + v * LANES, LANES)] * inverse
            place = [task.row, span((task.head + h) * rank + v * LANES, LANES)]
            T.buffer_store(use.out, value, place)


def _score(task: Task, page: Expr) -> None:
    """The products of the heads with all tokens of a page, some of each at a time."""
    lanes, latent = task.pages.lanes, task.pages.latent
    tokens = 4 if lanes == LANES else 2
    parts = (
        (task.use.latents, latent.rank, 0),
        (task.use.turned, latent.rope_dim, latent.rank),
    )
    with T.serial(T.int64(PAGE_SIZE // tokens)) as step:
        sums = _sums(task, tokens)
        for queries, count, start in parts:
            with T.serial(T.int64(count // lanes)) as v:
                places = [
                    (step * tokens + t) * latent.width + start + v * lanes for t in range(tokens)
                ]
                keys = [task.load(page, place) for place in places]
                for h, of_head in enumerate(sums):
                    columns = span((task.head + h) * count + v * lanes, lanes)
                    query = T.bind(queries[task.row, columns])
                    for key, total in zip(keys, of_head, strict=True):
                        _add(task, total, query, key)
        for h, of_head in enumerate(sums):
            for t, total in enumerate(of_head):
                place = [step * tokens + (h * LANES + t)]
                T.buffer_store(task.scratch.weights, lane_sum(get(total, lanes), lanes), place)


def _weigh(task: Task, head: int, tokens: Expr) -> None:
    """Turn scores of a page into weights relative to the largest score so far. Scores of slots that
    are not the row's may be anything, and are dropped by selection."""
    level, scratch, at = task.pages.level, task.scratch, span(head * LANES, LANES)
    seen = T.ramp(T.int32(0), 1, LANES) < splat(T.Cast("int32", tokens), LANES)
    scores = scratch.weights[at] * const(task.scale, LANES)
    masked = T.bind(T.Select(seen, scores, const(MASKED, LANES)))
    before = T.bind(scratch.top[at])
    largest = T.call_pure_extern("float32", "mlc_largest", masked)
    now = T.bind(T.max(splat(largest, LANES), before))
    fade = T.bind(exp2(level, T.bind(before - now), LANES))
    weight = T.bind(exp2(level, T.bind(masked - now), LANES))
    total = fma(level, scratch.total[at], fade, weight, LANES)
    T.buffer_store(scratch.total, total, [at])
    T.buffer_store(scratch.top, now, [at])
    T.buffer_store(scratch.fade, fade, [at])
    T.buffer_store(scratch.weights, weight, [at])


def _add_values(task: Task, page: Expr, tokens: Expr) -> None:
    """Fade the sums so far and add the page's latents."""
    lanes, latent, scratch = task.pages.lanes, task.pages.latent, task.scratch
    most = 4 if lanes == LANES else 2
    width = next(size for size in (most, 2, 1) if latent.rank // lanes % size == 0)
    with T.serial(T.int64(latent.rank // (lanes * width))) as step:
        first = T.bind(step * (width * lanes))
        sums = _sums(task, width)

        def place(h: int, c: int) -> Expr:
            return span(first + (h * latent.rank + c * lanes), lanes)

        for h, of_head in enumerate(sums):
            fade = T.bind(scratch.fade[span(h * LANES, lanes)])
            for c, total in enumerate(of_head):
                put(total, scratch.values[place(h, c)] * fade, lanes)
        with T.serial(tokens) as t:
            starts = [t * latent.width + first + c * lanes for c in range(width)]
            values = [task.load(page, start) for start in starts]
            for h, of_head in enumerate(sums):
                weight = T.bind(splat(scratch.weights[t + h * LANES], lanes))
                for value, total in zip(values, of_head, strict=True):
                    _add(task, total, weight, value)
        for h, of_head in enumerate(sums):
            for c, total in enumerate(of_head):
                T.buffer_store(scratch.values, get(total, lanes), [place(h, c)])


def _sums(task: Task, count: int) -> list[list[Var]]:
    """Zeroed vectors, so many for each head."""
    lanes = task.pages.lanes
    sums = [[registers(lanes) for _ in range(count)] for _ in range(task.together)]
    for of_head in sums:
        for total in of_head:
            put(total, const(0.0, lanes), lanes)
    return sums


def _add(task: Task, total: Var, factor: Expr, value: Expr) -> None:
    lanes = task.pages.lanes
    put(total, fma(task.pages.level, factor, value, get(total, lanes), lanes), lanes)
