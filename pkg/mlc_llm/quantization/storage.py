"""How MLC stores weights: one row for each quantization by MLC's name, and how it is served here.

    none       X.weight in the model's dtype
    group      X.q_weight uint32, X.q_scale; `bits`-bit codes, `group` of them share a scale
               NK: [N, words], [N, groups]    KN: both transposed (embeddings are always NK)
               the matrices of E experts, always NK: [E, N, words], [E, N, groups]
    awq        X.qweight [K, N / 8], X.qzeros [K / 128, N / 8] uint32, X.scales [K / 128, N]
    tensor     X.q_weight float8 [N, K], X.q_scale float32 [1] for all of it
    block      X.weight float8 [N, K], X.weight_scale_inv float32, one for each 128 x 128

Knows no tensor. `served` is the scheme that kernels compute with. It holds the stored values, or
what MLC itself makes of them, which is their product rounded to float16:
* 4-bit and 8-bit groups of 32 stay what they are, whichever way they lie. Scales in bfloat16 become
  float16, where they change only below 6e-5, by less than float16's own step of 6e-8.
* 3-bit groups of 40, float8 and AWQ have no exact form in 4-bit groups of 32, so they are served as
  float16; they are small on disk, not in memory.
* bfloat16 is served as float16: it has fewer significant bits, and weights lie within its range.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mlc_llm.errors import BadConfig

ModelDtype = Literal["F32", "F16", "BF16"]
StorageKind = Literal["none", "group", "awq", "tensor", "block"]

AWQ_GROUP = 128
BLOCK = 128
"""Rows and columns that share a scale in "block"."""


class Storage(Struct, frozen=True):
    """One row of the table below."""

    name: str
    kind: StorageKind
    dtype: ModelDtype
    """Of scales, and of everything that is not quantized."""
    served: str
    """Name of a `scheme.Scheme`."""
    bits: int = 0
    group: int = 0
    transposed: bool = False
    """KN: matrices lie with the input axis first, except embeddings."""
    tables: bool = True
    """Whether embeddings and the head are quantized too."""

    @property
    def word_elements(self) -> int:
        """Codes in a word of 32 bits."""
        return 32 // self.bits

    @property
    def group_words(self) -> int:
        """Words of a group."""
        return self.group // self.word_elements

    @property
    def max_int(self) -> int:
        """What a code that stands for zero is."""
        return (1 << self.bits - 1) - 1

    def quantizes(self, name: str) -> bool:
        """Whether the matrix of this name (as in `models.parameters`) is quantized."""
        if self.kind == "none" or is_plain(name):
            return False
        return self.tables or not is_table(name)

    def lies_transposed(self, name: str) -> bool:
        """Whether the matrix of this name lies with its input axis first."""
        return self.transposed and not is_embedding(name) and not is_stack(name)


def is_embedding(name: str) -> bool:
    """Whether rows of the matrix are looked up."""
    return name.startswith("model.embed_")


def is_plain(name: str) -> bool:
    """Whether the matrix is never quantized: it decides between experts, where a small error
    chooses another one, or makes keys and values of latents, which MLC leaves as they are."""
    return name.endswith((".mlp.gate.weight", ".mlp.shared_expert_gate.weight", ".w_uk", ".w_uv"))


def is_stack(name: str) -> bool:
    """Whether it holds the matrices of all experts of a layer."""
    return ".mlp.moe_" in name


def is_table(name: str) -> bool:
    """Whether the matrix has a row for each token: the embedding or the head."""
    return is_embedding(name) or name == "lm_head.weight"


STORAGES = {
    row.name: row
    for row in (
        Storage("q0f16", "none", "F16", "q0f16"),
        Storage("q0bf16", "none", "BF16", "q0f16"),
        Storage("q0f32", "none", "F32", "q0f32"),
        Storage("q3f16_0", "group", "F16", "q0f16", 3, 40, transposed=True),
        Storage("q3f16_1", "group", "F16", "q0f16", 3, 40),
        Storage("q4f16_0", "group", "F16", "q4f16_1", 4, 32, transposed=True),
        Storage("q4f16_1", "group", "F16", "q4f16_1", 4, 32),
        Storage("q4f16_2", "group", "F16", "q4f16_2", 4, 32, tables=False),
        Storage("q4bf16_0", "group", "BF16", "q4f16_1", 4, 32, transposed=True),
        Storage("q4bf16_1", "group", "BF16", "q4f16_1", 4, 32),
        Storage("q4f32_1", "group", "F32", "q4f32_1", 4, 32),
        Storage("q8f16_1", "group", "F16", "q8f16_1", 8, 32),
        Storage("q4f16_autoawq", "awq", "F16", "q0f16", 4, AWQ_GROUP, tables=False),
        Storage("e4m3_e4m3_f16", "tensor", "F16", "q0f16", 8, tables=False),
        Storage("fp8_e4m3fn_bf16_block_scale", "block", "BF16", "q0f16", 8, tables=False),
    )
}


def storage_by_name(name: str) -> Storage:
    """The quantization called `name`; raises `BadConfig` that lists the known ones."""
    try:
        return STORAGES[name]
    except KeyError:
        known = ", ".join(STORAGES)
        raise BadConfig(f"quantization {name!r} is not known; use one of {known}") from None
