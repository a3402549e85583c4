"""The weights of a Hugging Face folder, in whichever format they are there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mlc_llm.errors import BadModel
from mlc_llm.models.document import read_optional_json
from mlc_llm.models.gguf.unpack import WEIGHTS as GGUF
from mlc_llm.models.gguf.unpack import weight_files
from mlc_llm.models.quantized import Quantized, quantized
from mlc_llm.weights import safetensors
from mlc_llm.weights.source import StoredTensor
from mlc_llm.weights.sources import gguf, torch_bin
from mlc_llm.weights.sources.float8 import decode_blocks
from mlc_llm.weights.sources.packed import decode_packed

SourceFormat = Literal["auto", "huggingface-safetensor", "huggingface-torch", "awq"]
"""MLC LLM's names of what to read, where a folder has more than one format."""

FILES: Mapping[SourceFormat, tuple[str, ...]] = {
    "auto": (*safetensors.NAMES, *torch_bin.NAMES, GGUF),
    "huggingface-safetensor": safetensors.NAMES,
    "huggingface-torch": torch_bin.NAMES,
    "awq": (*safetensors.NAMES, *torch_bin.NAMES),
}
"""The files of a format, those first that are read first."""


def find_tensors(folder: Path, wanted: SourceFormat = "auto") -> dict[str, StoredTensor]:
    """All tensors by Hugging Face's names, coded ones decoded. Raises `BadModel`."""
    there = {name for name in FILES[wanted] if os.path.lexists(folder / name)}
    if wanted == "awq" and ((codes := _codes(folder)) is None or codes.method != "awq"):
        raise BadModel(f"{folder / 'config.json'}: does not say that the weights are AWQ's")
    if there.intersection(safetensors.NAMES):
        return _decoded(folder, safetensors.find_tensors(folder))
    if there.intersection(torch_bin.NAMES):
        return _decoded(folder, torch_bin.find_tensors(folder))
    if wanted == "auto" and (files := weight_files(folder)):
        return gguf.find_tensors(files)
    of_format = "" if wanted == "auto" else f" of the format {wanted}"
    raise BadModel(
        f"{folder}: has no weights{of_format}; one of {', '.join(FILES[wanted])} is needed"
    )


def _codes(folder: Path) -> Quantized | None:
    path = folder / "config.json"
    return quantized(read_optional_json(path, dict[str, Any]) or {}, path)


def _decoded(folder: Path, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    config = _codes(folder)
    if config is not None and config.method in ("gptq", "awq"):
        return decode_packed(tensors, config)
    return decode_blocks(tensors, config.block if config is not None else None)
