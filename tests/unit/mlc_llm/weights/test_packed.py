"""Checkpoints of GPTQ and AWQ are read as the values that their own formulas give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlc_llm.errors import BadModel
from mlc_llm.models.folder import open_folder
from mlc_llm.quantization.scheme import SCHEMES
from mlc_llm.weights.load import choose_scheme, load_weights
from mlc_llm.weights.pack import unpack_weights
from mlc_llm.weights.source import read_rows
from mlc_llm.weights.sources.find import find_tensors
from support.folders import (
    Stored,
    hf_config,
    split_parameter,
    tiny_llama,
    write_json,
    write_safetensors,
    write_tokenizer,
)
from support.oracle import random_weights
from support.packed_codes import awq, gptq, random_codes, values


def folder_of(path: Path, tensors: Mapping[str, Stored], **config: Any) -> Path:
    path.mkdir(exist_ok=True)
    write_json(path / "config.json", {"quantization_config": config})
    write_safetensors(path / "model.safetensors", tensors)
    return path


@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gptq_is_code_less_zero_times_scale(bits: int, form: str, tmp_path: Path) -> None:
    codes, zeros, scales = random_codes(64, 48, 4, bits)
    stored = gptq("a", codes, zeros, scales, bits, offset=int(form == "gptq"))
    tensors = find_tensors(
        folder_of(tmp_path, stored, quant_method="gptq", bits=bits, checkpoint_format=form)
    )
    assert list(tensors) == ["a.weight"]
    expected = values(codes, zeros, scales, np.arange(64) // 16)
    assert np.array_equal(read_rows(tensors["a.weight"], 0, 48), expected)
    assert np.array_equal(read_rows(tensors["a.weight"], 5, 23), expected[5:23])


def test_columns_may_be_in_any_group(tmp_path: Path) -> None:
    codes, zeros, scales = random_codes(64, 48, 4)
    order = np.random.default_rng(1).permutation(np.arange(64) // 16)
    stored = {
        **gptq("a", codes, zeros, scales),
        "a.g_idx": ("I32", order.astype(np.int32)),
        "a.bias": ("F16", np.ones(48, np.float16)),
    }
    tensors = find_tensors(folder_of(tmp_path, stored, quant_method="gptq", desc_act=True))
    assert set(tensors) == {"a.weight", "a.bias"}
    expected = values(codes, zeros, scales, order)
    assert np.array_equal(read_rows(tensors["a.weight"], 7, 48), expected[7:])


def test_awq_deals_columns_out_of_order(tmp_path: Path) -> None:
    codes, zeros, scales = random_codes(64, 48, 2)
    stored = awq("a", codes, zeros, scales)
    tensors = find_tensors(folder_of(tmp_path, stored, quant_method="awq", version="gemm"))
    expected = values(codes, zeros, scales, np.arange(64) // 32)
    assert np.array_equal(read_rows(tensors["a.weight"], 3, 48), expected[3:])


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_whole_model_is_served_by_its_codes(method: str, tmp_path: Path) -> None:
    arch = tiny_llama(intermediate_size=96)
    stored: dict[str, Stored] = {}
    expected = {}
    for parameter, matrix in random_weights(arch, 0).items():
        rows = []
        for name, part in split_parameter(arch, parameter, matrix).items():
            base = name.removesuffix(".weight")
            if part.ndim == 2 and ".layers." in name:
                n, k = part.shape
                codes, zeros, scales = random_codes(k, n, k // 32)
                make = gptq if method == "gptq" else awq
                stored |= make(base, codes, zeros, scales)
                rows.append(values(codes, zeros, scales, np.arange(k) // 32))
            else:
                stored[name] = "F16", part.astype(np.float16)
                rows.append(part.astype(np.float16).astype(np.float32))
        expected[parameter] = np.concatenate(rows)
    folder_of(tmp_path, stored)
    codes_of = {"quant_method": method, "bits": 4, "group_size": 32}
    write_json(tmp_path / "config.json", {**hf_config(arch), "quantization_config": codes_of})
    write_tokenizer(tmp_path)
    folder = open_folder(tmp_path)
    assert choose_scheme(folder, None).name == "q8f16_1"
    packed_weights = load_weights(folder, SCHEMES["q0f32"])
    found = unpack_weights(folder.architecture, SCHEMES["q0f32"], packed_weights)
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


def without(leaf: str) -> dict[str, Stored]:
    stored = gptq("a", *random_codes(64, 48, 4))
    return {name: tensor for name, tensor in stored.items() if name != f"a.{leaf}"}


def changed(leaf: str, dtype: str, array: NDArray[Any]) -> dict[str, Stored]:
    return {**gptq("a", *random_codes(64, 48, 4)), f"a.{leaf}": (dtype, array)}


WRONG = {
    "no zeros": (without("qzeros"), "a.qweight: has no qzeros beside it"),
    "no scales": (without("scales"), "a.qweight: has no scales beside it"),
    "zeros of another size": (
        changed("qzeros", "I32", np.zeros((4, 5), np.int32)),
        r"a.qzeros: has shape \[4, 5\] where \[4, 6\]",
    ),
    "scales of another size": (
        changed("scales", "F16", np.zeros((4, 40), np.float16)),
        r"a.scales: has shape \[4, 40\] where \[4, 48\]",
    ),
    "codes of another type": (
        changed("qweight", "F32", np.zeros((8, 48), np.float32)),
        "a.qweight: has dtype F32",
    ),
    "groups that do not divide": (
        gptq("a", *random_codes(64, 48, 3)),
        "a.scales: has 3 groups, which do not divide 64",
    ),
    "a group that is not there": (
        changed("g_idx", "I32", np.full(64, 4, np.int32)),
        "a.g_idx: names a group outside of 4",
    ),
    "a group below zero": (
        changed("g_idx", "I32", np.full(64, -1, np.int32)),
        "a.g_idx: names a group outside of 4",
    ),
    "too few groups named": (
        changed("g_idx", "I32", np.zeros(63, np.int32)),
        r"a.g_idx: has shape \[63\]",
    ),
    "a scale that is no number": (
        changed("scales", "F16", np.full((4, 48), np.nan, np.float16)),
        "a.scales: holds a value that is not finite",
    ),
    "a vector of codes": (changed("qzeros", "I32", np.zeros(6, np.int32)), "a.qzeros: has shape"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_matrix_is_one_line_that_names_the_tensor(case: str, tmp_path: Path) -> None:
    stored, complaint = WRONG[case]
    folder = folder_of(tmp_path, stored, quant_method="gptq")
    with pytest.raises(BadModel, match=complaint):
        read_rows(find_tensors(folder)["a.weight"], 0, 8)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"quant_method": "bitsandbytes"}, "quantized by bitsandbytes are not supported"),
        ({"quant_method": "compressed-tensors"}, "by compressed-tensors are not supported"),
        ({"quant_method": "gptq", "bits": 3}, "GPTQ of 3 bits"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "as marlin is not supported"),
        ({"quant_method": "awq", "version": "gemv"}, "version gemv is not supported"),
        ({"quant_method": "awq", "w_bit": 3}, "AWQ of 3 bits"),
        ({"load_in_4bit": True}, "quantized by none are not supported"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size"),
        ("gptq", "quantization_config"),
    ],
)
def test_other_codes_are_refused_by_name(config: Any, complaint: str, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {**hf_config(tiny_llama()), "quantization_config": config})
    write_tokenizer(tmp_path)
    with pytest.raises(BadModel, match=complaint) as raised:
        open_folder(tmp_path)
    assert str(tmp_path / "config.json") in raised.value.message
