"""Qwen3, dense: a Llama whose queries and keys are normalised head by head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import HeadDim, decoder
from mlc_llm.models.families.qwen2 import SlidingConfig, sliding_layers
from mlc_llm.models.families.rotary import Positions


class Qwen3Config(SlidingConfig, frozen=True, kw_only=True):
    """Its heads are not tied to the hidden size."""

    max_position_embeddings: Positions = 32768
    head_dim: HeadDim | None = 128
    attention_bias: bool = False


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """Queries and keys of width head_dim have norms of that width, which all heads share."""
    config = convert(values, Qwen3Config, path)
    bias = config.attention_bias
    return decoder(
        config,
        "qwen3",
        path,
        qk_norm="head",
        qkv_bias=bias,
        out_bias=bias,
        **sliding_layers(config, path),
    )


FAMILY = Family(architecture)
