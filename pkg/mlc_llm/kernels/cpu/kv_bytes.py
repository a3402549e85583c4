"""K and V in 8 bits: how they are rounded, and how bytes are multiplied as whole numbers.

A head of a token, of K and of V, is whole numbers of -127 .. 127 times one scale. Where the CPU adds
products of four bytes to an int32, a row's query is rounded the same way (scores are then exact
sums of whole numbers), and the chunk's weights times the scales of V become sixteen bits: the first
token of a text often takes nearly all weight, and with eight bits the others would vanish beside it.
Elsewhere bytes become float32 before they are multiplied.

Whole numbers add up the same in any order, so none of this depends on a row's batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import Var

from mlc_llm.kernels.cpu.kv_format import LANES, KvFormat
from mlc_llm.kernels.cpu.vector import const, get, iconst, intrinsic, put, registers, span, splat

MOST = 127
OFFSET = 128
"""What bytes of K are too large by."""

DIGITS = 2
"""Bytes of a weight: the sums over tokens of each are kept apart, the high one first."""
MOST_WEIGHT = 65535
LEAST_SIZE = 1e-30
"""Numbers whose largest is smaller are rounded to 0."""


class Queries(NamedTuple):
    """Queries of a task in bytes: [query] or [query][d], queries of one KV head together."""

    columns: Var
    scales: Var
    starts: Var
    """What a sum of products with bytes of K starts at, because these are too large."""


def queries(count: int, padded: int) -> Queries:
    """Memory for `count` queries."""

    def array(size: int, dtype: str) -> Var:
        return T.alloc_buffer((size,), dtype, scope="global")

    return Queries(array(count * padded, "int8"), array(count, "float32"), array(count, "int32"))


def _rounding(fmt: KvFormat, top: Expr) -> tuple[Expr, Expr]:
    """From vectors' largest absolute values: what numbers are multiplied by, and its inverse."""
    largest = T.bind(fmt.largest(top))
    fits = largest > T.float32(LEAST_SIZE)
    factor = T.Select(fits, T.float32(MOST) / largest, T.float32(0))
    return T.bind(factor), T.bind(largest * T.float32(1 / MOST))


def _size(x: Expr) -> Expr:
    return T.max(x, const(0.0, LANES) - x)


def round_query(
    fmt: KvFormat, found: Queries, index: Expr, padded: int, read: Callable[[Expr], Expr]
) -> None:
    """Round the query whose columns `read` returns, and keep it as the index-th."""
    top, total = registers(LANES), registers(LANES, "int32")
    put(top, const(0.0, LANES), LANES)
    put(total, iconst(0, LANES), LANES)
    with T.serial(T.int64(padded // LANES)) as v:
        put(top, T.max(get(top, LANES), _size(T.bind(read(span(v * LANES, LANES))))), LANES)
    factor, scale = _rounding(fmt, get(top, LANES))
    with T.serial(T.int64(padded // LANES)) as v:
        exact = read(span(v * LANES, LANES)) * splat(factor, LANES)
        whole = T.bind(T.Cast("int32x16", intrinsic("float32x16", "llvm.rint", exact)))
        put(total, get(total, LANES) + whole, LANES)
        place = span(index * padded + v * LANES, LANES)
        T.buffer_store(found.columns, T.Cast("int8x16", whole), [place])
    start = intrinsic("int32", "llvm.vector.reduce.add", get(total, LANES)) * T.int32(-OFFSET)
    T.buffer_store(found.starts, start, [index])
    T.buffer_store(found.scales, scale, [index])


def round_head(fmt: KvFormat, head: Var, line: Var, padded: int, signed: bool) -> Expr:
    """Round a token's head float32[padded] to bytes, in `line`; returns their scale."""
    top = registers(LANES)
    put(top, const(0.0, LANES), LANES)
    with T.serial(T.int64(padded // LANES)) as v:
        put(top, T.max(get(top, LANES), _size(T.bind(head[span(v * LANES, LANES)]))), LANES)
    factor, scale = _rounding(fmt, get(top, LANES))
    with T.serial(T.int64(padded // LANES)) as v:
        exact = head[span(v * LANES, LANES)] * splat(factor, LANES)
        bytes_ = T.Cast("int32x16", exact + const(OFFSET + 0.5, LANES))
        if signed:
            bytes_ = T.bitwise_xor(bytes_, iconst(OFFSET, LANES))
        T.buffer_store(line, T.Cast("uint8x16", bytes_), [span(v * LANES, LANES)])
    return scale


def split_weights(
    fmt: KvFormat, largest: Var, weights: Var, digits: Var, query: Expr, num_pages: Expr, most: int
) -> Expr:
    """Round a query's weights [page][16] to sixteen bits, as `digits` [query][digit][page][16].

    `largest` holds the largest of them lane by lane, `most` is the pages of a chunk. Returns what
    sums are multiplied by.
    """
    top = T.bind(fmt.largest(get(largest, LANES)))
    fits = top > T.float32(LEAST_SIZE)
    factor = T.bind(T.Select(fits, T.float32(MOST_WEIGHT) / top, T.float32(0)))
    with T.serial(num_pages) as page:
        exact = weights[span((query * most + page) * LANES, LANES)] * splat(factor, LANES)
        whole = T.bind(T.Cast("int32x16", intrinsic("float32x16", "llvm.rint", exact)))
        parts = (T.shift_right(whole, iconst(8, LANES)), T.bitwise_and(whole, iconst(255, LANES)))
        for digit, part in enumerate(parts):
            place = ((query * DIGITS + digit) * most + page) * LANES
            T.buffer_store(digits, T.Cast("uint8x16", part), [span(place, LANES)])
    return T.bind(top * T.float32(1 / MOST_WEIGHT))


def joined(high: Expr, low: Expr) -> Expr:
    """The sum that two sums of digits make: at most 128 tokens * 65535 * 127 < 2^31."""
    return T.Cast(f"float32x{LANES}", T.shift_left(high, iconst(8, LANES)) + low)
