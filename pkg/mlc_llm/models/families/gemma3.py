"""Gemma 3, its text model: five layers of six slide, with a rotary base of their own.

The models that also see pictures are served for text: their vision tower is not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import Heads, Vocabulary, decoder, sliding
from mlc_llm.models.families.gemma import GemmaConfig, gemma_fields
from mlc_llm.models.families.rotary import Positions, Positive, RopeParameters
from mlc_llm.models.layout import STACKED, Layout


class Gemma3Config(GemmaConfig, frozen=True, kw_only=True):
    """The defaults of this format, some of which the published files rely on."""

    vocab_size: Vocabulary = 262208
    num_attention_heads: Heads = 8
    num_key_value_heads: Heads | None = 4
    max_position_embeddings: Positions = 131072
    rope_theta: Positive = 1_000_000.0
    rope_local_base_freq: Positive = 10_000.0
    query_pre_attn_scalar: Positive = 256
    sliding_window: Positions | None = 4096
    sliding_window_pattern: Heads = 6
    layer_types: list[str] | None = None
    attn_logit_softcapping: Positive | None = None
    final_logit_softcapping: Positive | None = None
    use_bidirectional_attention: bool | None = None
    """EmbeddingGemma's, whose layers attend to what follows as well."""


class RopeByLayerType(Struct, frozen=True):
    """`rope_parameters` of newer files."""

    full_attention: RopeParameters
    sliding_attention: RopeParameters


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """Fields of a model with vision stand in `text_config`; MLC files always have one."""
    values = values.get("text_config") or values
    local_theta = None
    if isinstance(by_type := values.get("rope_parameters"), dict) and "full_attention" in by_type:
        rope = convert(by_type, RopeByLayerType, path, "rope_parameters")
        local_theta = rope.sliding_attention.rope_theta
        values = {**values, "rope_parameters": by_type["full_attention"]}
    read = convert(values, Gemma3Config, path)
    if read.use_bidirectional_attention:
        raise BadModel(f"{path}: use_bidirectional_attention true is not supported; only false is")
    config, different = gemma_fields(read, path)
    pattern = read.sliding_window_pattern
    five_of_six = [(i + 1) % pattern != 0 for i in range(config.num_hidden_layers)]
    return decoder(
        config,
        "gemma3",
        path,
        norms="around",
        qk_norm="head",
        attention_scale=read.query_pre_attn_scalar**-0.5,
        attention_softcap=read.attn_logit_softcapping,
        logit_softcap=read.final_logit_softcapping,
        sliding_rope_theta=local_theta or read.rope_local_base_freq,
        **sliding(read.sliding_window, read.layer_types, five_of_six, path),
        **different,
    )


HUGGINGFACE = Layout(
    modules=STACKED,
    prefixes=("", "language_model.", "model.language_model."),
    norm_offset=1.0,
    ignored=r"(model\.)?(vision_tower|multi_modal_projector)\..+",
)
MLC = Layout(
    modules={"self_attn.qkv_proj": STACKED["self_attn.qkv_proj"]},
    prefixes=("language_model.", ""),
)

FAMILY = Family(architecture, HUGGINGFACE, MLC)
