"""Compress what new tokens leave in the pool: a latent vector and a rotated key of each.

Runs before `latent_attention` of the same layer, which reads the pages. Rotates queries, too.
"""

from __future__ import annotations

from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.compiler.abi import PAGE_SIZE
from mlc_llm.kernels.cpu.kv_format import LANES
from mlc_llm.kernels.cpu.latent_pages import LatentPages
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.norm import inverse_rms
from mlc_llm.kernels.cpu.vector import arg, for_each_row, prim_func, span, splat, symbol
from mlc_llm.models.architecture import Latent
from mlc_llm.quantization.scheme import KvDtype


class _Append(NamedTuple):
    """The kernel's sizes and parameters."""

    pages: LatentPages
    heads: int
    q: Var
    kv: Var
    rope: Var
    positions: Var
    slots: Var
    norm: Var
    pool: Var
    layer: Expr
    turned: Var

    def rotated(self, source: Var, row: Expr, first: Expr, pair: Expr) -> tuple[Expr, Expr]:
        """Both values of a pair of columns that turn, from column `first` of a row on."""
        latent = self.pages.latent
        half = latent.rope_dim // 2
        step, other = (2, 1) if latent.interleaved else (1, half)
        position = T.Cast("int64", self.positions[row])
        cos, sin = T.bind(self.rope[position, pair]), T.bind(self.rope[position, pair + half])
        x = T.bind(source[row, first + pair * step])
        y = T.bind(source[row, first + pair * step + other])
        return x * cos - y * sin, y * cos + x * sin


def latent_append(level: Level, latent: Latent, heads: int, kv_dtype: KvDtype) -> PrimFunc:
    """(q f32[n, Hq (N + R)], kv f32[n, rank + R], rope f32[c, R], positions int32[n], slots
    int32[n], norm f32[rank], pool, layer int64, turned f32[n, Hq R]).

    Writes the normalised latents and the rotated keys of the rows into the pool, and gives the
    rotated part of the queries; N is `nope_dim`, R `rope_dim`.
    """
    pages = LatentPages(level, latent, kv_dtype)

    def emit() -> None:
        n = symbol("n")
        use = _Append(
            pages,
            heads,
            q=arg("q", (n, heads * (latent.nope_dim + latent.rope_dim)), "float32"),
            kv=arg("kv", (n, latent.width), "float32"),
            rope=arg("rope", (symbol("reach"), latent.rope_dim), "float32"),
            positions=arg("positions", (n,), "int32"),
            slots=arg("slots", (n,), "int32"),
            norm=arg("norm", (latent.rank,), "float32"),
            pool=pages.pool(),
            layer=T.arg("layer", T.int64()),
            turned=arg("turned", (n, heads * latent.rope_dim), "float32"),
        )

        def row(r: Expr) -> None:
            _append_row(use, r)
            _turn_queries(use, r)

        for_each_row(n, row)

    return prim_func(emit)


def _append_row(use: _Append, row: Expr) -> None:
    """The latent and the key of a row, into its slot."""
    latent, stored = use.pages.latent, use.pages.stored
    page = T.bind(T.floordiv(T.Cast("int64", use.slots[row]), PAGE_SIZE))
    slot = T.bind(T.floormod(T.Cast("int64", use.slots[row]), PAGE_SIZE))
    start = slot * latent.width
    factor = T.bind(inverse_rms(use.pages.level, use.kv, row, 0, latent.rank, latent.norm_eps))
    with T.serial(T.int64(latent.rank // LANES)) as v:
        columns = span(v * LANES, LANES)
        value = T.bind(use.kv[row, columns] * splat(factor, LANES) * use.norm[columns])
        place = [use.layer, page, 0, 0, span(start + v * LANES, LANES)]
        T.buffer_store(use.pool, stored(value, LANES), place)
    half = latent.rope_dim // 2
    with T.serial(T.int64(half)) as pair:
        for i, value in enumerate(use.rotated(use.kv, row, T.int64(latent.rank), pair)):
            place = [use.layer, page, 0, 0, start + (pair + (latent.rank + i * half))]
            T.buffer_store(use.pool, stored(T.bind(value), 1), place)


def _turn_queries(use: _Append, row: Expr) -> None:
    latent = use.pages.latent
    half, width = latent.rope_dim // 2, latent.nope_dim + latent.rope_dim
    with T.serial(T.int64(use.heads)) as head, T.serial(T.int64(half)) as pair:
        first = head * width + latent.nope_dim
        for i, value in enumerate(use.rotated(use.q, row, first, pair)):
            place = [row, head * latent.rope_dim + pair + i * half]
            T.buffer_store(use.turned, value, place)
