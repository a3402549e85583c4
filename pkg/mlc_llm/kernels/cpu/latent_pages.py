"""Pages of compressed keys and values: what they are in memory, and how they are read and written.

A page is [16 tokens][rank + rope_dim] of float32, float16, or the bits of bfloat16.
"""

from __future__ import annotations

from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import Var

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.kernels.cpu.kv_format import to_bfloat16
from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.vector import arg, iconst, span, symbol, widen_half
from mlc_llm.models.architecture import Latent
from mlc_llm.quantization.scheme import KvDtype, kv_storage


class LatentPages(NamedTuple):
    """One model's pages on one level."""

    level: Level
    latent: Latent
    kv_dtype: KvDtype

    @property
    def lanes(self) -> int:
        """Of the vectors that are read."""
        return TRAITS[self.level].lanes

    def pool(self) -> Var:
        """Append the parameter."""
        shape = (symbol("layers"), symbol("pages"), 1, 1, PAGE_SIZE * self.latent.width)
        return arg("pool", shape, kv_storage(self.kv_dtype))

    def load(self, pool: Var, layer: Expr, page: Expr, first: Expr) -> Expr:
        """A vector of a page as float32."""
        value = pool[layer, page, 0, 0, span(first, self.lanes)]
        if self.kv_dtype == "float32":
            return T.bind(value)
        if self.kv_dtype == "float16":
            return T.bind(widen_half(self.level, value, self.lanes))
        bits = T.shift_left(T.Cast(f"int32x{self.lanes}", value), iconst(16, self.lanes))
        return T.bind(T.reinterpret(f"float32x{self.lanes}", bits))

    def stored(self, value: Expr, lanes: int) -> Expr:
        """A float32, or a vector of them, as an element of the pool."""
        if self.kv_dtype == "bfloat16":
            return to_bfloat16(value, lanes)
        return T.Cast(self.kv_dtype if lanes == 1 else f"{self.kv_dtype}x{lanes}", value)
