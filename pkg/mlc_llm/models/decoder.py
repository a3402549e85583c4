"""A decoder as a Relax function: the `step` of `compiler.abi`, made of our kernels.

Every operation is one call of a kernel that all layers share; which layer it is reaches the kernels
that touch the KV pool as a number. Bindings run in the order they are written: `rope_append`
changes the pool in place, and `attention` of the same layer, which takes its result, reads it.
"""

# TVM's annotations are narrower than what its functions take.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax, tirx
from tvm.ir import Expr

from mlc_llm.compiler.abi import MAX_ROWS, PAGE_SIZE, STEP, round_up
from mlc_llm.kernels.cpu.level import Level
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.parameters import ROW_BLOCK, parameters
from mlc_llm.models.step_attention import attention_rows
from mlc_llm.models.step_emitter import (
    Emitter,
    Inputs,
    Weight,
    Weights,
)
from mlc_llm.models.step_experts import experts_added
from mlc_llm.models.step_products import inner_rows, linear, logits_of, norm, norm_add, quantized
from mlc_llm.models.step_rows import embedded, encoder_rows, hidden_rows, taken_rows
from mlc_llm.quantization.scheme import CODES, Scheme, kv_elements, kv_storage


def build_step(arch: Architecture, scheme: Scheme, level: Level) -> tvm.IRModule:
    """A module whose function `step` is this model with weights of this scheme."""
    e = Emitter(arch, scheme, level)
    inputs = _inputs(e)
    specs = parameters(arch)
    formats = [scheme.format_of(spec.name) for spec in specs]
    tensors = [t for spec, kind in zip(specs, formats, strict=True) for t in spec.tensors(kind)]
    types = [relax.TensorType(t.shape, t.dtype) for t in tensors]
    packed = relax.Var("weights", relax.TupleType(types))
    bounds = {"tir_var_upper_bound": {"n": MAX_ROWS, "b": MAX_ROWS, "e": MAX_ROWS}}
    with e.blocks.function(STEP, [*inputs, packed], attrs=bounds):
        fields = iter([e.blocks.emit(relax.TupleGetItem(packed, i)) for i in range(len(types))])
        weights = {
            spec.name: Weight(spec, tuple(next(fields) for _ in spec.tensors(kind)))
            for spec, kind in zip(specs, formats, strict=True)
        }
        e.blocks.emit_func_output(_forward(e, inputs, weights))
    return e.blocks.finalize()


def _inputs(e: Emitter) -> Inputs:
    n, b, arch = e.n, e.b, e.arch

    def size(name: str) -> tirx.Var:
        return tirx.Var(name, "int64")

    def tensor(name: str, shape: Sequence[object], dtype: str = "int32") -> relax.Var:
        return relax.Var(name, relax.TensorType(shape, dtype))

    heads, vectors, width = arch.kv_page
    page = kv_elements(e.scheme.kv_dtype, PAGE_SIZE, width)
    pool = (arch.num_hidden_layers, size("pages"), heads, vectors, page)
    return Inputs(
        tensor("ids", (n,)),
        tensor("positions", (n,)),
        tensor("slots", (n,)),
        tensor("page_table", (size("seqs"), size("width"))),
        tensor("tiles", (size("tiles"), 4)),
        tensor("last", (b,)),
        tensor("taken", (e.e,)),
        tensor("rope", (size("reach"), arch.rope_width), "float32"),
        tensor("pool", pool, kv_storage(e.scheme.kv_dtype)),
        tensor("logits", (b, round_up(arch.vocab_size, ROW_BLOCK)), "float32"),
        tensor("hidden", (e.e, arch.hidden_size), "float32"),
    )


def _forward(e: Emitter, inputs: Inputs, weights: Weights) -> Expr:
    table = weights["model.embed_tokens.weight"]
    x = embedded(e, inputs.ids, table, e.arch.embedding_scale)
    if e.arch.learned_positions:
        x = embedded(e, inputs.positions, weights["model.embed_positions.weight"], 1.0, x)
    if e.arch.encoder:
        x = encoder_rows(e, x, inputs, weights)
    if e.arch.embedding_norm:
        x = norm(e, x, weights, "model.embed_norm", e.n, None).tensors[0]
    for layer in range(e.arch.num_hidden_layers):
        start = f"model.layers.{layer}."
        own = {k.removeprefix(start): w for k, w in weights.items() if k.startswith(start)}
        x = _layer(e, x, inputs, layer, own)
    head = table if e.arch.tie_word_embeddings else weights["lm_head.weight"]
    hidden = hidden_rows(e, x, inputs)
    if e.arch.encoder:
        return relax.Tuple([inputs.logits, hidden])
    x = taken_rows(e, x, inputs.last)
    codes = CODES.get(e.scheme.format_of(head.spec.name))
    x = norm(e, x, weights, "model.norm", e.b, codes)
    logits = logits_of(e, x, head, inputs.logits)
    return relax.Tuple([logits, hidden])


def _layer(e: Emitter, x: Expr, inputs: Inputs, layer: int, weights: Weights) -> Expr:
    """x plus attention plus MLP, the names of whose norms say where they stand."""
    norms, before_mlp = e.arch.norms, "post_attention_layernorm"
    if norms == "sum":
        return _layer_of_sums(e, x, inputs, layer, weights)
    if norms == "around":
        before_mlp = "pre_feedforward_layernorm"
    if norms == "after":
        read = quantized(e, x, e.arch.hidden_size)
    else:
        read = norm(e, x, weights, "input_layernorm", e.n, e.codes)
    mixed = attention_rows(e, read, inputs, layer, weights)
    if norms == "before":
        after = linear(e, mixed, weights, "self_attn.o_proj", "add", x)
    else:
        projected = linear(e, mixed, weights, "self_attn.o_proj", "store")
        after = norm_add(e, projected, weights["post_attention_layernorm.weight"], x)
    if norms == "after":
        read = quantized(e, after, e.arch.hidden_size)
    elif e.arch.has_experts(layer):
        return experts_added(e, after, weights)
    elif not e.arch.shared_norm:
        source = x if e.arch.parallel else after
        read = norm(e, source, weights, before_mlp, e.n, e.codes)
    inner = inner_rows(e, read, weights)
    if norms == "before":
        return linear(e, inner, weights, "mlp.down_proj", "add", after)
    projected = linear(e, inner, weights, "mlp.down_proj", "store")
    return norm_add(e, projected, weights["post_feedforward_layernorm.weight"], after)


def _layer_of_sums(e: Emitter, x: Expr, inputs: Inputs, layer: int, weights: Weights) -> Expr:
    """Attention, then the MLP: each is added to what it read, and the sum is normalised."""
    hidden, n = e.arch.hidden_size, e.n
    mixed = attention_rows(e, quantized(e, x, hidden), inputs, layer, weights)
    x = linear(e, mixed, weights, "self_attn.o_proj", "add", x)
    x = norm(e, x, weights, "post_attention_layernorm", n, None).tensors[0]
    inner = inner_rows(e, quantized(e, x, hidden), weights)
    x = linear(e, inner, weights, "mlp.down_proj", "add", x)
    return norm(e, x, weights, "post_feedforward_layernorm", n, None).tensors[0]
