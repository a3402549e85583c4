"""A Llama-type decoder as a Relax function: the `step` of `compiler.abi`, made of our kernels.

Every operation is one call of a kernel that all layers share; which layer it is reaches the kernels
that touch the KV pool as a number. Bindings run in the order they are written: `rope_append`
changes the pool in place, and `attention` of the same layer, which takes its result, reads it.
"""

# TVM's annotations are narrower than what its functions take.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tvm
from tvm import relax, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc

from mlc_llm.compiler.abi import MAX_ROWS, PAGE_SIZE, STEP, TILE_ROWS, round_up
from mlc_llm.kernels.cpu.attention import attention
from mlc_llm.kernels.cpu.embed import embed, take_rows
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.kernels.cpu.linear_float import linear_float
from mlc_llm.kernels.cpu.linear_q4 import linear_q4
from mlc_llm.kernels.cpu.matmul import Epilogue
from mlc_llm.kernels.cpu.norm import rms_norm, rms_norm_quantize
from mlc_llm.kernels.cpu.quantize import quantize
from mlc_llm.kernels.cpu.rope import rope_append
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.parameters import ROW_BLOCK, ParameterSpec, parameters
from mlc_llm.quantization.scheme import GROUP_SIZE, Scheme


class Inputs(NamedTuple):
    """The arguments of `step` before the weights."""

    ids: relax.Var
    positions: relax.Var
    slots: relax.Var
    page_table: relax.Var
    tiles: relax.Var
    last: relax.Var
    rope: relax.Var
    pool: relax.Var
    logits: relax.Var


class Weight(NamedTuple):
    """One weight of the model: what it is and the arguments that hold it."""

    spec: ParameterSpec
    tensors: tuple[Expr, ...]


def build_step(arch: Architecture, scheme: Scheme, level: Level) -> tvm.IRModule:
    """A module whose function `step` is this model with weights of this scheme."""
    return _Builder(arch, scheme, level).build()


