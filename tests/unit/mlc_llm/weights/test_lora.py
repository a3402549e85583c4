"""A LoRA adapter is added to its base by PEFT's formula, or refused with its tensor's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlc_llm.errors import BadModel
from mlc_llm.weights.lora import merge
from mlc_llm.weights.safetensors import tensors_of_file
from mlc_llm.weights.source import StoredTensor, read_floats
from support import torch_files
from support.folders import Stored, encode, write_json, write_safetensors

Floats = NDArray[np.float32]
PREFIX = "base_model.model."
Q, EMBED, HEAD = "model.layers.0.self_attn.q_proj", "model.embed_tokens", "lm_head"


def random(*shape: int) -> Floats:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.fixture
def base(tmp_path: Path) -> dict[str, StoredTensor]:
    path = tmp_path / "model.safetensors"
    write_safetensors(
        path,
        {
            f"{Q}.weight": encode(random(6, 8), "BF16"),
            f"{Q}.bias": encode(random(6), "F32"),
            f"{EMBED}.weight": encode(random(10, 8), "F32"),
            f"{HEAD}.weight": encode(random(10, 8), "F32"),
        },
    )
    return tensors_of_file(path)


def adapter(path: Path, tensors: dict[str, Stored], **config: Any) -> Path:
    path.mkdir(exist_ok=True)
    write_json(
        path / "adapter_config.json", {"peft_type": "LORA", "lora_alpha": 6, "r": 3, **config}
    )
    write_safetensors(path / "adapter_model.safetensors", tensors)
    return path


def factors(module: str, a: Floats, b: Floats) -> dict[str, Stored]:
    return {
        f"{PREFIX}{module}.lora_A.weight": encode(a, "F32"),
        f"{PREFIX}{module}.lora_B.weight": encode(b, "F16"),
    }


def whole(tensor: StoredTensor) -> Floats:
    return read_floats(tensor, 0, tensor.shape[0])


A, B = random(3, 8), encode(random(6, 3), "F16")[1].astype(np.float32)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 6 / 3**0.5),
        ({"alpha_pattern": {"self_attn.q_proj": 12}}, 4.0),
        ({"alpha_pattern": {"k_proj": 12, "proj": 1}}, 2.0),
    ],
)
def test_the_product_is_added_at_its_scale(
    config: dict[str, Any], scale: float, base: dict[str, StoredTensor], tmp_path: Path
) -> None:
    merged = merge(base, adapter(tmp_path / "lora", factors(Q, A, B), **config))
    expected = whole(base[f"{Q}.weight"]) + np.float32(scale) * (B @ A)
    assert list(merged) == list(base)
    assert np.allclose(whole(merged[f"{Q}.weight"]), expected, atol=1e-6)
    assert np.allclose(read_floats(merged[f"{Q}.weight"], 2, 5), expected[2:5], atol=1e-6)
    assert merged[f"{Q}.bias"] is base[f"{Q}.bias"]


def test_a_base_with_the_input_first_gets_the_product_turned(
    base: dict[str, StoredTensor], tmp_path: Path
) -> None:
    a, b = random(3, 6), random(8, 3)
    folder = adapter(tmp_path / "lora", factors(Q, a, b), fan_in_fan_out=True)
    b = b.astype(np.float16).astype(np.float32)
    expected = whole(base[f"{Q}.weight"]) + 2 * (b @ a).T
    assert np.allclose(whole(merge(base, folder)[f"{Q}.weight"]), expected, atol=1e-6)


def test_embeddings_are_looked_up_in_the_first_factor(
    base: dict[str, StoredTensor], tmp_path: Path
) -> None:
    a, b = random(3, 10), random(8, 3)
    tensors = {
        f"{PREFIX}{EMBED}.lora_embedding_A": encode(a, "F32"),
        f"{PREFIX}{EMBED}.lora_embedding_B": encode(b, "F32"),
    }
    merged = merge(base, adapter(tmp_path / "lora", tensors))
    expected = whole(base[f"{EMBED}.weight"]) + 2 * (b @ a).T
    assert np.allclose(whole(merged[f"{EMBED}.weight"]), expected, atol=1e-6)


def test_what_was_trained_whole_takes_the_bases_place(
    base: dict[str, StoredTensor], tmp_path: Path
) -> None:
    head, bias = random(10, 8) + 1, random(6) + 1
    tensors = {
        f"{PREFIX}{HEAD}.modules_to_save.weight": encode(head, "F32"),
        f"{PREFIX}{Q}.base_layer.bias": encode(bias, "F32"),
    }
    merged = merge(base, adapter(tmp_path / "lora", tensors))
    assert np.array_equal(whole(merged[f"{HEAD}.weight"]), head)
    assert np.array_equal(whole(merged[f"{Q}.bias"]), bias)


def test_an_adapter_may_be_a_file_of_pytorch(base: dict[str, StoredTensor], tmp_path: Path) -> None:
    folder = adapter(tmp_path / "lora", {})
    (folder / "adapter_model.safetensors").unlink()
    torch_files.write(folder / "adapter_model.bin", factors(Q, A, B))
    expected = whole(base[f"{Q}.weight"]) + 2 * (B @ A)
    assert np.allclose(whole(merge(base, folder)[f"{Q}.weight"]), expected, atol=1e-6)


ONE = {f"{PREFIX}{Q}.lora_A.weight": encode(A, "F32")}
REFUSED = {
    "one factor": (ONE, {}, r"q_proj.lora_A.weight: has no other factor"),
    "another base": (
        factors("model.layers.7.mlp.up_proj", A, B),
        {},
        r"the base model has no model.layers.7.mlp.up_proj.weight",
    ),
    "another width": (
        factors(Q, random(3, 9), B),
        {},
        r"q_proj.lora_A.weight: has shape \[3, 9\] where \[3, 8\]",
    ),
    "another rank": (
        factors(Q, A, random(6, 4)),
        {},
        r"q_proj.lora_B.weight: has shape \[6, 4\] where \[6, 3\]",
    ),
    "no rank": (factors(Q, random(0, 8), random(6, 0)), {}, "rank 0"),
    "a vector": (factors(Q, random(8), B), {}, r"lora_A.weight: has shape \[8\]"),
    "another head": (
        {f"{PREFIX}{HEAD}.modules_to_save.weight": encode(random(11, 8), "F32")},
        {},
        r"lm_head.*has shape \[11, 8\] where the base has \[10, 8\]",
    ),
    "codes": ({f"{PREFIX}{Q}.lora_A.weight": ("I8", np.zeros((3, 8), np.int8))}, {}, "dtype I8"),
    "another method": (factors(Q, A, B), {"peft_type": "IA3"}, "peft_type 'IA3'"),
    "dora": (factors(Q, A, B), {"use_dora": True}, "use_dora is not supported"),
    "a pattern": (factors(Q, A, B), {"alpha_pattern": {"(a+)+": 1}}, "no plain name"),
    "no number": (factors(Q, A, B), {"lora_alpha": "six"}, "lora_alpha"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_adapter_is_one_line(
    case: str, base: dict[str, StoredTensor], tmp_path: Path
) -> None:
    tensors, config, complaint = REFUSED[case]
    folder = adapter(tmp_path / "lora", tensors, **config)
    with pytest.raises(BadModel, match=complaint) as raised:
        merge(base, folder)
    assert str(folder) in raised.value.message


def test_values_that_are_not_finite_are_named(
    base: dict[str, StoredTensor], tmp_path: Path
) -> None:
    wrong = A.copy()
    wrong[1, 1] = np.nan
    merged = merge(base, adapter(tmp_path / "lora", factors(Q, wrong, B)))
    with pytest.raises(BadModel, match=r"q_proj.lora_A.weight: .* not finite"):
        whole(merged[f"{Q}.weight"])


def test_a_product_that_is_too_large_is_the_adapters_fault(
    base: dict[str, StoredTensor], tmp_path: Path
) -> None:
    large = np.full_like(A, 3e38)
    merged = merge(base, adapter(tmp_path / "lora", factors(Q, large, B)))
    with pytest.raises(BadModel, match=r"adapter.*q_proj.lora_B.weight: has a product"):
        whole(merged[f"{Q}.weight"])


def test_a_folder_without_weights_is_refused(base: dict[str, StoredTensor], tmp_path: Path) -> None:
    folder = adapter(tmp_path / "lora", {})
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(BadModel, match=r"has neither adapter_model\.safetensors nor"):
        merge(base, folder)
