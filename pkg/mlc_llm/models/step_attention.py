"""Attention of a layer, over keys and values or over latents, without its last projection."""

# TVM's annotations are narrower than what its functions take.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

from tvm import relax, tirx
from tvm.ir import Expr

from mlc_llm.compiler.abi import PAGE_SIZE, round_up
from mlc_llm.kernels.cpu.attention import attention
from mlc_llm.kernels.cpu.kv_format import KvFormat
from mlc_llm.kernels.cpu.latent_append import latent_append
from mlc_llm.kernels.cpu.latent_attention import latent_attention
from mlc_llm.kernels.cpu.norm import rms_norm, rms_norm_quantize
from mlc_llm.kernels.cpu.rope import rope_append
from mlc_llm.kernels.cpu.rope_heads import Rotation
from mlc_llm.models.architecture import Latent
from mlc_llm.models.step_emitter import (
    Emitter,
    Inputs,
    Rows,
    Weights,
    floats,
    quantized_types,
)
from mlc_llm.models.step_products import linear, linear_of_heads, quantized
from mlc_llm.quantization.scheme import GROUP_SIZE


def attention_rows(e: Emitter, read: Rows, inputs: Inputs, layer: int, weights: Weights) -> Rows:
    """What attention makes of rows, before its last projection."""
    if e.arch.latent is not None:
        return _mixed_latents(e, read, inputs, layer, weights, e.arch.latent)
    qkv = linear(e, read, weights, "self_attn.qkv_proj", "store")
    return _attend(e, qkv, inputs, layer, weights)


def _mixed_latents(
    e: Emitter, read: Rows, inputs: Inputs, layer: int, weights: Weights, latent: Latent
) -> Rows:
    """The same over latents: queries become such as latents see, results become values."""
    n, heads = e.n, e.arch.num_attention_heads
    dtype, index = e.scheme.kv_dtype, tirx.IntImm("int64", layer)
    small = latent.query_rank is not None
    name = "self_attn.q_b_proj" if small else "self_attn.q_proj"
    source = _small_queries(e, read, weights, latent) if small else read
    q = linear(e, source, weights, name, "store")
    kv = linear(e, read, weights, "self_attn.kv_a_proj_with_mqa", "store")
    norm = weights["self_attn.kv_a_layernorm.weight"].tensors
    append = e.kernel("latent_append", latent_append, latent, heads, dtype)
    rest = [inputs.rope, inputs.positions, inputs.slots, *norm, inputs.pool, index]
    turned = e.call(append, [q, kv, *rest], floats(n, heads * latent.rope_dim))
    seen = linear_of_heads(e, q, weights["self_attn.w_uk"], e.arch.head_dim)
    scale = e.arch.attention_scale or e.arch.head_dim**-0.5
    sizes = (latent, heads, dtype, scale)
    attend = e.kernel("latent_attention", latent_attention, *sizes)
    args = [inputs.pool, inputs.page_table, inputs.tiles, inputs.positions, index]
    found = e.call(attend, [seen, turned, *args], floats(n, heads * latent.rank))
    mixed = linear_of_heads(e, found, weights["self_attn.w_uv"], latent.rank)
    return quantized(e, mixed, heads * latent.value_dim)


def _small_queries(e: Emitter, read: Rows, weights: Weights, latent: Latent) -> Rows:
    """The small vectors that queries are made of."""
    x = linear(e, read, weights, "self_attn.q_a_proj", "store")
    norm = weights["self_attn.q_a_layernorm.weight"]
    size, eps = norm.spec.cols, latent.norm_eps
    padded, args = round_up(size, GROUP_SIZE), [x, *norm.tensors]
    if e.codes is None:
        kernel = e.kernel("rms_norm_queries", rms_norm, size, padded, eps)
        return Rows([e.call(kernel, args, floats(e.n, padded))], padded)
    kernel = e.kernel("rms_norm_queries", rms_norm_quantize, size, eps, e.codes)
    return Rows(e.fields(kernel, args, quantized_types(e.n, size)), padded)


def _attend(e: Emitter, qkv: Expr, inputs: Inputs, layer: int, weights: Weights) -> Rows:
    arch = e.arch
    slides = layer in arch.sliding_layers
    heads = (arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim)
    sizes = (*heads, e.scheme.kv_dtype)
    index = tirx.IntImm("int64", layer)
    rotation = _rotation_of(e, layer)
    norms = [] if arch.qk_norm is None else ["self_attn.q_norm", "self_attn.k_norm"]
    tensors = [t for name in norms for t in weights[f"{name}.weight"].tensors]
    append = e.kernel(f"rope_append_{rotation.first}", rope_append, *sizes, rotation)
    args = [qkv, inputs.rope, inputs.positions, inputs.slots, *tensors, inputs.pool, index]
    padded = round_up(arch.head_dim, PAGE_SIZE)
    dtype = KvFormat(e.level, e.scheme.kv_dtype).factor_dtype
    queries = relax.TensorType((e.n, arch.num_attention_heads, padded), dtype)
    q = e.call(append, args, queries)
    window = arch.sliding_window if slides else None
    width = arch.num_attention_heads * arch.head_dim
    codes = None if arch.head_dim % GROUP_SIZE else e.codes
    limits = (window, arch.attention_softcap, codes)
    name = "attention" if window is None else "attention_sliding"
    attend = e.kernel(name, attention, *sizes, *limits)
    seen = inputs.positions if e.seen is None else e.seen
    args = [q, inputs.pool, inputs.page_table, inputs.tiles, seen, index]
    if codes is not None:
        return Rows(e.fields(attend, args, quantized_types(e.n, width)), width)
    return quantized(e, e.call(attend, args, floats(e.n, width)), width)


def _rotation_of(e: Emitter, layer: int) -> Rotation:
    arch = e.arch
    own = layer in arch.sliding_layers and arch.sliding_rope_theta is not None
    first = arch.rope_dim if own else 0
    if layer in arch.unrotated_layers:
        first = arch.rope_width - arch.rope_dim
    return Rotation(
        arch.rope_dim,
        arch.rope_width,
        first,
        arch.attention_scale,
        arch.qk_norm,
        arch.rms_norm_eps,
    )
