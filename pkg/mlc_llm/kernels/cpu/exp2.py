"""2^x in vectors, for softmax."""

from __future__ import annotations

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr

from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.vector import const, fma, iconst, intrinsic

_CENTRED = (
    0.00015353361811806278,
    0.0013398874445293453,
    0.009618437358305334,
    0.05550332471027106,
    0.24022647913619574,
    0.6931472028551281,
    1.0,
)
"""Minimax polynomial of 2^f on [-0.5, 0.5], highest power first; relative error 8e-8 in float32."""

_FINE = (
    0.0018671302134087575,
    0.009017030018605529,
    0.0557999133207982,
    0.24016445009566978,
    0.6931513118094657,
    1.0,
)
"""On [0, 1), exactly 1 at 0; relative error 8e-8 before it is rounded to float32."""

_COARSE = (0.07706705118299523, 0.22764498119090046, 0.6951167886697058, 1.0)
"""On [0, 1), exactly 1 at 0; relative error 9e-5, a fortieth of what bfloat16 rounds away."""

_FLOOR = 9
"""Of `reduce`: subtract the largest whole number below, and signal nothing."""
_ROUND_AS_SET = 4


def exp2(level: Level, x: Expr, lanes: int, *, coarse: bool = False) -> Expr:
    """2^x for x <= 0 (bound), exactly 1 at 0 and exactly 0 for masked scores; never negative.

    Relative error 2e-7, or 1e-4 if `coarse` will do, as it will where bfloat16 is made of it.
    """
    if lanes == 16 == TRAITS[level].lanes:
        return _by_scaling(level, x, _COARSE if coarse else _FINE)
    return _by_bits(level, x, lanes)


def _by_scaling(level: Level, x: Expr, series: tuple[float, ...]) -> Expr:
    """2^(x - floor x) * 2^(floor x), both with instructions of AVX-512."""

    def masked(name: str, *args: Expr) -> Expr:
        everywhere, rounding = T.int16(-1), T.int32(_ROUND_AS_SET)
        name = f"llvm.x86.avx512.mask.{name}"
        return T.bind(intrinsic("float32x16", name, *args, everywhere, rounding))

    fraction = masked("reduce.ps.512", x, T.int32(_FLOOR), x)
    power = _polynomial(level, series, fraction, 16)
    return masked("scalef.ps.512", power, x, x)


def _by_bits(level: Level, x: Expr, lanes: int) -> Expr:
    """The exponent is added as an integer; 0 below -126.

    A multiplication there could be fused with an addition that follows it, in one place of a
    program and not in another, and results would differ.
    """
    clamped = T.bind(T.max(x, const(-126.0, lanes)))
    whole = T.bind(intrinsic(f"float32x{lanes}", "llvm.rint", clamped))
    power = _polynomial(level, _CENTRED, T.bind(clamped - whole), lanes)
    exponent = T.shift_left(T.Cast(f"int32x{lanes}", whole), iconst(23, lanes))
    bits = T.reinterpret(f"int32x{lanes}", power) + exponent
    result = T.reinterpret(f"float32x{lanes}", bits)
    return T.bind(T.Select(x < const(-126.0, lanes), const(0.0, lanes), result))


def _polynomial(level: Level, series: tuple[float, ...], x: Expr, lanes: int) -> Expr:
    value = const(series[0], lanes)
    for coefficient in series[1:]:
        value = T.bind(fma(level, value, x, const(coefficient, lanes), lanes))
    return value
