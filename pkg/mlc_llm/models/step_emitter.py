"""What the parts of a `step` are written with: its inputs, its weights, and calls of kernels."""

# TVM's annotations are narrower than what its functions take.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tvm import relax, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc

from mlc_llm.compiler.abi import TILE_ROWS, round_up
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.parameters import ParameterSpec
from mlc_llm.quantization.scheme import CODES, GROUP_SIZE, Codes, Scheme


class Inputs(NamedTuple):
    """The arguments of `step` before the weights."""

    ids: relax.Var
    positions: relax.Var
    slots: relax.Var
    page_table: relax.Var
    tiles: relax.Var
    last: relax.Var
    taken: relax.Var
    rope: relax.Var
    pool: relax.Var
    logits: relax.Var
    hidden: relax.Var


class Weight(NamedTuple):
    """One weight of the model: what it is and the arguments that hold it."""

    spec: ParameterSpec
    tensors: tuple[Expr, ...]


Weights = Mapping[str, Weight]
"""By parameter name; those of a layer by their name in it."""


class Rows(NamedTuple):
    """Rows of activations as a product wants them: floats, or what `quantize` returns."""

    tensors: list[Expr]
    cols: int
    """Columns, which may be padded beyond those of the weight that they are multiplied with."""


class Emitter:
    """Emits the bindings of one `step`: kernels, each of which is made once, and their calls."""

    def __init__(self, arch: Architecture, scheme: Scheme, level: Level) -> None:
        self.arch = arch
        self.scheme = scheme
        self.level = level
        self.blocks = relax.BlockBuilder()
        self.kernels: dict[str, GlobalVar] = {}
        self.n = tirx.Var("n", "int64")
        self.b = tirx.Var("b", "int64")
        self.e = tirx.Var("e", "int64")
        self.seen: Expr | None = None
        """The last position that each row attends to, where that is not its own."""

    @property
    def hidden(self) -> int:
        """Columns of normalised rows: the hidden size with its padding."""
        return round_up(self.arch.hidden_size, GROUP_SIZE)

    @property
    def codes(self) -> Codes | None:
        """What weights are, where products take quantized activations."""
        return CODES.get(self.scheme.weights)

    def kernel(self, name: str, make: object, *sizes: object) -> GlobalVar:
        """The kernel of this name, added to the module when it is first asked for."""
        if name not in self.kernels:
            function: PrimFunc = make(self.level, *sizes)  # type: ignore[operator]
            self.kernels[name] = self.blocks.add_func(function, name)
        return self.kernels[name]

    def call(self, kernel: GlobalVar, args: Sequence[Expr], out: object) -> Expr:
        """What a kernel makes of tensors."""
        return self.blocks.emit(relax.call_tir(kernel, relax.Tuple(list(args)), out))

    def fields(
        self, kernel: GlobalVar, args: Sequence[Expr], out: list[relax.TensorType]
    ) -> list[Expr]:
        """What a kernel makes of tensors, where that is several."""
        found = self.call(kernel, args, out)
        return [self.blocks.emit(relax.TupleGetItem(found, i)) for i in range(len(out))]


def floats(rows: Expr, cols: int) -> relax.TensorType:
    """Rows of activations."""
    return relax.TensorType((rows, cols), "float32")


def quantized_types(rows: Expr, cols: int) -> list[relax.TensorType]:
    """What `quantize` returns: words, scales and corrections, in tiles of rows."""
    groups = round_up(cols, GROUP_SIZE) // GROUP_SIZE
    tiles = tirx.floordiv(rows + (TILE_ROWS - 1), TILE_ROWS)
    return [
        relax.TensorType((tiles, groups, TILE_ROWS, 8), "int32"),
        relax.TensorType((tiles, groups, TILE_ROWS), "float32"),
        relax.TensorType((tiles, groups, TILE_ROWS), "int32"),
    ]
