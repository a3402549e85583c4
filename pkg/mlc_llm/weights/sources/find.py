"""The weights of a Hugging Face folder, in whichever format they are there."""

from __future__ import annotations

import os
from pathlib import Path

from mlc_llm.errors import BadModel
from mlc_llm.models.gguf.unpack import WEIGHTS as GGUF
from mlc_llm.weights import safetensors
from mlc_llm.weights.source import StoredTensor
from mlc_llm.weights.sources import gguf


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors by Hugging Face's names, coded ones decoded. Raises `BadModel`."""
    if any(os.path.lexists(folder / name) for name in safetensors.NAMES):
        return safetensors.find_tensors(folder)
    if os.path.lexists(folder / GGUF):
        return gguf.find_tensors((folder / GGUF).resolve())
    raise BadModel(
        f"{folder}: has no weights; one of {', '.join((*safetensors.NAMES, GGUF))} is needed"
    )
