"""Which stored tensors make each parameter of the decoder, and what is missing or too much.

Names only: nothing is read. Hugging Face folders store q, k, v and gate, up apart; they are stacked
in that order. MLC folders store the parameters under our own names, quantized ones as two tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec import Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.folder import ModelFolder
from mlc_llm.models.parameters import ParameterSpec, parameters
from mlc_llm.quantization.group import GROUP_WORDS
from mlc_llm.quantization.scheme import GROUP_SIZE, Scheme
from mlc_llm.weights.source import StoredTensor

FLOATS = ("F32", "F16", "BF16")


class StoredFloats(Struct, frozen=True):
    """Floating tensors whose rows, one after the other, are the parameter's."""

    pieces: tuple[StoredTensor, ...]


class StoredWords(Struct, frozen=True):
    """A matrix that lies in the file as q4f16_1."""

    words: StoredTensor
    scales: StoredTensor


Stored = StoredFloats | StoredWords


class Binding(NamedTuple):
    """A parameter and where it is stored."""

    spec: ParameterSpec
    stored: Stored


def bind(folder: ModelFolder, scheme: Scheme, tensors: Mapping[str, StoredTensor]) -> list[Binding]:
    """One binding for each parameter, in `step`'s order.

    Raises `BadModel` when a tensor is missing, has another shape or type, or has no place.
    """
    arch = folder.architecture
    quantized = folder.format == "mlc" and scheme.weights == "q4"
    finder = _Finder(folder, tensors)
    bindings = []
    for spec in parameters(arch):
        if quantized and spec.kind != "vector":
            bindings.append(Binding(spec, _words(spec, finder)))
        else:
            bindings.append(Binding(spec, _floats(spec, folder, finder)))
    _refuse_unexpected(arch, finder.unused())
    return bindings


class _Finder:
    """Looks tensors up, checks them, and remembers which were used."""

    def __init__(self, folder: ModelFolder, tensors: Mapping[str, StoredTensor]) -> None:
        self._folder = folder
        self._tensors = tensors
        self._used: set[str] = set()

    def find(self, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> StoredTensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise BadModel(f"{self._folder.path}: tensor {name} is missing from the weight files")
        if tensor.shape != shape:
            raise tensor.fault(f"has shape {list(tensor.shape)} where {list(shape)} is expected")
        if tensor.dtype not in dtypes:
            raise tensor.fault(f"has dtype {tensor.dtype}; supported here: {', '.join(dtypes)}")
        self._used.add(name)
        return tensor

    def unused(self) -> list[StoredTensor]:
        return [tensor for name, tensor in self._tensors.items() if name not in self._used]


def _words(spec: ParameterSpec, finder: _Finder) -> StoredWords:
    base = spec.name.removesuffix("weight")
    groups = -(-spec.cols // GROUP_SIZE)
    return StoredWords(
        finder.find(f"{base}q_weight", (spec.rows, groups * GROUP_WORDS), ("U32",)),
        finder.find(f"{base}q_scale", (spec.rows, groups), ("F16",)),
    )


def _floats(spec: ParameterSpec, folder: ModelFolder, finder: _Finder) -> StoredFloats:
    if spec.kind == "vector":
        return StoredFloats((finder.find(spec.name, (spec.cols,), FLOATS),))
    pieces = [(spec.name, spec.rows)]
    if folder.format == "huggingface":
        pieces = _pieces(spec, folder.architecture)
    return StoredFloats(
        tuple(finder.find(name, (rows, spec.cols), FLOATS) for name, rows in pieces)
    )


def _pieces(spec: ParameterSpec, arch: Architecture) -> list[tuple[str, int]]:
    """The tensors that Hugging Face stores for a parameter, and the rows of each."""
    if spec.name.endswith(".qkv_proj.weight"):
        q, kv = (h * arch.head_dim for h in (arch.num_attention_heads, arch.num_key_value_heads))
        parts = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)]
        stacked = "qkv_proj"
    elif spec.name.endswith(".gate_up_proj.weight"):
        parts = [("gate_proj", arch.intermediate_size), ("up_proj", arch.intermediate_size)]
        stacked = "gate_up_proj"
    else:
        return [(spec.name, spec.rows)]
    return [(spec.name.replace(stacked, part), rows) for part, rows in parts]


_TABLES = re.compile(r"(.+\.)?rotary_emb\.inv_freq")
_HEAD = re.compile(r"lm_head\.(weight|q_weight|q_scale)")


def _refuse_unexpected(arch: Architecture, unused: Iterable[StoredTensor]) -> None:
    """Old files store rotary tables, and some store a tied head again; anything else is foreign."""
    for tensor in unused:
        tied_head = arch.tie_word_embeddings and _HEAD.fullmatch(tensor.name)
        if not tied_head and not _TABLES.fullmatch(tensor.name):
            raise tensor.fault(f"has no place in a model of type {arch.model_type}")
