"""config.json and generation_config.json of the model in a GGUF file.

The keys are those that llama.cpp's converters write, `<architecture>.<what>`; here are the ones
that all architectures have in common. What they leave out because the program knows it, such as
which layers of Gemma slide, the defaults of our families say.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlc_llm.errors import BadModel
from mlc_llm.models.gguf.architectures import ARCHITECTURES, REFUSED
from mlc_llm.models.gguf.file import GgufFile
from mlc_llm.models.gguf.keys import Keys
from mlc_llm.models.quantized import KEPT

ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that are part of the configuration: divisors of the rotary frequencies."""

END_NAMES = frozenset(
    {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<end_of_turn>"}
    | {"<|end_of_text|>", "<EOT>", "<end_of_utterance>", "<\uff5cend\u2581of\u2581sentence\uff5c>"}
)
"""Control tokens that end an answer wherever they exist: old files name one of several."""


_POOLINGS = {
    1: "pooling_mode_mean_tokens",
    2: "pooling_mode_cls_token",
    3: "pooling_mode_lasttoken",
}
"""By `pooling_type`; 0 is none, 4 is that of models that rank."""


def model_config(file: GgufFile) -> dict[str, Any]:
    """config.json. Raises `BadModel` for what is not supported or does not fit together."""
    keys = Keys(file)
    if keys.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise BadModel(
            f"{file.path}: GGUF architecture {keys.architecture!r} is not supported; "
            f"use one of {known}"
        )
    known_as = ARCHITECTURES[keys.architecture]
    for key in (*REFUSED, *known_as.refused):
        if np.any(file.values.get(f"{keys.architecture}.{key}", 0)):
            raise keys.fault(f"{keys.architecture}.{key}", "is not supported")
    table = file.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise BadModel(f"{file.path}: tensor token_embd.weight is missing or no matrix")
    config = {
        "model_type": known_as.model_type,
        "vocab_size": table.shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "hidden_size": keys.integer("embedding_length"),
        "intermediate_size": keys.integer("feed_forward_length"),
        "num_hidden_layers": keys.integer("block_count"),
        "num_attention_heads": keys.integer("attention.head_count"),
        "num_key_value_heads": keys.integer("attention.head_count_kv"),
        "head_dim": keys.integer("attention.key_length") or _even_share(keys),
        "max_position_embeddings": keys.integer("context_length"),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": keys.number("rope.freq_base") or known_as.rope_theta,
        "rope_scaling": _rope_scaling(keys),
        "torch_dtype": "float16",
        "quantization_config": {"quant_method": "gguf", "served": _best_served(file)},
        **special_ids(keys),
    }
    config |= known_as.own(keys, config)
    return {key: value for key, value in config.items() if value is not None}


def _even_share(keys: Keys) -> int | None:
    """What a head is wide when the file does not say."""
    hidden, heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    return hidden // heads if hidden and heads and hidden % heads == 0 else None


def _best_served(file: GgufFile) -> str | None:
    """The scheme that keeps the codes of most weights; None for floats."""
    sizes: dict[str, int] = {}
    for tensor in file.tensors.values():
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1:
            sizes[tensor.kind.name] = sizes.get(tensor.kind.name, 0) + math.prod(tensor.shape)
    most = max(sizes, key=lambda name: sizes[name], default="F32")
    return {"Q4_0": "q4f16_1", "F32": None, "F16": None, "BF16": None}.get(most, KEPT)


def special_ids(keys: Keys) -> dict[str, int | None]:
    """bos_token_id and eos_token_id."""
    return {
        f"{name}_token_id": keys.get(f"tokenizer.ggml.{name}_token_id", int)
        for name in ("bos", "eos")
    }


def generation_config(file: GgufFile) -> dict[str, Any]:
    """generation_config.json: what ends an answer, and the sampling that newer files recommend."""
    keys = Keys(file)
    ends = [keys.get(f"tokenizer.ggml.{name}_token_id", int) for name in ("eos", "eot", "eom")]
    tokens = keys.get("tokenizer.ggml.tokens", list) or []
    types = keys.get("tokenizer.ggml.token_type", np.ndarray)
    if types is not None and len(types) == len(tokens):
        ends += [i for i in np.flatnonzero(types == 3).tolist() if tokens[i] in END_NAMES]
    found = {
        "bos_token_id": special_ids(keys)["bos_token_id"],
        "eos_token_id": list(dict.fromkeys(i for i in ends if i is not None)) or None,
        "temperature": keys.get("general.sampling.temp", float),
        "top_p": keys.get("general.sampling.top_p", float),
        "top_k": keys.get("general.sampling.top_k", int),
        "min_p": keys.get("general.sampling.min_p", float),
        "repetition_penalty": keys.get("general.sampling.penalty_repeat", float),
    }
    return {key: value for key, value in found.items() if value is not None}


def pooling_config(file: GgufFile) -> dict[str, Any] | None:
    """1_Pooling/config.json of a model that was made to embed; None for others."""
    keys = Keys(file)
    kind = keys.integer("pooling_type")
    if not kind:
        return None
    if kind not in _POOLINGS:
        raise keys.fault(f"{keys.architecture}.pooling_type", f"{kind} is not supported")
    return {_POOLINGS[kind]: True}


def _rope_scaling(keys: Keys) -> dict[str, Any] | None:
    """Llama 3 stores its divisors; they are a longrope whose two lists are the same."""
    if (divisors := keys.factors("rope_freqs.weight")) is not None:
        positions = keys.integer("context_length")
        return {
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "attention_factor": 1.0,
            "original_max_position_embeddings": positions,
        }
    if (short := keys.factors("rope_factors_short.weight")) is not None:
        return {
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": keys.factors("rope_factors_long.weight"),
            "attention_factor": keys.number("rope.scaling.attn_factor"),
            "original_max_position_embeddings": keys.integer(
                "rope.scaling.original_context_length"
            ),
        }
    kind = keys.get(f"{keys.architecture}.rope.scaling.type", str)
    if kind is None and (factor := keys.number("rope.scale_linear")) is not None:
        return {"rope_type": "linear", "factor": factor}  # what old files say
    if kind in (None, "none"):
        return None
    attention = keys.number("rope.scaling.yarn_attn_factor")
    return {
        "rope_type": kind,
        "factor": keys.number("rope.scaling.factor"),
        "original_max_position_embeddings": keys.integer("rope.scaling.original_context_length"),
        "attention_factor": attention or keys.number("rope.scaling.attn_factor"),
        "beta_fast": keys.number("rope.scaling.yarn_beta_fast"),
        "beta_slow": keys.number("rope.scaling.yarn_beta_slow"),
    }
