"""Sums of 4-bit or 8-bit weights times 8-bit activations over one group of 32 columns, at every
level.

A lane is a weight row. Of 4-bit weights, word j of a lane holds columns 4 j .. 4 j + 3 in the low
halves of its bytes and columns 16 + 4 j .. in the high halves; of 8-bit weights, and of the
activations, word j holds columns 4 j .. 4 j + 3. All levels give the same whole number, as float32.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import Var

from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.vector import get, iconst, intrinsic, put, registers, splat

_LOW_HALVES = 0x0F0F0F0F


class Instruction(Protocol):
    """How a level multiplies bytes. `weights` and `activations` prepare words of four bytes, so
    that what is shared between rows or parts is computed once."""

    def weights(self, word: Expr) -> list[Expr]: ...

    def activations(self, word: Expr) -> list[Expr]: ...

    def start(self, xc: Expr) -> Var: ...

    def add(self, total: Var, weights: list[Expr], activations: list[Expr]) -> None: ...

    def finish(self, total: Var, xc: Expr) -> Expr: ...


class Vnni(NamedTuple):
    """vpdpbusd: four unsigned times signed bytes added to an int32."""

    lanes: int

    def weights(self, word: Expr) -> list[Expr]:
        return [T.bind(T.reinterpret(f"uint8x{4 * self.lanes}", word))]

    def activations(self, word: Expr) -> list[Expr]:
        return [T.bind(T.reinterpret(f"int8x{4 * self.lanes}", splat(word, self.lanes)))]

    def start(self, xc: Expr) -> Var:
        total = registers(self.lanes, "int32")
        put(total, splat(xc, self.lanes), self.lanes)
        return total

    def add(self, total: Var, weights: list[Expr], activations: list[Expr]) -> None:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        value = get(total, self.lanes)
        put(
            total,
            intrinsic(f"int32x{self.lanes}", name, value, *weights, *activations),
            self.lanes,
        )

    def finish(self, total: Var, xc: Expr) -> Expr:
        return T.Cast(f"float32x{self.lanes}", get(total, self.lanes))


class Maddubs(NamedTuple):
    """pmaddubsw, then pmaddwd: the int16 sums of 16 products reach at most 16 * 15 * 127 = 30480."""

    lanes: int
    pairs: str
    quads: str

    def weights(self, word: Expr) -> list[Expr]:
        return [T.bind(T.reinterpret(f"uint8x{4 * self.lanes}", word))]

    def activations(self, word: Expr) -> list[Expr]:
        return [T.bind(T.reinterpret(f"int8x{4 * self.lanes}", splat(word, self.lanes)))]

    def start(self, xc: Expr) -> Var:
        total = registers(2 * self.lanes, "int16")
        put(total, T.broadcast(T.int16(0), 2 * self.lanes), 2 * self.lanes)
        return total

    def add(self, total: Var, weights: list[Expr], activations: list[Expr]) -> None:
        lanes = 2 * self.lanes
        pairs = intrinsic(f"int16x{lanes}", self.pairs, *weights, *activations)
        put(total, get(total, lanes) + pairs, lanes)

    def finish(self, total: Var, xc: Expr) -> Expr:
        ones = T.broadcast(T.int16(1), 2 * self.lanes)
        value = get(total, 2 * self.lanes)
        quads = intrinsic(f"int32x{self.lanes}", self.quads, value, ones)
        return T.Cast(f"float32x{self.lanes}", splat(xc, self.lanes) + quads)


class SignedMaddubs(NamedTuple):
    """The same for weights of 8 bits. They lose their offset and give their sign to the activation's
    magnitude: the int16 sums of 2 products reach 2 * 127 * 127 = 32258, and are widened at once."""

    lanes: int
    pairs: str
    quads: str
    sign: str

    def weights(self, word: Expr) -> list[Expr]:
        lanes = 4 * self.lanes
        return [T.bind(T.reinterpret(f"int8x{lanes}", word) - T.broadcast(T.int8(127), lanes))]

    def activations(self, word: Expr) -> list[Expr]:
        value = T.bind(T.reinterpret(f"int8x{4 * self.lanes}", splat(word, self.lanes)))
        return [value, T.bind(self._signed(value, value))]

    def start(self, xc: Expr) -> Var:
        total = registers(self.lanes, "int32")
        put(total, T.broadcast(T.int32(0), self.lanes), self.lanes)
        return total

    def add(self, total: Var, weights: list[Expr], activations: list[Expr]) -> None:
        value, magnitude = activations
        signed = self._signed(weights[0], value)
        pairs = intrinsic(f"int16x{2 * self.lanes}", self.pairs, magnitude, signed)
        ones = T.broadcast(T.int16(1), 2 * self.lanes)
        quads = intrinsic(f"int32x{self.lanes}", self.quads, pairs, ones)
        put(total, get(total, self.lanes) + quads, self.lanes)

    def finish(self, total: Var, xc: Expr) -> Expr:
        return T.Cast(f"float32x{self.lanes}", get(total, self.lanes))

    def _signed(self, value: Expr, sign: Expr) -> Expr:
        return intrinsic(f"int8x{4 * self.lanes}", self.sign, value, sign)


class Plain(NamedTuple):
    """Any CPU: byte by byte in float32, where whole numbers below 2^24 are exact."""

    lanes: int

    def weights(self, word: Expr) -> list[Expr]:
        lanes = self.lanes
        shifted = [T.shift_right(word, iconst(8 * b, lanes)) for b in range(4)]
        return [
            T.bind(T.Cast(f"float32x{lanes}", T.bitwise_and(byte, iconst(255, lanes))))
            for byte in shifted
        ]

    def activations(self, word: Expr) -> list[Expr]:
        word = T.bind(word)
        signed = [
            T.shift_right(T.shift_left(word, T.int32(24 - 8 * b)), T.int32(24)) for b in range(4)
        ]
        return [T.bind(splat(T.Cast("float32", byte), self.lanes)) for byte in signed]

    def start(self, xc: Expr) -> Var:
        total = registers(self.lanes)
        put(total, splat(T.Cast("float32", xc), self.lanes), self.lanes)
        return total

    def add(self, total: Var, weights: list[Expr], activations: list[Expr]) -> None:
        for w, x in zip(weights, activations, strict=True):
            put(total, get(total, self.lanes) + w * x, self.lanes)

    def finish(self, total: Var, xc: Expr) -> Expr:
        return get(total, self.lanes)


INSTRUCTIONS: dict[Level, Instruction] = {
    Level.AVX512_BF16: Vnni(16),
    Level.AVX512_VNNI: Vnni(16),
    Level.AVX_VNNI: Vnni(8),
    Level.AVX2: Maddubs(8, "llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
    Level.SSE4: Maddubs(4, "llvm.x86.ssse3.pmadd.ub.sw.128", "llvm.x86.sse2.pmadd.wd"),
    Level.GENERIC: Plain(4),
}
"""For weights of 4 bits."""

BYTE_INSTRUCTIONS: dict[Level, Instruction] = {
    **INSTRUCTIONS,
    Level.AVX2: SignedMaddubs(
        8, "llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd", "llvm.x86.avx2.psign.b"
    ),
    Level.SSE4: SignedMaddubs(
        4,
        "llvm.x86.ssse3.pmadd.ub.sw.128",
        "llvm.x86.sse2.pmadd.wd",
        "llvm.x86.ssse3.psign.b.128",
    ),
}
"""For weights of 8 bits."""


def dot_group(
    level: Level, words: list[list[Expr]], xq: list[list[Expr]], xc: list[Expr]
) -> list[list[Expr]]:
    """float32 sums [row][part] of xc plus weights times activations.

    `words[part]` are the group's four or eight words of weights, `xq[row]` its eight words of
    activations. Rows and parts are innermost: their chains of additions overlap, and a weight or an activation
    is unpacked once for all of them.
    """
    lanes = TRAITS[level].lanes
    words = [[T.bind(word) for word in part] for part in words]
    in_bytes = len(words[0]) == len(xq[0])
    use = (BYTE_INSTRUCTIONS if in_bytes else INSTRUCTIONS)[level]
    totals = [[use.start(xc[i]) for _ in words] for i in range(len(xq))]
    for j in range(len(xq[0])):
        found = [part[j] if in_bytes else _halves(part[j % 4], j >= 4, lanes) for part in words]
        weights = [use.weights(word) for word in found]
        for i, row in enumerate(xq):
            activations = use.activations(row[j])
            for p, part in enumerate(weights):
                use.add(totals[i][p], part, activations)
    return [[use.finish(total, xc[i]) for total in row] for i, row in enumerate(totals)]


def _halves(word: Expr, high: bool, lanes: int) -> Expr:
    """The low or the high halves of a word's bytes."""
    shifted = T.shift_right(word, iconst(4, lanes)) if high else word
    return T.bitwise_and(shifted, iconst(_LOW_HALVES, lanes))
