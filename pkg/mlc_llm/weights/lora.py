"""A LoRA adapter (PEFT's folder) merged into the weights of its base model, as they are read.

    X.weight + scale * B A     A = X.lora_A.weight [r, in], B = X.lora_B.weight [out, r]
    scale = lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora

Where the base stores the input axis first (`fan_in_fan_out`, and embeddings) the product is
transposed. Tensors that were trained whole (`modules_to_save`, biases) take the base's place.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.document import read_json
from mlc_llm.quantization.floats import FloatArray
from mlc_llm.weights import safetensors
from mlc_llm.weights.source import DecodedTensor, StoredTensor, decoded, read_floats
from mlc_llm.weights.sources import torch_bin

CONFIG = "adapter_config.json"
SAFE, TORCH = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
MAX_RANK = 1 << 14
FLOATS = ("F32", "F16", "BF16")

Alpha = Annotated[float, Meta(ge=-1e6, le=1e6)]

_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(\.(default\.)?weight)?")
_WHOLE = re.compile(r"\.(modules_to_save(\.default)?|base_layer)\.")
_PLAIN_KEY = re.compile(r"[\w.]+")


class AdapterConfig(Struct, frozen=True):
    """The fields of adapter_config.json that matter."""

    lora_alpha: Alpha
    peft_type: str = "LORA"
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    alpha_pattern: dict[str, Alpha] = {}


class _Pair(NamedTuple):
    """The factors of one module."""

    a: StoredTensor
    b: StoredTensor
    of_embedding: bool


def merge(base: Mapping[str, StoredTensor], folder: Path) -> dict[str, StoredTensor]:
    """The tensors of the base with the adapter in `folder` added. Raises `BadModel`."""
    config = _config(folder / CONFIG)
    pairs, whole = _sorted_out(_adapter_tensors(folder))
    found = dict(base)
    for module, pair in pairs.items():
        name = f"{module}.weight"
        found[name] = _merged(_place(base, name, pair.a), module, pair, config)
    for name, tensor in whole.items():
        place = _place(base, name, tensor)
        if tensor.shape != place.shape:
            raise tensor.fault(
                f"has shape {list(tensor.shape)} where the base has {list(place.shape)}"
            )
        found[name] = _renamed(tensor, name)
    return found


def _config(path: Path) -> AdapterConfig:
    config = read_json(path, AdapterConfig)
    if config.peft_type != "LORA":
        raise BadModel(f"{path}: peft_type {config.peft_type!r} is not supported; only LORA is")
    if config.use_dora:
        raise BadModel(f"{path}: use_dora is not supported; merge the adapter with PEFT first")
    for key in config.alpha_pattern:
        if not _PLAIN_KEY.fullmatch(key):
            raise BadModel(f"{path}: alpha_pattern {key!r} is no plain name of a module")
    return config


def _adapter_tensors(folder: Path) -> dict[str, StoredTensor]:
    if os.path.lexists(folder / SAFE):
        return safetensors.tensors_of_file(folder / SAFE)
    if os.path.lexists(folder / TORCH):
        return torch_bin.tensors_of_file(folder / TORCH)
    raise BadModel(f"{folder}: has neither {SAFE} nor {TORCH}")


def _sorted_out(
    tensors: Mapping[str, StoredTensor],
) -> tuple[dict[str, _Pair], dict[str, StoredTensor]]:
    """Pairs of factors by module, and whole tensors, by the base's names."""
    factors: dict[str, dict[str, StoredTensor]] = {}
    of_embedding: dict[str, bool] = {}
    whole: dict[str, StoredTensor] = {}
    for full, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise tensor.fault(f"has dtype {tensor.dtype}; supported here: {', '.join(FLOATS)}")
        name = full.removeprefix(PREFIX)
        if matched := _FACTOR.fullmatch(name):
            factors.setdefault(matched[1], {})[matched[3]] = tensor
            of_embedding[matched[1]] = matched[2] is not None
        else:
            whole[_WHOLE.sub(".", name)] = tensor
    pairs = {}
    for module, both in factors.items():
        if len(both) != 2:
            one = next(iter(both.values()))
            raise one.fault("has no other factor beside it")
        pairs[module] = _Pair(both["A"], both["B"], of_embedding[module])
    return pairs, whole


def _place(base: Mapping[str, StoredTensor], name: str, tensor: StoredTensor) -> StoredTensor:
    if name not in base:
        raise tensor.fault(f"the base model has no {name}")
    return base[name]


def _renamed(tensor: StoredTensor, name: str) -> StoredTensor:
    def rows(first: int, last: int) -> FloatArray:
        return read_floats(tensor, first, last)

    return decoded(tensor, name, tensor.shape, rows)


def _merged(base: StoredTensor, module: str, pair: _Pair, config: AdapterConfig) -> DecodedTensor:
    transposed = pair.of_embedding or config.fan_in_fan_out
    rank = _rank(base, pair, transposed)
    alpha = next(
        (value for key, value in config.alpha_pattern.items() if f".{module}".endswith(f".{key}")),
        config.lora_alpha,
    )
    scale = np.float32(alpha / (math.sqrt(rank) if config.use_rslora else rank))

    @cache  # small, and the same for all rows; read twice by two threads it does no harm
    def factors() -> tuple[FloatArray, FloatArray]:
        """[rows of the base, r] and [r, columns of the base]."""
        a, b = read_floats(pair.a, 0, pair.a.shape[0]), read_floats(pair.b, 0, pair.b.shape[0])
        return (np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)) if transposed else (b, a)

    def rows(first: int, last: int) -> FloatArray:
        left, right = factors()
        with np.errstate(over="ignore", invalid="ignore"):
            found = left[first:last] @ right
            found *= scale
        if not np.isfinite(found).all():
            raise pair.b.fault("has a product with its other factor that no float32 holds")
        found += read_floats(base, first, last)
        return found

    return decoded(base, base.name, base.shape, rows)


def _rank(base: StoredTensor, pair: _Pair, transposed: bool) -> int:
    """Raises `BadModel` for factors that do not fit each other or the base."""
    for tensor in (pair.a, pair.b, base):
        if len(tensor.shape) != 2:
            raise tensor.fault(f"has shape {list(tensor.shape)}, which is no matrix")
    rank = pair.a.shape[0]
    if not 1 <= rank <= MAX_RANK:
        raise pair.a.fault(f"has the rank {rank}; it must be from 1 to {MAX_RANK}")
    out, into = base.shape[::-1] if transposed else base.shape
    for tensor, shape in ((pair.a, (rank, into)), (pair.b, (out, rank))):
        if tensor.shape != shape:
            raise tensor.fault(f"has shape {list(tensor.shape)} where {list(shape)} is expected")
    return rank
