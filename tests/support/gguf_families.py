"""Checkpoints of any family as llama.cpp's converter writes them.

The metadata are recorded from its convert_hf_to_gguf.py, run on the checkpoints of `CONFIGS`, and
so are the names, shapes and checksums of the tensors; the tensors themselves are made here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from support import checkpoints, gguf_files
from support.checkpoints import Tensor
from support.gguf_files import encode, in_pairs

RECORDED = Path(__file__).parents[1] / "unit/mlc_llm/weights/gguf_as_llama_cpp.json"

Floats = NDArray[np.float32]


class Converted(NamedTuple):
    """A checkpoint, and what the converter made of it."""

    config: dict[str, Any]
    tensors: list[Tensor]
    values: dict[str, Any]
    described: dict[str, list[int]]
    """By name: the shape and the CRC-32 of the bytes."""


def recorded() -> dict[str, Any]:
    """All that is recorded, by the names of `CONFIGS`."""
    found: dict[str, Any] = json.loads(RECORDED.read_text())
    return found


def converted(name: str) -> Converted:
    """The model of this name, with experts in all layers if it has any: no other are converted."""
    model = checkpoints.load(checkpoints.FIXTURES / f"{name}.npz")
    config, tensors = dict(model.config), model.tensors
    if name in ("qwen2_moe", "qwen3_moe"):
        config |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
        tensors = _with_experts_everywhere(tensors)
    found = recorded()[name]
    return Converted(config, tensors, found["values"], found["tensors"])


def _with_experts_everywhere(tensors: list[Tensor]) -> list[Tensor]:
    like = next(t.name.split(".")[2] for t in tensors if ".mlp.experts." in t.name)
    block = [t for t in tensors if t.name.startswith(f"model.layers.{like}.mlp.")]
    layers = sorted({t.name.split(".")[2] for t in tensors if t.name.startswith("model.layers.")})
    others = [t for t in tensors if ".mlp." not in t.name]
    moved = [
        t._replace(name=t.name.replace(f"layers.{like}.", f"layers.{i}."))
        for i in layers
        for t in block
    ]
    return [*others, *moved]


LAYER = re.compile(r"(?:.+\.)?(?:layers|layer|h)\.(\d+)\.(.+)\.(weight|bias)")

WHOLE = {
    r"(.+\.)?(embed_tokens|wte|embed_in|word_embeddings)": "token_embd",
    r"(.+\.)?(wpe|position_embeddings)": "position_embd",
    r"embeddings\.token_type_embeddings": "token_types",
    r"embeddings\.LayerNorm": "token_embd_norm",
    r"(.+\.)?(model\.norm|ln_f|final_layer_norm)": "output_norm",
    r"(.+\.)?(lm_head|embed_out)": "output",
}
INNER = {
    r"self_attn\.([qkv])_proj": r"attn_\1",
    r"attention\.self\.(q)uery": r"attn_\1",
    r"attention\.self\.(k)ey": r"attn_\1",
    r"attention\.self\.(v)alue": r"attn_\1",
    r"self_attn\.qkv_proj|attn\.c_attn|attention\.query_key_value": "attn_qkv",
    r"self_attn\.o_proj|attn\.c_proj|attention\.dense|attention\.output\.dense": "attn_output",
    r"self_attn\.(q_norm|k_norm)": r"attn_\1",
    r"self_attn\.(q_a|q_b)_proj": r"attn_\1",
    r"self_attn\.(q_a|kv_a)_layernorm": r"attn_\1_norm",
    r"self_attn\.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    r"attention\.output\.LayerNorm": "attn_output_norm",
    r"output\.LayerNorm": "layer_output_norm",
    r"input_layernorm|ln_1": "attn_norm",
    r"pre_feedforward_layernorm|ln_2": "ffn_norm",
    r"post_feedforward_layernorm": "post_ffw_norm",
    r"mlp\.gate_up_proj|mlp\.c_fc|mlp\.dense_h_to_4h|intermediate\.dense": "ffn_up",
    r"mlp\.c_proj|mlp\.dense_4h_to_h|output\.dense": "ffn_down",
    r"mlp\.(gate|up|down)_proj": r"ffn_\1",
    r"mlp\.gate|block_sparse_moe\.gate": "ffn_gate_inp",
    r"mlp\.shared_expert_gate": "ffn_gate_inp_shexp",
    r"mlp\.shared_experts?\.(gate|up|down)_proj": r"ffn_\1_shexp",
}
"""By patterns of Hugging Face's names; those of an architecture never meet another meaning."""
EXPERT = re.compile(r"(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)")
PROJECTIONS = {"w1": "gate", "w2": "down", "w3": "up"}


