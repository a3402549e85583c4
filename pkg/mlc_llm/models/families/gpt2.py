"""GPT-2: learned positions, layer norms, a plain MLP, biases everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import (
    DecoderConfig,
    Epsilon,
    Heads,
    Size,
    Vocabulary,
    decoder,
    refuse,
)
from mlc_llm.models.families.rotary import Positions
from mlc_llm.models.layout import Layout


class Gpt2Config(Struct, frozen=True, kw_only=True):
    """config.json with the names of this format."""

    n_embd: Size
    n_layer: Heads
    n_head: Heads
    n_inner: Size | None = None
    n_positions: Positions = 1024
    vocab_size: Vocabulary
    layer_norm_epsilon: Epsilon = 1e-5
    activation_function: str = "gelu_new"
    tie_word_embeddings: bool = True
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """Nothing is rotated; the head is the embedding table."""
    config = convert(values, Gpt2Config, path)
    refuse(config, path, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False)
    common = DecoderConfig(
        hidden_size=config.n_embd,
        intermediate_size=config.n_inner or 4 * config.n_embd,
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.n_positions,
        rms_norm_eps=config.layer_norm_epsilon,
        hidden_act=config.activation_function,
        tie_word_embeddings=config.tie_word_embeddings,
    )
    return decoder(
        common,
        "gpt2",
        path,
        norm="layer",
        norm_bias=True,
        learned_positions=True,
        qkv_bias=True,
        out_bias=True,
        gated=False,
        mlp_bias=True,
    )


MODULES = {
    "model.embed_tokens": "wte",
    "model.embed_positions": "wpe",
    "model.norm": "ln_f",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.qkv_proj": "attn.c_attn",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
HUGGINGFACE = Layout(
    layers="h",
    modules=MODULES,
    prefixes=("transformer.", ""),
    transposed=True,
    ignored=r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",
)
MLC = Layout(layers="h", modules=MODULES, prefixes=("transformer.",))

FAMILY = Family(architecture, HUGGINGFACE, MLC)
