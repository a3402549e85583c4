"""4-bit groups with the scales that are closest to their weights: `quantization.search`, compiled.

    scales float16[n]
    words  int32[n * 4]      code i of a group in bits 4 (i % 8) .. of its word i / 8, 7 added
    values float32[n * 32]   groups, every value a float16 value or not finite

n is a multiple of 16: sixteen groups lie side by side in the lanes of a vector, so that each one's
sums have the order of the twin in NumPy, and all bits are the same. Products of a float16 value and
a code are exact, so it does not matter whether they are rounded before they are added.
"""

from __future__ import annotations

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.compiler.abi import SEARCH_LANES
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.vector import (
    const,
    get,
    iconst,
    intrinsic,
    prim_func,
    put,
    registers,
    span,
    symbol,
)
from mlc_llm.quantization.group import GROUP_WORDS, MAX_INT, WORD_ELEMENTS
from mlc_llm.quantization.scheme import GROUP_SIZE
from mlc_llm.quantization.search import HIGHEST, LEVELS

LANES = SEARCH_LANES
INFINITY = float("inf")


def can_search(level: Level) -> bool:
    """Whether the level rounds to float16, which the kernel needs."""
    return TRAITS[level].half


def closest() -> PrimFunc:
    """(scales, words, values), none of them aligned."""

    def emit() -> None:
        n = symbol("n")
        scales = _unaligned("scales", (n,), "float16")
        words = _unaligned("words", (n * GROUP_WORDS,), "int32")
        values = _unaligned("values", (n * GROUP_SIZE,), "float32")
        side_by_side = T.alloc_buffer((GROUP_SIZE, LANES), "float32", scope="global")
        with T.serial(T.floordiv(n, LANES)) as block:
            first = T.bind(block * LANES)
            with T.serial(T.int64(GROUP_SIZE)) as i:
                column = values[T.ramp(first * GROUP_SIZE + i, GROUP_SIZE, LANES)]
                T.buffer_store(side_by_side, column, [i, span(0, LANES)])
            scale = T.bind(T.Cast("float16x16", _closest_scale(side_by_side)))
            T.buffer_store(scales, scale, [span(first, LANES)])
            divisor = T.bind(_or_infinity(T.Cast("float32x16", scale)))
            for word in range(GROUP_WORDS):
                found = _word(side_by_side, word * WORD_ELEMENTS, divisor)
                place = T.ramp(first * GROUP_WORDS + word, GROUP_WORDS, LANES)
                T.buffer_store(words, found, [place])

    return prim_func(emit)


def _unaligned(name: str, shape: tuple[object, ...], dtype: str) -> Var:
    return T.match_buffer(T.arg(name, T.handle()), shape, dtype, align=2)


def _closest_scale(x: Var) -> Expr:
    """The scale of each lane's 32 values that leaves the least sum of squares."""
    inverse = T.bind(const(1.0, LANES) / _or_infinity(_extreme(x)))
    scale, gain = registers(LANES), registers(LANES)
    put(scale, const(float("nan"), LANES), LANES)
    put(gain, const(-INFINITY, LANES), LANES)
    product, square = registers(LANES), registers(LANES)
    for level in LEVELS:
        factor = T.bind(inverse * const(level, LANES))
        put(product, const(0.0, LANES), LANES)
        put(square, const(0.0, LANES), LANES)
        with T.serial(T.int64(GROUP_SIZE)) as i:
            value = T.bind(x[i, span(0, LANES)])
            code = T.bind(_code(value * factor, clip=level > MAX_INT))
            put(product, get(product, LANES) + value * code, LANES)
            put(square, get(square, LANES) + code * code, LANES)
        found = T.bind(get(product, LANES) / T.max(get(square, LANES), const(1.0, LANES)))
        better = T.bind(get(product, LANES) * found)
        put(scale, T.Select(better > get(gain, LANES), found, get(scale, LANES)), LANES)
        put(gain, T.Select(better > get(gain, LANES), better, get(gain, LANES)), LANES)
    return get(scale, LANES)


def _extreme(x: Var) -> Expr:
    """The value of the largest magnitude in each lane, with its sign."""
    high, low = registers(LANES), registers(LANES)
    for place in (high, low):
        put(place, x[0, span(0, LANES)], LANES)
    with T.serial(T.int64(GROUP_SIZE)) as i:
        value = T.bind(x[i, span(0, LANES)])
        put(high, T.max(get(high, LANES), value), LANES)
        put(low, T.min(get(low, LANES), value), LANES)
    above = T.bind(get(high, LANES))
    below = T.bind(get(low, LANES))
    return T.bind(T.Select(above >= const(0.0, LANES) - below, above, below))


def _word(x: Var, first: int, divisor: Expr) -> Expr:
    """Eight codes of each lane."""
    word = registers(LANES, "int32")
    put(word, iconst(0, LANES), LANES)
    for i in range(WORD_ELEMENTS):
        code = _code(x[first + i, span(0, LANES)] / divisor, clip=True) + const(MAX_INT, LANES)
        shifted = T.shift_left(T.Cast("int32x16", code), iconst(4 * i, LANES))
        put(word, get(word, LANES) | shifted, LANES)
    return get(word, LANES)


def _code(value: Expr, clip: bool) -> Expr:
    """The nearest code that there is, as a float; `clip` where the value may be beyond the last."""
    nearest = intrinsic("float32x16", "llvm.rint", value)
    if not clip:
        return nearest
    return T.max(T.min(nearest, const(HIGHEST, LANES)), const(-MAX_INT, LANES))


def _or_infinity(value: Expr) -> Expr:
    """What values are divided by: infinity for zero."""
    return T.Select(value == const(0.0, LANES), const(INFINITY, LANES), value)
