"""Which rows a `step` works on: the embeddings of its tokens, and the rows that leave it."""

# TVM's annotations are narrower than what its functions take.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

from tvm import relax
from tvm.ir import Expr, GlobalVar

from mlc_llm.kernels.cpu.embed import embed, prompt_ends, take_rows
from mlc_llm.models.step_emitter import (
    Emitter,
    Inputs,
    Weight,
    Weights,
    floats,
)


def embedded(e: Emitter, ids: Expr, table: Weight, scale: float, add: Expr | None = None) -> Expr:
    hidden, blocks = e.arch.hidden_size, table.spec.num_blocks
    name = "embed" if add is None else f"embed_add_{blocks}"
    sizes = (e.scheme.format_of(table.spec.name), blocks, hidden, scale, add is not None)
    kernel = e.kernel(name, embed, *sizes)
    more = [] if add is None else [add]
    return e.call(kernel, [ids, *table.tensors, *more], floats(e.n, hidden))


def taken_rows(e: Emitter, x: Expr, last: Expr) -> Expr:
    return e.call(_row_taker(e), [x, last], floats(e.b, e.arch.hidden_size))


def hidden_rows(e: Emitter, x: Expr, inputs: Inputs) -> Expr:
    """Rows that are copied into the caller's memory."""
    args = relax.Tuple([x, inputs.taken, inputs.hidden])
    taker, place = _row_taker(e), len(args.fields) - 1
    return e.blocks.emit(relax.op.call_tir_inplace(taker, args, place, inputs.hidden.ty))


def _row_taker(e: Emitter) -> GlobalVar:
    name = "take_rows"
    if name not in e.kernels:
        e.kernels[name] = e.blocks.add_func(take_rows(e.arch.hidden_size), name)
    return e.kernels[name]


def encoder_rows(e: Emitter, x: Expr, inputs: Inputs, weights: Weights) -> Expr:
    """Embeddings with their token types; from here on rows see the ends of their prompts."""
    if "prompt_ends" not in e.kernels:
        e.kernels["prompt_ends"] = e.blocks.add_func(prompt_ends(), "prompt_ends")
    numbers = [relax.TensorType((e.n,), "int32")] * 2
    kernel, args = e.kernels["prompt_ends"], [inputs.tiles, inputs.positions]
    e.seen, types = e.fields(kernel, args, numbers)
    if not e.arch.token_types:
        return x
    return embedded(e, types, weights["model.embed_types.weight"], 1.0, x)
