"""Gemma: embeddings scaled by the root of the hidden size, norms stored less one, a tied head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import DecoderConfig, HeadDim, decoder, refuse
from mlc_llm.models.families.rotary import Positions
from mlc_llm.models.layout import STACKED, Layout


class GemmaConfig(DecoderConfig, frozen=True, kw_only=True):
    """`hidden_activation` counts: the first files had only `hidden_act`, and said gelu where they
    meant its approximation."""

    head_dim: HeadDim | None = 256
    max_position_embeddings: Positions = 8192
    tie_word_embeddings: bool = True
    hidden_act: str = "gelu_pytorch_tanh"
    hidden_activation: str | None = None
    attention_bias: bool = False


def gemma_fields(config: GemmaConfig, path: Path) -> tuple[GemmaConfig, dict[str, Any]]:
    """The configuration with its real activation, and what all generations of Gemma differ in."""
    refuse(config, path, attention_bias=False)
    act = config.hidden_activation or "gelu_pytorch_tanh"
    config = msgspec.structs.replace(config, hidden_act=act)
    return config, {"embedding_scale": config.hidden_size**0.5}


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """Apart from these, the first generation is a Llama."""
    config, different = gemma_fields(convert(values, GemmaConfig, path), path)
    return decoder(config, "gemma", path, **different)


HUGGINGFACE = Layout(modules=STACKED, norm_offset=1.0)

FAMILY = Family(architecture, HUGGINGFACE)
