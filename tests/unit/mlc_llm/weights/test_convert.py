"""What convert_weight writes is what MLC's formats say, and arrives again when it is loaded."""

from __future__ import annotations

import fcntl
import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from mlc_llm.errors import BadModel
from mlc_llm.models.folder import open_folder
from mlc_llm.quantization.scheme import SCHEMES
from mlc_llm.quantization.storage import STORAGES
from mlc_llm.weights import convert as converting
from mlc_llm.weights.convert import convert
from mlc_llm.weights.load import choose_scheme, load_weights
from mlc_llm.weights.pack import unpack_weights
from mlc_llm.weights.safetensors import find_tensors
from mlc_llm.weights.shards import plan
from support import mlc_decoder
from support.checkpoints import FIXTURES, load, write_folder
from support.family_configs import CONFIGS, ENCODERS
from support.folders import mlc_config, tiny_llama, write_hf_folder, write_json, write_tokenizer

WRITTEN = [name for name, storage in STORAGES.items() if storage.kind != "awq"]

STEPS = {
    "q0f16": 2**-11,
    "q0bf16": 2**-8,
    "q0f32": 2**-8,
    "q3": 1 / 6 + 0.01,
    "q4": 0.2,  # searched scales may leave out the largest magnitude
    "q8": 1 / 254 + 0.001,
    "e4m3_e4m3_f16": 2**-4,
    "fp8_e4m3fn_bf16_block_scale": 2**-4,
}
"""How far a value may move, as a share of the largest magnitude near it."""


def converted(source: Path, output: Path, quantization: str, threads: int = 2) -> None:
    folder = open_folder(source)
    tensors = find_tensors(source)
    convert(folder, tensors, STORAGES[quantization], output, lambda *_: None, threads)
    write_json(output / "mlc-chat-config.json", mlc_config(folder.architecture, quantization))
    write_tokenizer(output)


UNLIKE_LLAMA = ("mixtral", "qwen2_moe", "deepseek_v3", "bert")
FORMATS = [name for name in WRITTEN if name not in ("q0bf16", "q0f32", "q4f32_1", "q4bf16_1")]


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        *((name, "q4f16_1") for name in (*CONFIGS, *ENCODERS) if name not in UNLIKE_LLAMA),
        *product(UNLIKE_LLAMA, FORMATS),
    ],
)
def test_what_lies_otherwise_with_mlc_arrives_again(
    name: str, quantization: str, tmp_path: Path
) -> None:
    """The names and layouts of every family, and every way in which experts and latents lie."""
    recorded = load(FIXTURES / f"{name}.npz")
    write_folder(tmp_path / "hf", recorded.config, recorded.tensors)
    source, target = open_folder(tmp_path / "hf"), tmp_path / "mlc"
    tensors = find_tensors(source.path)
    convert(source, tensors, STORAGES[quantization], target, lambda *_: None, 2)
    config = mlc_config(source.architecture, quantization)
    write_json(target / "mlc-chat-config.json", {**config, "model_config": recorded.config})
    write_tokenizer(target)
    stored = open_folder(target)
    assert stored.architecture == source.architecture
    scheme = choose_scheme(stored, None)
    plain = SCHEMES["q0f32"]
    expected = unpack_weights(source.architecture, plain, load_weights(source, plain))
    found = unpack_weights(stored.architecture, scheme, load_weights(stored, scheme))
    step = STEPS.get(quantization) or STEPS[quantization[:2]]
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= step * np.abs(value).max(), name


def test_tensors_of_experts_and_of_latents_have_the_names_and_shapes_of_mlc(tmp_path: Path) -> None:
    recorded = load(FIXTURES / "deepseek_v3.npz")
    write_folder(tmp_path / "hf", recorded.config, recorded.tensors)
    source = open_folder(tmp_path / "hf")
    tensors = find_tensors(source.path)
    convert(source, tensors, STORAGES["q4f16_1"], tmp_path / "mlc", lambda *_: None, 2)
    raw = mlc_decoder.read_raw(tmp_path / "mlc")
    shapes = {
        "mlp.gate.weight": (16, 64),
        "mlp.e_score_correction_bias": (16,),
        "mlp.moe_gate_up_proj.q_weight": (16, 80, 8),
        "mlp.moe_gate_up_proj.q_scale": (16, 80, 2),
        "mlp.moe_down_proj.q_weight": (16, 64, 8),
        "mlp.moe_down_proj.q_scale": (16, 64, 2),
        "mlp.shared_experts.gate_up_proj.q_weight": (80, 8),
        "self_attn.kv_a_proj_with_mqa.q_weight": (80, 8),
        "self_attn.w_uk": (4, 64, 16),
        "self_attn.w_uv": (4, 16, 64),
    }
    for name, shape in shapes.items():
        assert raw[f"model.layers.1.{name}"].shape == shape, name


