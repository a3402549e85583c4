"""The weights of a decoder, in the order `step` takes them: names and packed layout.

Names are those MLC LLM has for a Llama (q, k, v stacked into `qkv_proj`, gate and up into
`gate_up_proj`), whatever the family; what files call them is in `layout`. A matrix [N, K] is stored
in blocks of 16 rows so that one vector load brings 16 output rows:

    f32, f16   [Np/16, Kp, 16]        element (b, k, r) is row 16 b + r, column k
    q4         W int32[Np/16, Kp/32, 4, 16] and S float16[Np/16, Kp/32, 16]
               byte i of W[b, g, j, r] holds, for row 16 b + r, column 32 g + 4 j + i in its
               low nibble and column 32 g + 16 + 4 j + i in its high nibble;
               value = (nibble - 7) * S[b, g, r]
    q8         W int32[Np/16, Kp/32, 8, 16] and S as in q4
               byte i of W[b, g, j, r] holds, for row 16 b + r, column 32 g + 4 j + i;
               value = (byte - 127) * S[b, g, r]

Np is N rounded up to 16, Kp is K rounded up to 32; padding decodes to zero.
`gate_up` alternates blocks: block 2 i is gate rows 16 i.., block 2 i + 1 the same rows of up, with
the intermediate size rounded up to 32 first, so one thread holds both halves of silu(gate) * up.
The matrices of a layer's experts are a stack: all blocks of the first, then all of the second, ...
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mlc_llm.compiler.abi import round_up
from mlc_llm.models.architecture import Architecture
from mlc_llm.quantization.scheme import CODES, GROUP_SIZE, Scheme, WeightFormat

ROW_BLOCK = 16

Kind = Literal["vector", "matrix", "gate_up"]


class TensorSpec(Struct, frozen=True):
    """One argument of `step`."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class ParameterSpec(Struct, frozen=True):
    """One weight of the model, before packing: `rows` x `cols` (a vector has rows == 1)."""

    name: str
    kind: Kind
    rows: int
    cols: int
    parts: tuple[int, ...] = ()
    """Rows, or elements of a vector, of each of the projections that are stacked in it."""
    stack: int = 0
    """Matrices of experts, or of heads, in it, one after the other; `rows` are those of all of
    them, `parts` those of one. 0: a matrix of its own."""

    def tensors(self, weights: WeightFormat) -> tuple[TensorSpec, ...]:
        """The packed tensors this weight becomes."""
        if self.kind == "vector":
            return (TensorSpec(self.name, (self.cols,), "float32"),)
        blocks = self.num_blocks
        cols = round_up(self.cols, GROUP_SIZE)
        if codes := CODES.get(weights):
            groups = cols // GROUP_SIZE
            return (
                TensorSpec(f"{self.name}.q", (blocks, groups, codes.words, ROW_BLOCK), "int32"),
                TensorSpec(f"{self.name}.s", (blocks, groups, ROW_BLOCK), "float16"),
            )
        dtype = "float32" if weights == "f32" else "float16"
        return (TensorSpec(self.name, (blocks, cols, ROW_BLOCK), dtype),)

    @property
    def num_blocks(self) -> int:
        """Blocks of 16 rows after padding."""
        if self.stack:
            return self.stack * self.one.num_blocks
        if self.kind == "gate_up":
            return 2 * round_up(self.rows // 2, GROUP_SIZE) // ROW_BLOCK
        return round_up(self.rows, ROW_BLOCK) // ROW_BLOCK

    @property
    def one(self) -> ParameterSpec:
        """A matrix of the stack, as if it were alone."""
        rows = self.rows // self.stack
        return ParameterSpec(self.name, self.kind, rows, self.cols, self.parts)


def parameters(arch: Architecture) -> tuple[ParameterSpec, ...]:
    """Every weight in the order of `step`'s arguments."""
    hidden = arch.hidden_size
    found = [_matrix("model.embed_tokens", arch.vocab_size, hidden)]
    if arch.learned_positions:
        found.append(_matrix("model.embed_positions", arch.context_window_size, hidden))
    if arch.token_types:
        found.append(_matrix("model.embed_types", arch.token_types, hidden))
    if arch.embedding_norm:
        found += _norm(arch, "model.embed_norm")
    for i in range(arch.num_hidden_layers):
        layer = f"model.layers.{i}"
        attention = _attention(arch, layer) if arch.latent is None else _latent(arch, layer)
        mlp = _experts(arch, layer) if arch.has_experts(i) else _mlp(arch, layer)
        found += [*attention, *mlp]
    if not arch.encoder:
        found += _norm(arch, "model.norm")
    if not arch.tie_word_embeddings:
        found.append(_matrix("lm_head", arch.vocab_size, hidden))
    return tuple(found)


def _attention(arch: Architecture, layer: str) -> list[ParameterSpec]:
    """Norms are named as Llama names them where it has them, else as Gemma does: a norm after
    attention is `post_attention_layernorm`, which in a Llama is the one before the MLP."""
    q, kv = (h * arch.head_dim for h in (arch.num_attention_heads, arch.num_key_value_heads))
    stacked = (q, kv, kv)
    found = []
    if arch.norms in ("before", "around"):
        found += _norm(arch, f"{layer}.input_layernorm")
    found.append(_matrix(f"{layer}.self_attn.qkv_proj", sum(stacked), arch.hidden_size, stacked))
    if arch.qkv_bias:
        found.append(_vector(f"{layer}.self_attn.qkv_proj.bias", sum(stacked), stacked))
    if arch.qk_norm is not None:
        row = arch.qk_norm == "row"
        found += [
            _vector(f"{layer}.self_attn.q_norm.weight", q if row else arch.head_dim),
            _vector(f"{layer}.self_attn.k_norm.weight", kv if row else arch.head_dim),
        ]
    found.append(_matrix(f"{layer}.self_attn.o_proj", arch.hidden_size, q))
    if arch.out_bias:
        found.append(_vector(f"{layer}.self_attn.o_proj.bias", arch.hidden_size))
    if arch.norms != "before":
        found += _norm(arch, f"{layer}.post_attention_layernorm")
    return found


def _latent(arch: Architecture, layer: str) -> list[ParameterSpec]:
    """`w_uk` makes latents' queries of queries, `w_uv` values of latents; each head has its own."""
    latent, heads, hidden = arch.latent, arch.num_attention_heads, arch.hidden_size
    assert latent is not None
    attention, queries = f"{layer}.self_attn", heads * arch.head_dim
    found = [*_norm(arch, f"{layer}.input_layernorm")]
    if latent.query_rank is None:
        found.append(_matrix(f"{attention}.q_proj", queries, hidden))
    else:
        found.append(_matrix(f"{attention}.q_a_proj", latent.query_rank, hidden))
        found.append(_vector(f"{attention}.q_a_layernorm.weight", latent.query_rank))
        found.append(_matrix(f"{attention}.q_b_proj", queries, latent.query_rank))
    up, out = f"{attention}.w_uk", f"{attention}.w_uv"
    return [
        *found,
        _matrix(f"{attention}.kv_a_proj_with_mqa", latent.width, hidden),
        _vector(f"{attention}.kv_a_layernorm.weight", latent.rank),
        ParameterSpec(up, "matrix", heads * latent.rank, latent.nope_dim, (), heads),
        ParameterSpec(out, "matrix", heads * latent.value_dim, latent.rank, (), heads),
        _matrix(f"{attention}.o_proj", hidden, heads * latent.value_dim),
    ]


def _mlp(arch: Architecture, layer: str) -> list[ParameterSpec]:
    inner = arch.intermediate_size
    found = []
    if arch.norms == "around":
        found += _norm(arch, f"{layer}.pre_feedforward_layernorm")
    elif arch.norms == "before" and not arch.shared_norm:
        found += _norm(arch, f"{layer}.post_attention_layernorm")
    if arch.gated:
        name = f"{layer}.mlp.gate_up_proj.weight"
        found.append(ParameterSpec(name, "gate_up", 2 * inner, arch.hidden_size, (inner, inner)))
    else:
        found.append(_matrix(f"{layer}.mlp.up_proj", inner, arch.hidden_size))
        if arch.mlp_bias:
            found.append(_vector(f"{layer}.mlp.up_proj.bias", inner))
    found.append(_matrix(f"{layer}.mlp.down_proj", arch.hidden_size, inner))
    if arch.mlp_bias:
        found.append(_vector(f"{layer}.mlp.down_proj.bias", arch.hidden_size))
    if arch.norms != "before":
        found += _norm(arch, f"{layer}.post_feedforward_layernorm")
    return found


def _experts(arch: Architecture, layer: str) -> list[ParameterSpec]:
    """A router, perhaps an MLP for every row, and the experts, whose MLPs are gated."""
    experts, hidden, mlp = arch.experts, arch.hidden_size, f"{layer}.mlp"
    assert experts is not None
    found = [*_norm(arch, f"{layer}.post_attention_layernorm")]
    found.append(_matrix(f"{mlp}.gate", experts.count, hidden))
    if experts.correction:
        found.append(_vector(f"{mlp}.e_score_correction_bias", experts.count))
    if inner := experts.shared_size:
        shared = f"{mlp}.shared_experts"
        name = f"{shared}.gate_up_proj.weight"
        found.append(ParameterSpec(name, "gate_up", 2 * inner, hidden, (inner, inner)))
        found.append(_matrix(f"{shared}.down_proj", hidden, inner))
    if experts.shared_gate:
        found.append(_matrix(f"{mlp}.shared_expert_gate", 1, hidden))
    count, inner = experts.count, experts.intermediate_size
    gate_up, down = f"{mlp}.moe_gate_up_proj.weight", f"{mlp}.moe_down_proj.weight"
    parts = (inner, inner)
    return [
        *found,
        ParameterSpec(gate_up, "gate_up", count * 2 * inner, hidden, parts, count),
        ParameterSpec(down, "matrix", count * hidden, inner, (), count),
    ]


def _matrix(name: str, rows: int, cols: int, parts: tuple[int, ...] = ()) -> ParameterSpec:
    return ParameterSpec(f"{name}.weight", "matrix", rows, cols, parts)


def _vector(name: str, size: int, parts: tuple[int, ...] = ()) -> ParameterSpec:
    return ParameterSpec(name, "vector", 1, size, parts)


def _norm(arch: Architecture, name: str) -> list[ParameterSpec]:
    names = [f"{name}.weight", f"{name}.bias"] if arch.norm_bias else [f"{name}.weight"]
    return [_vector(part, arch.hidden_size) for part in names]


def tensor_specs(arch: Architecture, scheme: Scheme) -> tuple[TensorSpec, ...]:
    """The packed tensors of all weights, in the order of `step`'s arguments."""
    return tuple(t for p in parameters(arch) for t in p.tensors(scheme.format_of(p.name)))
