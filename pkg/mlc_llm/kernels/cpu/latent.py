"""Attention over compressed keys and values (DeepSeek-V2's multi-head latent attention).

A token leaves one latent vector and one rotated key in the pool, which all heads share. Matrices that
make keys and values of a latent are applied to queries before and to results after (`linear_heads`),
so that neither is ever made. A page is [16 tokens][rank + rope_dim]; latents are keys and values.

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
from mlc_llm.kernels.cpu.kv_format import to_bfloat16
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.norm import inverse_rms
from mlc_llm.kernels.cpu.rope_heads import LOG2_E
from mlc_llm.kernels.cpu.vector import (
    arg,
    const,
    fma,
    for_each_row,
    get,
    iconst,
    prim_func,
    put,
    registers,
    span,
    splat,
    symbol,
    widen_half,
)
from mlc_llm.models.architecture import Latent
from mlc_llm.quantization.scheme import KvDtype, kv_storage

MASKED = -1e30
LANES = PAGE_SIZE
"""Vectors of scores are of one page's tokens."""

REDUCTIONS = """
define linkonce_odr float @mlc_sum_{lanes}(<{lanes} x float> %a) alwaysinline nounwind readnone {{
  %r = call reassoc float @llvm.vector.reduce.fadd.v{lanes}f32(float -0.0, <{lanes} x float> %a)
  ret float %r
}}
declare float @llvm.vector.reduce.fadd.v{lanes}f32(float, <{lanes} x float>)

define linkonce_odr float @mlc_most_16(<16 x float> %a) alwaysinline nounwind readnone {{
  %r = call nnan float @llvm.vector.reduce.fmax.v16f32(<16 x float> %a)
  ret float %r
}}
declare float @llvm.vector.reduce.fmax.v16f32(<16 x float>)
"""
"""Trees of sums and maxima; what TVM can say makes LLVM take one lane after the other."""


class Rows(NamedTuple):
    """The parameters of `latent_attention`."""

    latents: Var
    turned: Var
    pool: Var
    table: Var
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


