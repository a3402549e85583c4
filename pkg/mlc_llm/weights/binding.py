"""Which stored tensors make each parameter of the decoder, and what is missing or too much.

Names only: nothing is read but a bias that has no place. What a family's files call the weights,
and which of them are stacked, is in its `models.layout.Layout`. MLC folders store a quantized
matrix as two tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec import Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.folder import ModelFolder
from mlc_llm.models.layout import Layout, straight
from mlc_llm.models.parameters import ParameterSpec, parameters
from mlc_llm.models.registry import family
from mlc_llm.quantization.scheme import CODES, GROUP_SIZE, Scheme
from mlc_llm.quantization.storage import STORAGES, Storage
from mlc_llm.weights.source import StoredTensor, read_floats, rows_of
from mlc_llm.weights.sources.mlc import SCALES, coded_matrix

FLOATS = ("F32", "F16", "BF16")
BODY = "model."
"""What begins the names of Hugging Face's tensors, the head apart."""


class StoredFloats(Struct, frozen=True):
    """Floating tensors whose rows, one after the other, are the parameter's."""

    pieces: tuple[StoredTensor, ...]
    transposed: bool = False
    """The columns of the tensors are meant, not their rows."""
    offset: float = 0.0
    """Added to every value."""


class StoredWords(Struct, frozen=True):
    """Tensors in the groups of codes that kernels take. Their rows, one after the other, are the
    parameter's."""

    words: tuple[StoredTensor, ...]
    scales: tuple[StoredTensor, ...]
    transposed: bool = False
    """The columns of the tensors are meant, not their rows."""


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
    known = family(arch.model_type)
    layout = known.mlc if folder.format == "mlc" else known.huggingface
    if folder.gguf:
        layout = straight(layout)
    storage = STORAGES[folder.quantization] if folder.quantization else None
    finder = _Finder(folder, layout, tensors)
    bindings = []
    for spec in parameters(arch):
        names = layout.stored_names(spec.name)
        if layout.latent_heads and spec.name.endswith((".w_uk", ".w_uv")):
            bindings.append(Binding(spec, _of_latents(spec, names[0], arch, finder)))
        elif spec.kind != "vector" and storage and storage.quantizes(spec.name):
            if scheme.format_of(spec.name) in CODES:
                bindings.append(Binding(spec, _words(spec, names, storage, finder)))
            else:
                bindings.append(Binding(spec, _coded(spec, names, storage, finder)))
        else:
            bindings.append(Binding(spec, _floats(spec, names, arch, layout, finder)))
    _refuse_unexpected(arch, layout, finder.unused())
    return bindings


class _Finder:
    """Looks tensors up, checks them, and remembers which were used."""

    def __init__(
        self, folder: ModelFolder, layout: Layout, tensors: Mapping[str, StoredTensor]
    ) -> None:
        self._folder = folder
        self._tensors = _whole_names(layout, tensors)
        self._prefix = _prefix(layout, self._tensors)
        self._used: set[str] = set()

    def find(self, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> StoredTensor:
        name = self._prefix + name
        tensor = self._tensors.get(name)
        if tensor is None:
            raise BadModel(f"{self._folder.path}: tensor {name} is missing from the weight files")
        if tensor.shape != shape:
            raise tensor.fault(f"has shape {list(tensor.shape)} where {list(shape)} is expected")
        if tensor.dtype not in dtypes:
            raise tensor.fault(f"has dtype {tensor.dtype}; supported here: {', '.join(dtypes)}")
        self._used.add(name)
        return tensor

    def find_stack(
        self, stack: int, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]
    ) -> StoredTensor:
        """Where the matrices of `stack` experts lie as one tensor [stack, ...], its rows taken
        together; a matrix of its own when `stack` is 0."""
        if not stack or len(shape) == 1:
            return self.find(name, shape, dtypes)
        found = self.find(name, stacked(stack, shape), dtypes)
        return msgspec.structs.replace(found, shape=shape)

    def unused(self) -> list[StoredTensor]:
        return [tensor for name, tensor in self._tensors.items() if name not in self._used]


