"""What happens to the sums of a matrix product: where they go, and what is made of them on the way.

Knows neither how they are computed nor in which order tiles come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import tvm.script.ir_builder.tirx as T
from tvm.ir import Expr
from tvm.tirx import Var

from mlc_llm.kernels.cpu.level import TRAITS, Level
from mlc_llm.kernels.cpu.quantize import Quantized
from mlc_llm.kernels.cpu.vector import (
    arg,
    const,
    gelu,
    gelu_tanh,
    get,
    prefetch,
    silu,
    span,
    tanh,
)
from mlc_llm.models.parameters import ROW_BLOCK
from mlc_llm.quantization.scheme import GROUP_SIZE

Epilogue = Literal[
    "store", "add", "silu", "gelu", "gelu_tanh", "silu_mul", "gelu_mul", "gelu_tanh_mul"
]
"""What becomes of a sum: nothing, an addition to the residual, an activation of it, or (gate_up) the
activation of the gate's sum times the other's."""

GATED: dict[str, Epilogue] = {
    "silu": "silu_mul",
    "gelu": "gelu_mul",
    "gelu_tanh": "gelu_tanh_mul",
}
"""By activation."""

ACTIVATIONS = {"silu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh}

PANEL_BLOCKS = 4
"""A multiple of every number of blocks that a tile takes at once. A panel of gate and up rows gives
one group of columns of what they make."""

Sums = list[list[list[Var]]]
"""Vector variables [block][token row][part of the block]."""


def is_gated(epilogue: Epilogue) -> bool:
    """Whether blocks come in pairs of gate and up."""
    return epilogue.endswith("_mul")


class Output(NamedTuple):
    """Where the sums of a product go, and how."""

    level: Level
    epilogue: Epilogue
    num_blocks: int
    num_rows: int
    y: Var
    residual: Var | None
    bias: Var | None
    softcap: float | None

    def expect(self, row: Expr, block: Expr, rows: int, blocks: int) -> None:
        """Ask for what will be added: it comes while the product is computed. Where memory has it,
        waiting for it at the end takes a seventh of a prompt's tile."""
        if self.residual is not None:
            for i in range(rows):
                for b in range(blocks):
                    prefetch(self.residual, row + i, (block + b) * ROW_BLOCK)

    def write(self, row: Expr, block: Expr, sums: Sums) -> None:
        """Finish the rows of a tile: row, row + 1, ... of blocks block, block + 1, ..."""
        gated = is_gated(self.epilogue)
        for b in range(0, len(sums), 2 if gated else 1):
            for i in range(len(sums[b])):
                if gated:
                    first = T.floordiv(block + b, 2) * ROW_BLOCK
                    pair = sums[b][i], sums[b + 1][i]
                    gate(self.level, self.epilogue, *pair, self.y, [row + i], first)
                else:
                    self._block(row + i, block + b, sums[b][i])

    def _finished(self, value: Expr) -> Expr:
        """The activation, or the cap, of a vector."""
        lanes = TRAITS[self.level].lanes
        if act := ACTIVATIONS.get(self.epilogue):
            return act(self.level, T.bind(value), lanes)
        if self.softcap is not None:
            inner = T.bind(value * const(1 / self.softcap, lanes))
            return tanh(self.level, inner, lanes) * const(self.softcap, lanes)
        return value

    def _block(self, row: Expr, block: Expr, sums: list[Var]) -> None:
        if self.num_rows % ROW_BLOCK == 0:
            self._whole_block(row, block, sums)
            return
        with T.If(block < self.num_rows // ROW_BLOCK):
            with T.Then():
                self._whole_block(row, block, sums)
            with T.Else():
                self._last_block(row, sums)

    def _whole_block(self, row: Expr, block: Expr, sums: list[Var]) -> None:
        lanes = TRAITS[self.level].lanes
        for p, part in enumerate(sums):
            columns = span(block * ROW_BLOCK + p * lanes, lanes)
            value = get(part, lanes)
            if self.bias is not None:
                value = value + self.bias[columns]
            value = self._finished(value)
            if self.residual is not None:
                value = self.residual[row, columns] + value
            T.buffer_store(self.y, value, [row, columns])

    def _last_block(self, row: Expr, sums: list[Var]) -> None:
        """The rows of a block that exist, through memory: `sums` itself must stay in registers."""
        lanes = TRAITS[self.level].lanes
        scratch = T.alloc_buffer((ROW_BLOCK,), "float32", scope="global")
        first = self.num_rows // ROW_BLOCK * ROW_BLOCK
        parts = [span(p * lanes, lanes) for p in range(len(sums))]
        for part, place in zip(sums, parts, strict=True):
            T.buffer_store(scratch, get(part, lanes), [place])
        if self.bias is not None:
            with T.serial(self.num_rows % ROW_BLOCK) as r:
                T.buffer_store(scratch, scratch[r] + self.bias[first + r], [r])
        for place in parts:
            T.buffer_store(scratch, self._finished(scratch[place]), [place])
        with T.serial(self.num_rows % ROW_BLOCK) as r:
            value = scratch[r]
            if self.residual is not None:
                value = self.residual[row, first + r] + value
            T.buffer_store(self.y, value, [row, first + r])


class GatedOutput(NamedTuple):
    """Where gated rows go as the next product wants them: quantized."""

    level: Level
    epilogue: Epilogue
    out: Quantized

    def write(self, row: Expr, block: Expr, rows: int, sums_of: Callable[[Expr], Sums]) -> None:
        """Finish a tile of one panel. `sums_of(block)` computes a block of gate and its block of
        up; what they make waits in memory for the other half of the group."""
        values = T.alloc_buffer((rows, GROUP_SIZE), "float32", scope="global")
        for half in range(PANEL_BLOCKS // 2):
            gates, ups = sums_of(block + 2 * half)
            for i in range(rows):
                first = half * ROW_BLOCK
                gate(self.level, self.epilogue, gates[i], ups[i], values, [i], first)
        group = T.bind(T.floordiv(block, PANEL_BLOCKS))
        for i in range(rows):
            low, high = values[i, span(0, ROW_BLOCK)], values[i, span(ROW_BLOCK, ROW_BLOCK)]
            self.out.write(T.bind(row + i), group, low, high)


def gate(
    level: Level,
    epilogue: Epilogue,
    gates: list[Var],
    ups: list[Var],
    y: Var,
    place: list[object],
    first: Expr | int,
) -> None:
    """Write what a row and block of gate and of up make from column `first` of y[place] on."""
    lanes = TRAITS[level].lanes
    act = ACTIVATIONS[epilogue.removesuffix("_mul")]
    for p, (gating, gated) in enumerate(zip(gates, ups, strict=True)):
        value = act(level, T.bind(get(gating, lanes)), lanes) * get(gated, lanes)
        T.buffer_store(y, value, [*place, span(first + p * lanes, lanes)])


def output_args(
    level: Level,
    epilogue: Epilogue,
    num_blocks: int,
    num_rows: int,
    n: Var,
    bias: bool = False,
    softcap: float | None = None,
) -> Output:
    """Append the bias f32[num_rows] and the residual, where there are such, and the output."""
    if is_gated(epilogue) and bias:
        raise ValueError("a gate_up product has no bias")
    width = num_blocks * ROW_BLOCK // 2 if is_gated(epilogue) else num_rows
    added = arg("bias", (num_rows,), "float32") if bias else None
    residual = arg("residual", (n, width), "float32") if epilogue == "add" else None
    y = arg("y", (n, width), "float32")
    return Output(level, epilogue, num_blocks, num_rows, y, residual, added, softcap)
