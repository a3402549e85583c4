"""Causal attention over the paged KV pool, one kernel for prefill, decode and mixed batches.

A task is a tile of rows and a part of the KV heads; it goes through the pages once, chunk by chunk,
with all its heads.

Online softmax (Milakov and Gimelshein, 2018) over chunks of `CHUNK_PAGES` pages that start at page 0
of the sequence, whatever the tile. A vector of K is of sixteen tokens, so one operation advances
sixteen scores; one of V is of sixteen columns. How they are stored and multiplied: `kv_format`.
Scores are in base 2: queries come scaled by log2(e).

What must stay true, for a row's result to be bitwise the same in every batch and tile:
* a score is one chain of multiply-adds over d; a value is one chain over the tokens in order;
* chunk borders depend on positions only;
* a masked token adds exactly nothing (its score is MASKED, its weight exactly 0.0), and so does a
  whole masked chunk (the correction factor is exactly 1.0 after the row's tokens, and 0.0 before a
  window: chunks before it may be skipped or not).
Blocking (how many queries, pages and vectors share registers) is then free.

The pool may hold anything in slots that no row owns: their scores are masked by selection, never by
arithmetic, and their values are not read.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.compiler.abi import PAGE_SIZE, TILE_ROWS, round_up
from mlc_llm.kernels.cpu.exp2 import exp2
from mlc_llm.kernels.cpu.kv_bytes import (
    DIGITS,
    Queries,
    joined,
    queries,
    round_query,
    split_weights,
)
from mlc_llm.kernels.cpu.kv_format import LANES, KvFormat
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.rope import LOG2_E
from mlc_llm.kernels.cpu.vector import (
    arg,
    const,
    fma,
    get,
    held,
    iconst,
    intrinsic,
    prefetch,
    prim_func,
    put,
    registers,
    span,
    splat,
    symbol,
    tanh,
)
from mlc_llm.quantization.scheme import KvDtype, kv_width

CHUNK_PAGES = 8
PREFETCH_PAGES = 4
AHEAD_BYTES = 8 << 10
"""Of a head's K or V, when pages are asked for in the order of use."""

MASKED = -1e30

ACCUMULATORS = {16: 16, 8: 6, 4: 2}
"""By a register's float32 lanes: vectors of LANES that fit the registers beside their operands."""


class Shape(NamedTuple):
    """Static sizes of a model's attention."""

    heads: int
    kv_heads: int
    head_dim: int
    kv_dtype: KvDtype
    window: int | None = None
    """Latest tokens that a row attends to, its own included; None is all."""
    softcap: float | None = None

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.heads // self.kv_heads

    @property
    def padded(self) -> int:
        """Head size in the pool."""
        return round_up(self.head_dim, LANES)


class Block(NamedTuple):
    """What shares registers: `rows` tokens of a tile x `heads` of a group are its queries."""

    rows: int
    heads: int
    pages: int
    """Pages whose scores are summed together."""
    vectors: int
    """Vectors of V whose sums are carried together."""

    @property
    def queries(self) -> int:
        return self.rows * self.heads


class Arguments(NamedTuple):
    """The kernel's tensors."""

    q: Var
    pool: Var
    table: Var
    tiles: Var
    positions: Var
    layer: Var
    out: Var


class Scratch(NamedTuple):
    """State of one block of queries, in memory: vectors [query], or [query][page] and [query][d]."""

    top: Var
    """Largest score so far, in all lanes."""
    total: Var
    """Sum of weights so far, one partial sum a lane."""
    fade: Var
    """What the sums of the chunks before this one are multiplied by."""
    scores: Var
    """Scores of the chunk, then their weights."""
    factors: Var
    """The weights as values are multiplied by them; `scores` itself where that is float32."""
    values: Var
    """Weighted sums of V so far."""
    queries: Queries | None
    """Queries in bytes, where they are multiplied so; then `factors` has the digits of weights."""
    units: Var
    """What sums of V that are whole numbers are multiplied by."""
    ahead: Var
    """[K or V][page of the chunk]: where in the layer lies what memory is asked for meanwhile."""


class Work(NamedTuple):
    """Where one block of queries stands, as bound expressions."""

    rows: list[Expr]
    """Row of each of the block's token rows; rows past the tile repeat its last."""
    part: Expr
    """Which `block.heads` of each group these are."""
    first_head: Expr
    """First KV head of the task."""
    heads: Expr
    """KV heads of the task."""
    seq: Expr
    end: Expr
    """Tokens that the block's last row sees."""
    num_pages: Expr


