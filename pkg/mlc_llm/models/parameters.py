"""The weights of a decoder, in the order `step` takes them: names and packed layout.

Names are MLC LLM's (q, k, v stacked into `qkv_proj`, gate and up into `gate_up_proj`). A matrix
[N, K] is stored in blocks of 16 rows so that one vector load brings 16 output rows:

    f32, f16   [Np/16, Kp, 16]        element (b, k, r) is row 16 b + r, column k
    q4         W int32[Np/16, Kp/32, 4, 16] and S float16[Np/16, Kp/32, 16]
               byte i of W[b, g, j, r] holds, for row 16 b + r, column 32 g + 4 j + i in its
               low nibble and column 32 g + 16 + 4 j + i in its high nibble;
               value = (nibble - 7) * S[b, g, r]

Np is N rounded up to 16, Kp is K rounded up to 32; padding decodes to zero.
`gate_up` alternates blocks: block 2 i is gate rows 16 i.., block 2 i + 1 the same rows of up, with
the intermediate size rounded up to 32 first, so one thread holds both halves of silu(gate) * up.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mlc_llm.compiler.abi import round_up
from mlc_llm.models.architecture import Architecture
from mlc_llm.quantization.scheme import GROUP_SIZE, Scheme, WeightFormat

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

    def tensors(self, weights: WeightFormat) -> tuple[TensorSpec, ...]:
        """The packed tensors this weight becomes."""
        if self.kind == "vector":
            return (TensorSpec(self.name, (self.cols,), "float32"),)
        blocks = self.num_blocks
        cols = round_up(self.cols, GROUP_SIZE)
        if weights == "q4":
            groups = cols // GROUP_SIZE
            return (
                TensorSpec(f"{self.name}.q", (blocks, groups, 4, ROW_BLOCK), "int32"),
                TensorSpec(f"{self.name}.s", (blocks, groups, ROW_BLOCK), "float16"),
            )
        dtype = "float32" if weights == "f32" else "float16"
        return (TensorSpec(self.name, (blocks, cols, ROW_BLOCK), dtype),)

    @property
    def num_blocks(self) -> int:
        """Blocks of 16 rows after padding."""
        if self.kind == "gate_up":
            return 2 * round_up(self.rows // 2, GROUP_SIZE) // ROW_BLOCK
        return round_up(self.rows, ROW_BLOCK) // ROW_BLOCK


def parameters(arch: Architecture) -> tuple[ParameterSpec, ...]:
    """Every weight in the order of `step`'s arguments."""
    heads = arch.num_attention_heads + 2 * arch.num_key_value_heads
    found = [
        ParameterSpec("model.embed_tokens.weight", "matrix", arch.vocab_size, arch.hidden_size)
    ]
    for i in range(arch.num_hidden_layers):
        layer = f"model.layers.{i}"
        found += [
            ParameterSpec(f"{layer}.input_layernorm.weight", "vector", 1, arch.hidden_size),
            ParameterSpec(
                f"{layer}.self_attn.qkv_proj.weight",
                "matrix",
                heads * arch.head_dim,
                arch.hidden_size,
            ),
            ParameterSpec(
                f"{layer}.self_attn.o_proj.weight",
                "matrix",
                arch.hidden_size,
                arch.num_attention_heads * arch.head_dim,
            ),
            ParameterSpec(
                f"{layer}.post_attention_layernorm.weight", "vector", 1, arch.hidden_size
            ),
            ParameterSpec(
                f"{layer}.mlp.gate_up_proj.weight",
                "gate_up",
                2 * arch.intermediate_size,
                arch.hidden_size,
            ),
            ParameterSpec(
                f"{layer}.mlp.down_proj.weight",
                "matrix",
                arch.hidden_size,
                arch.intermediate_size,
            ),
        ]
    found.append(ParameterSpec("model.norm.weight", "vector", 1, arch.hidden_size))
    if not arch.tie_word_embeddings:
        found.append(ParameterSpec("lm_head.weight", "matrix", arch.vocab_size, arch.hidden_size))
    return tuple(found)


def tensor_specs(arch: Architecture, scheme: Scheme) -> tuple[TensorSpec, ...]:
    """The packed tensors of all weights, in the order of `step`'s arguments."""
    return tuple(t for p in parameters(arch) for t in p.tensors(scheme.weights))
