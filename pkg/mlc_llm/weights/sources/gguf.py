"""The tensors of GGUF files, by Hugging Face's names and in the form of our own parameters.

llama.cpp's converters change some of what they write. Where they bring matrices into the form that
ours have too (`models.layout.straight`) nothing is done. Else it is undone as rows are read: the
rows of q and k of a Llama stand in pairs there, not in halves, and Gemma's norms have their one,
which would cost them digits in 16 bits. Types that are groups of 32 with a scale, as q4f16_1 and
q8f16_1 are, are also given as they lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlc_llm.models.gguf.config import ROPE_FACTORS
from mlc_llm.models.gguf.file import GgufTensor
from mlc_llm.models.gguf.keys import Keys
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
from mlc_llm.weights.sources.gguf_names import huggingface_names

MAX_EXPERTS = 1 << 12
MAX_PIECES = 1 << 20
"""Of a model: every matrix of every expert is one."""

PAIRED = ("llama", "smollm3")
"""Architectures whose rows of q and k the converter brings into pairs."""

Rows = Callable[[int, int], NDArray[Any]]
"""Gives rows first..last - 1 of something."""


class Piece(NamedTuple):
    """Some rows of a stored tensor that are a tensor of the model."""

    name: str
    first: int
    """A row of the stored tensor, all its axes but the last taken together."""
    shape: tuple[int, ...]
    heads: int = 0
    """Whose rows stand in pairs; 0: as they lie."""


def find_tensors(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """The tensors of a model's files by Hugging Face's names. Raises `BadModel`."""
    file = read_model(files)
    keys = Keys(file)
    found: dict[str, StoredTensor] = {}
    for stored in file.tensors.values():
        if stored.name in ROPE_FACTORS:
            continue
        for tensor in _tensors(keys, stored):
            if tensor.name in found:
                raise tensor.fault(f"is in the file twice, once as {stored.name}")
            found[tensor.name] = tensor
        if len(found) > MAX_PIECES:
            raise _placed(stored).fault(f"makes more than {MAX_PIECES} matrices of the model")
    refuse_overlaps(_placed(stored) for stored in file.tensors.values())
    return found


def _placed(stored: GgufTensor) -> StoredTensor:
    """The bytes of a tensor."""
    return StoredTensor(stored.name, stored.path, stored.offset, "U8", (stored.nbytes,))


def _tensors(keys: Keys, stored: GgufTensor) -> Iterator[StoredTensor]:
    if stored.name.endswith(".attn_kv_b.weight") and keys.architecture == "deepseek2":
        yield from _of_latents(keys, stored)
        return
    for piece in _pieces(keys, stored):
        tensor = _piece(stored, piece)
        if keys.architecture.startswith("gemma") and stored.name.endswith("norm.weight"):
            tensor = _less_one(tensor)
        yield tensor


def _pieces(keys: Keys, stored: GgufTensor) -> Iterator[Piece]:
    """What a stored tensor consists of."""
    names, shape = huggingface_names(keys.architecture, stored.name), stored.shape
    name = names[0]
    if "*" in name:
        yield from _experts(stored, names)
    elif len(names) > 1:
        yield from _queries_keys_values(keys, stored, names)
    elif stored.name.endswith(".ffn_gate_inp_shexp.weight") and len(shape) == 1:
        yield Piece(name, 0, (1, *shape))
    else:
        yield Piece(name, 0, shape, _heads_in_pairs(keys, stored.name))


def _experts(stored: GgufTensor, names: tuple[str, ...]) -> Iterator[Piece]:
    """The matrices of a stack [experts, rows, cols]; with two names, each has half of the rows."""
    if len(stored.shape) != 3 or stored.shape[0] > MAX_EXPERTS:
        raise _placed(stored).fault(
            f"has shape {list(stored.shape)}, which is no stack of at most {MAX_EXPERTS} experts"
        )
    count, rows, cols = stored.shape
    if rows % len(names):
        raise _placed(stored).fault(f"has {rows} rows for each expert, an odd number")
    each = rows // len(names)
    for i in range(count):
        for part, name in enumerate(names):
            yield Piece(name.replace("*", str(i)), i * rows + part * each, (each, cols))


def _queries_keys_values(keys: Keys, stored: GgufTensor, names: tuple[str, ...]) -> Iterator[Piece]:
    heads = keys.need("attention.head_count")
    groups = keys.integer("attention.head_count_kv") or heads
    rows, cols = stored.shape[0], stored.shape[1:]
    if heads < 1 or groups < 1 or rows % (heads + 2 * groups):
        raise _placed(stored).fault(
            f"has {rows} rows, which {heads} heads with {groups} of keys and values cannot share"
        )
    width, first = rows // (heads + 2 * groups), 0
    for name, count in zip(names, (heads, groups, groups), strict=True):
        paired = keys.architecture in PAIRED and name != names[2]
        yield Piece(name, first, (count * width, *cols), count if paired else 0)
        first += count * width


def _heads_in_pairs(keys: Keys, name: str) -> int:
    """The heads of a tensor whose rows the converter brought into pairs; 0 for all others."""
    if keys.architecture not in PAIRED:
        return 0
    heads = keys.integer("attention.head_count") or 0
    if ".attn_q." in name:
        return heads
    if ".attn_k." in name:
        return keys.integer("attention.head_count_kv") or heads
    return 0


def _piece(stored: GgufTensor, piece: Piece) -> StoredTensor:
    kind, cols = stored.kind, stored.shape[-1]
    if kind.name in DECODERS:
        if len(stored.shape) == 1:
            raise _placed(stored).fault(f"is a vector of type {kind.name}; only matrices may be")
        return _blocks(stored, piece)
    width = cols if len(stored.shape) > 1 else 1
    offset = stored.offset + piece.first * width * kind.nbytes
    plain = StoredTensor(piece.name, stored.path, offset, kind.name, piece.shape)
    if not piece.heads:
        return plain
    return decoded(plain, piece.name, piece.shape, _in_halves(_floats(plain), plain, piece.heads))


def _less_one(tensor: StoredTensor) -> StoredTensor:
    read = _floats(tensor)
    return decoded(tensor, tensor.name, tensor.shape, lambda a, b: read(a, b) - np.float32(1))


def _floats(tensor: StoredTensor) -> Rows:
    def read(first: int, last: int) -> NDArray[np.float32]:
        rows = read_rows(tensor, first, last)
        return widen_bfloats(rows) if tensor.dtype == "BF16" else rows.astype(np.float32)

    return read


def _blocks(stored: GgufTensor, piece: Piece) -> DecodedTensor:
    kind, cols = stored.kind, stored.shape[-1]
    row_bytes = cols // kind.size * kind.nbytes
    offset = stored.offset + piece.first * row_bytes
    flat = (math.prod(piece.shape[:-1]), row_bytes)
    codes = StoredTensor(piece.name, stored.path, offset, "U8", flat)
    decode = DECODERS[kind.name]
    read: Rows = partial(read_rows, codes)
    if piece.heads:
        read = _in_halves(read, codes, piece.heads)

    def values(first: int, last: int) -> NDArray[np.float32]:
        rows = read(first, last)
        with np.errstate(over="ignore", invalid="ignore"):  # who reads rows looks at the values
            return decode(rows.reshape(-1, kind.nbytes)).reshape(len(rows), cols)

    found = decoded(codes, piece.name, piece.shape, values)
    if kind.name not in GROUPS:
        return found
    bits, as_groups = GROUPS[kind.name]
    return msgspec.structs.replace(
        found, groups=lambda a, b: as_groups(read(a, b)), group_bits=bits
    )


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


def _of_latents(keys: Keys, stored: GgufTensor) -> list[StoredTensor]:
    """`kv_b_proj` of older files, [heads * (nope + value), rank], as the two matrices of each head:
    the columns of what makes its key, and the rows of what makes its value."""
    heads = keys.need("attention.head_count")
    width = keys.integer("attention.key_length_mla") or keys.need("attention.key_length")
    nope = width - keys.need("rope.dimension_count")
    placed = _placed(stored)
    if len(stored.shape) != 2 or heads < 1 or stored.shape[0] % heads:
        raise placed.fault(f"has shape {list(stored.shape)}, which {heads} heads cannot share")
    rows, rank = stored.shape
    each = rows // heads
    if not 0 < nope < each:
        raise placed.fault(f"has {each} rows for each head, of which {nope} would make its key")
    whole = _piece(stored, Piece(stored.name, 0, stored.shape))
    read = whole.rows if isinstance(whole, DecodedTensor) else _floats(whole)
    base = stored.name.removesuffix("attn_kv_b.weight")
    (up,) = huggingface_names(keys.architecture, f"{base}attn_k_b.weight")
    (out,) = huggingface_names(keys.architecture, f"{base}attn_v_b.weight")

    def keys_of(head: int) -> NDArray[Any]:
        return read(head * each, head * each + nope).T

    def values_of(head: int) -> NDArray[Any]:
        return read(head * each + nope, (head + 1) * each)

    return [
        decoded(placed, up, (heads, rank, nope), _head_by_head(keys_of, rank)),
        decoded(placed, out, (heads, each - nope, rank), _head_by_head(values_of, each - nope)),
    ]


def _head_by_head(read: Callable[[int], NDArray[Any]], size: int) -> Rows:
    """Rows of all heads, `size` of each, one head after the other."""

    def rows(first: int, last: int) -> NDArray[Any]:
        begin, end = first // size, -(-last // size)
        found = np.concatenate([read(head) for head in range(begin, end)])
        return np.ascontiguousarray(found[first - begin * size : last - begin * size])

    return rows