def stacked(stack: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, in files of MLC, of what the experts' rows taken together have this shape of."""
    if not stack or len(shape) == 1:
        return shape
    return (stack, shape[0] // stack, *shape[1:])


def _prefix(layout: Layout, tensors: Mapping[str, StoredTensor]) -> str:
    """The prefix of the names in these files; the first of the layout's when none fits."""
    return next((p for p in layout.prefixes if _has_table(p, layout, tensors)), layout.prefixes[0])


def _has_table(prefix: str, layout: Layout, tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether the files name the embedding so."""
    table = prefix + layout.stored_names("model.embed_tokens.weight")[0].removesuffix("weight")
    return f"{table}weight" in tensors or f"{table}q_weight" in tensors


def _whole_names(layout: Layout, tensors: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """The tensors by the names that they have in a whole model: of one that was saved without its
    head, as those that embed are (Qwen3-Embedding), they lack their beginning."""
    if any(_has_table(prefix, layout, tensors) for prefix in layout.prefixes):
        return tensors
    named = {f"{BODY}{name}": tensor for name, tensor in tensors.items()}
    return named if _has_table("", layout, named) else tensors


def _words(
    spec: ParameterSpec, names: tuple[str, ...], storage: Storage, finder: _Finder
) -> StoredWords:
    groups = -(-spec.cols // GROUP_SIZE)
    transposed = storage.lies_transposed(spec.name)

    def found(leaf: str, width: int, dtypes: tuple[str, ...]) -> tuple[StoredTensor, ...]:
        return tuple(
            finder.find_stack(
                spec.stack,
                f"{name.removesuffix('weight')}{leaf}",
                (width, rows) if transposed else (rows, width),
                dtypes,
            )
            for name, rows in pieces_of(spec, names)
        )

    words = found("q_weight", groups * storage.group_words, ("U32",))
    return StoredWords(words, found("q_scale", groups, SCALES), transposed)


def _coded(
    spec: ParameterSpec, names: tuple[str, ...], storage: Storage, finder: _Finder
) -> StoredFloats:
    transposed = storage.lies_transposed(spec.name)
    return StoredFloats(
        tuple(
            coded_matrix(
                name.removesuffix("weight"),
                rows,
                spec.cols,
                spec.stack,
                storage,
                transposed,
                partial(finder.find_stack, spec.stack),
            )
            for name, rows in pieces_of(spec, names)
        )
    )


def _floats(
    spec: ParameterSpec, names: tuple[str, ...], arch: Architecture, layout: Layout, finder: _Finder
) -> StoredFloats:
    transposed = layout.transposed and spec.kind != "vector" and ".layers." in spec.name

    def shape(rows: int) -> tuple[int, ...]:
        if spec.kind == "vector":
            return (rows,)
        return (spec.cols, rows) if transposed else (rows, spec.cols)

    apart = any("*" in name for name in names)
    pieces = [
        finder.find_stack(0 if apart else spec.stack, name, shape(rows), FLOATS)
        for name, rows in pieces_of(spec, names)
    ]
    if layout.interleaved_heads and ".qkv_proj." in spec.name:
        pieces = _heads_apart(pieces[0], arch)
    is_norm = spec.kind == "vector" and spec.name.endswith("norm.weight")
    offset = layout.norm_offset if is_norm else 0.0
    return StoredFloats(tuple(pieces), transposed, offset)


def _of_latents(
    spec: ParameterSpec, name: str, arch: Architecture, finder: _Finder
) -> StoredFloats:
    """Matrices of heads, which lie in one tensor [heads * (nope_dim + value_dim), rank]."""
    latent, heads = arch.latent, arch.num_attention_heads
    assert latent is not None
    keys = name.endswith(".w_uk")
    each = latent.nope_dim + latent.value_dim
    whole = f"{name.rpartition('.')[0]}.kv_b_proj.weight"
    stored = finder.find(whole, (heads * each, latent.rank), FLOATS)
    first, last = (0, latent.nope_dim) if keys else (latent.nope_dim, each)
    pieces = [rows_of(stored, head * each + first, head * each + last) for head in range(heads)]
    return StoredFloats(tuple(pieces), transposed=keys)


def pieces_of(spec: ParameterSpec, names: tuple[str, ...]) -> list[tuple[str, int]]:
    """The stored tensors of a parameter, and the rows (or elements) of each."""
    if any("*" in name for name in names):
        parts = list(zip(names, spec.parts or (spec.one.rows,), strict=True))
        return [
            (name.replace("*", str(i)), rows) for i in range(spec.stack) for name, rows in parts
        ]
    if len(names) == 1:
        return [(names[0], spec.cols if spec.kind == "vector" else spec.rows)]
    return list(zip(names, spec.parts, strict=True))


def _heads_apart(stacked: StoredTensor, arch: Architecture) -> list[StoredTensor]:
    """The q of every head, then every k, then every v, of a tensor that has them head by head."""
    width = arch.head_dim
    return [
        rows_of(stacked, (3 * head + part) * width, (3 * head + part + 1) * width)
        for part in range(3)
        for head in range(arch.num_attention_heads)
    ]


def _is_bias_of_zeros(tensor: StoredTensor) -> bool:
    if not tensor.name.endswith("_proj.bias") or len(tensor.shape) != 1:
        return False
    return tensor.dtype in FLOATS and not read_floats(tensor, 0, tensor.shape[0]).any()


_TABLES = re.compile(r"(.+\.)?rotary_emb\.inv_freq")
_HEAD = re.compile(r"(.+\.)?lm_head\.(weight|q_weight|q_scale)")


def _refuse_unexpected(arch: Architecture, layout: Layout, unused: Iterable[StoredTensor]) -> None:
    """Old files store rotary tables, some store a tied head again, and AutoGPTQ a bias of zeros
    with every matrix; anything else is foreign."""
    for tensor in unused:
        tied_head = arch.tie_word_embeddings and _HEAD.fullmatch(tensor.name)
        ignored = layout.ignored is not None and re.fullmatch(layout.ignored, tensor.name)
        needless = tied_head or ignored or _TABLES.fullmatch(tensor.name)
        if not needless and not _is_bias_of_zeros(tensor):
            raise tensor.fault(f"has no place in a model of type {arch.model_type}")