@pytest.mark.parametrize("chunk", [1, converting.CHUNK_ELEMENTS])
def test_float8_blocks_begin_anew_with_every_expert(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here an expert has 132 rows of gate and up, which are a block and four rows."""
    name, base = "model.layers.0.mlp.moe_gate_up_proj.weight", "model.layers.0.block_sparse_moe."
    count, inner = 6, 66
    monkeypatch.setattr(converting, "CHUNK_ELEMENTS", chunk)
    recorded = load(FIXTURES / "mixtral.npz")
    config = {**recorded.config, "intermediate_size": inner}
    sizes = {recorded.config["intermediate_size"]: inner}
    tensors = [t._replace(shape=tuple(sizes.get(n, n) for n in t.shape)) for t in recorded.tensors]
    write_folder(tmp_path / "hf", config, tensors)
    source, storage = open_folder(tmp_path / "hf"), STORAGES["fp8_e4m3fn_bf16_block_scale"]
    convert(source, find_tensors(source.path), storage, tmp_path / "mlc", lambda *_: None, 2)
    raw = mlc_decoder.read_raw(tmp_path / "mlc")
    assert raw[f"{base}e1_e3.weight_scale_inv"].shape == (count, 2, 1)
    found = mlc_decoder.matrix(raw, f"{base}e1_e3.", storage.name, 64)
    assert found.shape == (count, 2 * inner, 64)
    plain = SCHEMES["q0f32"]
    expected = unpack_weights(source.architecture, plain, load_weights(source, plain))[name]
    expected = expected.reshape(found.shape)
    assert np.abs(found - expected).max() <= 2**-4 * np.abs(expected).max()
    described = mlc_config(source.architecture, storage.name)
    write_json(tmp_path / "mlc" / "mlc-chat-config.json", {**described, "model_config": config})
    write_tokenizer(tmp_path / "mlc")
    stored = open_folder(tmp_path / "mlc")
    scheme = choose_scheme(stored, None)
    served = unpack_weights(stored.architecture, scheme, load_weights(stored, scheme))[name]
    assert np.array_equal(served.reshape(found.shape), found.astype(np.float16))


@pytest.mark.parametrize("quantization", WRITTEN)
def test_every_format_holds_the_model_and_is_loaded_as_it_is_written(
    quantization: str, tmp_path: Path
) -> None:
    source = write_hf_folder(tmp_path / "hf", tiny_llama(), 1, "BF16")
    converted(tmp_path / "hf", tmp_path / "mlc", quantization)
    raw = mlc_decoder.read_raw(tmp_path / "mlc")
    folder = open_folder(tmp_path / "mlc")
    scheme = choose_scheme(folder, None)
    loaded = unpack_weights(folder.architecture, scheme, load_weights(folder, scheme))
    step = STEPS.get(quantization) or STEPS[quantization[:2]]
    for name, value in source.items():
        if value.ndim == 1:
            assert np.array_equal(raw[name].astype(np.float32), value), name
            continue
        found = mlc_decoder.matrix(raw, name.removesuffix("weight"), quantization, value.shape[1])
        assert np.abs(found - value).max() <= step * np.abs(value).max(), name
        served = found
        if scheme.format_of(name) == "f16":
            served = found.astype(np.float16).astype(np.float32)
        # Scales in bfloat16 that are small for float16 move by a part of its least step.
        assert np.allclose(loaded[name], served, rtol=0, atol=7 * 2.0**-25), name


def test_q4f16_1_is_bit_for_bit_what_the_loader_makes(tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama(), 5, "F16")
    converted(tmp_path / "hf", tmp_path / "mlc", "q4f16_1")
    scheme = SCHEMES["q4f16_1"]
    both = [
        load_weights(open_folder(tmp_path / name), scheme, verify=True) for name in ("hf", "mlc")
    ]
    for direct, stored in zip(*both, strict=True):
        assert np.array_equal(direct, stored)


def test_the_number_of_threads_changes_no_byte(tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama(), 2)
    for threads in (1, 3):
        converted(tmp_path / "hf", tmp_path / str(threads), "q4f16_1", threads)
    assert files(tmp_path / "1") == files(tmp_path / "3")


def test_chunks_that_cut_through_a_tensor_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama(), 2)
    for quantization in WRITTEN:
        converted(tmp_path / "hf", tmp_path / "whole" / quantization, quantization)
    monkeypatch.setattr(converting, "CHUNK_ELEMENTS", 1)
    for quantization in WRITTEN:
        converted(tmp_path / "hf", tmp_path / "cut" / quantization, quantization)
        assert files(tmp_path / "whole" / quantization) == files(tmp_path / "cut" / quantization)


def test_a_broken_source_leaves_nothing_behind(tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama())
    weights = tmp_path / "hf" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    weights.write_bytes(data)
    with pytest.raises(BadModel, match=r"tensor .* not finite"):
        converted(tmp_path / "hf", tmp_path / "mlc", "q4f16_1")
    assert not (tmp_path / "mlc").exists()


def test_a_broken_source_leaves_an_earlier_result_alone(tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama())
    converted(tmp_path / "hf", tmp_path / "mlc", "q0f16")
    before = files(tmp_path / "mlc")
    (tmp_path / "hf" / "model.safetensors").write_bytes(b"\x08" + bytes(15))
    with pytest.raises(BadModel):
        converted(tmp_path / "hf", tmp_path / "mlc", "q4f16_1")
    assert files(tmp_path / "mlc") == before


def test_a_second_conversion_replaces_the_first_completely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hf_folder(tmp_path / "hf", tiny_llama())
    write_json(tmp_path / "other.json", {})
    with monkeypatch.context() as patched:
        patched.setattr(converting, "plan", small_shards)
        converted(tmp_path / "hf", tmp_path / "mlc", "q0f32")
    assert len(list((tmp_path / "mlc").glob("params_shard_*.bin"))) > 3
    converted(tmp_path / "hf", tmp_path / "mlc", "q4f16_1")
    assert [p.name for p in (tmp_path / "mlc").glob("params_shard_*")] == ["params_shard_0.bin"]
    assert not (tmp_path / "mlc" / "tensor-cache-b16.json").exists()
    assert not list((tmp_path / "mlc").glob(".conv*"))


def test_of_two_conversions_into_a_folder_one_moves_its_files_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else shards of one might lie beside the manifest of the other."""
    moved = []

    def publish(scratch: Path, output: Path, shards: object) -> None:
        other = os.open(output, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
        moved.append(output)

    write_hf_folder(tmp_path / "hf", tiny_llama())
    monkeypatch.setattr(converting, "_publish", publish)
    (tmp_path / "mlc" / ".converting-killed-early").mkdir(parents=True)
    converted(tmp_path / "hf", tmp_path / "mlc", "q4f16_1")
    assert moved == [tmp_path / "mlc"]
    assert not list((tmp_path / "mlc").glob(".*"))


def test_the_manifest_counts_parameters_and_bits(tmp_path: Path) -> None:
    arch = tiny_llama()
    write_hf_folder(tmp_path / "hf", arch)
    converted(tmp_path / "hf", tmp_path / "mlc", "q4f32_1")
    metadata = json.loads((tmp_path / "mlc" / "tensor-cache.json").read_text())["metadata"]
    size = sum(path.stat().st_size for path in (tmp_path / "mlc").glob("params_shard_*"))
    assert metadata["ParamBytes"] == size
    assert metadata["BitsPerParam"] == pytest.approx(8 * size / arch.num_parameters)
    sixteen = json.loads((tmp_path / "mlc" / "tensor-cache-b16.json").read_text())
    dtypes = {r["dtype"] for shard in sixteen["records"] for r in shard["records"]}
    assert dtypes == {"uint32", "bfloat16"}


def small_shards(records: object) -> object:
    return plan(records, 1 << 13)  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
