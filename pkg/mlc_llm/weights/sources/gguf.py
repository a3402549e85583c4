"""The tensors of a GGUF file, by the names and in the form of a Hugging Face model.

llama.cpp's converters change some of what they write, which is undone here as rows are read: the
rows of q and k of a Llama stand in pairs there, not in halves, and Gemma's norms have their one.
Q4_0 and Q8_0 are groups of 32 with a scale, as q4f16_1 and q8f16_1 are: such a matrix is also given
as it lies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlc_llm.models.gguf.config import ROPE_FACTORS, Keys
from mlc_llm.models.gguf.file import GgufTensor
from mlc_llm.models.gguf.parts import read_model
from mlc_llm.quantization.floats import widen_bfloats
from mlc_llm.quantization.gguf import DECODERS, GROUPS
from mlc_llm.weights.source import (
    DecodedTensor,
    StoredTensor,
    decoded,
    read_rows,
    refuse_overlaps,
)

_WHOLE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER = {
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
_OWN = {
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
    "olmo2": _AROUND,
    "gemma2": _AROUND,
    "gemma3": _AROUND,
}
"""What some architectures call otherwise."""

_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")

Rows = Callable[[int, int], NDArray[Any]]
"""Gives rows first..last - 1 of something."""


def find_tensors(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """The tensors of a model's files by Hugging Face's names. Raises `BadModel`."""
    file = read_model(files)
    keys = Keys(file)
    found = {}
    for stored in file.tensors.values():
        if stored.name in ROPE_FACTORS:
            continue
        name = huggingface_name(keys.architecture, stored.name)
        tensor = _tensor(keys, name, stored)
        if name in found:
            raise tensor.fault(f"is in the file twice, once as {stored.name}")
        found[name] = tensor
    refuse_overlaps(_placed(stored) for stored in file.tensors.values())
    return found


def huggingface_name(architecture: str, name: str) -> str:
    """What Hugging Face calls a tensor; a name that is not known stays as it is."""
    matched = _NAME.fullmatch(name)
    if matched is None:
        return name
    layer, module, leaf = matched.groups()
    if layer is None:
        return f"{_WHOLE[module]}.{leaf}" if module in _WHOLE else name
    named = (_LAYER | _OWN.get(architecture, {})).get(module)
    return name if named is None else f"model.layers.{layer}.{named}.{leaf}"


def _placed(stored: GgufTensor) -> StoredTensor:
    """The bytes of a tensor."""
    return StoredTensor(stored.name, stored.path, stored.offset, "U8", (stored.nbytes,))


def _tensor(keys: Keys, name: str, stored: GgufTensor) -> StoredTensor:
    kind = stored.kind
    plain = StoredTensor(name, stored.path, stored.offset, kind.name, stored.shape)
    heads = _heads_in_pairs(keys, name)
    if kind.name in DECODERS:
        return _blocks(name, stored, heads)
    if keys.architecture.startswith("gemma") and name.endswith("norm.weight"):
        read = _floats(plain)
        return decoded(plain, name, stored.shape, lambda a, b: read(a, b) - np.float32(1))
    if heads:
        return decoded(plain, name, stored.shape, _in_halves(_floats(plain), plain, heads))
    return plain


def _floats(tensor: StoredTensor) -> Rows:
    def read(first: int, last: int) -> NDArray[np.float32]:
        rows = read_rows(tensor, first, last)
        return widen_bfloats(rows) if tensor.dtype == "BF16" else rows.astype(np.float32)

    return read


def _blocks(name: str, stored: GgufTensor, heads: int) -> DecodedTensor:
    kind, cols = stored.kind, stored.shape[-1]
    row_bytes = cols // kind.size * kind.nbytes
    codes = StoredTensor(name, stored.path, stored.offset, "U8", (*stored.shape[:-1], row_bytes))
    decode = DECODERS[kind.name]
    read: Rows = partial(read_rows, codes)
    if heads:
        read = _in_halves(read, codes, heads)

    def values(first: int, last: int) -> NDArray[np.float32]:
        rows = read(first, last)
        with np.errstate(over="ignore", invalid="ignore"):  # who reads rows looks at the values
            return decode(rows.reshape(-1, kind.nbytes)).reshape(len(rows), cols)

    found = decoded(codes, name, stored.shape, values)
    if kind.name not in GROUPS:
        return found
    bits, as_groups = GROUPS[kind.name]
    return msgspec.structs.replace(
        found, groups=lambda a, b: as_groups(read(a, b)), group_bits=bits
    )


def _heads_in_pairs(keys: Keys, name: str) -> int:
    """The heads of a tensor whose rows the converter brought into pairs; 0 for all others."""
    if keys.architecture != "llama":
        return 0
    heads = keys.integer("attention.head_count") or 0
    if ".q_proj." in name:
        return heads
    if ".k_proj." in name:
        return keys.integer("attention.head_count_kv") or heads
    return 0


def _in_halves(read: Rows, tensor: StoredTensor, heads: int) -> Rows:
    """Rows of heads as two halves of those that stand in pairs: 0 2 4 .., then 1 3 5 .. ."""
    width, odd = divmod(tensor.shape[0], heads)
    if odd or width % 2:
        raise tensor.fault(f"has {tensor.shape[0]} rows, which {heads} heads cannot share")

    def halves(first: int, last: int) -> NDArray[Any]:
        begin, end = first // width, -(-last // width)
        pairs = read(begin * width, end * width)
        shape = (end - begin, width // 2, 2, *pairs.shape[1:])
        rows = pairs.reshape(shape).swapaxes(1, 2).reshape(pairs.shape)
        return np.ascontiguousarray(rows[first - begin * width : last - begin * width])

    return halves
