"""GPT-NeoX and Pythia: attention and a plain MLP side by side, biases everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import DecoderConfig, Epsilon, decoder
from mlc_llm.models.families.rotary import Positive, Share
from mlc_llm.models.layout import Layout


class NeoXConfig(DecoderConfig, frozen=True, kw_only=True):
    """`rotary_pct` and `rotary_emb_base` are older names of what others call otherwise."""

    layer_norm_eps: Epsilon = 1e-5
    rotary_pct: Share | None = None
    rotary_emb_base: Positive | None = None
    partial_rotary_factor: Share = 0.25
    use_parallel_residual: bool = True
    attention_bias: bool = True
    hidden_act: str = "gelu"


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """Every head has keys and values of its own."""
    config = convert(values, NeoXConfig, path)
    config = msgspec.structs.replace(
        config,
        rms_norm_eps=config.layer_norm_eps,
        num_key_value_heads=None,
        partial_rotary_factor=config.rotary_pct or config.partial_rotary_factor,
        rope_theta=config.rotary_emb_base or config.rope_theta,
    )
    return decoder(
        config,
        "gpt_neox",
        path,
        norm="layer",
        norm_bias=True,
        parallel=config.use_parallel_residual,
        qkv_bias=config.attention_bias,
        out_bias=config.attention_bias,
        gated=False,
        mlp_bias=True,
    )


MODULES = {
    "model.embed_tokens": "gpt_neox.embed_in",
    "model.norm": "gpt_neox.final_layer_norm",
    "lm_head": "embed_out",
    "self_attn.qkv_proj": "attention.query_key_value",
    "self_attn.o_proj": "attention.dense",
    "mlp.up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}
HUGGINGFACE = Layout(
    layers="gpt_neox.layers",
    modules=MODULES,
    interleaved_heads=True,
    ignored=r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
)
MLC = Layout(layers="gpt_neox.layers", modules=MODULES)

FAMILY = Family(architecture, HUGGINGFACE, MLC)