class _Builder:
    """Emits the bindings of one `step`."""

    def __init__(self, arch: Architecture, scheme: Scheme, level: Level) -> None:
        self.arch = arch
        self.scheme = scheme
        self.level = level
        self.blocks = relax.BlockBuilder()
        self.kernels: dict[str, GlobalVar] = {}
        self.n = tirx.Var("n", "int64")
        self.b = tirx.Var("b", "int64")

    def build(self) -> tvm.IRModule:
        inputs = self._inputs()
        specs = parameters(self.arch)
        tensors = [t for spec in specs for t in spec.tensors(self.scheme.weights)]
        types = [relax.TensorType(t.shape, t.dtype) for t in tensors]
        packed = relax.Var("weights", relax.TupleType(types))
        bounds = {"tir_var_upper_bound": {"n": MAX_ROWS, "b": MAX_ROWS}}
        with self.blocks.function(STEP, [*inputs, packed], attrs=bounds):
            fields = iter(
                [self.blocks.emit(relax.TupleGetItem(packed, i)) for i in range(len(types))]
            )
            weights = [
                Weight(spec, tuple(next(fields) for _ in spec.tensors(self.scheme.weights)))
                for spec in specs
            ]
            self.blocks.emit_func_output(self._forward(inputs, weights))
        return self.blocks.finalize()

    def _inputs(self) -> Inputs:
        n, b, arch = self.n, self.b, self.arch

        def size(name: str) -> tirx.Var:
            return tirx.Var(name, "int64")

        def tensor(name: str, shape: Sequence[object], dtype: str = "int32") -> relax.Var:
            return relax.Var(name, relax.TensorType(shape, dtype))

        page = PAGE_SIZE * round_up(arch.head_dim, PAGE_SIZE)
        pool = (arch.num_hidden_layers, size("pages"), 2, arch.num_key_value_heads, page)
        return Inputs(
            tensor("ids", (n,)),
            tensor("positions", (n,)),
            tensor("slots", (n,)),
            tensor("page_table", (size("seqs"), size("width"))),
            tensor("tiles", (size("tiles"), 4)),
            tensor("last", (b,)),
            tensor("rope", (size("reach"), arch.head_dim), "float32"),
            tensor("pool", pool, self.scheme.kv_dtype),
            tensor("logits", (b, round_up(arch.vocab_size, ROW_BLOCK)), "float32"),
        )

    def _forward(self, inputs: Inputs, weights: Sequence[Weight]) -> Expr:
        table, *rest = weights
        x = self._embed(inputs.ids, table)
        remaining = iter(rest)
        for layer in range(self.arch.num_hidden_layers):
            x = self._layer(x, inputs, layer, remaining)
        final_norm = next(remaining)
        head = table if self.arch.tie_word_embeddings else next(remaining)
        x = self._take_rows(x, inputs.last)
        return self._logits(self._norm(x, final_norm, self.b), head, inputs.logits)

    def _layer(self, x: Expr, inputs: Inputs, layer: int, weights: Iterator[Weight]) -> Expr:
        norm, qkv, out, mlp_norm, gate_up, down = (next(weights) for _ in range(6))
        mixed_width = out.spec.cols
        heads = self._linear(self._norm(x, norm, self.n), self._hidden, qkv, "store")
        mixed = self._attention(heads, inputs, layer)
        x = self._linear(self._quantized(mixed, mixed_width), mixed_width, out, "add", x)
        gated = self._linear(self._norm(x, mlp_norm, self.n), self._hidden, gate_up, "silu_mul")
        return self._linear(self._quantized(gated, self._inner), self._inner, down, "add", x)

    @property
    def _hidden(self) -> int:
        """Columns of normalised rows: the hidden size with its padding."""
        return round_up(self.arch.hidden_size, GROUP_SIZE)

    @property
    def _inner(self) -> int:
        """Columns of silu(gate) * up: the intermediate size with its padding."""
        return round_up(self.arch.intermediate_size, GROUP_SIZE)

    @property
    def _quantizes(self) -> bool:
        return self.scheme.weights == "q4"

    def _embed(self, ids: Expr, table: Weight) -> Expr:
        hidden, blocks = self.arch.hidden_size, table.spec.num_blocks
        kernel = self._kernel("embed", embed, self.scheme.weights, blocks, hidden)
        return self._call(kernel, [ids, *table.tensors], _floats(self.n, hidden))

    def _take_rows(self, x: Expr, last: Expr) -> Expr:
        hidden = self.arch.hidden_size
        name = "take_rows"
        if name not in self.kernels:
            self.kernels[name] = self.blocks.add_func(take_rows(hidden), name)
        return self._call(self.kernels[name], [x, last], _floats(self.b, hidden))

    def _norm(self, x: Expr, weight: Weight, rows: Expr) -> list[Expr]:
        """The normalised rows as a product wants them."""
        hidden, eps = self.arch.hidden_size, self.arch.rms_norm_eps
        args = [x, *weight.tensors]
        if self._quantizes:
            kernel = self._kernel("rms_norm_quantize", rms_norm_quantize, hidden, eps)
            return self._fields(kernel, args, _quantized(rows, hidden))
        kernel = self._kernel("rms_norm", rms_norm, hidden, self._hidden, eps)
        return [self._call(kernel, args, _floats(rows, self._hidden))]

    def _quantized(self, x: Expr, cols: int) -> list[Expr]:
        """Rows of activations as a product wants them."""
        if not self._quantizes:
            return [x]
        kernel = self._kernel(f"quantize_{cols}", quantize, cols)
        return self._fields(kernel, [x], _quantized(self.n, cols))

    def _product(self, weight: Weight, epilogue: Epilogue, num_rows: int, cols: int) -> GlobalVar:
        blocks = weight.spec.num_blocks
        name = f"linear_{epilogue}_{num_rows}_{cols}"
        if self._quantizes:
            return self._kernel(name, linear_q4, blocks, cols, num_rows, epilogue)
        stored = self.scheme.weights
        return self._kernel(name, linear_float, stored, blocks, cols, num_rows, epilogue)

    def _linear(
        self,
        x: list[Expr],
        cols: int,
        weight: Weight,
        epilogue: Epilogue,
        residual: Expr | None = None,
    ) -> Expr:
        """`weight` times the `cols` columns of x, which may be padded beyond the weight's own."""
        width = self._inner if epilogue == "silu_mul" else weight.spec.rows
        kernel = self._product(weight, epilogue, weight.spec.rows, cols)
        more = [] if residual is None else [residual]
        return self._call(kernel, [*x, *weight.tensors, *more], _floats(self.n, width))

    def _attention(self, qkv: Expr, inputs: Inputs, layer: int) -> Expr:
        arch = self.arch
        sizes = (arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim)
        padded = round_up(arch.head_dim, PAGE_SIZE)
        index = tirx.IntImm("int64", layer)
        append = self._kernel("rope_append", rope_append, *sizes, self.scheme.kv_dtype)
        args = [qkv, inputs.rope, inputs.positions, inputs.slots, inputs.pool, index]
        queries = relax.TensorType((self.n, arch.num_attention_heads, padded), "float32")
        q = self._call(append, args, queries)
        attend = self._kernel("attention", attention, *sizes, self.scheme.kv_dtype)
        args = [q, inputs.pool, inputs.page_table, inputs.tiles, inputs.positions, index]
        return self._call(attend, args, _floats(self.n, arch.num_attention_heads * arch.head_dim))

    def _logits(self, x: list[Expr], head: Weight, logits: relax.Var) -> Expr:
        """The last product writes into the caller's memory."""
        rows = round_up(head.spec.rows, ROW_BLOCK)
        kernel = self._product(head, "store", rows, self._hidden)
        args = relax.Tuple([*x, *head.tensors, logits])
        place = len(args.fields) - 1
        return self.blocks.emit(relax.op.call_tir_inplace(kernel, args, place, logits.ty))

    def _kernel(self, name: str, make: object, *sizes: object) -> GlobalVar:
        """The kernel of this name, added to the module when it is first asked for."""
        if name not in self.kernels:
            function: PrimFunc = make(self.level, *sizes)  # type: ignore[operator]
            self.kernels[name] = self.blocks.add_func(function, name)
        return self.kernels[name]

    def _call(self, kernel: GlobalVar, args: Sequence[Expr], out: object) -> Expr:
        return self.blocks.emit(relax.call_tir(kernel, relax.Tuple(list(args)), out))

    def _fields(
        self, kernel: GlobalVar, args: Sequence[Expr], out: list[relax.TensorType]
    ) -> list[Expr]:
        found = self._call(kernel, args, out)
        return [self.blocks.emit(relax.TupleGetItem(found, i)) for i in range(len(out))]


def _floats(rows: Expr, cols: int) -> relax.TensorType:
    return relax.TensorType((rows, cols), "float32")


def _quantized(rows: Expr, cols: int) -> list[relax.TensorType]:
    """What `quantize` returns: words, scales and corrections, in tiles of rows."""
    groups = round_up(cols, GROUP_SIZE) // GROUP_SIZE
    tiles = tirx.floordiv(rows + (TILE_ROWS - 1), TILE_ROWS)
    return [
        relax.TensorType((tiles, groups, TILE_ROWS, 8), "int32"),
        relax.TensorType((tiles, groups, TILE_ROWS), "float32"),
        relax.TensorType((tiles, groups, TILE_ROWS), "int32"),
    ]
