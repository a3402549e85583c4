"""Layer normalisation (Ba et al., 2016), alone and fused with the quantization of its result."""

from __future__ import annotations

from collections.abc import Callable

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.quantize import Quantized, for_each_group
from mlc_llm.kernels.cpu.vector import (
    arg,
    const,
    fma,
    for_each_row,
    get,
    lane_sum,
    prim_func,
    put,
    registers,
    span,
    splat,
    symbol,
)
from mlc_llm.quantization.scheme import GROUP_SIZE, Codes

Emit = Callable[[Expr, Expr, Expr], None]


def layer_norm(level: Level, hidden: int, eps: float, bias: bool) -> PrimFunc:
    """(x f32[n, hidden], weight f32[hidden][, bias f32[hidden]], y f32[n, hidden])."""

    def emit() -> None:
        normalise, n = _args(level, hidden, eps, bias)
        y = arg("y", (n, hidden), "float32")

        def row(r: Expr) -> None:
            def write(group: Expr, low: Expr, high: Expr) -> None:
                T.buffer_store(y, low, [r, span(group * GROUP_SIZE, 16)])
                T.buffer_store(y, high, [r, span(group * GROUP_SIZE + 16, 16)])

            normalise(r, write)

        for_each_row(n, row)

    return prim_func(emit)


def layer_norm_quantize(
    level: Level, hidden: int, eps: float, bias: bool, codes: Codes
) -> PrimFunc:
    """(x f32[n, hidden], weight f32[hidden][, bias f32[hidden]], xq, xs, xc): bitwise `quantize` of
    `layer_norm`."""

    def emit() -> None:
        normalise, n = _args(level, hidden, eps, bias)
        out = Quantized(hidden // GROUP_SIZE, codes)

        def row(r: Expr) -> None:
            normalise(r, lambda g, low, high: out.write(r, g, low, high))

        for_each_row(n, row)

    return prim_func(emit)


def _args(
    level: Level, hidden: int, eps: float, bias: bool
) -> tuple[Callable[[Expr, Emit], None], Var]:
    """Append the inputs; gives what runs `emit(group, low, high)` over a normalised row, and n."""
    if hidden % GROUP_SIZE:
        raise ValueError(f"{hidden} columns are not a multiple of {GROUP_SIZE}")
    n = symbol("n")
    x = arg("x", (n, hidden), "float32")
    weight = arg("weight", (hidden,), "float32")
    added = arg("bias", (hidden,), "float32") if bias else None

    def normalise(row: Expr, emit: Emit) -> None:
        mean = T.bind(_sum(level, x, row, hidden, None) * T.float32(1.0 / hidden))
        variance = T.bind(_sum(level, x, row, hidden, mean) * T.float32(1.0 / hidden))
        factor = T.bind(T.float32(1) / T.sqrt(variance + T.float32(eps)))

        def value(first: Expr) -> Expr:
            columns = span(first, 16)
            centred = x[row, columns] - splat(mean, 16)
            scaled = T.bind(centred * splat(factor, 16) * weight[columns])
            return scaled if added is None else scaled + added[columns]

        for_each_group(hidden, value, lambda column: x[row, column], emit)

    return normalise, n


def _sum(level: Level, x: Var, row: Expr, hidden: int, mean: Expr | None) -> Expr:
    """The sum of a row, or of its squared distances from `mean`, from two vectors of partial sums."""
    partial = [registers(16), registers(16)]
    for sums in partial:
        put(sums, const(0.0, 16), 16)

    def add(_: Expr, low: Expr, high: Expr) -> None:
        for sums, half in zip(partial, (low, high), strict=True):
            if mean is None:
                put(sums, get(sums, 16) + half, 16)
            else:
                centred = T.bind(half - splat(mean, 16))
                put(sums, fma(level, centred, centred, get(sums, 16), 16), 16)

    for_each_group(hidden, lambda c: x[row, span(c, 16)], lambda c: x[row, c], add)
    return lane_sum(get(partial[0], 16) + get(partial[1], 16), 16)
