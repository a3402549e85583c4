"""How K and V lie in a page, and how a vector of them is multiplied.

K of a page is [Dp / pack][16 tokens][pack], V is [16 / pack tokens][Dp][pack]: `pack` neighbours of
the axis that is summed over lie in one lane. float32 and float16 have pack 1. bfloat16 has pack 2,
because one instruction (where there is one) multiplies such pairs and adds both to a float32; then
queries and weights of the softmax are rounded to bfloat16 as well. Elsewhere a pair is taken apart
exactly, and they stay float32. int8 has pack 4, for the instructions that multiply four bytes and
add them to an int32 (`kv_bytes`); after the bytes of K, and of V, come the float32 scales of the 16
tokens. One operand of these instructions has no sign: bytes of K are 128 too large.

NumPy has no bfloat16: its bits travel as uint16, and int8 with its scales as uint8.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import Var

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.vector import fma, get, iconst, intrinsic, put, span, splat, widen_half
from mlc_llm.quantization.scheme import SCALE_BYTES, KvDtype, kv_elements, kv_storage

LANES = PAGE_SIZE
"""Vectors are of one page's tokens; LLVM cuts them to the registers of the level."""

BYTE_DOTS = frozenset({Level.AVX512_BF16, Level.AVX512_VNNI})
"""Levels that multiply sixty-four bytes by one instruction."""

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
        return {"bfloat16": 2, "int8": 4}.get(self.kv_dtype, 1)

    @property
    def dots(self) -> bool:
        """Whether pairs are multiplied by one instruction."""
        return self.pack == 2 and TRAITS[self.level].bf16

    @property
    def scaled(self) -> bool:
        """Whether tokens have scales."""
        return self.kv_dtype == "int8"

    @property
    def counts(self) -> bool:
        """Whether bytes are multiplied and added as whole numbers (`kv_bytes`)."""
        return self.scaled and self.level in BYTE_DOTS

    @property
    def factor_dtype(self) -> str:
        """Of queries, and of weights of the softmax, as they are handed to `attention`."""
        return "uint16" if self.dots else "float32"

    @property
    def sum_dtype(self) -> str:
        """Of sums of products."""
        return "int32" if self.counts else "float32"

    def elements(self, head_dim: int) -> int:
        """Of K, or of V, of one page and head."""
        return kv_elements(self.kv_dtype, PAGE_SIZE, head_dim)

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

    def load_key(self, value: Expr) -> list[Expr]:
        """`load` for a vector of K."""
        if self.scaled and not self.counts:
            words = T.reinterpret(f"int32x{LANES}", value)
            return self.load(T.bitwise_xor(words, iconst(-0x7F7F7F80, LANES)))
        return self.load(value)

    def load(self, value: Expr) -> list[Expr]:
        """A vector of the pool as what `advance` multiplies."""
        if self.kv_dtype == "float32":
            return [T.bind(value)]
        if self.kv_dtype == "float16":
            return [T.bind(widen_half(self.level, value, LANES))]
        words = T.bind(T.reinterpret(f"int32x{LANES}", value))
        if self.dots or self.counts:
            return [words]
        if self.scaled:
            return [self._byte(words, at) for at in range(self.pack)]
        even = T.shift_left(words, iconst(16, LANES))
        odd = T.bitwise_and(words, iconst(-0x10000, LANES))
        return [T.bind(T.reinterpret(f"float32x{LANES}", half)) for half in (even, odd)]

    def _byte(self, words: Expr, at: int) -> Expr:
        """A byte of each word, with its sign, as float32."""
        left = T.shift_left(words, iconst(24 - 8 * at, LANES))
        return T.bind(T.Cast(f"float32x{LANES}", T.shift_right(left, iconst(24, LANES))))

    def scales(self, page: Callable[[Expr], Expr], padded: int) -> Expr:
        """Scales of a page's tokens. `page` reads elements of its K, or of its V."""
        place = span(self.scale_place(0, padded), SCALE_BYTES * PAGE_SIZE)
        return T.reinterpret(f"float32x{LANES}", page(place))

    def scale_place(self, slot: Expr | int, padded: int) -> Expr:
        """Where in a page's K, or V, the scale of the token in a slot is."""
        return slot * SCALE_BYTES + PAGE_SIZE * padded

    def only_even(self, value: Expr) -> Expr:
        """A vector of the pool with zeros in place of the odd ones of each pair."""
        words = T.reinterpret(f"int32x{LANES}", value)
        return T.reinterpret(f"uint16x{2 * LANES}", T.bitwise_and(words, iconst(0xFFFF, LANES)))

    def factors(self, buffer: Var, place: list[Expr], index: Expr) -> list[Expr]:
        """What the index-th of K or V is multiplied by, from a buffer of `factor_dtype`."""
        if self.dots or self.counts:
            pair = T.reinterpret("int32", buffer[(*place, span(index * self.pack, self.pack))])
            return [T.bind(splat(pair, LANES))]
        first = index * self.pack
        return [T.bind(splat(buffer[(*place, first + i)], LANES)) for i in range(self.pack)]

    def advance(self, total: Var, values: list[Expr], factors: list[Expr]) -> None:
        """Add the products to a vector of sums. Where bytes are multiplied, `values` have no sign."""
        for value, factor in zip(values, factors, strict=True):
            if self.counts:
                bytes_, signed = f"uint8x{4 * LANES}", f"int8x{4 * LANES}"
                operands = T.reinterpret(bytes_, value), T.reinterpret(signed, factor)
                name = "llvm.x86.avx512.vpdpbusd.512"
                done = intrinsic(f"int32x{LANES}", name, get(total, LANES), *operands)
            elif self.dots:
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
