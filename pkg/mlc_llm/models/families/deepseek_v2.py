"""DeepSeek-V2: attention over latents, and experts beside an MLP that every row passes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import Architecture, Experts, Latent
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
from mlc_llm.models.families.rotary import RopeParameters
from mlc_llm.models.layout import EXPERTS, Layout

Columns = Annotated[int, Meta(ge=16, le=1 << 14, multiple_of=16)]
"""What vectors of any CPU fill."""


class LatentConfig(DecoderConfig, frozen=True, kw_only=True):
    """What DeepSeek's files have in common; `num_key_value_heads` says nothing here."""

    attention_bias: bool = False
    kv_lora_rank: Columns = 512
    q_lora_rank: Size | None = None
    qk_rope_head_dim: Columns = 64
    qk_nope_head_dim: Columns = 128
    v_head_dim: Columns = 128
    rope_interleave: bool = True
    n_routed_experts: Annotated[int, Meta(ge=1, le=1 << 12)] | None = None
    n_shared_experts: Annotated[int, Meta(ge=0, le=1 << 12)] | None = None
    num_experts_per_tok: Heads | None = None
    moe_intermediate_size: Size = 1408
    moe_layer_freq: Annotated[int, Meta(ge=1)] = 1
    first_k_dense_replace: Annotated[int, Meta(ge=0)] = 0
    n_group: Heads | None = None
    topk_group: Heads | None = None
    routed_scaling_factor: float = 1.0
    scoring_func: str | None = None
    topk_method: str | None = None
    norm_topk_prob: bool = False


class DeepseekV2Config(LatentConfig, frozen=True, kw_only=True):
    """Shares are never made to add up to one: those of V2 were not trained so."""

    scoring_func: str | None = "softmax"
    topk_method: str | None = "greedy"


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """Groups of experts count as much as their best one, where groups are chosen first."""
    config = convert(values, DeepseekV2Config, path)
    refuse(config, path, scoring_func="softmax", norm_topk_prob=False)
    if config.topk_method not in ("greedy", "group_limited_greedy"):
        raise BadModel(f"{path}: topk_method {config.topk_method!r} is not supported")
    grouped = config.topk_method != "greedy"
    return latent_decoder(config, "deepseek_v2", path, grouped)


def latent_decoder(
    config: LatentConfig, model_type: str, path: Path, grouped: bool, **chosen: Any
) -> Architecture:
    """The architecture of a DeepSeek; `chosen` are fields of `Experts` that differ."""
    refuse(config, path, attention_bias=False)
    nope, rope_dim = config.qk_nope_head_dim, config.qk_rope_head_dim
    latent = Latent(
        rank=config.kv_lora_rank,
        rope_dim=rope_dim,
        nope_dim=nope,
        value_dim=config.v_head_dim,
        query_rank=config.q_lora_rank,
        interleaved=config.rope_interleave,
    )
    heads = config.num_attention_heads
    turned = msgspec.structs.replace(config, head_dim=rope_dim, num_key_value_heads=heads)
    if heads * config.v_head_dim % 32:
        raise BadModel(f"{path}: num_attention_heads times v_head_dim must be a multiple of 32")
    return decoder(
        turned,
        model_type,
        path,
        latent=latent,
        head_dim=nope + rope_dim,
        rotary_dim=rope_dim,
        num_key_value_heads=1,
        attention_scale=_scale(config.rope, nope + rope_dim),
        experts=_experts(config, path, grouped, chosen),
    )


def _scale(rope: RopeParameters | None, head_dim: int) -> float:
    """YaRN's correction of the scores, squared since it is meant for queries and keys."""
    correction = 1.0
    kind = (rope.rope_type or rope.type) if rope else None
    if rope and kind not in (None, "default") and rope.mscale_all_dim and (rope.factor or 0) > 1:
        correction = 0.1 * rope.mscale_all_dim * math.log(rope.factor or 1) + 1.0
    return float(head_dim**-0.5 * correction * correction)


def _experts(
    config: LatentConfig, path: Path, grouped: bool, chosen: dict[str, Any]
) -> Experts | None:
    """None for a file without experts."""
    if config.n_routed_experts is None:
        return None
    first, step = config.first_k_dense_replace, config.moe_layer_freq
    layers = tuple(i for i in range(first, config.num_hidden_layers) if i % step == 0)
    experts = Experts(
        count=config.n_routed_experts,
        per_token=config.num_experts_per_tok or 1,
        intermediate_size=config.moe_intermediate_size,
        layers=layers,
        scale=config.routed_scaling_factor,
        groups=(config.n_group or 1) if grouped else 1,
        groups_per_token=(config.topk_group or 1) if grouped else 1,
        shared_size=(config.n_shared_experts or 0) * config.moe_intermediate_size,
    )
    experts = msgspec.structs.replace(experts, **chosen)
    check_experts(experts, path)
    return experts if layers else None


HUGGINGFACE = Layout(modules=EXPERTS, latent_heads=True)

FAMILY = Family(architecture, HUGGINGFACE)
