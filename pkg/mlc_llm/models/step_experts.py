"""The mixture of experts of a layer."""

# TVM's annotations are narrower than what its functions take.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

from tvm import relax
from tvm.ir import Expr

from mlc_llm.compiler.abi import round_up
from mlc_llm.kernels.cpu.epilogue import GATED
from mlc_llm.kernels.cpu.experts import experts_add, experts_gated
from mlc_llm.kernels.cpu.route import add_weighted, group_by_expert, route
from mlc_llm.models.architecture import Experts
from mlc_llm.models.step_emitter import (
    Emitter,
    Rows,
    Weights,
    floats,
    quantized_types,
)
from mlc_llm.models.step_products import gated, linear, norm, quantized
from mlc_llm.quantization.scheme import GROUP_SIZE


def experts_added(e: Emitter, x: Expr, weights: Weights) -> Expr:
    """x plus what the experts of each row make of it, which read floats to be chosen."""
    experts, n = e.arch.experts, e.n
    assert experts is not None
    normed = norm(e, x, weights, "post_attention_layernorm", n, None)
    runs, shares = _routed(e, normed, weights, experts)
    read = quantized(e, normed.tensors[0], normed.cols)
    if experts.shared_size:
        x = _shared_added(e, x, normed, read, weights)
    gate_up, down = weights["mlp.moe_gate_up_proj.weight"], weights["mlp.moe_down_proj.weight"]
    form, pairs = e.scheme.format_of(gate_up.spec.name), n * experts.per_token
    inner = round_up(experts.intermediate_size, GROUP_SIZE)
    blocks, epilogue = gate_up.spec.one.num_blocks, GATED[e.arch.activation]
    sizes = (form, experts, blocks, read.cols, epilogue)
    kernel = e.kernel("experts_gated", experts_gated, *sizes)
    args = [*runs, *read.tensors, *gate_up.tensors]
    if e.codes:
        made = e.fields(kernel, args, quantized_types(pairs, inner))
    else:
        made = [e.call(kernel, args, floats(pairs, inner))]
    blocks = down.spec.one.num_blocks
    kernel = e.kernel("experts_add", experts_add, form, experts, blocks, inner)
    args = [shares, *runs, *made, *down.tensors, x]
    return e.call(kernel, args, floats(n, e.arch.hidden_size))


def _routed(e: Emitter, rows: Rows, weights: Weights, experts: Experts) -> tuple[list[Expr], Expr]:
    """Which rows go to which expert, as `group_by_expert` says it, and with which shares."""
    n, per_token = e.n, experts.per_token
    bias = weights.get("mlp.e_score_correction_bias")
    args = [linear(e, rows, weights, "mlp.gate", "store"), *(bias.tensors if bias else ())]
    chosen = [
        relax.TensorType((n, per_token), "int32"),
        relax.TensorType((n, per_token), "float32"),
    ]
    ids, shares = e.fields(e.kernel("route", route, experts), args, chosen)
    grouped = [
        relax.TensorType((n * per_token,), "int32"),
        relax.TensorType((experts.count + 1, 2), "int32"),
        relax.TensorType((1,), "int32"),
    ]
    kernel = e.kernel("group_by_expert", group_by_expert, experts)
    return e.fields(kernel, [ids], grouped), shares


def _shared_added(e: Emitter, x: Expr, normed: Rows, read: Rows, weights: Weights) -> Expr:
    """x plus the MLP that every row passes beside its experts."""
    name, hidden = "mlp.shared_experts", e.arch.hidden_size
    epilogue = GATED[e.arch.activation]
    inner = gated(e, read, weights[f"{name}.gate_up_proj.weight"], epilogue)
    if "mlp.shared_expert_gate.weight" in weights:
        made = linear(e, inner, weights, f"{name}.down_proj", "store")
        logits = linear(e, normed, weights, "mlp.shared_expert_gate", "store")
        kernel = e.kernel("add_weighted", add_weighted, hidden)
        return e.call(kernel, [x, made, logits], floats(e.n, hidden))
    return linear(e, inner, weights, f"{name}.down_proj", "add", x)
