"""Fragments of vector code that the kernels are put together from.

A fragment is a Python function that, while a `prim_func` is being built, returns an expression or
appends statements. Python loops unroll, `T.serial` loops stay loops, `T.bind` names a value that
lives in a register. Every fragment computes one lane the same way whatever surrounds it: this is
what makes a row's result independent of its batch.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc, Var

from mlc_llm.kernels.cpu.level import TRAITS, Level

MIN_PARALLEL_ROWS = 16
"""Row-wise kernels with fewer rows run on the calling thread: a launch costs as much as some rows."""


def prim_func(emit: Callable[[], None]) -> PrimFunc:
    """The function whose parameters and body `emit` appends."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        emit()
    return builder.get()


def symbol(name: str) -> Var:
    """A size known only when the kernel is called."""
    return Var(name, "int64")


def arg(name: str, shape: tuple[object, ...], dtype: str) -> Var:
    """The next parameter: a compact row-major tensor whose data starts at a multiple of 64 bytes."""
    return T.match_buffer(T.arg(name, T.handle()), shape, dtype)


def registers(lanes: int, dtype: str = "float32") -> Var:
    """A vector variable. Each is its own small array, which LLVM promotes to a register."""
    return T.alloc_buffer((lanes,), dtype, scope="global")


def held(number: Expr) -> Expr:
    """A bound int64 whose making the compiler forgets.

    What is bound is written out in whatever uses it while it is simplified, again and again, and
    the time that takes grows with the powers of the depth: numbers that many others are made from
    are better forgotten. Measure the kernel's speed before and after: attention keeps its own.
    """
    place = T.alloc_buffer((1,), "int64", scope="global")
    T.buffer_store(place, number, [0])
    return T.bind(place[0])


def span(base: Expr | int, lanes: int) -> Expr:
    """Index of `lanes` neighbours."""
    return T.ramp(base, 1, lanes)


def splat(value: Expr, lanes: int) -> Expr:
    """All lanes equal."""
    return T.broadcast(value, lanes)


def const(value: float, lanes: int) -> Expr:
    """A float32 constant in all lanes."""
    return T.broadcast(T.float32(value), lanes)


def iconst(value: int, lanes: int) -> Expr:
    """An int32 constant in all lanes."""
    return T.broadcast(T.int32(value), lanes)


def get(variable: Var, lanes: int) -> Expr:
    """The value of a vector variable."""
    return variable[span(0, lanes)]


def put(variable: Var, value: Expr, lanes: int) -> None:
    """Assign a vector variable."""
    T.buffer_store(variable, value, [span(0, lanes)])


def intrinsic(dtype: str, name: str, *args: Expr) -> Expr:
    """A pure LLVM intrinsic."""
    return T.call_llvm_pure_intrin(dtype, name, *args)


def fma(level: Level, a: Expr, b: Expr, c: Expr, lanes: int) -> Expr:
    """a * b + c, rounded once where the level has the instruction and twice everywhere elsewhere."""
    if TRAITS[level].fma:
        return intrinsic(f"float32x{lanes}", "llvm.fma", a, b, c)
    return a * b + c


def widen_half(level: Level, half: Expr, lanes: int) -> Expr:
    """float16 to float32, exact. Without an instruction: shift the bits and fix the exponent by a
    multiplication, which is exact for subnormals too. Infinities are not kept: weights are finite."""
    suffix = "" if lanes == 1 else f"x{lanes}"
    if TRAITS[level].half:
        return T.Cast(f"float32{suffix}", half)

    def constant(value: Expr) -> Expr:
        return value if lanes == 1 else T.broadcast(value, lanes)

    bits = T.bind(T.Cast(f"int32{suffix}", T.reinterpret(f"int16{suffix}", half)))
    magnitude = T.shift_left(bits & constant(T.int32(0x7FFF)), constant(T.int32(13)))
    value = T.reinterpret(f"float32{suffix}", magnitude) * constant(T.float32(2.0**112))
    sign = bits & constant(T.int32(-0x80000000))
    return T.reinterpret(f"float32{suffix}", T.reinterpret(f"int32{suffix}", value) | sign)


def lane_sum(value: Expr, lanes: int) -> Expr:
    """The sum of a vector's lanes, halves added to halves down to two of them: LLVM's own reduction
    of floats adds one lane after the other."""
    while lanes > 2:
        lanes //= 2
        half, value = f"float32x{lanes}", T.bind(value)
        value = T.vectorlow(half, value) + T.vectorhigh(half, value)
    return intrinsic("float32", "llvm.vector.reduce.fadd", T.float32(0), value)


