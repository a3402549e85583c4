"""Qwen 1.5 and 2 with experts: a Qwen2 with experts beside an MLP that is weighted row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from mlc_llm.models.architecture import Architecture, Experts
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import (
    DecoderConfig,
    Heads,
    Size,
    check_experts,
    decoder,
    refuse,
)
from mlc_llm.models.families.rotary import Positions
from mlc_llm.models.layout import EXPERTS, Layout


class Qwen2MoeConfig(DecoderConfig, frozen=True, kw_only=True):
    """`intermediate_size` is that of the layers without experts."""

    max_position_embeddings: Positions = 32768
    qkv_bias: bool = True
    use_sliding_window: bool = False
    num_experts: Heads = 60
    num_experts_per_tok: Heads = 4
    moe_intermediate_size: Size = 1408
    shared_expert_intermediate_size: Size = 5632
    norm_topk_prob: bool = False
    decoder_sparse_step: Annotated[int, Meta(ge=1)] = 1
    mlp_only_layers: list[int] | None = None


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """Every `decoder_sparse_step`-th layer has experts, unless it is named."""
    config = convert(values, Qwen2MoeConfig, path)
    refuse(config, path, use_sliding_window=False)
    step, dense = config.decoder_sparse_step, set(config.mlp_only_layers or ())
    count = config.num_hidden_layers
    experts = Experts(
        count=config.num_experts,
        per_token=config.num_experts_per_tok,
        intermediate_size=config.moe_intermediate_size,
        layers=tuple(i for i in range(count) if (i + 1) % step == 0 and i not in dense),
        normalise=config.norm_topk_prob,
        shared_size=config.shared_expert_intermediate_size,
        shared_gate=True,
    )
    check_experts(experts, path)
    return decoder(
        config,
        "qwen2_moe",
        path,
        qkv_bias=config.qkv_bias,
        experts=experts if experts.layers else None,
    )


SHARED: dict[str, str | tuple[str, ...]] = {
    "mlp.shared_experts.gate_up_proj": "mlp.shared_expert.gate_up_proj",
    "mlp.shared_experts.down_proj": "mlp.shared_expert.down_proj",
}
APART = ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj")

FAMILY = Family(
    architecture,
    Layout(modules={**EXPERTS, **SHARED, "mlp.shared_experts.gate_up_proj": APART}),
    Layout(modules=SHARED),
)