def latent_append(level: Level, latent: Latent, heads: int, kv_dtype: KvDtype) -> PrimFunc:
    """(q f32[n, Hq (N + R)], kv f32[n, rank + R], rope f32[c, R], positions int32[n], slots
    int32[n], norm f32[rank], pool, layer int64, turned f32[n, Hq R]).

    Writes the normalised latents and the rotated keys of the rows into the pool, and gives the
    rotated part of the queries; N is `nope_dim`, R `rope_dim`.
    """
    rank, rope_dim, nope = latent.rank, latent.rope_dim, latent.nope_dim
    half, width = rope_dim // 2, latent.width
    low, high = (2, 1) if latent.interleaved else (1, half)

    def emit() -> None:
        n = symbol("n")
        q = arg("q", (n, heads * (nope + rope_dim)), "float32")
        kv = arg("kv", (n, rank + rope_dim), "float32")
        rope = arg("rope", (symbol("reach"), rope_dim), "float32")
        positions = arg("positions", (n,), "int32")
        slots = arg("slots", (n,), "int32")
        norm = arg("norm", (rank,), "float32")
        pool = _pool(width, kv_dtype)
        layer = T.arg("layer", T.int64())
        turned = arg("turned", (n, heads * rope_dim), "float32")

        def rotated(source: Var, row: Expr, first: Expr, pair: Expr) -> tuple[Expr, Expr]:
            position = T.Cast("int64", positions[row])
            cos, sin = T.bind(rope[position, pair]), T.bind(rope[position, pair + half])
            x = T.bind(source[row, first + pair * low])
            y = T.bind(source[row, first + pair * low + high])
            return x * cos - y * sin, y * cos + x * sin

        def append(row: Expr) -> None:
            page = T.bind(T.floordiv(T.Cast("int64", slots[row]), PAGE_SIZE))
            slot = T.bind(T.floormod(T.Cast("int64", slots[row]), PAGE_SIZE))
            factor = T.bind(inverse_rms(level, kv, row, 0, rank, latent.norm_eps))
            with T.serial(T.int64(rank // LANES)) as v:
                columns = span(v * LANES, LANES)
                value = T.bind(kv[row, columns] * splat(factor, LANES) * norm[columns])
                place = span(slot * width + v * LANES, LANES)
                T.buffer_store(pool, _stored(kv_dtype, value, LANES), [layer, page, 0, 0, place])
            with T.serial(T.int64(half)) as pair:
                for i, value in enumerate(rotated(kv, row, T.int64(rank), pair)):
                    place = slot * width + (pair + (rank + i * half))
                    stored = _stored(kv_dtype, T.bind(value), 1)
                    T.buffer_store(pool, stored, [layer, page, 0, 0, place])
            with T.serial(T.int64(heads)) as head, T.serial(T.int64(half)) as pair:
                first = head * (nope + rope_dim) + nope
                for i, value in enumerate(rotated(q, row, first, pair)):
                    T.buffer_store(turned, value, [row, head * rope_dim + pair + i * half])

        for_each_row(n, append)

    return prim_func(emit)


def latent_attention(
    level: Level, latent: Latent, heads: int, kv_dtype: KvDtype, scale: float
) -> PrimFunc:
    """(q f32[n, Hq rank], turned f32[n, Hq R], pool, page_table, tiles, positions, layer int64,
    out f32[n, Hq rank]); q are queries as latents see them, `turned` is `latent_append`'s, a result
    is a weighted sum of latents. Page table and tiles as in `compiler.abi`."""
    together = heads_together(level, heads)

    def emit() -> None:
        n = symbol("n")
        q = arg("q", (n, heads * latent.rank), "float32")
        turned = arg("turned", (n, heads * latent.rope_dim), "float32")
        pool = _pool(latent.width, kv_dtype)
        table = arg("page_table", (symbol("seqs"), symbol("width")), "int32")
        tiles = arg("tiles", (symbol("tiles"), 4), "int32")
        positions = arg("positions", (n,), "int32")
        layer = T.arg("layer", T.int64())
        out = arg("out", (n, heads * latent.rank), "float32")
        use = Rows(q, turned, pool, table, positions, layer, out)
        code = REDUCTIONS.format(lanes=TRAITS[level].lanes)
        if TRAITS[level].lanes != LANES:
            code += REDUCTIONS.format(lanes=LANES).partition("define linkonce_odr float @mlc_most")[
                0
            ]
        num_tiles = tiles.shape[0]
        tasks = num_tiles * (heads // together)
        with T.attr(T.int32(0), "pragma_import_llvm", code), T.parallel(tasks) as task:
            part = T.bind(T.floordiv(task, num_tiles))
            tile = T.bind(T.floormod(task, num_tiles))
            seq = T.bind(T.Cast("int64", tiles[tile, 2]))
            first = T.bind(T.Cast("int64", tiles[tile, 0]))
            scratch = _scratch(latent, together)
            with T.serial(T.Cast("int64", tiles[tile, 1])) as i:
                row, head = T.bind(first + i), T.bind(part * together)
                _attend(level, latent, kv_dtype, scale * LOG2_E, use, scratch, row, head, seq)

    return prim_func(emit)


def heads_together(level: Level, heads: int) -> int:
    """Heads whose sums fit the registers beside those of as many tokens."""
    most = 4 if TRAITS[level].lanes == LANES else 2
    return next(size for size in (most, 2, 1) if heads % size == 0)


def _pool(width: int, kv_dtype: KvDtype) -> Var:
    shape = (symbol("layers"), symbol("pages"), 1, 1, PAGE_SIZE * width)
    return arg("pool", shape, kv_storage(kv_dtype))


def _scratch(latent: Latent, heads: int) -> Scratch:
    def floats(size: int) -> Var:
        return T.alloc_buffer((size,), "float32", scope="global")

    vectors = heads * LANES
    return Scratch(
        floats(vectors), floats(vectors), floats(vectors), floats(vectors),
        floats(heads * latent.rank),
    )  # fmt: skip


def _attend(
    level: Level,
    latent: Latent,
    kv_dtype: KvDtype,
    scale: float,
    use: Rows,
    scratch: Scratch,
    row: Expr,
    head: Expr,
    seq: Expr,
) -> None:
    """Some heads of a row, by online softmax over its pages."""
    rank, heads = latent.rank, int(scratch.top.shape[0]) // LANES
    end = T.bind(T.Cast("int64", use.positions[row]) + 1)
    for h in range(heads):
        T.buffer_store(scratch.top, const(MASKED, LANES), [span(h * LANES, LANES)])
        T.buffer_store(scratch.total, const(0.0, LANES), [span(h * LANES, LANES)])
    with T.serial(T.int64(heads * rank // LANES)) as v:
        T.buffer_store(scratch.values, const(0.0, LANES), [span(v * LANES, LANES)])
    with T.serial(T.floordiv(end + (PAGE_SIZE - 1), PAGE_SIZE)) as index:
        page = T.bind(T.Cast("int64", use.table[seq, index]))
        tokens = T.bind(T.min(end - index * PAGE_SIZE, T.int64(PAGE_SIZE)))
        _score(level, latent, kv_dtype, use, scratch, row, head, page)
        for h in range(heads):
            _weigh(level, scratch, h, tokens, scale)
        _add_values(level, latent, kv_dtype, use, scratch, page, tokens)
    for h in range(heads):
        total = _sum(scratch.total[span(h * LANES, LANES)], LANES)
        inverse = T.bind(splat(T.float32(1) / total, LANES))
        with T.serial(T.int64(rank // LANES)) as v:
            value = scratch.values[span(h * rank + v * LANES, LANES)] * inverse
            T.buffer_store(use.out, value, [row, span((head + h) * rank + v * LANES, LANES)])


def _score(
    level: Level,
    latent: Latent,
    kv_dtype: KvDtype,
    use: Rows,
    scratch: Scratch,
    row: Expr,
    head: Expr,
    page: Expr,
) -> None:
    """The products of the heads with all tokens of a page, some of each at a time."""
    lanes, heads = TRAITS[level].lanes, int(scratch.top.shape[0]) // LANES
    tokens = 4 if lanes == LANES else 2
    with T.serial(T.int64(PAGE_SIZE // tokens)) as step:
        sums = [[registers(lanes) for _ in range(tokens)] for _ in range(heads)]
        for of_head in sums:
            for total in of_head:
                put(total, const(0.0, lanes), lanes)
        parts = ((use.latents, latent.rank, 0), (use.turned, latent.rope_dim, latent.rank))
        for queries, count, start in parts:
            with T.serial(T.int64(count // lanes)) as v:
                keys = [
                    _load(
                        level,
                        kv_dtype,
                        use,
                        page,
                        (step * tokens + t) * latent.width + start + v * lanes,
                    )
                    for t in range(tokens)
                ]
                for h, of_head in enumerate(sums):
                    query = T.bind(queries[row, span((head + h) * count + v * lanes, lanes)])
                    for key, total in zip(keys, of_head, strict=True):
                        put(total, fma(level, query, key, get(total, lanes), lanes), lanes)
        for h, of_head in enumerate(sums):
            for t, total in enumerate(of_head):
                place = [step * tokens + (h * LANES + t)]
                T.buffer_store(scratch.weights, _sum(get(total, lanes), lanes), place)


def _weigh(level: Level, scratch: Scratch, head: int, tokens: Expr, scale: float) -> None:
    """Turn scores of a page into weights relative to the largest score so far. Scores of slots that
    are not the row's may be anything, and are dropped by selection."""
    at = span(head * LANES, LANES)
    seen = T.ramp(T.int32(0), 1, LANES) < splat(T.Cast("int32", tokens), LANES)
    scores = scratch.weights[at] * const(scale, LANES)
    masked = T.bind(T.Select(seen, scores, const(MASKED, LANES)))
    before = T.bind(scratch.top[at])
    largest = T.call_pure_extern("float32", "mlc_most_16", masked)
    now = T.bind(T.max(splat(largest, LANES), before))
    fade = T.bind(exp2(level, T.bind(before - now), LANES))
    weight = T.bind(exp2(level, T.bind(masked - now), LANES))
    total = fma(level, scratch.total[at], fade, weight, LANES)
    for buffer, value in (
        (scratch.total, total), (scratch.top, now), (scratch.fade, fade), (scratch.weights, weight)
    ):  # fmt: skip
        T.buffer_store(buffer, value, [at])


def _add_values(
    level: Level,
    latent: Latent,
    kv_dtype: KvDtype,
    use: Rows,
    scratch: Scratch,
    page: Expr,
    tokens: Expr,
) -> None:
    """Fade the sums so far and add the page's latents."""
    lanes, heads = TRAITS[level].lanes, int(scratch.top.shape[0]) // LANES
    vectors = latent.rank // lanes
    together = next(size for size in (4, 2, 1) if vectors % size == 0)
    if lanes != LANES:
        together = min(together, 2)
    with T.serial(T.int64(vectors // together)) as step:
        first = T.bind(step * (together * lanes))
        places = [
            [span(first + (h * latent.rank + c * lanes), lanes) for c in range(together)]
            for h in range(heads)
        ]
        sums = [[registers(lanes) for _ in range(together)] for _ in range(heads)]
        for h, of_head in enumerate(sums):
            fade = T.bind(scratch.fade[span(h * LANES, lanes)])
            for c, total in enumerate(of_head):
                put(total, scratch.values[places[h][c]] * fade, lanes)
        with T.serial(tokens) as t:
            values = [
                _load(level, kv_dtype, use, page, t * latent.width + first + c * lanes)
                for c in range(together)
            ]
            for h, of_head in enumerate(sums):
                weight = T.bind(splat(scratch.weights[t + h * LANES], lanes))
                for value, total in zip(values, of_head, strict=True):
                    put(total, fma(level, weight, value, get(total, lanes), lanes), lanes)
        for h, of_head in enumerate(sums):
            for c, total in enumerate(of_head):
                T.buffer_store(scratch.values, get(total, lanes), [places[h][c]])


def _sum(values: Expr, lanes: int) -> Expr:
    return T.call_pure_extern("float32", f"mlc_sum_{lanes}", values)


def _load(level: Level, kv_dtype: KvDtype, use: Rows, page: Expr, first: Expr) -> Expr:
    """A vector of a page as float32."""
    lanes = TRAITS[level].lanes
    value = use.pool[use.layer, page, 0, 0, span(first, lanes)]
    if kv_dtype == "float32":
        return T.bind(value)
    if kv_dtype == "float16":
        return T.bind(widen_half(level, value, lanes))
    bits = T.shift_left(T.Cast(f"int32x{lanes}", value), iconst(16, lanes))
    return T.bind(T.reinterpret(f"float32x{lanes}", bits))


def _stored(kv_dtype: KvDtype, value: Expr, lanes: int) -> Expr:
    if kv_dtype == "bfloat16":
        return to_bfloat16(value, lanes)
    return T.Cast(kv_dtype if lanes == 1 else f"{kv_dtype}x{lanes}", value)
