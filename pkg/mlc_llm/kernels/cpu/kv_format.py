"""How K and V lie in a page, and how a vector of them is multiplied.

K of a page is [Dp / pack][16 tokens][pack], V is [16 / pack tokens][Dp][pack]: `pack` neighbours of
the axis that is summed over lie in one lane. float32 and float16 have pack 1. bfloat16 has pack 2,
because one instruction (where there is one) multiplies such pairs and adds both to a float32; then
queries and weights of the softmax are rounded to bfloat16 as well. Elsewhere a pair is taken apart
exactly, and they stay float32.

NumPy has no bfloat16: its bits travel as uint16.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import Var

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.vector import fma, get, iconst, put, span, splat, widen_half
from mlc_llm.quantization.scheme import KvDtype, kv_storage

LANES = PAGE_SIZE
"""Vectors are of one page's tokens; LLVM cuts them to the registers of the level."""

PAIRS = """
define linkonce_odr <16 x float> @mlc_dot_pairs(<16 x float> %a, <16 x i32> %x, <16 x i32> %y)
    alwaysinline nounwind readnone {
  %b = bitcast <16 x i32> %x to <32 x bfloat>
  %c = bitcast <16 x i32> %y to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
      <16 x float> %a, <32 x bfloat> %b, <32 x bfloat> %c)
  ret <16 x float> %r
}
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)

define linkonce_odr <16 x i16> @mlc_to_bfloat16(<16 x float> %a) alwaysinline nounwind readnone {
  %b = call <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float> %a)
  %r = bitcast <16 x bfloat> %b to <16 x i16>
  ret <16 x i16> %r
}
declare <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float>)
"""
"""TVM has no bfloat16 vectors as arguments of an intrinsic; functions in LLVM's own words do."""


LARGEST = """
define linkonce_odr float @mlc_largest(<16 x float> %a) alwaysinline nounwind readnone {
  %r = call nnan float @llvm.vector.reduce.fmax.v16f32(<16 x float> %a)
  ret float %r
}
declare float @llvm.vector.reduce.fmax.v16f32(<16 x float>)
"""
"""A tree of maxima. Without `nnan`, which TVM cannot say, LLVM compares one lane after the other."""


class KvFormat(NamedTuple):
    """One storage type on one level."""

    level: Level
    kv_dtype: KvDtype

    @property
    def dtype(self) -> str:
        """Of the pool's elements."""
        return kv_storage(self.kv_dtype)

    @property
    def pack(self) -> int:
        return 2 if self.kv_dtype == "bfloat16" else 1

    @property
    def dots(self) -> bool:
        """Whether pairs are multiplied by one instruction."""
        return self.pack == 2 and TRAITS[self.level].bf16

    @property
    def factor_dtype(self) -> str:
        """Of queries, and of weights of the softmax, as they are multiplied."""
        return "uint16" if self.dots else "float32"

    @property
    def per_line(self) -> int:
        """Vectors in one cache line."""
        return 2 if self.kv_dtype == "float16" else 1

    def instructions(self) -> AbstractContextManager[object]:
        """The scope in which `advance`, `factor` and `largest` may be used."""
        code = LARGEST + PAIRS if self.dots else LARGEST
        return T.attr(T.int32(0), "pragma_import_llvm", code)

    def at(self, index: Expr) -> Expr:
        """Where in a page's K or V the index-th vector is."""
        return span(index * (LANES * self.pack), LANES * self.pack)

    def load(self, value: Expr) -> list[Expr]:
        """A vector of the pool as what `advance` multiplies."""
        if self.kv_dtype == "float32":
            return [T.bind(value)]
        if self.kv_dtype == "float16":
            return [T.bind(widen_half(self.level, value, LANES))]
        words = T.bind(T.reinterpret(f"int32x{LANES}", value))
        if self.dots:
            return [words]
        even = T.shift_left(words, iconst(16, LANES))
        odd = T.bitwise_and(words, iconst(-0x10000, LANES))
        return [T.bind(T.reinterpret(f"float32x{LANES}", half)) for half in (even, odd)]

    def only_even(self, value: Expr) -> Expr:
        """A vector of the pool with zeros in place of the odd ones of each pair."""
        words = T.reinterpret(f"int32x{LANES}", value)
        return T.reinterpret(f"uint16x{2 * LANES}", T.bitwise_and(words, iconst(0xFFFF, LANES)))

    def factors(self, buffer: Var, place: list[Expr], index: Expr) -> list[Expr]:
        """What the index-th of K or V is multiplied by, from a buffer of `factor_dtype`."""
        if self.dots:
            pair = T.reinterpret("int32", buffer[(*place, span(index * 2, 2))])
            return [T.bind(splat(pair, LANES))]
        first = index * self.pack
        return [T.bind(splat(buffer[(*place, first + i)], LANES)) for i in range(self.pack)]

    def advance(self, total: Var, values: list[Expr], factors: list[Expr]) -> None:
        """Add the products to a vector of sums."""
        for value, factor in zip(values, factors, strict=True):
            if self.dots:
                dtype = f"float32x{LANES}"
                done = T.call_pure_extern(dtype, "mlc_dot_pairs", get(total, LANES), value, factor)
            else:
                done = fma(self.level, value, factor, get(total, LANES), LANES)
            put(total, done, LANES)

    def largest(self, values: Expr) -> Expr:
        """The largest lane."""
        return T.call_pure_extern("float32", "mlc_largest", values)

    def key_place(self, d: Expr, slot: Expr) -> Expr:
        """Where in a page's K column d of the token in a slot is."""
        return T.floordiv(d, self.pack) * (PAGE_SIZE * self.pack) + self.beside(slot, d)

    def value_place(self, d: Expr, slot: Expr, padded: int) -> Expr:
        """Where in a page's V column d of the token in a slot is."""
        return T.floordiv(slot, self.pack) * (padded * self.pack) + self.beside(d, slot)

    def beside(self, lane: Expr, packed: Expr) -> Expr:
        return lane * self.pack + T.floormod(packed, self.pack)

    def stored(self, value: Expr, lanes: int = 1) -> Expr:
        """A float32, or a vector of them, as an element of the pool."""
        if self.kv_dtype == "bfloat16":
            return to_bfloat16(value, lanes)
        return T.Cast(self.kv_dtype if lanes == 1 else f"{self.kv_dtype}x{lanes}", value)

    def factor(self, value: Expr, lanes: int = 1) -> Expr:
        """A float32, or a vector of them, as `factor_dtype`."""
        if self.dots and lanes == LANES:
            return T.call_pure_extern(f"uint16x{LANES}", "mlc_to_bfloat16", value)
        return to_bfloat16(value, lanes) if self.dots else value


def to_bfloat16(value: Expr, lanes: int = 1) -> Expr:
    """The nearest bfloat16's bits, ties to even, as uint16."""
    suffix = "" if lanes == 1 else f"x{lanes}"

    def constant(number: int) -> Expr:
        return T.int32(number) if lanes == 1 else iconst(number, lanes)

    bits = T.bind(T.reinterpret(f"int32{suffix}", value))
    odd = T.bitwise_and(T.shift_right(bits, constant(16)), constant(1))
    rounded = T.shift_right(bits + constant(0x7FFF) + odd, constant(16))
    return T.Cast(f"uint16{suffix}", rounded)
