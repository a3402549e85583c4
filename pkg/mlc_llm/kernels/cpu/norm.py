"""RMS normalisation: alone, fused with the quantization of its result, or added to a residual."""

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


def rms_norm(level: Level, hidden: int, cols_padded: int, eps: float) -> PrimFunc:
    """(x f32[n, hidden], weight f32[hidden], y f32[n, cols_padded]).

    cols_padded is `hidden` rounded up to 32; the columns past `hidden` become zero.
    """
    if cols_padded != -(-hidden // GROUP_SIZE) * GROUP_SIZE:
        raise ValueError(f"cols_padded must be {hidden} rounded up to {GROUP_SIZE}")

    def emit() -> None:
        n = symbol("n")
        x = arg("x", (n, hidden), "float32")
        weight = arg("weight", (hidden,), "float32")
        y = arg("y", (n, cols_padded), "float32")

        def row(r: Expr) -> None:
            def write(group: Expr, low: Expr, high: Expr) -> None:
                T.buffer_store(y, low, [r, span(group * GROUP_SIZE, 16)])
                T.buffer_store(y, high, [r, span(group * GROUP_SIZE + 16, 16)])

            _normalise(level, x, weight, r, hidden, eps, write)

        for_each_row(n, row)

    return prim_func(emit)


def rms_norm_quantize(level: Level, hidden: int, eps: float, codes: Codes) -> PrimFunc:
    """(x f32[n, hidden], weight f32[hidden], xq, xs, xc): bitwise `quantize` of `rms_norm`."""

    def emit() -> None:
        n = symbol("n")
        x = arg("x", (n, hidden), "float32")
        weight = arg("weight", (hidden,), "float32")
        out = Quantized(-(-hidden // GROUP_SIZE), codes)

        def row(r: Expr) -> None:
            _normalise(
                level, x, weight, r, hidden, eps, lambda g, low, high: out.write(r, g, low, high)
            )

        for_each_row(n, row)

    return prim_func(emit)


def rms_norm_add(level: Level, hidden: int, eps: float) -> PrimFunc:
    """(x f32[n, hidden], weight f32[hidden], residual f32[n, hidden], y f32[n, hidden]).

    y = residual + norm(x).
    """

    def emit() -> None:
        n = symbol("n")
        x = arg("x", (n, hidden), "float32")
        weight = arg("weight", (hidden,), "float32")
        residual = arg("residual", (n, hidden), "float32")
        y = arg("y", (n, hidden), "float32")

        def row(r: Expr) -> None:
            factor = T.bind(inverse_rms(level, x, r, 0, hidden, eps))
            with T.serial(T.int64(hidden // 16)) as i:
                columns = span(i * 16, 16)
                value = x[r, columns] * splat(factor, 16) * weight[columns]
                T.buffer_store(y, residual[r, columns] + value, [r, columns])
            with T.serial(T.int64(hidden % 16)) as i:
                column = hidden // 16 * 16 + i
                value = x[r, column] * factor * weight[column]
                T.buffer_store(y, residual[r, column] + value, [r, column])

        for_each_row(n, row)

    return prim_func(emit)


def _normalise(
    level: Level,
    x: Var,
    weight: Var,
    row: Expr,
    hidden: int,
    eps: float,
    emit: Callable[[Expr, Expr, Expr], None],
) -> None:
    """Run `emit(group, low, high)` over x / rms(x) * weight of one row."""
    factor = T.bind(inverse_rms(level, x, row, 0, hidden, eps))
    for_each_group(
        hidden,
        lambda first: x[row, span(first, 16)] * splat(factor, 16) * weight[span(first, 16)],
        lambda column: x[row, column] * factor * weight[column],
        emit,
    )


def inverse_rms(level: Level, x: Var, row: Expr, first: Expr | int, count: int, eps: float) -> Expr:
    """1 / sqrt(mean(x^2) + eps) of `count` columns of a row, from two vectors of partial sums."""
    partial = [registers(16), registers(16)]
    for sums in partial:
        put(sums, const(0.0, 16), 16)

    def add_squares(_: Expr, low: Expr, high: Expr) -> None:
        for sums, half in zip(partial, (low, high), strict=True):
            value = T.bind(half)
            put(sums, fma(level, value, value, get(sums, 16), 16), 16)

    for_each_group(
        count, lambda c: x[row, span(first + c, 16)], lambda c: x[row, first + c], add_squares
    )
    total = lane_sum(get(partial[0], 16) + get(partial[1], 16), 16)
    return T.float32(1) / T.sqrt(total * T.float32(1.0 / count) + T.float32(eps))
