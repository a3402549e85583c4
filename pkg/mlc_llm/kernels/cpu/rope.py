"""Rotate queries and keys, and write K and V of the new tokens into their pages.

Runs before `attention` of the same layer, which reads the pages. Rotary embedding of Su et al. (2021)
with the two halves of a head rotated against each other (NeoX style).
"""

from __future__ import annotations

from math import gcd

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.compiler.abi import PAGE_SIZE, round_up
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.vector import (
    arg,
    const,
    fma,
    for_each_row,
    prim_func,
    span,
    symbol,
)

LOG2_E = 1.4426950408889634


def rope_append(level: Level, heads: int, kv_heads: int, head_dim: int, kv_dtype: str) -> PrimFunc:
    """(qkv f32[n, (Hq + 2 Hkv) * D], rope f32[c, D], positions int32[n], slots int32[n], pool,
    layer int64, q f32[n, Hq, Dp]).

    q is rotated, scaled by log2(e) / sqrt(D) for `attention`, and padded with zeros from D to Dp;
    so are K and V in the pool (layout in `compiler.abi`).
    """
    padded = round_up(head_dim, 16)
    half = head_dim // 2
    lanes = gcd(half, TRAITS[level].lanes)
    scale = LOG2_E / head_dim**0.5

    def emit() -> None:
        n = symbol("n")
        qkv = arg("qkv", (n, (heads + 2 * kv_heads) * head_dim), "float32")
        rope = arg("rope", (symbol("reach"), head_dim), "float32")
        positions = arg("positions", (n,), "int32")
        slots = arg("slots", (n,), "int32")
        pool_shape = (symbol("layers"), symbol("pages"), 2, kv_heads, PAGE_SIZE * padded)
        pool = arg("pool", pool_shape, kv_dtype)
        layer = T.arg("layer", T.int64())
        q = arg("q", (n, heads, padded), "float32")

        def rotated(row: Expr, head: Expr, d: Expr, width: int) -> tuple[Expr, Expr]:
            """`width` values from d on of both halves of a head."""
            position = T.Cast("int64", positions[row])
            cos = _lanes(rope, [position], d, width)
            sin = _lanes(rope, [position], d + half, width)
            x = _lanes(qkv, [row], head * head_dim + d, width)
            y = _lanes(qkv, [row], head * head_dim + d + half, width)
            minus = T.bind(_zero(width) - y)
            first = fma(level, x, cos, T.bind(minus * sin), width)
            return first, fma(level, y, cos, T.bind(x * sin), width)

        def query(row: Expr, head: Expr) -> None:
            with T.serial(T.int64(half // lanes)) as v:
                for i, value in enumerate(rotated(row, head, v * lanes, lanes)):
                    place = [row, head, span(v * lanes + i * half, lanes)]
                    T.buffer_store(q, value * const(scale, lanes), place)
            with T.serial(T.int64(padded - head_dim)) as d:
                T.buffer_store(q, T.float32(0), [row, head, d + head_dim])

        def key(row: Expr, head: Expr, page: Expr, slot: Expr) -> None:
            with T.serial(T.int64(half)) as d:
                for i, value in enumerate(rotated(row, head + heads, d, 1)):
                    place = (d + i * half) * PAGE_SIZE + slot
                    T.buffer_store(pool, T.Cast(kv_dtype, value), [layer, page, 0, head, place])
            _zeros(pool, [layer, page, 0, head], head_dim * PAGE_SIZE + slot, PAGE_SIZE)

        def value(row: Expr, head: Expr, page: Expr, slot: Expr) -> None:
            with T.serial(T.int64(head_dim)) as d:
                found = qkv[row, (head + heads + kv_heads) * head_dim + d]
                place = [layer, page, 1, head, slot * padded + d]
                T.buffer_store(pool, T.Cast(kv_dtype, found), place)
            _zeros(pool, [layer, page, 1, head], slot * padded + head_dim, 1)

        def _zeros(buffer: Var, place: list[Expr], first: Expr, stride: int) -> None:
            with T.serial(T.int64(padded - head_dim)) as d:
                zero = T.Cast(kv_dtype, T.float32(0))
                T.buffer_store(buffer, zero, [*place, first + d * stride])

        def append(row: Expr) -> None:
            page = T.bind(T.floordiv(T.Cast("int64", slots[row]), PAGE_SIZE))
            slot = T.bind(T.floormod(T.Cast("int64", slots[row]), PAGE_SIZE))
            with T.serial(T.int64(heads)) as head:
                query(row, head)
            with T.serial(T.int64(kv_heads)) as head:
                key(row, head, page, slot)
                value(row, head, page, slot)

        for_each_row(n, append)

    return prim_func(emit)


def _lanes(buffer: Var, place: list[Expr], first: Expr, width: int) -> Expr:
    """`width` neighbours, a scalar for 1."""
    return T.bind(buffer[(*place, first if width == 1 else span(first, width))])


def _zero(width: int) -> Expr:
    return T.float32(0) if width == 1 else const(0.0, width)
