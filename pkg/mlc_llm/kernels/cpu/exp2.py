"""2^x in vectors, for softmax."""

from __future__ import annotations

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr

from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.vector import const, fma, iconst, intrinsic

_SERIES = (
    0.00015353361811806278,
    0.0013398874445293453,
    0.009618437358305334,
    0.05550332471027106,
    0.24022647913619574,
    0.6931472028551281,
    1.0,
)
"""Minimax polynomial of 2^f on [-0.5, 0.5], highest power first; relative error 8e-8 in float32."""


def exp2(level: Level, x: Expr, lanes: int) -> Expr:
    """2^x for x <= 0 (bound): relative error 1e-7, exactly 1 at 0, exactly 0 below -126.

    The exponent is added as an integer. A multiplication there could be fused with an addition that
    follows it, in one place of a program and not in another, and results would differ.
    """
    clamped = T.bind(T.max(x, const(-126.0, lanes)))
    whole = T.bind(intrinsic(f"float32x{lanes}", "llvm.rint", clamped))
    fraction = T.bind(clamped - whole)
    power = const(_SERIES[0], lanes)
    for coefficient in _SERIES[1:]:
        power = T.bind(fma(level, power, fraction, const(coefficient, lanes), lanes))
    exponent = T.shift_left(T.Cast(f"int32x{lanes}", whole), iconst(23, lanes))
    bits = T.reinterpret(f"int32x{lanes}", power) + exponent
    result = T.reinterpret(f"float32x{lanes}", bits)
    return T.bind(T.Select(x < const(-126.0, lanes), const(0.0, lanes), result))
