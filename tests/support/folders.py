"""Small valid model folders of both formats with random weights, for tests without shared data.

Each writer gives back the parameters a correct loader must find, named as in `models.parameters`
and already rounded to what the files hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlc_llm.models.architecture import Architecture
from mlc_llm.quantization.group import dequantize
from mlc_llm.quantization.search import quantize_closest
from support import toy_tokenizers
from support.oracle import random_weights

Floats = NDArray[np.float32]
Weights = dict[str, Floats]
Stored = tuple[str, NDArray[Any]]
"""A safetensors dtype and the array whose bytes are stored; BF16 as its bits."""

WORDS = [" the", " and", " a", " to", " was", " she", " day", ".", ",", " little", "Once", " upon"]
CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
MLC_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "float32", "U32": "uint32"}
SHARD_BYTES = 1 << 14


def tiny_llama(**changes: Any) -> Architecture:
    """A two-layer Llama whose sizes are not powers of two."""
    tiny = Architecture(
        model_type="llama",
        hidden_size=64,
        intermediate_size=88,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=290,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        context_window_size=256,
    )
    return msgspec.structs.replace(tiny, **changes)


def write_hf_folder(
    path: Path,
    arch: Architecture,
    seed: int = 0,
    dtype: Literal["F32", "F16", "BF16"] = "F32",
    sharded: bool = False,
) -> Weights:
    """config.json, tokenizer and safetensors, in one file or in two with an index."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", hf_config(arch))
    write_json(path / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    write_tokenizer(path)
    weights = random_weights(arch, seed)
    stored = {
        name: encode(value, dtype)
        for parameter, matrix in weights.items()
        for name, value in split_parameter(arch, parameter, matrix).items()
    }
    if sharded:
        _write_sharded(path, stored)
    else:
        write_safetensors(path / "model.safetensors", stored)
    return {name: decode(encode(value, dtype)) for name, value in weights.items()}


def write_mlc_folder(
    path: Path,
    arch: Architecture,
    quantization: Literal["q0f32", "q0f16", "q4f16_1"] = "q4f16_1",
    seed: int = 0,
    manifest: str = "tensor-cache.json",
) -> Weights:
    """mlc-chat-config.json, tokenizer, manifest, shards; q0f32 lies in 16 bits, as with MLC."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "mlc-chat-config.json", mlc_config(arch, quantization))
    write_tokenizer(path)
    found: Weights = {}
    stored: dict[str, Stored] = {}
    for name, value in random_weights(arch, seed).items():
        if quantization == "q4f16_1" and value.ndim == 2:
            quantized = quantize_closest(value.astype(np.float16).astype(np.float32))
            base = name.removesuffix("weight")
            stored[f"{base}q_weight"] = "U32", quantized.words
            stored[f"{base}q_scale"] = "F16", quantized.scales
            found[name] = dequantize(quantized, value.shape[1])
        else:
            stored[name] = encode(value, "BF16" if quantization == "q0f32" else "F16")
            found[name] = decode(stored[name])
    _write_shards(path, stored, manifest)
    return found


def hf_config(arch: Architecture) -> dict[str, Any]:
    """config.json of an architecture."""
    fields = msgspec.to_builtins(arch)
    fields["max_position_embeddings"] = fields.pop("context_window_size")
    if fields["rope_scaling"] is not None:
        fields["rope_scaling"]["rope_type"] = "llama3"
    return {**fields, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu"}


def mlc_config(arch: Architecture, quantization: str) -> dict[str, Any]:
    """mlc-chat-config.json of an architecture."""
    model_config = hf_config(arch)
    model_config["position_embedding_base"] = model_config.pop("rope_theta")
    model_config["context_window_size"] = model_config.pop("max_position_embeddings")
    return {
        "version": "0.1.0",
        "model_type": arch.model_type,
        "quantization": quantization,
        "model_config": model_config,
        "vocab_size": arch.vocab_size,
        "context_window_size": arch.context_window_size,
        "sliding_window_size": -1,
        "prefill_chunk_size": 128,
        "temperature": 0.5,
        "top_p": 0.9,
        "conv_template": _conv_template(),
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def write_json(path: Path, value: Any) -> None:
    """A JSON file."""
    path.write_text(json.dumps(value))


def split_parameter(arch: Architecture, name: str, value: Floats) -> dict[str, Floats]:
    """The tensors that Hugging Face stores for one of our parameters."""
    if "qkv_proj" in name:
        q, kv = (h * arch.head_dim for h in (arch.num_attention_heads, arch.num_key_value_heads))
        parts = np.split(value, [q, q + kv])
        return {name.replace("qkv", part): rows for part, rows in zip("qkv", parts, strict=True)}
    if "gate_up_proj" in name:
        gate, up = np.split(value, 2)
        return {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}
    return {name: value}


def encode(value: Floats, dtype: str) -> Stored:
    """The value rounded to a dtype; bfloat16 to nearest, ties to even."""
    if dtype == "BF16":
        bits = value.view(np.uint32)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return dtype, rounded.astype(np.uint16)
    return dtype, value.astype(np.float16 if dtype == "F16" else np.float32)


def decode(stored: Stored) -> Floats:
    """The inverse of `encode`."""
    dtype, value = stored
    if dtype == "BF16":
        return (value.astype(np.uint32) << 16).view(np.float32)
    return value.astype(np.float32)


def write_safetensors(path: Path, tensors: Mapping[str, Stored]) -> None:
    """One safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, value) in tensors.items():
        end = offset + value.nbytes
        header[name] = {"dtype": dtype, "shape": value.shape, "data_offsets": [offset, end]}
        offset = end
    write_raw_safetensors(
        path, json.dumps(header).encode(), b"".join(v.tobytes() for _, v in tensors.values())
    )


