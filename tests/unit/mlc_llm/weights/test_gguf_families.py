"""Every architecture of GGUF is the model of the folder that llama.cpp's converter made it from."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.folder import open_folder
from mlc_llm.models.gguf.architectures import ARCHITECTURES
from mlc_llm.models.resolve import resolve_model
from mlc_llm.quantization.scheme import SCHEMES
from mlc_llm.quantization.storage import STORAGES
from mlc_llm.weights import tensor_cache
from mlc_llm.weights.convert import convert
from mlc_llm.weights.load import load_weights
from mlc_llm.weights.pack import unpack_weights
from mlc_llm.weights.source import read_rows
from mlc_llm.weights.sources import gguf
from mlc_llm.weights.sources.find import find_tensors
from mlc_llm.weights.sources.gguf_names import NAMES
from support import checkpoints, gguf_families

NAMED = list(gguf_families.recorded())

NOT_IN_THE_FILE: dict[str, set[str]] = {
    "gemma2": {"attention_scale"},
    "gemma3": {"sliding_layers"},
    "llama": {"rope_scaling"},
    "mistral": {"model_type", "sliding_window", "sliding_layers"},
    "phi4_mini": {"rope_scaling"},
    "qwen2_sliding_yarn": {"sliding_window", "sliding_layers"},
    "smollm3": {"unrotated_layers"},
}
"""What the converter leaves out, or writes otherwise: llama.cpp slides no Mistral and no Qwen, and
knows how other families differ; these configurations are odder than the published ones."""


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path / "home"))


def loaded(path: Path, scheme: str = "q0f32") -> tuple[Architecture, dict[str, Any]]:
    folder = open_folder(resolve_model(str(path)))
    packed = load_weights(folder, SCHEMES[scheme])
    return folder.architecture, unpack_weights(folder.architecture, SCHEMES[scheme], packed)


def differences(one: Architecture, other: Architecture) -> set[str]:
    fields = msgspec.structs.asdict(one)
    return {name for name, value in fields.items() if getattr(other, name) != value}


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


def test_every_architecture_has_names_and_a_model() -> None:
    models = [gguf_families.converted(name) for name in NAMED]
    assert {model.values["general.architecture"] for model in models} == set(ARCHITECTURES)
    assert set(NAMES) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", NAMED)
def test_the_files_of_these_tests_are_those_of_the_converter(name: str) -> None:
    model = gguf_families.converted(name)
    made = {
        tensor: [*rows.shape, zlib.crc32(rows.tobytes())]
        for tensor, rows in gguf_families.gguf_tensors(model).items()
    }
    assert made == model.described


@pytest.mark.parametrize("name", NAMED)
def test_weights_arrive_as_from_the_folder(name: str, tmp_path: Path) -> None:
    model = gguf_families.converted(name)
    checkpoints.write_folder(tmp_path / "hf", model.config, model.tensors)
    expected, weights = loaded(tmp_path / "hf")
    found, rows = loaded(gguf_families.write(tmp_path / "m.gguf", model))
    assert differences(expected, found) == NOT_IN_THE_FILE.get(name, set())
    same(rows, weights)


@pytest.mark.parametrize("name", ["deepseek_v3", "gemma2", "gpt2", "mixtral"])
def test_they_are_converted_as_from_the_folder(name: str, tmp_path: Path) -> None:
    model = gguf_families.converted(name)
    checkpoints.write_folder(tmp_path / "hf", model.config, model.tensors)
    gguf_families.write(tmp_path / "m.gguf", model)
    same(stored(tmp_path / "m.gguf", tmp_path / "a"), stored(tmp_path / "hf", tmp_path / "b"))


def stored(model: Path, out: Path) -> dict[str, Any]:
    """What convert_weight writes."""
    folder = open_folder(resolve_model(str(model)))
    tensors = find_tensors(folder.path)
    convert(folder, tensors, STORAGES["q4f16_1"], out, lambda _done, _total: None, 1)
    found = tensor_cache.find_tensors(out, verify=True, threads=1)
    return {name: read_rows(tensor, 0, tensor.shape[0]) for name, tensor in found.items()}


def test_keys_and_values_of_old_deepseek_files_are_taken_apart(tmp_path: Path) -> None:
    model = gguf_families.converted("deepseek_v2")
    split = gguf_families.gguf_tensors(model)
    joined = {name: rows for name, rows in split.items() if "_b.weight" not in name}
    for i in range(3):
        keys, values = (split[f"blk.{i}.attn_{part}_b.weight"] for part in "kv")
        rows = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
        joined[f"blk.{i}.attn_kv_b.weight"] = rows.reshape(-1, rows.shape[2])
    values_of = {k: v for k, v in model.values.items() if not k.endswith("_mla")}
    values_of |= {"deepseek2.attention.key_length": 48, "deepseek2.attention.value_length": 16}
    old = model._replace(values=values_of)
    expected = loaded(gguf_families.write(tmp_path / "new.gguf", model))
    found = loaded(gguf_families.write(tmp_path / "old.gguf", old, joined))
    assert found[0] == expected[0]
    same(found[1], expected[1])


def joined_tensors(tensors: dict[str, Any]) -> dict[str, Any]:
    """What `--fuse-qkv` and `--fuse-gate-up-exps` of the converter make of them."""
    found = dict(tensors)
    for name in tensors:
        if ".attn_q." in name:
            parts = [found.pop(name.replace("attn_q", f"attn_{part}")) for part in "qkv"]
            found[name.replace("attn_q", "attn_qkv")] = np.concatenate(parts)
        if ".ffn_gate_exps." in name:
            parts = [found.pop(name.replace("gate", part)) for part in ("gate", "up")]
            found[name.replace("gate", "gate_up")] = np.concatenate(parts, axis=1)
    return found


@pytest.mark.parametrize("name", ["llama_attention_bias", "stablelm", "qwen3_moe", "mixtral"])
def test_tensors_that_were_joined_are_taken_apart(name: str, tmp_path: Path) -> None:
    model = gguf_families.converted(name)
    tensors = gguf_families.gguf_tensors(model)
    expected = loaded(gguf_families.write(tmp_path / "apart.gguf", model))
    path = gguf_families.write(tmp_path / "joined.gguf", model, joined_tensors(tensors))
    found = loaded(path)
    assert found[0] == expected[0]
    same(found[1], expected[1])


@pytest.mark.parametrize(("kind", "scheme"), [("Q4_0", "q4f16_1"), ("Q8_0", "q8f16_1")])
def test_experts_in_groups_are_served_as_they_lie(kind: str, scheme: str, tmp_path: Path) -> None:
    path = gguf_families.write(
        tmp_path / "m.gguf", gguf_families.converted("deepseek_v2"), kind=kind
    )
    exact, found = loaded(path)[1], loaded(path, scheme)[1]
    groups = [name for name in exact if name.endswith(("gate_up_proj.weight", "q_proj.weight"))]
    assert any(".moe_" in name for name in groups)
    same({name: found[name] for name in groups}, {name: exact[name] for name in groups})


def test_a_gate_of_shared_experts_may_be_a_vector(tmp_path: Path) -> None:
    model = gguf_families.converted("qwen2_moe")
    tensors = gguf_families.gguf_tensors(model)
    flat = {n: t.reshape(-1) if "_inp_shexp" in n else t for n, t in tensors.items()}
    expected = loaded(gguf_families.write(tmp_path / "a.gguf", model))
    same(loaded(gguf_families.write(tmp_path / "b.gguf", model, flat))[1], expected[1])


@pytest.mark.parametrize(
    ("layers", "experts", "groups"), [(60, 160, (8, 3)), (61, 256, (8, 4)), (61, 384, (1, 1))]
)
def test_groups_that_old_deepseek_files_leave_out_are_known(
    layers: int, experts: int, groups: tuple[int, int], tmp_path: Path
) -> None:
    model = gguf_families.converted("deepseek_v3" if layers == 61 else "deepseek_v2_groups")
    values = {k: v for k, v in model.values.items() if "group" not in k}
    values |= {"deepseek2.block_count": layers, "deepseek2.expert_count": experts}
    path = gguf_families.write(tmp_path / "m.gguf", model._replace(values=values))
    found = open_folder(resolve_model(str(path))).architecture.experts
    assert found is not None
    assert (found.groups, found.groups_per_token) == groups


WRONG: dict[str, tuple[str, dict[str, Any], dict[str, tuple[int, ...]], str]] = {
    "no number of experts to choose": (
        "mixtral", {"llama.expert_used_count": None}, {}, "llama.expert_used_count: is missing",
    ),
    "a scale of scores": (
        "qwen3", {"qwen3.attention.scale": 0.5}, {}, "qwen3.attention.scale: is not supported",
    ),
    "a window of OLMo 3": (
        "olmo2", {"olmo2.attention.sliding_window": 64}, {}, "sliding_window: is not supported",
    ),
    "clipped queries": ("olmoe", {"olmoe.attention.clamp_kqv": 8.0}, {}, "clip_qkv"),
    "a number that is none": (
        "qwen2", {"qwen2.rope.freq_base": float("nan")}, {}, "rope.freq_base: nan is not finite",
    ),
    "more layers than tensors": (
        "qwen3_moe", {"qwen3moe.block_count": 4}, {}, "model.layers.3.",
    ),
    "a stack that is a matrix": (
        "olmoe", {}, {"blk.1.ffn_up_exps.weight": (384, 64)}, "is no stack of at most 4096 experts",
    ),
    "an odd number of rows": (
        "mixtral", {}, {"blk.0.ffn_gate_up_exps.weight": (2, 3, 64)}, "an odd number",
    ),
    "heads that cannot share": (
        "qwen2", {}, {"blk.0.attn_qkv.weight": (63, 64)}, "63 rows, which 4 heads with 2 of",
    ),
    "latents that cannot share": (
        "deepseek_v2", {}, {"blk.0.attn_kv_b.weight": (63, 48)}, "which 4 heads cannot share",
    ),
    "latents with no values": (
        "deepseek_v2", {}, {"blk.0.attn_kv_b.weight": (32, 48)}, "of which 32 would make its key",
    ),
    "too few experts": (
        "olmoe", {}, {"blk.1.ffn_up_exps.weight": (7, 48, 64)}, "experts.7.up_proj.weight is miss",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_one_line(case: str, tmp_path: Path) -> None:
    name, changes, shapes, complaint = WRONG[case]
    model = gguf_families.converted(name)
    values = {k: v for k, v in {**model.values, **changes}.items() if v is not None}
    tensors = gguf_families.gguf_tensors(model)
    tensors |= {tensor: np.ones(shape, np.float32) for tensor, shape in shapes.items()}
    path = gguf_families.write(tmp_path / "m.gguf", model._replace(values=values), tensors)
    with pytest.raises(BadModel) as raised:
        loaded(path)
    assert complaint in raised.value.message
    assert "\n" not in raised.value.message


def test_experts_of_one_model_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_PIECES", 20)
    path = gguf_families.write(tmp_path / "m.gguf", gguf_families.converted("olmoe"))
    with pytest.raises(BadModel, match="more than 20 matrices"):
        gguf.find_tensors([path])
