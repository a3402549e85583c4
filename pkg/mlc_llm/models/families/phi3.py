"""Phi-3 and Phi-4: a Llama whose projections lie stacked, and may turn part of a head only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import DecoderConfig, decoder, refuse, sliding
from mlc_llm.models.families.rotary import Positions
from mlc_llm.models.layout import Layout


class Phi3Config(DecoderConfig, frozen=True, kw_only=True):
    """The positions that a longrope scaling starts from stand outside of it."""

    original_max_position_embeddings: Positions = 4096
    max_position_embeddings: Positions = 4096
    rms_norm_eps: float = 1e-5
    sliding_window: Positions | None = None
    attention_bias: bool = False


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """All layers slide, if the file names a window."""
    config = convert(values, Phi3Config, path)
    refuse(config, path, attention_bias=False)
    if (rope := config.rope) is not None and rope.original_max_position_embeddings is None:
        original = config.original_max_position_embeddings
        rope = msgspec.structs.replace(rope, original_max_position_embeddings=original)
        config = msgspec.structs.replace(config, rope_parameters=rope)
    everywhere = [True] * config.num_hidden_layers
    return decoder(config, "phi3", path, **sliding(config.sliding_window, None, everywhere, path))


MLC = Layout(
    layers="transformer.h",
    modules={
        "model.embed_tokens": "transformer.embd",
        "model.norm": "transformer.norm",
        "input_layernorm": "ln",
        "self_attn.qkv_proj": "mixer.qkv_proj",
        "self_attn.o_proj": "mixer.out_proj",
    },
)

FAMILY = Family(architecture, Layout(), MLC)
