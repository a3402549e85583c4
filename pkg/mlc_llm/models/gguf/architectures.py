"""What each architecture of GGUF is in Hugging Face's terms, beyond what all have in common.

The keys are those of llama.cpp's gguf-py/gguf/constants.py. What its converters leave out because
the program knows it (or sees it in the tensors) is put back here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from mlc_llm.models.gguf.keys import Keys

Config = dict[str, Any]

_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""The one size of these whose scores are scaled by the hidden size for each head."""

_SIGMOID = 2
"""Of `expert_gating_func`; 1 is softmax, as where there is no such key."""

_GROUPS = {(60, 160): (8, 3), (61, 256): (8, 4)}
"""DeepSeek-V2 and V3, by layers and experts: groups and those chosen, which old files leave out."""


class Known(Struct, frozen=True):
    """How an architecture becomes a configuration."""

    model_type: str
    own: Callable[[Keys, Config], Config] = lambda keys, config: {}
    """Fields that only this architecture has, given those that all have."""
    refused: tuple[str, ...] = ()
    """Keys that would mean something else than what is computed."""
    rope_theta: float | None = 10000.0
    """Where the file says none; None is what the family has."""


def partial_rotary(keys: Keys, config: Config) -> Config:
    """The turned share of a head, such that share times width, cut to whole columns, is right."""
    width, turned = config["head_dim"], keys.integer("rope.dimension_count")
    if not width or not turned:
        return {}
    return {"partial_rotary_factor": min(1.0, math.nextafter(turned / width, math.inf))}


def _qkv_bias(keys: Keys) -> bool:
    return keys.has("blk.0.attn_q.bias") or keys.has("blk.0.attn_qkv.bias")


def _llama(keys: Keys, config: Config) -> Config:
    """Llama, Mistral and Mixtral call themselves so."""
    window = keys.integer("attention.sliding_window")
    found = {
        **partial_rotary(keys, config),
        "model_type": "mistral" if window else "llama",
        "attention_bias": _qkv_bias(keys),
        "sliding_window": window,
    }
    if not keys.integer("expert_count"):
        return found
    return {
        **found,
        "model_type": "mixtral",
        "num_local_experts": keys.need("expert_count"),
        "num_experts_per_tok": keys.need("expert_used_count"),
    }


def _qwen3(keys: Keys, config: Config) -> Config:
    return {"attention_bias": _qkv_bias(keys)}


def _experts(keys: Keys, config: Config) -> Config:
    """Which layers have experts only their tensors say."""
    layers = range(min(config["num_hidden_layers"] or 0, 1 << 12))
    return {
        "num_experts": keys.need("expert_count"),
        "num_experts_per_tok": keys.need("expert_used_count"),
        "moe_intermediate_size": keys.integer("expert_feed_forward_length"),
        "mlp_only_layers": [i for i in layers if not keys.has(f"blk.{i}.ffn_gate_inp.weight")],
    }


def _qwen2_moe(keys: Keys, config: Config) -> Config:
    return {
        **_experts(keys, config),
        "shared_expert_intermediate_size": keys.integer("expert_shared_feed_forward_length"),
        "norm_topk_prob": False,
    }


def _qwen3_moe(keys: Keys, config: Config) -> Config:
    return {**_qwen3(keys, config), **_experts(keys, config), "norm_topk_prob": True}


def _olmoe(keys: Keys, config: Config) -> Config:
    return {
        "num_experts": keys.need("expert_count"),
        "num_experts_per_tok": keys.need("expert_used_count"),
        "norm_topk_prob": False,
        "clip_qkv": keys.number("attention.clamp_kqv"),
    }


def _deepseek(keys: Keys, config: Config) -> Config:
    """`key_length` of newer files is that of latents, and `key_length_mla` that of heads."""
    turned = keys.need("rope.dimension_count")
    width = keys.integer("attention.key_length_mla") or keys.need("attention.key_length")
    values = keys.integer("attention.value_length_mla") or keys.need("attention.value_length")
    found = {
        "head_dim": None,
        "kv_lora_rank": keys.need("attention.kv_lora_rank"),
        "q_lora_rank": keys.integer("attention.q_lora_rank"),
        "qk_rope_head_dim": turned,
        "qk_nope_head_dim": width - turned,
        "v_head_dim": values,
        "first_k_dense_replace": keys.integer("leading_dense_block_count"),
        "rope_scaling": _deepseek_rope(keys, config["rope_scaling"]),
    }
    sigmoid = keys.integer("expert_gating_func") == _SIGMOID
    model_type = "deepseek_v3" if sigmoid else "deepseek_v2"
    if not keys.integer("expert_count"):
        return {**found, "model_type": model_type}
    count = keys.need("expert_count")
    groups, chosen = _groups(keys, config, count)
    return {
        **found,
        "model_type": model_type,
        "n_routed_experts": count,
        "num_experts_per_tok": keys.need("expert_used_count"),
        "n_shared_experts": keys.integer("expert_shared_count"),
        "moe_intermediate_size": keys.need("expert_feed_forward_length"),
        "norm_topk_prob": keys.flag("expert_weights_norm"),
        "routed_scaling_factor": keys.number("expert_weights_scale"),
        "n_group": groups,
        "topk_group": chosen,
        "scoring_func": "sigmoid" if sigmoid else "softmax",
        "topk_method": "noaux_tc" if sigmoid else _method(groups),
    }


