"""Checkpoints of any family whose weights are a function of their names: no file to keep.

`Recorded` is what a fixture holds: config.json as models are published, the names and shapes of the
tensors, and the logits that another program computed from exactly these weights.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from support.folders import Stored, write_json, write_safetensors, write_tokenizer

FIXTURES = Path(__file__).parents[1] / "integration" / "families"


class Tensor(NamedTuple):
    """A tensor of a checkpoint; `base` is what its random values are around."""

    name: str
    shape: tuple[int, ...]
    base: float


class Recorded(NamedTuple):
    """A model and some of its logits."""

    config: dict[str, Any]
    tensors: list[Tensor]
    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    """After which tokens of `ids` the logits are."""
    logits: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write the fixture."""
        described = {"config": self.config, "tensors": self.tensors}
        text = np.frombuffer(json.dumps(described).encode(), np.uint8)
        np.savez_compressed(
            path, described=text, ids=self.ids, positions=self.positions, logits=self.logits
        )


def load(path: Path) -> Recorded:
    """Read a fixture."""
    with np.load(path, allow_pickle=False) as arrays:
        described = json.loads(arrays["described"].tobytes())
        tensors = [Tensor(name, tuple(shape), base) for name, shape, base in described["tensors"]]
        return Recorded(
            described["config"], tensors, arrays["ids"], arrays["positions"], arrays["logits"]
        )


def values(tensor: Tensor) -> NDArray[np.float32]:
    """Random values of a sane scale, the same wherever they are made."""
    rng = np.random.default_rng(zlib.crc32(tensor.name.encode()))
    width = np.sqrt(min(tensor.shape)) if len(tensor.shape) > 1 else 10.0
    noise = rng.standard_normal(tensor.shape) / width
    return (tensor.base + noise).astype(np.float32)


def write_folder(path: Path, config: dict[str, Any], tensors: list[Tensor]) -> None:
    """A Hugging Face folder with these weights."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", config)
    write_tokenizer(path)
    stored: dict[str, Stored] = {t.name: ("F32", values(t)) for t in tensors}
    write_safetensors(path / "model.safetensors", stored)
