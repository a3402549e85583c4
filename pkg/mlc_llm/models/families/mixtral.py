"""Mixtral: a Mistral whose MLPs are experts, of which every row takes a few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlc_llm.models.architecture import Architecture, Experts
from mlc_llm.models.document import convert
from mlc_llm.models.families.base import Family
from mlc_llm.models.families.config import Heads, check_experts, decoder, sliding
from mlc_llm.models.families.mistral import MistralConfig
from mlc_llm.models.families.rotary import Positive
from mlc_llm.models.layout import STACKED, Layout


class MixtralConfig(MistralConfig, frozen=True, kw_only=True):
    """`intermediate_size` is that of one expert."""

    rms_norm_eps: float = 1e-5
    rope_theta: Positive = 1e6
    num_local_experts: Heads = 8
    num_experts_per_tok: Heads = 2


def architecture(values: dict[str, Any], path: Path) -> Architecture:
    """All layers have experts, whose shares are those of the chosen ones among themselves."""
    config = convert(values, MixtralConfig, path)
    experts = Experts(
        count=config.num_local_experts,
        per_token=config.num_experts_per_tok,
        intermediate_size=config.intermediate_size,
        layers=tuple(range(config.num_hidden_layers)),
        normalise=True,
    )
    check_experts(experts, path)
    everywhere = [True] * config.num_hidden_layers
    windows = sliding(config.sliding_window, None, everywhere, path)
    return decoder(config, "mixtral", path, experts=experts, **windows)


HUGGINGFACE = Layout(
    modules={
        "self_attn.qkv_proj": STACKED["self_attn.qkv_proj"],
        "mlp.gate": "block_sparse_moe.gate",
        "mlp.moe_gate_up_proj": ("block_sparse_moe.experts.*.w1", "block_sparse_moe.experts.*.w3"),
        "mlp.moe_down_proj": ("block_sparse_moe.experts.*.w2",),
    }
)
MLC = Layout(
    modules={
        "mlp.gate": "block_sparse_moe.gate",
        "mlp.moe_gate_up_proj": "block_sparse_moe.e1_e3",
        "mlp.moe_down_proj": "block_sparse_moe.e2",
    }
)

FAMILY = Family(architecture, HUGGINGFACE, MLC)