def prefetch(buffer: Var, *index: Expr | int) -> None:
    """Ask for the cache line of an element, which may lie past the end of the buffer."""
    T.evaluate(
        T.call_llvm_intrin(
            "void",
            "llvm.prefetch",
            T.address_of(buffer[index]),
            T.int32(0),
            T.int32(3),
            T.int32(1),
        )
    )


_LOG2_E = 1.4426950408889634
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440054690582e-4
_EXP = (1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0)


def exp(level: Level, x: Expr, lanes: int) -> Expr:
    """e^x to about 2 units in the last place, x clamped to [-87, 88].

    x = r ln 2 + f with r whole and |f| <= ln 2 / 2; e^f by its Taylor series, 2^r by its exponent
    bits. `T.exp` on a vector would call libm once a lane.
    """
    x = T.bind(T.max(T.min(x, const(88.0, lanes)), const(-87.0, lanes)))
    whole = T.bind(intrinsic(f"float32x{lanes}", "llvm.rint", x * const(_LOG2_E, lanes)))
    f = fma(level, whole, const(-_LN2_HIGH, lanes), x, lanes)
    f = T.bind(fma(level, whole, const(-_LN2_LOW, lanes), f, lanes))
    series = const(_EXP[0], lanes)
    for coefficient in _EXP[1:]:
        series = T.bind(fma(level, series, f, const(coefficient, lanes), lanes))
    exponent = T.Cast(f"int32x{lanes}", whole) + iconst(127, lanes)
    scale = T.reinterpret(f"float32x{lanes}", T.shift_left(exponent, iconst(23, lanes)))
    return series * scale


def silu(level: Level, x: Expr, lanes: int) -> Expr:
    """x / (1 + e^-x)."""
    return x / (const(1.0, lanes) + exp(level, const(0.0, lanes) - x, lanes))


_LARGEST = 3.4028234663852886e38
_SQRT_HALF = 0.7071067811865476
_ERFC = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def gelu(level: Level, x: Expr, lanes: int) -> Expr:
    """x times the normal distribution's cumulative value, to 2e-7 |x|.

    max(x, 0) - |x| erfc(|x| / sqrt 2) / 2, with Abramowitz and Stegun's 7.1.26 for erfc.
    """
    one = const(1.0, lanes)
    size = T.bind(T.max(x, const(0.0, lanes) - x))
    z = T.bind(size * const(_SQRT_HALF, lanes))
    t = T.bind(one / fma(level, z, const(0.3275911, lanes), one, lanes))
    series = const(_ERFC[0], lanes)
    for coefficient in _ERFC[1:]:
        series = T.bind(fma(level, series, t, const(coefficient, lanes), lanes))
    tail = T.bind(series * t * exp(level, const(0.0, lanes) - z * z, lanes))
    return T.max(x, const(0.0, lanes)) - size * const(0.5, lanes) * tail


def gelu_tanh(level: Level, x: Expr, lanes: int) -> Expr:
    """x / 2 (1 + tanh u) with u = sqrt(2 / pi) (x + 0.044715 x^3), as x / (1 + e^-2u)."""
    x = T.bind(x)
    cubic = fma(level, x * x, const(0.044715, lanes), const(1.0, lanes), lanes)
    twice = T.bind(x * const(-1.5957691216057308, lanes) * cubic)
    return x / (const(1.0, lanes) + exp(level, twice, lanes))


def tanh(level: Level, x: Expr, lanes: int) -> Expr:
    """1 - 2 / (1 + e^2x), to 1e-7; of a NaN, which `exp` would lose, itself."""
    x, one = T.bind(x), const(1.0, lanes)
    value = one - const(2.0, lanes) / (one + exp(level, x * const(2.0, lanes), lanes))
    return T.Select(x >= const(-_LARGEST, lanes), value, x)


def for_each_row(rows: Expr, emit: Callable[[Expr], None]) -> None:
    """Run `emit(row)` for all rows, in parallel when there are enough of them."""
    with T.If(rows < T.int64(MIN_PARALLEL_ROWS)):
        with T.Then(), T.serial(rows) as row:
            emit(row)
        with T.Else(), T.parallel(rows) as row:
            emit(row)
