"""Rotate queries and keys, and write K and V of the new tokens into their pages.

Runs before `attention` of the same layer, which reads the pages. How heads are normalised and rotated
is `rope_heads`' business.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import gcd

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.kernels.cpu.kv_bytes import round_head
from mlc_llm.kernels.cpu.kv_format import LANES, KvFormat
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.rope_heads import Heads, Rotation, Rows, Source
from mlc_llm.kernels.cpu.vector import (
    arg,
    const,
    for_each_row,
    prim_func,
    span,
    symbol,
)
from mlc_llm.quantization.scheme import SCALE_BYTES, KvDtype

Write = Callable[[Expr, Expr, int], None]
"""Takes a column of a head, the values from it on, and how many they are."""


def rope_append(
    level: Level,
    heads: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: KvDtype,
    rotation: Rotation = Rotation(),
) -> PrimFunc:
    """(qkv f32[n, (Hq + 2 Hkv) * D], rope f32[c, W], positions int32[n], slots int32[n]
    [, q_norm f32[N], k_norm f32[N]], pool, layer int64, q[n, Hq, Dp]).

    q is rotated, scaled by log2(e) / sqrt(D), rounded as `attention` multiplies it, and padded with
    zeros from D to Dp; so are K and V in the pool (layout in `compiler.abi`). Norms have D weights,
    or as many as their heads have columns.
    """
    of = Heads(level, heads, kv_heads, head_dim, KvFormat(level, kv_dtype), rotation)

    def emit() -> None:
        n = symbol("n")
        rows = _arguments(of, n)
        with of.fmt.instructions():
            for_each_row(n, partial(_append, rows))

    return prim_func(emit)


def _arguments(of: Heads, n: Var) -> Rows:
    """Append the parameters."""
    qkv = arg("qkv", (n, (of.heads + 2 * of.kv_heads) * of.head_dim), "float32")
    rope = arg("rope", (symbol("reach"), of.rotation.width or of.rope_dim), "float32")
    positions = arg("positions", (n,), "int32")
    slots = arg("slots", (n,), "int32")
    weights: list[Var | None] = [None, None]
    if of.rotation.qk_norm is not None:
        norms = (("q_norm", of.heads), ("k_norm", of.kv_heads))
        sizes = [(name, count if of.by_row else 1) for name, count in norms]
        weights = [arg(name, (count * of.head_dim,), "float32") for name, count in sizes]
    queries, keys = Source(0, of.heads, weights[0]), Source(of.heads, of.kv_heads, weights[1])
    page = of.fmt.elements(of.head_dim)
    pool = arg("pool", (symbol("layers"), symbol("pages"), of.kv_heads, 2, page), of.fmt.dtype)
    layer = T.arg("layer", T.int64())
    q = arg("q", (n, of.heads, of.padded), of.fmt.factor_dtype)
    return Rows(of, qkv, rope, positions, slots, queries, keys, pool, layer, q)


def _append(rows: Rows, row: Expr) -> None:
    """All of one row: its queries, and K and V into its slot."""
    of = rows.of
    page = T.bind(T.floordiv(T.Cast("int64", rows.slots[row]), PAGE_SIZE))
    slot = T.bind(T.floormod(T.Cast("int64", rows.slots[row]), PAGE_SIZE))
    of_queries = rows.factor_of(rows.queries, row, 0) if of.by_row else None
    of_keys = rows.factor_of(rows.keys, row, 0) if of.by_row else None
    with T.serial(T.int64(of.heads)) as head:
        factor = of_queries if of.by_row else rows.factor_of(rows.queries, row, head)
        _query(rows, row, head, factor)
    with T.serial(T.int64(of.kv_heads)) as head:
        factor = of_keys if of.by_row else rows.factor_of(rows.keys, row, head)
        _append_head(rows, 0, page, slot, head, partial(_key, rows, row, head, factor))
        _append_head(rows, 1, page, slot, head, partial(_value, rows, row, head))


def _query(rows: Rows, row: Expr, head: Expr, factor: Expr | None) -> None:
    of, fmt, q = rows.of, rows.of.fmt, rows.q
    lanes = gcd(of.half, TRAITS[of.level].lanes)
    with T.serial(T.int64(of.half // lanes)) as v:
        pair = rows.rotated(rows.queries, factor, row, head, v * lanes, lanes)
        for i, value in enumerate(pair):
            first = v * lanes + i * of.half
            scale = T.float32(of.scale) if lanes == 1 else const(of.scale, lanes)
            place = [row, head, _neighbours(first, lanes)]
            T.buffer_store(q, fmt.factor(T.bind(value * scale), lanes), place)
    with T.serial(T.int64(of.head_dim - of.rope_dim)) as i:
        d = T.bind(i + of.rope_dim)
        value = rows.load(rows.queries, factor, row, head, d, 1) * T.float32(of.scale)
        T.buffer_store(q, fmt.factor(T.bind(value)), [row, head, d])
    with T.serial(T.int64(of.padded - of.head_dim)) as d:
        T.buffer_store(q, fmt.factor(T.float32(0)), [row, head, d + of.head_dim])


def _lanes(of: Heads, size: int) -> int:
    """Of the vectors that so many columns of K or V are made to elements of the pool in. float32 is
    put down as it is: what LLVM makes of single columns then is faster by a fifth."""
    return 1 if of.fmt.kv_dtype == "float32" else gcd(size, LANES)


def _key(rows: Rows, row: Expr, head: Expr, factor: Expr | None, write: Write) -> None:
    of = rows.of
    lanes = _lanes(of, of.half)
    with T.serial(T.int64(of.half // lanes)) as v:
        for i, value in enumerate(rows.rotated(rows.keys, factor, row, head, v * lanes, lanes)):
            write(v * lanes + i * of.half, T.bind(value), lanes)
    with T.serial(T.int64(of.head_dim - of.rope_dim)) as i:
        d = T.bind(i + of.rope_dim)
        write(d, rows.load(rows.keys, factor, row, head, d, 1), 1)


def _value(rows: Rows, row: Expr, head: Expr, write: Write) -> None:
    of = rows.of
    lanes = _lanes(of, of.head_dim)
    first = T.bind((head + of.heads + of.kv_heads) * of.head_dim)
    with T.serial(T.int64(of.head_dim // lanes)) as v:
        value = rows.qkv[row, _neighbours(first + v * lanes, lanes)]
        write(v * lanes, T.bind(value), lanes)


def _append_head(
    rows: Rows, side: int, page: Expr, slot: Expr, head: Expr, emit: Callable[[Write], None]
) -> None:
    """Write K (side 0) or V of a head, whose columns `emit` hands over as float32."""
    fmt, padded = rows.of.fmt, rows.of.padded
    place = [rows.layer, page, head, side]

    def write(d: Expr, value: Expr, lanes: int) -> None:
        first, step = (slot * padded + d, 1) if side else (d * PAGE_SIZE + slot, PAGE_SIZE)
        at = first if lanes == 1 else T.ramp(first, step, lanes)
        T.buffer_store(rows.pool, fmt.stored(value, lanes), [*place, at])

    if fmt.pack == 1:
        _padded(rows, emit, write)
    else:
        _append_packed(rows, side, slot, place, emit)


def _padded(rows: Rows, emit: Callable[[Write], None], write: Write) -> None:
    """All columns of a head, and zeros up to its size in the pool."""
    emit(write)
    with T.serial(T.int64(rows.of.padded - rows.of.head_dim)) as i:
        write(i + rows.of.head_dim, T.float32(0), 1)


def _append_packed(
    rows: Rows, side: int, slot: Expr, place: list[Expr], emit: Callable[[Write], None]
) -> None:
    """`_append_head` where some neighbours lie in one lane: elements of the pool are made in vectors
    and put down one after the other, those of K by lanes."""
    fmt, padded = rows.of.fmt, rows.of.padded
    line = T.alloc_buffer((padded,), fmt.dtype, scope="global")
    exact = T.alloc_buffer((padded,), "float32", scope="global") if fmt.scaled else line

    def write(d: Expr, value: Expr, lanes: int) -> None:
        value = value if fmt.scaled else fmt.stored(value, lanes)
        T.buffer_store(exact, value, [_neighbours(d, lanes)])

    _padded(rows, emit, write)
    if fmt.scaled:
        scale = round_head(fmt, exact, line, padded, signed=side == 1)
        of_token = span(fmt.scale_place(slot, padded), SCALE_BYTES)
        T.buffer_store(rows.pool, T.reinterpret(f"uint8x{SCALE_BYTES}", scale), [*place, of_token])
    lanes = 1 if side else fmt.pack
    with T.serial(T.int64(padded // lanes)) as i:
        d = T.bind(i * lanes)
        at = fmt.value_place(d, slot, padded) if side else fmt.key_place(d, slot)
        T.buffer_store(rows.pool, line[_neighbours(d, lanes)], [*place, _neighbours(at, lanes)])


def _neighbours(first: Expr, lanes: int) -> Expr:
    """The index of so many elements, of one without a vector."""
    return first if lanes == 1 else span(first, lanes)
