"""What Hugging Face calls the tensors of GGUF files, and what each is made of. Names only.

GGUF's names are those of llama.cpp's gguf-py/gguf/constants.py. A stack of experts is given as
their matrices, and q, k and v that lie in one tensor as three, where Hugging Face has them apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct


class Names(Struct, frozen=True):
    """The modules of an architecture, by those of GGUF. A * stands for the number of an expert."""

    layers: str
    whole: Mapping[str, str]
    """Outside of the layers."""
    inner: Mapping[str, str]
    """After the number of a layer."""


_WHOLE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_AROUND = {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.*.gate_proj",
    "ffn_up_exps": "mlp.experts.*.up_proj",
    "ffn_down_exps": "mlp.experts.*.down_proj",
}
_MIXTRAL = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.*.w1",
    "ffn_up_exps": "block_sparse_moe.experts.*.w3",
    "ffn_down_exps": "block_sparse_moe.experts.*.w2",
}
_ONE_SHARED = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_DEEPSEEK = {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
_GPT2 = Names(
    "h",
    {"token_embd": "wte", "position_embd": "wpe", "output_norm": "ln_f", "output": "lm_head"},
    {
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    },
)
_GPT_NEOX = Names(
    "gpt_neox.layers",
    {
        "token_embd": "gpt_neox.embed_in",
        "output_norm": "gpt_neox.final_layer_norm",
        "output": "embed_out",
    },
    {
        "attn_norm": "input_layernorm",
        "attn_qkv": "attention.query_key_value",
        "attn_output": "attention.dense",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    },
)


_BERT = Names(
    "encoder.layer",
    {
        "token_embd": "embeddings.word_embeddings",
        "position_embd": "embeddings.position_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "token_embd_norm": "embeddings.LayerNorm",
    },
    {
        "attn_q": "attention.self.query",
        "attn_k": "attention.self.key",
        "attn_v": "attention.self.value",
        "attn_output": "attention.output.dense",
        "attn_output_norm": "attention.output.LayerNorm",
        "ffn_up": "intermediate.dense",
        "ffn_down": "output.dense",
        "layer_output_norm": "output.LayerNorm",
    },
)


def _decoder(different: Mapping[str, str] = {}) -> Names:
    return Names("model.layers", _WHOLE, {**_INNER, **different})


_VERBATIM = {
    "attn_k_b.weight": "self_attn.w_uk",
    "attn_v_b.weight": "self_attn.w_uv",
    "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
}
"""Of DeepSeek, with what stands after the module."""

NAMES: Mapping[str, Names] = {
    "bert": _BERT,
    "deepseek2": _decoder({**_EXPERTS, **_DEEPSEEK}),
    "gemma": _decoder(),
    "gemma2": _decoder(_AROUND),
    "gemma3": _decoder(_AROUND),
    "gpt2": _GPT2,
    "gptneox": _GPT_NEOX,
    "llama": _decoder(_MIXTRAL),
    "olmo2": _decoder(_AROUND),
    "olmoe": _decoder(_EXPERTS),
    "phi3": _decoder({"ffn_up": "mlp.gate_up_proj"}),
    "qwen2": _decoder(),
    "qwen2moe": _decoder({**_EXPERTS, **_ONE_SHARED}),
    "qwen3": _decoder(),
    "qwen3moe": _decoder(_EXPERTS),
    "smollm3": _decoder(),
    "stablelm": _decoder(),
}
"""By `general.architecture`."""

_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")

_JOINED = {
    "attn_qkv": ("attn_q", "attn_k", "attn_v"),
    "ffn_gate_up_exps": ("ffn_gate_exps", "ffn_up_exps"),
}
"""Tensors that converters may write instead of several, whose rows follow each other."""


def huggingface_names(architecture: str, name: str) -> tuple[str, ...]:
    """What Hugging Face calls the tensors that one of GGUF is made of; a name that is not known
    stays as it is."""
    matched = _NAME.fullmatch(name)
    if matched is None:
        return (name,)
    names = NAMES.get(architecture, Names("", {}, {}))
    layer, module, leaf = matched.groups()
    if layer is None:
        return (f"{names.whole[module]}.{leaf}",) if module in names.whole else (name,)
    if architecture == "deepseek2" and (verbatim := _VERBATIM.get(f"{module}.{leaf}")):
        return (f"{names.layers}.{layer}.{verbatim}",)
    parts = _parts(architecture, module)
    if any(part not in names.inner for part in parts):
        return (name,)
    return tuple(f"{names.layers}.{layer}.{names.inner[part]}.{leaf}" for part in parts)


def _parts(architecture: str, module: str) -> tuple[str, ...]:
    if module == "attn_qkv" and architecture in ("gpt2", "gptneox", "phi3"):
        return (module,)
    return _JOINED.get(module, (module,))
