"""Heads of new tokens as they are read: normalised where the model says so, and rotated.

Rotary embedding of Su et al. (2021) with the two halves of what is rotated against each other (NeoX
style). Knows the rows of the product that makes queries, keys and values, and no pool.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import Var

from mlc_llm.compiler.abi import round_up
from mlc_llm.kernels.cpu.kv_format import KvFormat
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.norm import inverse_rms
from mlc_llm.kernels.cpu.vector import const, fma, span

LOG2_E = 1.4426950408889634


class Rotation(NamedTuple):
    """What differs from a plain Llama."""

    rope_dim: int | None = None
    """Leading columns of a head that turn; None is all."""
    width: int | None = None
    """Columns of the rotary table; None is rope_dim."""
    first: int = 0
    """Where in a row of the table this layer's cosines start."""
    scale: float | None = None
    """What scores are multiplied by; None is 1 / sqrt(head_dim)."""
    qk_norm: Literal["head", "row"] | None = None
    """RMS norms of each head, or of all heads together, before the rotation."""
    eps: float = 0.0


class Source(NamedTuple):
    """Where the heads of queries, or of keys, are read from."""

    first_head: int
    num_heads: int
    weight: Var | None


class Heads(NamedTuple):
    """Static sizes and rules of a layer's heads."""

    level: Level
    heads: int
    kv_heads: int
    head_dim: int
    fmt: KvFormat
    rotation: Rotation

    @property
    def padded(self) -> int:
        """Head size in q and in the pool."""
        return round_up(self.head_dim, 16)

    @property
    def rope_dim(self) -> int:
        """Columns that turn."""
        return self.rotation.rope_dim or self.head_dim

    @property
    def half(self) -> int:
        return self.rope_dim // 2

    @property
    def scale(self) -> float:
        """What queries are multiplied by."""
        scale = self.rotation.scale
        return LOG2_E * (self.head_dim**-0.5 if scale is None else scale)

    @property
    def by_row(self) -> bool:
        """Whether one norm is of all heads together."""
        return self.rotation.qk_norm == "row"


class Rows(NamedTuple):
    """The kernel's tensors, and how their rows are read and written."""

    of: Heads
    qkv: Var
    rope: Var
    positions: Var
    slots: Var
    queries: Source
    keys: Source
    pool: Var
    layer: Var
    q: Var

    def factor_of(self, source: Source, row: Expr, head: Expr | int) -> Expr | None:
        """What the norm multiplies a head by, or all heads of a row."""
        if source.weight is None:
            return None
        of = self.of
        first = (source.first_head + head) * of.head_dim
        count = source.num_heads * of.head_dim if of.by_row else of.head_dim
        return T.bind(inverse_rms(of.level, self.qkv, row, first, count, of.rotation.eps))

    def load(
        self, source: Source, factor: Expr | None, row: Expr, head: Expr, d: Expr, width: int
    ) -> Expr:
        """`width` values of a head from column d on, normalised."""
        size = self.of.head_dim
        x = _lanes(self.qkv, [row], (head + source.first_head) * size + d, width)
        if source.weight is None:
            return x
        weight = _lanes(source.weight, [], (head * size + d) if self.of.by_row else d, width)
        return T.bind(x * (factor if width == 1 else T.broadcast(factor, width)) * weight)

    def rotated(
        self, source: Source, factor: Expr | None, row: Expr, head: Expr, d: Expr, width: int
    ) -> tuple[Expr, Expr]:
        """`width` values from d on of both halves of what is rotated."""
        level, half, table = self.of.level, self.of.half, self.of.rotation.first
        position = T.Cast("int64", self.positions[row])
        cos = _lanes(self.rope, [position], d + table, width)
        sin = _lanes(self.rope, [position], d + (half + table), width)
        x = self.load(source, factor, row, head, d, width)
        y = self.load(source, factor, row, head, d + half, width)
        minus = T.bind(_zero(width) - y)
        first = fma(level, x, cos, T.bind(minus * sin), width)
        return first, fma(level, y, cos, T.bind(x * sin), width)


def _lanes(buffer: Var, place: list[Expr], first: Expr, width: int) -> Expr:
    """`width` neighbours, a scalar for 1."""
    return T.bind(buffer[(*place, first if width == 1 else span(first, width))])


def _zero(width: int) -> Expr:
    return T.float32(0) if width == 1 else const(0.0, width)
