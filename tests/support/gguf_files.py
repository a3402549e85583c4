"""Small GGUF files, right and wrong, written from the format's description alone."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlc_llm.models.architecture import Architecture
from support import toy_tokenizers
from support.folders import CHAT_TEMPLATE, WORDS, split_parameter
from support.oracle import random_weights

Floats = NDArray[np.float32]

NUMBERS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "BF16": 30}
ALIGNMENT = 32


class Stored(NamedTuple):
    """A tensor as it is to lie in a file."""

    kind: int
    sizes: tuple[int, ...]
    """The one that varies fastest first."""
    data: bytes


class Typed(NamedTuple):
    """A metadata value whose type is not that of Python's."""

    kind: int
    packed: bytes


def string(text: str | bytes) -> bytes:
    """A string with its length."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value(found: Any) -> bytes:
    """A metadata value with its type: bool, int (u32), float (f32), str, or a list of one kind."""
    if isinstance(found, Typed):
        return struct.pack("<I", found.kind) + found.packed
    if isinstance(found, list):
        members = [value(member) for member in found]
        kind = members[0][:4] if members else struct.pack("<I", 4)
        count = struct.pack("<Q", len(members))
        return struct.pack("<I", 9) + kind + count + b"".join(m[4:] for m in members)
    if isinstance(found, bool):
        return struct.pack("<I?", 7, found)
    if isinstance(found, int):
        return struct.pack("<IQ", 10, found) if found >= 1 << 32 else struct.pack("<II", 4, found)
    if isinstance(found, float):
        return struct.pack("<If", 6, found)
    return struct.pack("<I", 8) + string(found)


def header(
    pairs: list[tuple[str | bytes, bytes]],
    tensors: list[tuple[str, tuple[int, ...], int, int]],
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    num_tensors: int | None = None,
    num_pairs: int | None = None,
) -> bytes:
    """A header; tensors are (name, sizes, kind, offset). The counts may lie."""
    counts = (
        len(tensors) if num_tensors is None else num_tensors,
        len(pairs) if num_pairs is None else num_pairs,
    )
    parts = [magic, struct.pack("<IQQ", version, *counts)]
    parts += [string(key) + packed for key, packed in pairs]
    for name, sizes, kind, offset in tensors:
        axes = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        parts.append(string(name) + axes + struct.pack("<IQ", kind, offset))
    return b"".join(parts)


def write(path: Path, values: Mapping[str, Any], tensors: Mapping[str, Stored]) -> Path:
    """A whole file."""
    infos, offset = [], 0
    for name, stored in tensors.items():
        infos.append((name, stored.sizes, stored.kind, offset))
        offset += -(-len(stored.data) // ALIGNMENT) * ALIGNMENT
    start = header([(key, value(found)) for key, found in values.items()], infos)
    data = b"".join(_padded(stored.data) for stored in tensors.values())
    path.write_bytes(_padded(start) + data)
    return path


def write_parts(
    folder: Path, values: Mapping[str, Any], tensors: Mapping[str, Stored], count: int
) -> list[Path]:
    """The same in several files, which `model-00001-of-...` begins."""
    names = list(tensors)
    each = -(-len(names) // count)
    paths = []
    for i in range(count):
        split = {
            "split.no": Typed(2, struct.pack("<H", i)),
            "split.count": Typed(2, struct.pack("<H", count)),
            "split.tensors.count": Typed(5, struct.pack("<i", len(names))),
        }
        some = {name: tensors[name] for name in names[i * each : (i + 1) * each]}
        path = folder / f"model-{i + 1:05}-of-{count:05}.gguf"
        paths.append(write(path, {**(values if i == 0 else {}), **split}, some))
    return paths


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % ALIGNMENT)


def encode(matrix: Floats, kind: str) -> Stored:
    """A tensor of one of `NUMBERS`."""
    if kind == "F32":
        data = matrix.astype("<f4").tobytes()
    elif kind == "F16":
        data = matrix.astype("<f2").tobytes()
    elif kind == "BF16":
        data = (matrix.view(np.uint32) >> 16).astype("<u2").tobytes()
    else:
        data = b"".join(_block(block, kind) for block in matrix.reshape(-1, 32))
    return Stored(NUMBERS[kind], tuple(reversed(matrix.shape)), data)


def _block(values: Floats, kind: str) -> bytes:
    """32 values; the scale of Q4_0 has the sign that makes the largest of them -8."""
    extreme = values[np.abs(values).argmax()]
    scale = np.float16(extreme / -8 if kind == "Q4_0" else abs(extreme) / 127)
    codes = np.rint(values / np.float32(scale or 1)).astype(np.int64)
    if kind == "Q8_0":
        return bytes(scale.tobytes() + np.clip(codes, -127, 127).astype(np.int8).tobytes())
    nibbles = np.clip(codes + 8, 0, 15).astype(np.uint8)
    return bytes(scale.tobytes() + (nibbles[:16] | nibbles[16:] << 4).tobytes())


def in_pairs(rows: Floats, heads: int) -> Floats:
    """Rows of heads in the order in which llama.cpp rotates them: neighbours, not halves."""
    width = len(rows) // heads
    order = [h * width + i for h in range(heads) for i in _interleaved(width)]
    return rows[order]


def _interleaved(width: int) -> list[int]:
    return [
        i for pair in zip(range(width // 2), range(width // 2, width), strict=True) for i in pair
    ]


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """What GGUF calls a tensor of a Llama."""
    module, _, leaf = name.rpartition(".")
    if module in NAMES:
        return f"{NAMES[module]}.{leaf}"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.{leaf}"


def model_values(arch: Architecture, name: str = "llama") -> dict[str, Any]:
    """The metadata of an architecture."""
    sizes = {
        "block_count": arch.num_hidden_layers,
        "context_length": arch.context_window_size,
        "embedding_length": arch.hidden_size,
        "feed_forward_length": arch.intermediate_size,
        "attention.head_count": arch.num_attention_heads,
        "attention.head_count_kv": arch.num_key_value_heads,
        "attention.key_length": arch.head_dim,
        "attention.value_length": arch.head_dim,
        "attention.layer_norm_rms_epsilon": arch.rms_norm_eps,
        "rope.freq_base": arch.rope_theta,
        "rope.dimension_count": arch.head_dim,
    }
    return {
        "general.architecture": name,
        "general.name": "toy",
        **{f"{name}.{key}": found for key, found in sizes.items()},
    }


def tokenizer_values(document: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a tokenizer.json of `toy_tokenizers`."""
    vocab: dict[str, int] = dict(document["model"]["vocab"])
    vocab |= {added["content"]: added["id"] for added in document["added_tokens"]}
    tokens = sorted(vocab, key=lambda token: vocab[token])
    special = {added["content"]: 3 if added["special"] else 4 for added in document["added_tokens"]}
    byte_fallback = document["model"]["byte_fallback"]
    types = [special.get(t, 6 if byte_fallback and t.startswith("<0x") else 1) for t in tokens]
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "llama" if byte_fallback else "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in document["model"]["merges"]],
    }
    if byte_fallback:
        types[0] = 2
        found["tokenizer.ggml.scores"] = _scores(tokens, document["model"]["merges"])
        del found["tokenizer.ggml.merges"]
    elif not found["tokenizer.ggml.merges"]:
        del found["tokenizer.ggml.merges"]
    return found


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """Such that pieces are made in the order of the merges."""
    first: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        first.setdefault(left + right, rank)
    return [-float(first.get(token, len(merges) + i)) for i, token in enumerate(tokens)]


def toy_values() -> dict[str, Any]:
    """The tokenizer of `support.folders`, with its special tokens and chat template."""
    return {
        **tokenizer_values(toy_tokenizers.byte_fallback(WORDS)),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def llama_tensors(arch: Architecture, seed: int = 0, kind: str = "F32") -> dict[str, Stored]:
    """The weights of `support.folders` as llama.cpp would have them, vectors in float32."""
    found = {}
    for parameter, matrix in random_weights(arch, seed).items():
        for name, rows in split_parameter(arch, parameter, matrix).items():
            if ".q_proj." in name:
                rows = in_pairs(rows, arch.num_attention_heads)
            if ".k_proj." in name:
                rows = in_pairs(rows, arch.num_key_value_heads)
            found[gguf_name(name)] = encode(rows, kind if rows.ndim == 2 else "F32")
    return found


def write_llama(path: Path, arch: Architecture, seed: int = 0, kind: str = "F32") -> Path:
    """A whole model with the toy tokenizer."""
    values = {**model_values(arch), **toy_values()}
    return write(path, values, llama_tensors(arch, seed, kind))
