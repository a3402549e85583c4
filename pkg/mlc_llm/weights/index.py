"""The index of weights in several files: `weight_map` says which file has which tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from mlc_llm.errors import BadModel
from mlc_llm.models.document import MEBIBYTE, read_json
from mlc_llm.weights.source import StoredTensor, is_plain_name


class Index(Struct, frozen=True):
    """model.safetensors.index.json, pytorch_model.bin.index.json."""

    weight_map: dict[str, str]


def tensors_of_index(
    index_path: Path, tensors_of_file: Callable[[Path], dict[str, StoredTensor]]
) -> dict[str, StoredTensor]:
    """The tensors of all files, each of which must be in the folder. Raises `BadModel`."""
    weight_map = read_json(index_path, Index, 64 * MEBIBYTE).weight_map
    found: dict[str, StoredTensor] = {}
    for shard in dict.fromkeys(weight_map.values()):
        if not is_plain_name(shard):
            raise BadModel(f"{index_path}: shard {shard!r} is not a file name of this folder")
        for name, tensor in tensors_of_file(index_path.parent / shard).items():
            if name in found:
                raise tensor.fault(f"is also in {found[name].path.name}")
            found[name] = tensor
    for name, shard in weight_map.items():
        if name not in found or found[name].path.name != shard:
            raise BadModel(f"{index_path}: tensor {name} is not in {shard}")
    return found