class Here(NamedTuple):
    """One KV head of a task in one chunk."""

    nth: Expr
    """Of the task's heads."""
    page0: Expr
    count: Expr
    """Pages of the chunk that the sequence has."""


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
        args = arguments(fmt, shape)
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


def arguments(fmt: KvFormat, shape: Shape) -> Arguments:
    """Append the parameters."""
    n = symbol("n")
    page = fmt.elements(shape.head_dim)
    pool = (symbol("layers"), symbol("pages"), shape.kv_heads, 2, page)
    return Arguments(
        arg("q", (n, shape.heads, shape.padded), fmt.factor_dtype),
        arg("pool", pool, fmt.dtype),
        arg("page_table", (symbol("seqs"), symbol("width")), "int32"),
        arg("tiles", (symbol("tiles"), 4), "int32"),
        arg("positions", (n,), "int32"),
        T.arg("layer", T.int64()),
        arg("out", (n, shape.heads * shape.head_dim), "float32"),
    )


def block_of(fmt: KvFormat, shape: Shape, most_rows: int) -> Block:
    """The largest block of at most `most_rows` token rows whose sums fit the registers."""
    room = ACCUMULATORS[TRAITS[fmt.level].lanes]
    heads = _divisor(shape.group, min(8, room))
    rows = _divisor(most_rows, max(1, min(8, room) // heads))
    spare = max(1, room // (rows * heads))
    of_values = max(1, spare // DIGITS) if fmt.counts else spare
    pages, vectors = _divisor(CHUNK_PAGES, spare), _divisor(shape.padded // LANES, of_values)
    return Block(rows, heads, pages, vectors)


def _divisor(value: int, most: int) -> int:
    """The largest divisor of `value` that is at most `most`."""
    return next(d for d in range(min(value, most), 0, -1) if value % d == 0)


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
    scratch = _scratch(fmt, shape, block)
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
        _clear(shape, block, heads, scratch)
        if scratch.queries is not None:
            _round_queries(fmt, shape, block, args, work, scratch.queries)
        num_chunks = T.floordiv(num_pages + (CHUNK_PAGES - 1), CHUNK_PAGES)
        skipped = _skipped_chunks(shape, args, rows[0])
        with T.serial(num_chunks - skipped) as chunk, T.serial(heads) as head:
            page0 = held((chunk + skipped) * CHUNK_PAGES)
            count = held(T.min(num_pages - page0, T.int64(CHUNK_PAGES)))
            here = Here(head, page0, count)
            _look_ahead(fmt, shape, args, work, scratch, here)
            steps = T.bind(T.floordiv(count + (block.pages - 1), block.pages))
            with T.serial(steps) as step:
                _score_pages(fmt, shape, block, args, work, scratch, here, step)
            with T.serial(T.int64(block.queries)) as query:
                _weigh(fmt, shape, block, args, work, scratch, here, query, steps * block.pages)
            with T.serial(T.int64(shape.padded // LANES // block.vectors)) as nth_vector:
                _add_values(fmt, shape, block, args, work, scratch, here, nth_vector)
        with T.serial(heads) as head:
            _store(shape, block, args, work, scratch, head)


def _skipped_chunks(shape: Shape, args: Arguments, row: Expr) -> Expr:
    """Chunks before the window of a block's first row, and so of all its rows."""
    if shape.window is None:
        return T.int64(0)
    before = T.Cast("int64", args.positions[row]) + (1 - shape.window)
    return T.bind(T.floordiv(T.max(before, T.int64(0)), CHUNK_PAGES * PAGE_SIZE))


def _scratch(fmt: KvFormat, shape: Shape, block: Block) -> Scratch:
    def vectors(count: int, dtype: str = "float32") -> Var:
        return T.alloc_buffer((count * LANES,), dtype, scope="global")

    all_queries = block.queries * shape.kv_heads
    scores = factors = vectors(block.queries * CHUNK_PAGES)
    if fmt.counts:
        factors = vectors(block.queries * CHUNK_PAGES * DIGITS, "uint8")
    elif fmt.dots:
        factors = vectors(block.queries * CHUNK_PAGES, fmt.factor_dtype)
    fades = vectors(block.queries)
    return Scratch(
        vectors(all_queries),
        vectors(all_queries),
        fades,
        scores,
        factors,
        vectors(all_queries * shape.padded // LANES),
        queries(all_queries, shape.padded) if fmt.counts else None,
        vectors(block.queries) if fmt.counts else fades,
        T.alloc_buffer((2 * CHUNK_PAGES,), "int64", scope="global"),
    )


def _round_queries(
    fmt: KvFormat, shape: Shape, block: Block, args: Arguments, work: Work, found: Queries
) -> None:
    with T.serial(work.heads) as nth:
        head = T.bind((work.first_head + nth) * shape.group + work.part * block.heads)
        for j in range(block.queries):
            row = work.rows[j // block.heads]

            def read(at: Expr, row: Expr = row, of: Expr = head + j % block.heads) -> Expr:
                return args.q[row, of, at]

            round_query(fmt, found, T.bind(nth * block.queries + j), shape.padded, read)


def _at(index: Expr | int) -> Expr:
    """The index-th vector of a scratch array."""
    return span(index * LANES, LANES)


def _clear(shape: Shape, block: Block, heads: Expr, scratch: Scratch) -> None:
    with T.serial(heads * block.queries) as query:
        T.buffer_store(scratch.top, const(MASKED, LANES), [_at(query)])
        T.buffer_store(scratch.total, const(0.0, LANES), [_at(query)])
    with T.serial(heads * (block.queries * shape.padded // LANES)) as vector:
        T.buffer_store(scratch.values, const(0.0, LANES), [_at(vector)])


def _page(args: Arguments, work: Work, index: Expr) -> Expr:
    """The pool's page that is the index-th of the sequence, or its last."""
    return T.bind(T.Cast("int64", args.table[work.seq, T.min(index, work.num_pages - 1)]))


def _look_ahead(
    fmt: KvFormat, shape: Shape, args: Arguments, work: Work, scratch: Scratch, here: Here
) -> None:
    """Fill `scratch.ahead`: what to ask memory for while each page of a chunk is computed.

    Where lines are multiplied faster than memory brings them, they are asked for in the order of
    use: K, V, then K of the next head or chunk. What was asked for long before has left the fastest
    cache again. Slower formats lose by this: the pages of the next chunk are the better choice.

    All of it is known but for the chunk and the head: LLVM takes tens of seconds to think through
    addresses that are chosen and bounded in the loops that use them.
    """
    size = fmt.elements(shape.head_dim)
    own = T.bind(work.first_head + here.nth)

    def put_place(side: int, p: int, page: Expr, head: Expr, of_side: int) -> None:
        found = _page(args, work, page)
        place = ((found * shape.kv_heads + head) * 2 + of_side) * size
        T.buffer_store(scratch.ahead, place, [side * CHUNK_PAGES + p])

    if not (fmt.dots or fmt.counts):
        for p in range(CHUNK_PAGES):
            for side in range(2):
                put_place(side, p, here.page0 + (p + PREFETCH_PAGES), own, side)
        return
    last = T.bind(here.nth + 1 == work.heads)
    next_head = T.bind(work.first_head + T.Select(last, T.int64(0), here.nth + 1))
    next_page0 = T.bind(here.page0 + T.Select(last, T.int64(CHUNK_PAGES), T.int64(0)))
    distance = AHEAD_BYTES // (PAGE_SIZE * shape.padded * kv_width(fmt.kv_dtype))
    distance = max(1, min(distance, PREFETCH_PAGES))
    for p in range(CHUNK_PAGES):
        later, index = divmod(p + distance, CHUNK_PAGES)
        put_place(0, p, here.page0 + index, own, later)
        if later:
            put_place(1, p, next_page0 + index, next_head, 0)
        else:
            put_place(1, p, here.page0 + index, own, 1)


def _score_pages(
    fmt: KvFormat,
    shape: Shape,
    block: Block,
    args: Arguments,
    work: Work,
    scratch: Scratch,
    here: Here,
    step: Expr,
) -> None:
    """Scores of all queries with the 16 tokens of each of `block.pages` pages."""
    first = T.bind(step * block.pages)
    pages = [_page(args, work, here.page0 + first + u) for u in range(block.pages)]
    kv_head = T.bind(work.first_head + here.nth)
    ahead = [T.bind(scratch.ahead[first + u]) for u in range(block.pages)]
    head = T.bind(kv_head * shape.group + work.part * block.heads)
    own = scratch.queries
    of_task = T.bind(here.nth * block.queries)
    sums = [[registers(LANES, fmt.sum_dtype) for _ in pages] for _ in range(block.queries)]
    for j, query in enumerate(sums):
        start = const(0.0, LANES) if own is None else splat(own.starts[of_task + j], LANES)
        for page_sum in query:
            put(page_sum, start, LANES)
    if fmt.scaled:
        for place in ahead:
            at = place + fmt.scale_place(0, shape.padded)
            prefetch(args.pool, args.layer, 0, 0, 0, at)
            prefetch(args.pool, args.layer, 0, 0, 1, at)
    with T.serial(T.int64(shape.padded // fmt.pack // fmt.per_line)) as line:
        at = line * (fmt.per_line * fmt.pack * LANES)
        for place in ahead:
            prefetch(args.pool, args.layer, 0, 0, 0, place + at)
        for i in range(fmt.per_line):
            d = T.bind(line * fmt.per_line + i)
            stored = [args.pool[args.layer, page, kv_head, 0, fmt.at(d)] for page in pages]
            keys = [fmt.load_key(key) for key in stored]
            for j, query in enumerate(sums):
                place = [work.rows[j // block.heads], head + j % block.heads]
                if own is None:
                    factors = fmt.factors(args.q, place, d)
                else:
                    columns = (of_task + j) * (shape.padded // fmt.pack)
                    factors = fmt.factors(own.columns, [], columns + d)
                for key, page_sum in zip(keys, query, strict=True):
                    fmt.advance(page_sum, key, factors)
    scales = [_scales(fmt, shape, args, page, kv_head, 0) for page in pages if fmt.scaled]
    for j, query in enumerate(sums):
        position = splat(args.positions[work.rows[j // block.heads]], LANES)
        for u, page_sum in enumerate(query):
            token = T.ramp(T.Cast("int32", (here.page0 + first + u) * PAGE_SIZE), 1, LANES)
            score = get(page_sum, LANES)
            if own is not None:
                score = T.Cast("float32x16", score) * splat(own.scales[of_task + j], LANES)
            if fmt.scaled:
                score = score * scales[u]
            score = _capped(fmt.level, shape, T.bind(score))
            if shape.window is not None:
                oldest = position - iconst(shape.window - 1, LANES)
                score = T.Select(token >= oldest, score, const(MASKED, LANES))
            masked = T.Select(token <= position, score, const(MASKED, LANES))
            T.buffer_store(scratch.scores, masked, [_at(first + u + j * CHUNK_PAGES)])


def _scales(
    fmt: KvFormat, shape: Shape, args: Arguments, page: Expr, head: Expr, side: int
) -> Expr:
    """Scales of a page's tokens, of K or of V."""
    return T.bind(fmt.scales(lambda at: args.pool[args.layer, page, head, side, at], shape.padded))


def _capped(level: Level, shape: Shape, score: Expr) -> Expr:
    if shape.softcap is None:
        return score
    cap = shape.softcap * LOG2_E  # scores are in base 2
    inner = T.bind(score * const(1 / cap, LANES))
    return T.bind(tanh(level, inner, LANES) * const(cap, LANES))


def _weigh(
    fmt: KvFormat,
    shape: Shape,
    block: Block,
    args: Arguments,
    work: Work,
    scratch: Scratch,
    here: Here,
    query: Expr,
    num_pages: Expr,
) -> None:
    """Turn the chunk's scores of one query into weights relative to the largest score so far."""
    level = fmt.level
    top, total, heaviest = registers(LANES), registers(LANES), registers(LANES)
    put(top, const(MASKED, LANES), LANES)
    with T.serial(num_pages) as page:
        put(top, T.max(get(top, LANES), scratch.scores[_at(query * CHUNK_PAGES + page)]), LANES)
    largest = fmt.largest(get(top, LANES))
    state = T.bind(here.nth * block.queries + query)
    before = T.bind(scratch.top[_at(state)])
    now = T.bind(T.max(splat(largest, LANES), before))
    fade = exp2(level, T.bind(before - now), LANES)
    put(total, const(0.0, LANES), LANES)
    if fmt.counts:
        put(heaviest, const(0.0, LANES), LANES)
    with T.serial(num_pages) as page:
        place = T.bind(query * CHUNK_PAGES + page)
        below = T.bind(scratch.scores[_at(place)] - now)
        weight = T.bind(exp2(level, below, LANES, coarse=fmt.dots))
        put(total, get(total, LANES) + weight, LANES)
        if fmt.scaled:
            of_page = _page(args, work, here.page0 + page)
            scales = _scales(fmt, shape, args, of_page, work.first_head + here.nth, 1)
            owned = weight > const(0.0, LANES)
            weight = T.bind(T.Select(owned, weight * scales, const(0.0, LANES)))
        if fmt.counts:
            put(heaviest, T.max(get(heaviest, LANES), weight), LANES)
            T.buffer_store(scratch.scores, weight, [_at(place)])
        else:
            T.buffer_store(scratch.factors, fmt.factor(weight, LANES), [_at(place)])
    if fmt.counts:
        unit = split_weights(
            fmt, heaviest, scratch.scores, scratch.factors, query, num_pages, CHUNK_PAGES
        )
        T.buffer_store(scratch.units, splat(unit, LANES), [_at(query)])
    faded = fma(level, scratch.total[_at(state)], fade, get(total, LANES), LANES)
    T.buffer_store(scratch.total, faded, [_at(state)])
    T.buffer_store(scratch.top, now, [_at(state)])
    T.buffer_store(scratch.fade, fade, [_at(query)])


def _add_values(
    fmt: KvFormat,
    shape: Shape,
    block: Block,
    args: Arguments,
    work: Work,
    scratch: Scratch,
    here: Here,
    nth: Expr,
) -> None:
    """Fade the sums of the earlier chunks and add this chunk's: `block.vectors` vectors of V."""
    vectors = shape.padded // LANES
    first = T.bind(nth * block.vectors)
    kv_head = T.bind(work.first_head + here.nth)
    state = T.bind(here.nth * (block.queries * vectors) + first)
    digits = DIGITS if fmt.counts else 1
    sums = [
        [registers(LANES, fmt.sum_dtype) for _ in range(block.vectors)]
        for _ in range(block.queries * digits)
    ]

    def faded(j: int, v: int) -> Expr:
        return scratch.values[_at(state + (j * vectors + v))] * scratch.fade[_at(j)]

    for j, query in enumerate(sums):
        for v, value_sum in enumerate(query):
            put(value_sum, iconst(0, LANES) if fmt.counts else faded(j, v), LANES)

    def add(p: Expr, page: Expr, ahead: Expr, group: Expr, whole: bool) -> None:
        """Tokens group * pack, ... of a page, or of them only the first."""
        row = T.bind(group * vectors + first)
        for v in range(0, block.vectors, fmt.per_line):
            at = (row + v) * (fmt.pack * LANES)
            prefetch(args.pool, args.layer, 0, 0, 0, ahead + at)
        stored = [
            args.pool[args.layer, page, kv_head, 1, fmt.at(row + v)] for v in range(block.vectors)
        ]
        values = [fmt.load(value if whole else fmt.only_even(value)) for value in stored]
        for j, query in enumerate(sums):
            first_weight = T.bind((p + j * CHUNK_PAGES) * (LANES // fmt.pack))
            factors = fmt.factors(scratch.factors, [], first_weight + group)
            for value, value_sum in zip(values, query, strict=True):
                fmt.advance(value_sum, factors, value)  # in bytes, weights have no sign

    with T.serial(here.count) as p:
        page = _page(args, work, here.page0 + p)
        ahead = T.bind(scratch.ahead[p + CHUNK_PAGES])
        left = work.end - (here.page0 + p) * PAGE_SIZE
        tokens = T.bind(T.min(left, T.int64(PAGE_SIZE)))
        # What a slot without a token holds may not be a number, unless it is bytes.
        partly = fmt.pack - 1 if fmt.scaled else 0
        groups = T.bind(T.floordiv(tokens + partly, fmt.pack))
        with T.serial(groups) as group:
            add(p, page, ahead, group, whole=True)
        if fmt.pack == 2:
            with T.If(groups * fmt.pack < tokens), T.Then():
                add(p, page, ahead, groups, whole=False)
    for j in range(block.queries):
        for v in range(block.vectors):
            done = get(sums[j * digits][v], LANES)
            if fmt.counts:
                whole = joined(done, get(sums[j * digits + 1][v], LANES))
                done = fma(fmt.level, whole, scratch.units[_at(j)], faded(j, v), LANES)
            T.buffer_store(scratch.values, done, [_at(state + (j * vectors + v))])


def _store(
    shape: Shape, block: Block, args: Arguments, work: Work, scratch: Scratch, nth: Expr
) -> None:
    """Divide by the sums of weights and write the rows; a repeated row is written again."""
    lanes = gcd(shape.head_dim, LANES)  # no vector of `out` crosses from one head to the next
    head = T.bind((work.first_head + nth) * shape.group + work.part * block.heads)
    for j in range(block.queries):
        query = T.bind(nth * block.queries + j)
        totals = scratch.total[_at(query)]
        total = intrinsic("float32", "llvm.vector.reduce.fadd", T.float32(0), totals)
        scale = T.bind(splat(T.float32(1) / total, lanes))
        column = T.bind((head + j % block.heads) * shape.head_dim)
        with T.serial(T.int64(shape.head_dim // lanes)) as v:
            value = scratch.values[span(v * lanes + query * shape.padded, lanes)] * scale
            place = [work.rows[j // block.heads], span(column + v * lanes, lanes)]
            T.buffer_store(args.out, value, place)
