"""Rotate queries and keys, and write K and V of the new tokens into their pages.

Runs before `attention` of the same layer, which reads the pages. Rotary embedding of Su et al. (2021)
with the two halves of what is rotated against each other (NeoX style). Queries and keys may be
normalised first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import gcd
from typing import Literal, NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.compiler.abi import PAGE_SIZE, round_up
from mlc_llm.kernels.cpu.kv_bytes import store_head
from mlc_llm.kernels.cpu.kv_format import KvFormat
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.norm import inverse_rms
from mlc_llm.kernels.cpu.vector import (
    arg,
    const,
    fma,
    for_each_row,
    prim_func,
    span,
    symbol,
)
from mlc_llm.quantization.scheme import KvDtype

LOG2_E = 1.4426950408889634

Write = Callable[[Expr, Expr], None]
"""Takes a column of a head and its value."""


class Rotation(NamedTuple):
    """What differs from a plain Llama."""

    rope_dim: int | None = None
    """Leading columns of a head that turn; None is all."""
    width: int | None = None
    """Columns of the rotary table; None is rope_dim."""
    first: int = 0
    """Where in a row of the table this layer's cosines start."""
    scale: float | None = None
    """What scores are multiplied by; None is 1 / sqrt(head_dim)."""
    qk_norm: Literal["head", "row"] | None = None
    """RMS norms of each head, or of all heads together, before the rotation."""
    eps: float = 0.0


