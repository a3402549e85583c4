"""A checkpoint in float8 blocks is read as the values it stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlc_llm.errors import BadModel
from mlc_llm.weights.source import read_rows
from mlc_llm.weights.sources.find import find_tensors
from support.folders import write_json, write_safetensors
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


def test_the_configuration_may_name_another_block(tmp_path: Path) -> None:
    bits = np.arange(1, 97, dtype=np.uint8).reshape(8, 12)
    scales = np.random.default_rng(0).random((2, 4)).astype(np.float32)
    write_safetensors(
        tmp_path / "model.safetensors",
        {"a.weight": ("F8_E4M3", bits), "a.weight_scale_inv": ("F32", scales)},
    )
    codes = {"quant_method": "fp8", "weight_block_size": [4, 3]}
    write_json(tmp_path / "config.json", {"quantization_config": codes})
    rows, cols = np.indices(bits.shape)
    expected = E4M3[bits] * scales[rows // 4, cols // 3]
    assert np.array_equal(read_rows(find_tensors(tmp_path)["a.weight"], 0, 8), expected)


def test_one_scale_may_be_for_all(tmp_path: Path) -> None:
    bits = np.arange(1, 97, dtype=np.uint8).reshape(8, 12)
    scale = np.array(0.5, np.float32)
    write_safetensors(
        tmp_path / "model.safetensors",
        {
            "a.weight": ("F8_E4M3", bits),
            "a.weight_scale": ("F32", scale),
            "a.input_scale": ("F32", scale),
        },
    )
    tensors = find_tensors(tmp_path)
    assert list(tensors) == ["a.weight"]
    assert np.array_equal(read_rows(tensors["a.weight"], 2, 8), E4M3[bits[2:]] * np.float32(0.5))
