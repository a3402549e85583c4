"""Sums of 4-bit weights times 8-bit activations over one group of 32 columns, at every level.

A lane is a weight row. Word j of a lane holds columns 4 j .. 4 j + 3 in the low halves of its bytes
and columns 16 + 4 j .. in the high halves; word j of the activations holds columns 4 j .. 4 j + 3.
All levels return the same whole number, as float32.
"""

from __future__ import annotations

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr

from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.vector import get, iconst, intrinsic, put, registers, splat

_LOW_HALVES = 0x0F0F0F0F


def unpack_group(level: Level, words: list[Expr]) -> list[Expr]:
    """The group's weights, as `dot_group` of the same level wants them."""
    lanes = TRAITS[level].lanes
    words = [T.bind(word) for word in words]
    mask = iconst(_LOW_HALVES, lanes)
    low = [T.bind(T.bitwise_and(word, mask)) for word in words]
    high = [T.bind(T.bitwise_and(T.shift_right(word, iconst(4, lanes)), mask)) for word in words]
    if level is not Level.GENERIC:
        return low + high
    return [
        T.bind(T.Cast(f"float32x{lanes}", _byte(word, b, lanes)))
        for word in low + high
        for b in range(4)
    ]


def dot_group(level: Level, nibbles: list[Expr], xq: list[Expr], xc: Expr) -> Expr:
    """float32 of xc + sum of weights times activations; xq are eight words of four columns."""
    match level:
        case Level.AVX512_VNNI:
            return _dot_vnni(nibbles, xq, xc, 16)
        case Level.AVX_VNNI:
            return _dot_vnni(nibbles, xq, xc, 8)
        case Level.AVX2:
            return _dot_maddubs(nibbles, xq, xc)
        case Level.GENERIC:
            return _dot_float(nibbles, xq, xc, TRAITS[level].lanes)


def _byte(word: Expr, b: int, lanes: int) -> Expr:
    """Byte b of words whose bytes are 0..15."""
    return T.bitwise_and(T.shift_right(word, iconst(8 * b, lanes)), iconst(15, lanes))


def _dot_vnni(nibbles: list[Expr], xq: list[Expr], xc: Expr, lanes: int) -> Expr:
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
    total = splat(xc, lanes)
    for weights, x in zip(nibbles, xq, strict=True):
        u8 = T.reinterpret(f"uint8x{4 * lanes}", weights)
        i8 = T.reinterpret(f"int8x{4 * lanes}", splat(x, lanes))
        total = intrinsic(f"int32x{lanes}", name, total, u8, i8)
    return T.Cast(f"float32x{lanes}", total)


def _dot_maddubs(nibbles: list[Expr], xq: list[Expr], xc: Expr) -> Expr:
    """The int16 sums of 16 products reach at most 16 * 15 * 127 = 30480: no overflow."""
    total = None
    for weights, x in zip(nibbles, xq, strict=True):
        pairs = intrinsic(
            "int16x16",
            "llvm.x86.avx2.pmadd.ub.sw",
            T.reinterpret("uint8x32", weights),
            T.reinterpret("int8x32", splat(x, 8)),
        )
        total = pairs if total is None else total + pairs
    ones = T.broadcast(T.int16(1), 16)
    sums = intrinsic("int32x8", "llvm.x86.avx2.pmadd.wd", total, ones)
    return T.Cast("float32x8", splat(xc, 8) + sums)


def _dot_float(nibbles: list[Expr], xq: list[Expr], xc: Expr, lanes: int) -> Expr:
    """In float32, where whole numbers below 2^24 are exact; a 32-bit multiply is slow on old CPUs."""
    total = registers(lanes)
    put(total, splat(T.Cast("float32", xc), lanes), lanes)
    for j, word in enumerate(xq):
        word = T.bind(word)
        for b in range(4):
            byte = T.shift_right(T.shift_left(word, T.int32(24 - 8 * b)), T.int32(24))
            x = splat(T.Cast("float32", byte), lanes)
            put(total, get(total, lanes) + nibbles[4 * j + b] * x, lanes)
    return get(total, lanes)