class Source(NamedTuple):
    """Where the heads of queries, or of keys, are read from."""

    first_head: int
    num_heads: int
    weight: Var | None


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

    q is rotated, scaled by log2(e) / sqrt(D), rounded as `attention` multiplies it, and padded with zeros from D to Dp;
    so are K and V in the pool (layout in `compiler.abi`). Norms have D weights, or as many as their
    heads have columns.
    """
    padded = round_up(head_dim, 16)
    rope_dim = rotation.rope_dim or head_dim
    half = rope_dim // 2
    lanes = gcd(half, TRAITS[level].lanes)
    scale = LOG2_E * (head_dim**-0.5 if rotation.scale is None else rotation.scale)
    by_row = rotation.qk_norm == "row"
    fmt = KvFormat(level, kv_dtype)

    def emit() -> None:
        n = symbol("n")
        qkv = arg("qkv", (n, (heads + 2 * kv_heads) * head_dim), "float32")
        rope = arg("rope", (symbol("reach"), rotation.width or rope_dim), "float32")
        positions = arg("positions", (n,), "int32")
        slots = arg("slots", (n,), "int32")
        weights: list[Var | None] = [None, None]
        if rotation.qk_norm is not None:
            sizes = (heads * head_dim, kv_heads * head_dim) if by_row else (head_dim, head_dim)
            weights = [
                arg(name, (size,), "float32")
                for name, size in zip(("q_norm", "k_norm"), sizes, strict=True)
            ]
        queries, keys = Source(0, heads, weights[0]), Source(heads, kv_heads, weights[1])
        pool_shape = (symbol("layers"), symbol("pages"), kv_heads, 2, fmt.elements(head_dim))
        pool = arg("pool", pool_shape, fmt.dtype)
        layer = T.arg("layer", T.int64())
        q = arg("q", (n, heads, padded), fmt.factor_dtype)

        def factor_of(source: Source, row: Expr, head: Expr | int) -> Expr | None:
            """What the norm multiplies a head by, or all heads of a row."""
            if source.weight is None:
                return None
            first = (source.first_head + head) * head_dim
            count = source.num_heads * head_dim if by_row else head_dim
            return T.bind(inverse_rms(level, qkv, row, first, count, rotation.eps))

        def load(
            source: Source, factor: Expr | None, row: Expr, head: Expr, d: Expr, width: int
        ) -> Expr:
            """`width` values of a head from column d on, normalised."""
            x = _lanes(qkv, [row], (head + source.first_head) * head_dim + d, width)
            if source.weight is None:
                return x
            weight = _lanes(source.weight, [], (head * head_dim + d) if by_row else d, width)
            return T.bind(x * (factor if width == 1 else T.broadcast(factor, width)) * weight)

        def rotated(
            source: Source, factor: Expr | None, row: Expr, head: Expr, d: Expr, width: int
        ) -> tuple[Expr, Expr]:
            """`width` values from d on of both halves of what is rotated."""
            position = T.Cast("int64", positions[row])
            cos = _lanes(rope, [position], d + rotation.first, width)
            sin = _lanes(rope, [position], d + (half + rotation.first), width)
            x = load(source, factor, row, head, d, width)
            y = load(source, factor, row, head, d + half, width)
            minus = T.bind(_zero(width) - y)
            first = fma(level, x, cos, T.bind(minus * sin), width)
            return first, fma(level, y, cos, T.bind(x * sin), width)

        def query(row: Expr, head: Expr, factor: Expr | None) -> None:
            with T.serial(T.int64(half // lanes)) as v:
                for i, value in enumerate(rotated(queries, factor, row, head, v * lanes, lanes)):
                    first = v * lanes + i * half
                    factors = T.float32(scale) if lanes == 1 else const(scale, lanes)
                    place = [row, head, first if lanes == 1 else span(first, lanes)]
                    T.buffer_store(q, fmt.factor(T.bind(value * factors), lanes), place)
            with T.serial(T.int64(head_dim - rope_dim)) as i:
                d = T.bind(i + rope_dim)
                value = load(queries, factor, row, head, d, 1) * T.float32(scale)
                T.buffer_store(q, fmt.factor(T.bind(value)), [row, head, d])
            with T.serial(T.int64(padded - head_dim)) as d:
                T.buffer_store(q, fmt.factor(T.float32(0)), [row, head, d + head_dim])

        def append_head(
            side: int, page: Expr, slot: Expr, head: Expr, emit: Callable[[Write], None]
        ) -> None:
            """Write K (side 0) or V of a head, whose columns `emit` hands over as float32."""

            def place(d: Expr) -> Expr:
                return fmt.value_place(d, slot, padded) if side else fmt.key_place(d, slot)

            def write(at: Expr, value: Expr) -> None:
                T.buffer_store(pool, value, [layer, page, head, side, at])

            if not fmt.scaled:
                emit(lambda d, value: write(place(d), fmt.stored(value)))
                return
            whole = T.alloc_buffer((padded,), "float32", scope="global")
            emit(lambda d, value: T.buffer_store(whole, value, [d]))
            store_head(fmt, whole, padded, place, slot, write, signed=side == 1)

        def key(row: Expr, head: Expr, factor: Expr | None, write: Write) -> None:
            with T.serial(T.int64(half)) as d:
                for i, value in enumerate(rotated(keys, factor, row, head, d, 1)):
                    write(d + i * half, T.bind(value))
            with T.serial(T.int64(head_dim - rope_dim)) as i:
                d = T.bind(i + rope_dim)
                write(d, load(keys, factor, row, head, d, 1))
            with T.serial(T.int64(padded - head_dim)) as i:
                write(i + head_dim, T.float32(0))

        def value(row: Expr, head: Expr, write: Write) -> None:
            with T.serial(T.int64(head_dim)) as d:
                write(d, T.bind(qkv[row, (head + heads + kv_heads) * head_dim + d]))
            with T.serial(T.int64(padded - head_dim)) as i:
                write(i + head_dim, T.float32(0))

        def append(row: Expr) -> None:
            page = T.bind(T.floordiv(T.Cast("int64", slots[row]), PAGE_SIZE))
            slot = T.bind(T.floormod(T.Cast("int64", slots[row]), PAGE_SIZE))
            of_queries = factor_of(queries, row, 0) if by_row else None
            of_keys = factor_of(keys, row, 0) if by_row else None
            with T.serial(T.int64(heads)) as head:
                query(row, head, of_queries if by_row else factor_of(queries, row, head))
            with T.serial(T.int64(kv_heads)) as head:
                of_key = of_keys if by_row else factor_of(keys, row, head)
                append_head(0, page, slot, head, partial(key, row, head, of_key))
                append_head(1, page, slot, head, partial(value, row, head))

        with fmt.instructions():
            for_each_row(n, append)

    return prim_func(emit)


def _lanes(buffer: Var, place: list[Expr], first: Expr, width: int) -> Expr:
    """`width` neighbours, a scalar for 1."""
    return T.bind(buffer[(*place, first if width == 1 else span(first, width))])


def _zero(width: int) -> Expr:
    return T.float32(0) if width == 1 else const(0.0, width)
