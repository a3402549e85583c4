"""The weights of a Hugging Face folder, in whichever format they are there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlc_llm.errors import BadModel
from mlc_llm.models.document import read_optional_json
from mlc_llm.models.gguf.unpack import WEIGHTS as GGUF
from mlc_llm.models.gguf.unpack import weight_files
from mlc_llm.models.quantized import quantized
from mlc_llm.weights import safetensors
from mlc_llm.weights.source import StoredTensor
from mlc_llm.weights.sources import gguf, torch_bin
from mlc_llm.weights.sources.float8 import decode_blocks
from mlc_llm.weights.sources.packed import decode_packed


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors by Hugging Face's names, coded ones decoded. Raises `BadModel`."""
    if any(os.path.lexists(folder / name) for name in safetensors.NAMES):
        return _decoded(folder, safetensors.find_tensors(folder))
    if any(os.path.lexists(folder / name) for name in torch_bin.NAMES):
        return _decoded(folder, torch_bin.find_tensors(folder))
    if files := weight_files(folder):
        return gguf.find_tensors(files)
    raise BadModel(
        f"{folder}: has no weights; one of "
        f"{', '.join((*safetensors.NAMES, *torch_bin.NAMES, GGUF))} is needed"
    )


def _decoded(folder: Path, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    path = folder / "config.json"
    config = quantized(read_optional_json(path, dict[str, Any]) or {}, path)
    if config is not None and config.method in ("gptq", "awq"):
        return decode_packed(tensors, config)
    return decode_blocks(tensors, config.block if config is not None else None)