def gguf_tensors(model: Converted) -> dict[str, Floats]:
    """The tensors of the file, by GGUF's names."""
    found: dict[str, Floats] = {}
    stacks: dict[str, dict[int, Floats]] = {}
    prefix = "" if "text_config" not in model.config else "language_model."
    for tensor in model.tensors:
        if not tensor.name.startswith(prefix) or tensor.name.startswith("pooler."):
            continue
        rows = checkpoints.values(tensor)
        matched = LAYER.fullmatch(tensor.name)
        if matched is None:
            found[_whole(tensor.name)] = _shifted(model, tensor.name, rows)
            continue
        layer, module, leaf = matched.groups()
        if (expert := EXPERT.fullmatch(module)) is not None:
            part = PROJECTIONS.get(expert[2], expert[2].removesuffix("_proj"))
            stacks.setdefault(f"blk.{layer}.ffn_{part}_exps.weight", {})[int(expert[1])] = rows
        elif module.endswith("kv_b_proj"):
            found |= _latents(model, f"blk.{layer}", rows)
        else:
            name = f"blk.{layer}.{_inner(model, module)}.{leaf}"
            found[name] = _changed(model, tensor.name, rows)
    for name, experts in stacks.items():
        found[name] = np.stack([experts[i] for i in range(len(experts))])
    return {**found, **_rotary(model)}


def _whole(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    for pattern, to in WHOLE.items():
        if re.fullmatch(pattern, module):
            return f"{to}.{leaf}"
    if ".e_score_correction_bias" in name:
        return f"blk.{name.split('.')[2]}.exp_probs_b.bias"
    raise AssertionError(name)


def _inner(model: Converted, module: str) -> str:
    if module == "post_attention_layernorm":
        around = model.values["general.architecture"] in ("gemma2", "gemma3", "olmo2")
        return "post_attention_norm" if around else "ffn_norm"
    for pattern, to in INNER.items():
        if matched := re.fullmatch(pattern, module):
            return matched.expand(to)
    raise AssertionError(module)


def _shifted(model: Converted, name: str, rows: Floats) -> Floats:
    """Gemma's norms with their one."""
    gemma = model.values["general.architecture"].startswith("gemma")
    return rows + np.float32(1) if gemma and name.endswith("norm.weight") else rows


def _changed(model: Converted, name: str, rows: Floats) -> Floats:
    architecture = model.values["general.architecture"]
    if architecture in ("llama", "smollm3"):
        if ".q_proj." in name:
            return in_pairs(rows, model.config["num_attention_heads"])
        if ".k_proj." in name:
            return in_pairs(rows, model.config["num_key_value_heads"])
    if architecture == "gpt2" and rows.ndim == 2:
        return np.ascontiguousarray(rows.T)
    if ".query_key_value." in name:
        heads = model.config["num_attention_heads"]
        apart = rows.reshape(heads, 3, -1, *rows.shape[1:]).swapaxes(0, 1)
        return np.ascontiguousarray(apart).reshape(rows.shape)
    return _shifted(model, name, rows)


def _latents(model: Converted, layer: str, rows: Floats) -> dict[str, Floats]:
    heads = model.config["num_attention_heads"]
    apart = rows.reshape(heads, -1, rows.shape[1])
    nope = model.config["qk_nope_head_dim"]
    return {
        f"{layer}.attn_k_b.weight": np.ascontiguousarray(apart[:, :nope].swapaxes(1, 2)),
        f"{layer}.attn_v_b.weight": np.ascontiguousarray(apart[:, nope:]),
    }


def _rotary(model: Converted) -> dict[str, Floats]:
    """Divisors of the rotary frequencies."""
    rope = model.config.get("rope_scaling") or {}
    if "long_factor" in rope:
        return {
            f"rope_factors_{kind}.weight": np.array(rope[f"{kind}_factor"], np.float32)
            for kind in ("long", "short")
        }
    if rope.get("rope_type") != "llama3":
        return {}
    half = model.config["head_dim"] // 2
    turns = np.float32(model.config["rope_theta"]) ** (-np.arange(half, dtype=np.float32) / half)
    waves = 2 * np.pi / turns
    original, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((original / waves - low) / (high - low), 0, 1)
    return {"rope_freqs.weight": (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)}


TOKENIZER = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "a"],
    "tokenizer.ggml.token_type": [2, 1],
    "tokenizer.ggml.scores": [0.0, 0.0],
}


def write(
    path: Path, model: Converted, tensors: dict[str, Floats] | None = None, kind: str = "F32"
) -> Path:
    """A file with a tokenizer of two tokens; `tensors` instead of the model's own. Those whose rows
    are no blocks of this kind are in float32."""
    stored = {
        name: encode(rows, "F32" if rows.ndim == 1 or rows.shape[-1] % 32 else kind)
        for name, rows in (gguf_tensors(model) if tensors is None else tensors).items()
    }
    return gguf_files.write(path, {**model.values, **TOKENIZER}, stored)
