"""Rows by number: of the packed embedding table, which a tied head shares, and of activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var

from mlc_llm.compiler.abi import round_up
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.vector import (
    arg,
    const,
    for_each_row,
    iconst,
    prim_func,
    span,
    splat,
    symbol,
    widen_half,
)
from mlc_llm.models.parameters import ROW_BLOCK
from mlc_llm.quantization.scheme import CODES, GROUP_SIZE, Codes, WeightFormat


class Finish(NamedTuple):
    """What becomes of the values of a row."""

    scale: float
    residual: Var | None

    def __call__(self, value: Expr, row: Expr, columns: Expr, lanes: int) -> Expr:
        if self.scale != 1.0:
            scale = T.float32(self.scale) if lanes == 1 else const(self.scale, lanes)
            value = T.bind(value * scale)
        return value if self.residual is None else self.residual[row, columns] + value


class Grouped(NamedTuple):
    """A table in groups of codes."""

    codes: Codes
    w: Var
    s: Var


def embed(
    level: Level,
    weights: WeightFormat,
    num_blocks: int,
    hidden: int,
    scale: float = 1.0,
    add: bool = False,
) -> PrimFunc:
    """(ids int32[n], the table's packed tensors[, residual f32[n, hidden]], y f32[n, hidden]).

    The table is `w` for f32 and f16, `w` and `s` for q4 and q8, shaped as in `models.parameters`. With
    `add`, y is the residual plus `scale` times the row. Ids are not checked: the caller knows they
    are in the table.
    """

    def emit() -> None:
        n = symbol("n")
        ids = arg("ids", (n,), "int32")
        columns = round_up(hidden, GROUP_SIZE)
        codes = CODES.get(weights)
        if codes:
            groups = columns // GROUP_SIZE
            w = arg("w", (num_blocks, groups, codes.words, ROW_BLOCK), "int32")
            s = arg("s", (num_blocks, groups, ROW_BLOCK), "float16")
        else:
            dtype = "float32" if weights == "f32" else "float16"
            w = arg("w", (num_blocks, columns, ROW_BLOCK), dtype)
        finish = Finish(scale, arg("residual", (n, hidden), "float32") if add else None)
        y = arg("y", (n, hidden), "float32")
        if codes:
            place = Grouped(codes, w, s)
            for_each_row(n, lambda r: _row_grouped(level, ids[r], place, y, r, hidden, finish))
        else:
            for_each_row(n, lambda r: _row_float(level, ids[r], w, y, r, hidden, finish))

    return prim_func(emit)


def take_rows(hidden: int) -> PrimFunc:
    """(x f32[n, hidden], last int32[b], y f32[b, hidden]): y[i] = x[last[i]]."""

    def emit() -> None:
        n, b = symbol("n"), symbol("b")
        x = arg("x", (n, hidden), "float32")
        last = arg("last", (b,), "int32")
        y = arg("y", (b, hidden), "float32")

        def row(r: Expr) -> None:
            source = T.bind(T.Cast("int64", last[r]))
            with T.serial(hidden // 16) as i:
                columns = span(i * 16, 16)
                T.buffer_store(y, x[source, columns], [r, columns])
            if rest := hidden % 16:
                with T.serial(rest) as i:
                    column = hidden - rest + i
                    T.buffer_store(y, x[source, column], [r, column])

        for_each_row(b, row)

    return prim_func(emit)


def prompt_ends() -> PrimFunc:
    """(tiles int32[t, 4], positions int32[n], ends int32[n], types int32[n]).

    ends[i] is the last position of row i's sequence in this step: what a row of an encoder attends
    to. types[i] is its token type, which is 0: an input is one text.
    """

    def emit() -> None:
        n, t = symbol("n"), symbol("t")
        tiles = arg("tiles", (t, 4), "int32")
        positions = arg("positions", (n,), "int32")
        ends = arg("ends", (n,), "int32")
        types = arg("types", (n,), "int32")
        end = T.alloc_buffer((1,), "int32", scope="global")
        with T.serial(t) as i:
            tile = T.bind(t - 1 - i)
            first = T.bind(T.Cast("int64", tiles[tile, 0]))
            count = T.bind(T.Cast("int64", tiles[tile, 1]))
            after = T.min(tile + 1, t - 1)
            is_last = T.Or(i == 0, tiles[after, 2] != tiles[tile, 2])
            with T.If(is_last), T.Then():
                T.buffer_store(end, positions[first + count - 1], [0])
            with T.serial(count) as r:
                T.buffer_store(ends, end[0], [first + r])
                T.buffer_store(types, T.int32(0), [first + r])

    return prim_func(emit)


def _row_float(
    level: Level, token: Expr, w: Var, y: Var, row: Expr, hidden: int, finish: Finish
) -> None:
    block, lane = _place(token)
    with T.serial(hidden) as k:
        value = w[block, k, lane]
        if w.dtype == "float16":
            value = widen_half(level, value, 1)
        T.buffer_store(y, finish(value, row, k, 1), [row, k])


def _row_grouped(
    level: Level, token: Expr, table: Grouped, y: Var, row: Expr, hidden: int, finish: Finish
) -> None:
    """A word of a lane is 4 columns in its bytes; of 4-bit codes, 4 in their low halves and 4 more,
    half a group further, in the high halves."""
    codes, w, s = table
    block, lane = _place(token)
    halves = ((0, 0),) if codes.bits == 8 else ((0, 0), (4, GROUP_SIZE // 2))

    def columns(group: Expr, j: int, shift: int) -> Expr:
        found = T.shift_right(
            splat(w[block, group, j, lane], 4), T.ramp(T.int32(shift), T.int32(8), 4)
        )
        whole = T.bitwise_and(found, iconst((1 << codes.bits) - 1, 4)) - iconst(codes.zero, 4)
        return T.Cast("float32x4", whole)

    def each_vector(group: Expr, store: Callable[[Expr, int], None]) -> None:
        scale = T.bind(splat(widen_half(level, s[block, group, lane], 1), 4))
        for j in range(codes.words):
            for shift, offset in halves:
                store(columns(group, j, shift) * scale, offset + 4 * j)

    with T.serial(T.int64(hidden // GROUP_SIZE)) as group:

        def store(value: Expr, offset: int) -> None:
            at = span(group * GROUP_SIZE + offset, 4)
            T.buffer_store(y, finish(value, row, at, 4), [row, at])

        each_vector(group, store)
    if rest := hidden % GROUP_SIZE:
        scratch = T.alloc_buffer((GROUP_SIZE,), "float32", scope="global")
        each_vector(
            T.int64(hidden // GROUP_SIZE),
            lambda value, offset: T.buffer_store(scratch, value, [span(offset, 4)]),
        )
        with T.serial(rest) as i:
            column = hidden - rest + i
            T.buffer_store(y, finish(scratch[i], row, column, 1), [row, column])


def _place(token: Expr) -> tuple[Expr, Expr]:
    """Block and lane of a row."""
    wide = T.bind(T.Cast("int64", token))
    return T.bind(T.floordiv(wide, ROW_BLOCK)), T.bind(T.floormod(wide, ROW_BLOCK))
