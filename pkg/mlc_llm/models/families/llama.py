"""Llama 1 to 3 and everything saved as model_type llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import DecoderConfig, decoder, refuse


class LlamaConfig(DecoderConfig, frozen=True, kw_only=True):
    """Variants of the format add biases."""

    attention_bias: bool = False
    mlp_bias: bool = False


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """A bias of attention is one of all its four projections."""
    config = convert(values, LlamaConfig, path)
    refuse(config, path, mlp_bias=False)
    bias = config.attention_bias
    return decoder(config, "llama", path, qkv_bias=bias, out_bias=bias)


FAMILY = Family(architecture)
