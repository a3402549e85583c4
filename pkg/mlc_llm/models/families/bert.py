"""BERT and its kin for embeddings (BGE, E5, GTE, MiniLM): encoders with learned positions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import (
    ACTIVATIONS,
    Epsilon,
    Heads,
    Size,
    Vocabulary,
    refuse,
)
from mlc_llm.models.families.rotary import Positions
from mlc_llm.models.layout import Layout
from mlc_llm.quantization.scheme import GROUP_SIZE


class BertConfig(Struct, frozen=True, kw_only=True):
    """config.json of model_type bert."""

    vocab_size: Vocabulary = 30522
    hidden_size: Size = 768
    num_hidden_layers: Heads = 12
    num_attention_heads: Heads = 12
    intermediate_size: Size = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: Positions = 512
    type_vocab_size: Annotated[int, Meta(ge=1, le=1024)] = 2
    layer_norm_eps: Epsilon = 1e-12
    position_embedding_type: str = "absolute"
    is_decoder: bool = False
    add_cross_attention: bool = False


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """The pooler and heads for other tasks, which some files have, are not used."""
    config = convert(values, BertConfig, path)
    refuse(
        config,
        path,
        position_embedding_type="absolute",
        is_decoder=False,
        add_cross_attention=False,
    )
    heads, hidden = config.num_attention_heads, config.hidden_size
    if hidden % heads or hidden // heads % 2 or hidden % GROUP_SIZE:
        raise BadModel(
            f"{path}: hidden_size must be an even multiple of num_attention_heads and a multiple"
            f" of {GROUP_SIZE}"
        )
    if config.hidden_act not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise BadModel(f"{path}: hidden_act {config.hidden_act!r} is not supported; use {known}")
    return Architecture(
        model_type="bert",
        hidden_size=hidden,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        vocab_size=config.vocab_size,
        rms_norm_eps=config.layer_norm_eps,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        context_window_size=config.max_position_embeddings,
        norm="layer",
        norm_bias=True,
        norms="sum",
        qkv_bias=True,
        out_bias=True,
        learned_positions=True,
        gated=False,
        activation=ACTIVATIONS[config.hidden_act],
        mlp_bias=True,
        encoder=True,
        token_types=config.type_vocab_size,
        embedding_norm=True,
    )


MODULES: dict[str, str | tuple[str, ...]] = {
    "model.embed_tokens": "embeddings.word_embeddings",
    "model.embed_positions": "embeddings.position_embeddings",
    "model.embed_types": "embeddings.token_type_embeddings",
    "model.embed_norm": "embeddings.LayerNorm",
    "self_attn.qkv_proj": "attention.self.qkv",
    "self_attn.o_proj": "attention.output.dense",
    "post_attention_layernorm": "attention.output.LayerNorm",
    "mlp.up_proj": "intermediate.dense",
    "mlp.down_proj": "output.dense",
    "post_feedforward_layernorm": "output.LayerNorm",
}
APART = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))

MLC = Layout(modules=MODULES, layers="encoder.layer")
HUGGINGFACE = Layout(
    modules={**MODULES, "self_attn.qkv_proj": APART},
    layers="encoder.layer",
    prefixes=("", "bert."),
    ignored=r"(bert\.)?(pooler\..+|embeddings\.position_ids)|cls\..+|classifier\..+",
)

FAMILY = Family(architecture, HUGGINGFACE, MLC)
