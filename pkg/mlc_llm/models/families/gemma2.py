"""Gemma 2: norms around attention and MLP, capped scores and logits, every other layer slides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlc_llm.models.architecture import Architecture
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import decoder, sliding
from mlc_llm.models.families.gemma import HUGGINGFACE, GemmaConfig, gemma_fields
from mlc_llm.models.families.rotary import Positions, Positive


class Gemma2Config(GemmaConfig, frozen=True, kw_only=True):
    """The defaults of this format."""

    query_pre_attn_scalar: Positive = 256
    sliding_window: Positions | None = 4096
    layer_types: list[str] | None = None
    attn_logit_softcapping: Positive | None = 50.0
    final_logit_softcapping: Positive | None = 30.0


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """The first layer slides, the second does not, and so on."""
    read = convert(values, Gemma2Config, path)
    config, different = gemma_fields(read, path)
    every_other = [i % 2 == 0 for i in range(config.num_hidden_layers)]
    return decoder(
        config,
        "gemma2",
        path,
        norms="around",
        attention_scale=read.query_pre_attn_scalar**-0.5,
        attention_softcap=read.attn_logit_softcapping,
        logit_softcap=read.final_logit_softcapping,
        **sliding(read.sliding_window, read.layer_types, every_other, path),
        **different,
    )


FAMILY = Family(architecture, HUGGINGFACE)
