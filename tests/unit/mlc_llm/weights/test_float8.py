"""A checkpoint in float8 blocks is read as the values it stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlc_llm.errors import BadModel
from mlc_llm.weights.safetensors import find_tensors
from mlc_llm.weights.source import read_rows
from support.folders import write_safetensors
from support.mlc_decoder import E4M3


def test_each_block_has_its_scale(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 0x7F, (200, 140)).astype(np.uint8)
    scales = rng.random((2, 2)).astype(np.float32)
    write_safetensors(
        tmp_path / "model.safetensors",
        {"a.weight": ("F8_E4M3", bits), "a.weight_scale_inv": ("F32", scales)},
    )
    tensors = find_tensors(tmp_path)
    assert list(tensors) == ["a.weight"]
    rows, cols = np.indices(bits.shape)
    expected = E4M3[bits] * scales[rows // 128, cols // 128]
    assert np.array_equal(read_rows(tensors["a.weight"], 0, 200), expected)
    assert np.array_equal(read_rows(tensors["a.weight"], 100, 150), expected[100:150])


def test_scales_of_another_shape_are_refused(tmp_path: Path) -> None:
    bits, scales = np.zeros((200, 140), np.uint8), np.ones((1, 2), np.float32)
    write_safetensors(
        tmp_path / "model.safetensors",
        {"a.weight": ("F8_E4M3", bits), "a.weight_scale_inv": ("F32", scales)},
    )
    with pytest.raises(BadModel, match=r"a.weight_scale_inv: has shape \[1, 2\]"):
        find_tensors(tmp_path)