def _groups(keys: Keys, config: Config, experts: int) -> tuple[int, int]:
    groups = keys.integer("expert_group_count")
    if groups is None:
        return _GROUPS.get((config["num_hidden_layers"], experts), (1, 1))
    return groups or 1, keys.integer("expert_group_used_count") or 1


def _method(groups: int) -> str:
    return "group_limited_greedy" if groups > 1 else "greedy"


def _deepseek_rope(keys: Keys, rope: Config | None) -> Config | None:
    """YaRN's correction of the scores is stored as a tenth; that of rotations is always one."""
    tenth = keys.number("rope.scaling.yarn_log_multiplier")
    if rope is None or not tenth:
        return rope
    scale = float(str(np.float32(tenth / 0.1)))
    return {**rope, "mscale": scale, "mscale_all_dim": scale}


def _bert(keys: Keys, config: Config) -> Config:
    types = keys.file.tensors.get("token_types.weight")
    return {**_layer_norms(keys), "type_vocab_size": None if types is None else types.shape[0]}


def _layer_norms(keys: Keys) -> Config:
    return {"layer_norm_eps": keys.number("attention.layer_norm_epsilon")}


def _stablelm(keys: Keys, config: Config) -> Config:
    """Layers without a second norm are parallel, whatever the key about it says."""
    return {
        **partial_rotary(keys, config),
        **_layer_norms(keys),
        "use_qkv_bias": _qkv_bias(keys),
        "qk_layernorm": keys.has("blk.0.attn_q_norm.weight"),
        "use_parallel_residual": not keys.has("blk.0.ffn_norm.weight"),
    }


def _gpt_neox(keys: Keys, config: Config) -> Config:
    return {
        **partial_rotary(keys, config),
        **_layer_norms(keys),
        "use_parallel_residual": keys.flag("use_parallel_residual"),
    }


def _gpt2(keys: Keys, config: Config) -> Config:
    """The width of the MLP that is written is four times that of the model, right or wrong."""
    inner = keys.file.tensors.get("blk.0.ffn_up.weight")
    return {
        "n_embd": config["hidden_size"],
        "n_layer": config["num_hidden_layers"],
        "n_head": config["num_attention_heads"],
        "n_inner": config["intermediate_size"] if inner is None else inner.shape[0],
        "n_positions": config["max_position_embeddings"],
        "layer_norm_epsilon": keys.number("attention.layer_norm_epsilon"),
    }


def _phi3(keys: Keys, config: Config) -> Config:
    window = keys.integer("attention.sliding_window")
    return {**partial_rotary(keys, config), "sliding_window": window or None}


def _gemma(keys: Keys, config: Config) -> Config:
    """Scores are scaled by the width of a head, but in the largest models of two generations."""
    width = config["head_dim"]
    if config["num_hidden_layers"] == _LAYERS_OF_27B.get(keys.architecture):
        width = config["hidden_size"] // config["num_attention_heads"]
    return {
        "query_pre_attn_scalar": width,
        "attn_logit_softcapping": keys.number("attn_logit_softcapping"),
        "final_logit_softcapping": keys.number("final_logit_softcapping"),
        "rope_local_base_freq": keys.number("rope.freq_base_swa"),
        **_windows(keys, config),
    }


def _windows(keys: Keys, config: Config) -> Config:
    """Newer files may say which layers slide; in a file of Gemma 3 without a window none does."""
    window = keys.integer("attention.sliding_window")
    key = f"{keys.architecture}.attention.sliding_window_pattern"
    slides = keys.get(key, (int, np.ndarray))
    count = config["num_hidden_layers"] or 0
    if window == 0 or (window is None and keys.architecture == "gemma3"):
        slides = np.zeros(min(count, 1 << 12), bool)
    if isinstance(slides, int):
        return {"sliding_window": window, "sliding_window_pattern": slides}
    if slides is None:
        return {"sliding_window": window}
    types = ["sliding_attention" if kind else "full_attention" for kind in slides[:count].tolist()]
    return {"sliding_window": window or None, "layer_types": types}


ARCHITECTURES: Mapping[str, Known] = {
    "bert": Known("bert", _bert),
    "deepseek2": Known("deepseek_v2", _deepseek, ("attention.temperature_scale",)),
    "gemma": Known("gemma"),
    "gemma2": Known("gemma2", _gemma),
    "gemma3": Known("gemma3_text", _gemma, rope_theta=None),
    "gpt2": Known("gpt2", _gpt2),
    "gptneox": Known("gpt_neox", _gpt_neox),
    "llama": Known("llama", _llama, ("attention.temperature_scale",)),
    "olmo2": Known("olmo2", refused=("attention.sliding_window",)),
    "olmoe": Known("olmoe", _olmoe),
    "phi3": Known("phi3", _phi3, ("expert_count",)),
    "qwen2": Known("qwen2"),
    "qwen2moe": Known("qwen2_moe", _qwen2_moe),
    "qwen3": Known("qwen3", _qwen3),
    "qwen3moe": Known("qwen3_moe", _qwen3_moe),
    "smollm3": Known("smollm3"),
    "stablelm": Known("stablelm", _stablelm),
}
"""By `general.architecture`."""

REFUSED = (
    "attention.scale",
    "attention.output_scale",
    "embedding_scale",
    "logit_scale",
    "nextn_predict_layers",
    "residual_scale",
    "rope.dimension_sections",
)
"""Keys of any architecture that would mean something else than what is computed."""
