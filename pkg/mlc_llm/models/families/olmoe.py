"""OLMoE: a Llama whose MLPs are experts, with norms of whole rows of queries and keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlc_llm.models.architecture import Architecture, Experts
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import (
    DecoderConfig,
    Heads,
    check_experts,
    decoder,
    refuse,
)
from mlc_llm.models.families.rotary import Positions
from mlc_llm.models.layout import EXPERTS, Layout


class OlmoeConfig(DecoderConfig, frozen=True, kw_only=True):
    """`intermediate_size` is that of one expert."""

    max_position_embeddings: Positions = 4096
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    clip_qkv: float | None = None
    num_experts: Heads = 64
    num_experts_per_tok: Heads = 8
    norm_topk_prob: bool = False


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """All layers have experts."""
    config = convert(values, OlmoeConfig, path)
    refuse(config, path, attention_bias=False, clip_qkv=None)
    experts = Experts(
        count=config.num_experts,
        per_token=config.num_experts_per_tok,
        intermediate_size=config.intermediate_size,
        layers=tuple(range(config.num_hidden_layers)),
        normalise=config.norm_topk_prob,
    )
    check_experts(experts, path)
    return decoder(config, "olmoe", path, qk_norm="row", experts=experts)


FAMILY = Family(architecture, Layout(modules=EXPERTS))
