"""Qwen3 with experts: a Qwen3 in most of whose layers experts stand where the MLP would."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from mlc_llm.models.architecture import Architecture, Experts
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import Heads, Size, check_experts, decoder, sliding
from mlc_llm.models.families.qwen3 import Qwen3Config
from mlc_llm.models.layout import EXPERTS, Layout


class Qwen3MoeConfig(Qwen3Config, frozen=True, kw_only=True):
    """`intermediate_size` is that of the layers without experts."""

    num_experts: Heads = 128
    num_local_experts: Heads | None = None
    """What newer files call it."""
    num_experts_per_tok: Heads = 8
    moe_intermediate_size: Size = 768
    norm_topk_prob: bool = False
    decoder_sparse_step: Annotated[int, Meta(ge=1)] = 1
    mlp_only_layers: list[int] | None = None


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """Every `decoder_sparse_step`-th layer has experts, unless it is named. All layers slide, where
    the file asks for a window."""
    config = convert(values, Qwen3MoeConfig, path)
    step, dense = config.decoder_sparse_step, set(config.mlp_only_layers or ())
    count = config.num_hidden_layers
    experts = Experts(
        count=config.num_local_experts or config.num_experts,
        per_token=config.num_experts_per_tok,
        intermediate_size=config.moe_intermediate_size,
        layers=tuple(i for i in range(count) if (i + 1) % step == 0 and i not in dense),
        normalise=config.norm_topk_prob,
    )
    check_experts(experts, path)
    window = config.sliding_window if config.use_sliding_window else None
    return decoder(
        config,
        "qwen3_moe",
        path,
        qk_norm="head",
        qkv_bias=config.attention_bias,
        out_bias=config.attention_bias,
        experts=experts if experts.layers else None,
        **sliding(window, None, [True] * count, path),
    )


FAMILY = Family(architecture, Layout(modules=EXPERTS))