def write_raw_safetensors(path: Path, header: bytes, data: bytes) -> None:
    """A safetensors file with this header, right or wrong."""
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def _write_sharded(path: Path, stored: dict[str, Stored]) -> None:
    names = list(stored)
    shards = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for file, members in shards.items():
        write_safetensors(path / file, {name: stored[name] for name in members})
    weight_map = {name: file for file, members in shards.items() for name in members}
    write_json(path / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _write_shards(path: Path, stored: dict[str, Stored], manifest: str) -> None:
    groups: list[dict[str, Stored]] = [{}]
    for name, tensor in stored.items():
        if sum(value.nbytes for _, value in groups[-1].values()) > SHARD_BYTES:
            groups.append({})
        groups[-1][name] = tensor
    records = [_write_shard(path, index, group) for index, group in enumerate(groups)]
    write_json(path / manifest, {"metadata": {"ParamSize": len(stored)}, "records": records})


def _write_shard(path: Path, index: int, tensors: dict[str, Stored]) -> dict[str, Any]:
    data, records = b"", []
    for name, (dtype, value) in tensors.items():
        record = {
            "name": name,
            "shape": value.shape,
            "dtype": MLC_DTYPES[dtype],
            "format": "f32-to-bf16",
            "nbytes": value.nbytes,
            "byteOffset": len(data),
        }
        records.append({**record, "format": "raw"} if dtype == "F32" else record)
        data += value.tobytes()
    file = f"params_shard_{index}.bin"
    (path / file).write_bytes(data)
    return {
        "dataPath": file,
        "format": "raw-shard",
        "nbytes": len(data),
        "md5sum": hashlib.md5(data).hexdigest(),
        "records": records,
    }


def write_tokenizer(path: Path) -> None:
    """tokenizer.json and tokenizer_config.json of a toy vocabulary."""
    toy_tokenizers.write(path, toy_tokenizers.byte_fallback(WORDS))
    config = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "add_bos_token": True,
        "chat_template": CHAT_TEMPLATE,
    }
    write_json(path / "tokenizer_config.json", config)


def _conv_template() -> dict[str, Any]:
    return {
        "name": "toy",
        "system_template": "{system_message}",
        "system_message": "",
        "system_prefix_token_ids": [1],
        "add_role_after_system_message": True,
        "roles": {"user": "[user]", "assistant": "[assistant]"},
        "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}"},
        "messages": [],
        "seps": ["\n"],
        "role_content_sep": " ",
        "role_empty_sep": " ",
        "stop_str": [],
        "stop_token_ids": [2, 0],
    }
