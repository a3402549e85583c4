"""config.json and generation_config.json of the model in a GGUF file. Pure.

The keys are those that llama.cpp's converters write, `<architecture>.<what>`. What they leave out
because the program knows it, such as which layers of Gemma slide, the defaults of our families say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlc_llm.errors import BadModel
from mlc_llm.models.gguf.file import GgufFile
from mlc_llm.models.quantized import KEPT

MODEL_TYPES = {
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "llama": "llama",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
"""Our `model_type` of each `general.architecture` that is read; Mistral calls itself llama."""

ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that are part of the configuration: divisors of the rotary frequencies."""

END_NAMES = frozenset(
    {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<end_of_turn>"}
)
"""Control tokens that end an answer wherever they exist: old files name one of several."""

_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""The one size of these whose scores are scaled by the hidden size for each head."""


class Keys:
    """The metadata of one file, by type."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        name = file.values.get("general.architecture")
        if not isinstance(name, str):
            raise BadModel(f"{file.path}: general.architecture is missing")
        self.architecture = name

    def fault(self, key: str, message: str) -> BadModel:
        return BadModel(f"{self.file.path}: {key}: {message}")

    def get(self, key: str, kind: type[Any] | tuple[type[Any], ...]) -> Any:
        """The value of a key, None when there is none."""
        value = self.file.values.get(key)
        if value is not None and (not isinstance(value, kind) or _is_odd_bool(value, kind)):
            raise self.fault(key, f"is of type {type(value).__name__}")
        return value

    def integer(self, key: str) -> int | None:
        """A key of the architecture. Some files list a number for each layer: they must agree."""
        full = f"{self.architecture}.{key}"
        value = self.get(full, (int, np.ndarray))
        if isinstance(value, np.ndarray):
            numbers = set(value.tolist())
            if len(numbers) != 1:
                raise self.fault(full, "differs between layers, which is not supported")
            value = numbers.pop()
        return None if value is None else int(value)

    def number(self, key: str) -> float | None:
        """A key of the architecture."""
        value = self.get(f"{self.architecture}.{key}", (int, float))
        return None if value is None else float(value)

    def factors(self, tensor: str) -> list[float] | None:
        """The numbers of a small float32 tensor."""
        found = self.file.tensors.get(tensor)
        if found is None:
            return None
        if found.kind.name != "F32" or len(found.shape) != 1 or found.shape[0] > 1024:
            raise self.fault(f"tensor {tensor}", "is not a list of at most 1024 float32 numbers")
        with found.path.open("rb") as file:
            file.seek(found.offset)
            values = np.frombuffer(file.read(4 * found.shape[0]), "<f4")
        if len(values) != found.shape[0] or not (np.isfinite(values) & (values > 0)).all():
            raise self.fault(f"tensor {tensor}", "holds a number that is no divisor")
        return [float(str(value)) for value in values]


def _is_odd_bool(value: Any, kind: type[Any] | tuple[type[Any], ...]) -> bool:
    return isinstance(value, bool) and kind is not bool


def model_config(file: GgufFile) -> dict[str, Any]:
    """config.json. Raises `BadModel` for what is not supported or does not fit together."""
    keys = Keys(file)
    if keys.architecture not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise BadModel(
            f"{file.path}: GGUF architecture {keys.architecture!r} is not supported; "
            f"use one of {known}"
        )
    if keys.integer("expert_count"):
        raise keys.fault(f"{keys.architecture}.expert_count", "experts are not supported")
    table = file.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise BadModel(f"{file.path}: tensor token_embd.weight is missing or no matrix")
    config = {
        "model_type": MODEL_TYPES[keys.architecture],
        "vocab_size": table.shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "hidden_size": keys.integer("embedding_length"),
        "intermediate_size": keys.integer("feed_forward_length"),
        "num_hidden_layers": keys.integer("block_count"),
        "num_attention_heads": keys.integer("attention.head_count"),
        "num_key_value_heads": keys.integer("attention.head_count_kv"),
        "head_dim": keys.integer("attention.key_length"),
        "max_position_embeddings": keys.integer("context_length"),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": keys.number("rope.freq_base"),
        "rope_scaling": _rope_scaling(keys),
        "torch_dtype": "float16",
        "quantization_config": {"quant_method": "gguf", "served": _best_served(file)},
        **special_ids(keys),
    }
    if (own := _OWN.get(keys.architecture)) is not None:
        config |= own(keys, config)
    return {key: value for key, value in config.items() if value is not None}


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
    if kind in (None, "none"):
        return None
    return {
        "rope_type": kind,
        "factor": keys.number("rope.scaling.factor"),
        "original_max_position_embeddings": keys.integer("rope.scaling.original_context_length"),
    }


def _partial_rotary(keys: Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    width, turned = config["head_dim"], keys.integer("rope.dimension_count")
    if width is None and config["hidden_size"] and config["num_attention_heads"]:
        width = config["hidden_size"] // config["num_attention_heads"]
    if not width or not turned or turned == width:
        return {}
    return {"partial_rotary_factor": turned / width}


def _phi3(keys: Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    window = keys.integer("attention.sliding_window")
    return {**_partial_rotary(keys, config), "sliding_window": window or None}


def _gemma(keys: Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    """Scores are scaled by the width of a head, but in the largest models of two generations."""
    width = config["head_dim"]
    if config["num_hidden_layers"] == _LAYERS_OF_27B.get(keys.architecture):
        width = config["hidden_size"] // config["num_attention_heads"]
    return {
        "query_pre_attn_scalar": width,
        "sliding_window": keys.integer("attention.sliding_window"),
        "attn_logit_softcapping": keys.number("attn_logit_softcapping"),
        "final_logit_softcapping": keys.number("final_logit_softcapping"),
    }


_OWN: Mapping[str, Callable[[Keys, Mapping[str, Any]], dict[str, Any]]] = {
    "llama": _partial_rotary,
    "phi3": _phi3,
    "gemma2": _gemma,
    "gemma3": _gemma,
}
"""What only some architectures have."""
