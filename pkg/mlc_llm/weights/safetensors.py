"""Find the tensors of a Hugging Face folder: model.safetensors, or the shards its index names.

Only headers are read here. A file is trusted in nothing: every length, shape and offset is checked
before it is used, and anything wrong is one `BadModel` line naming the file and the tensor.

    | header length u64 | header JSON | data ........................ |
    {name: {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}, "__metadata__": ..}
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.document import MEBIBYTE, convert, regular_file_size
from mlc_llm.weights.index import tensors_of_index
from mlc_llm.weights.source import ITEM_BITS, StoredTensor, refuse_overlaps

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
NAMES = (SINGLE_NAME, INDEX_NAME)
HEADER_LIMIT = 32 * MEBIBYTE

Dimension = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Entry(Struct, frozen=True):
    """One tensor of a header."""

    dtype: str
    shape: Annotated[list[Dimension], Meta(max_length=8)]
    data_offsets: tuple[Dimension, Dimension]


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of the folder's safetensors files by name, as they lie."""
    if os.path.lexists(folder / SINGLE_NAME):
        return tensors_of_file(folder / SINGLE_NAME)
    if not (folder / INDEX_NAME).exists():
        raise BadModel(
            f"{folder}: has neither {SINGLE_NAME} nor {INDEX_NAME}; save the model as safetensors"
        )
    return tensors_of_index(folder / INDEX_NAME, tensors_of_file)


def tensors_of_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file."""
    size = regular_file_size(path)
    header, start = _read_header(path, size)
    header.pop("__metadata__", None)
    tensors = {
        name: _tensor(path, name, value, start, size - start) for name, value in header.items()
    }
    refuse_overlaps(tensors.values())
    return tensors


def _read_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise BadModel(f"{path}: is cut off within its header")
        if length > HEADER_LIMIT:
            raise BadModel(f"{path}: a header of {length} bytes is more than {HEADER_LIMIT}")
        content = file.read(length)
    try:
        header = json.loads(content, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{path}: header: {error}") from None
    if not isinstance(header, dict):
        raise BadModel(f"{path}: header: must be a JSON object")
    return header, 8 + length


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} appears twice")
    return members


def _tensor(path: Path, name: str, value: Any, start: int, available: int) -> StoredTensor:
    entry = convert(value, Entry, path, f"tensor {name}")
    begin, end = entry.data_offsets
    if entry.dtype not in ITEM_BITS:
        raise BadModel(f"{path}: tensor {name}: unknown dtype {entry.dtype!r}")
    tensor = StoredTensor(name, path, start + begin, entry.dtype, tuple(entry.shape))
    if not begin <= end <= available:
        raise tensor.fault(f"offsets {begin}..{end} leave the {available} bytes of data")
    if tensor.nbytes != end - begin:
        raise tensor.fault(
            f"shape {entry.shape} of {entry.dtype} does not fill its {end - begin} bytes"
        )
    return tensor
