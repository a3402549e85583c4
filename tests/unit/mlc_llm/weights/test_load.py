"""What lies in a folder is what the kernels get, in every format and for every quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray

from mlc_llm.errors import BadConfig, BadModel
from mlc_llm.models.architecture import Latent
from mlc_llm.models.folder import ModelFolder, open_folder
from mlc_llm.models.parameters import parameters, tensor_specs
from mlc_llm.quantization.encode import quantize_bytes
from mlc_llm.quantization.group import dequantize
from mlc_llm.quantization.scheme import SCHEMES, Scheme
from mlc_llm.quantization.search import quantize_closest, search_groups
from mlc_llm.weights import load as loading
from mlc_llm.weights import pack as packing
from mlc_llm.weights import tensor_cache
from mlc_llm.weights.load import choose_scheme, load_weights, weights_bytes
from mlc_llm.weights.memory import ALIGNMENT
from mlc_llm.weights.pack import unpack_weights
from support.folders import (
    encode,
    split_parameter,
    tiny_llama,
    write_hf_folder,
    write_mlc_folder,
    write_safetensors,
)
from support.oracle import random_weights
from support.shared import shared_path

Floats = NDArray[np.float32]
QUANTIZERS = {"q4": quantize_closest, "q8": quantize_bytes}


def loaded(folder: ModelFolder, scheme: Scheme, **options: Any) -> dict[str, Floats]:
    return unpack_weights(folder.architecture, scheme, load_weights(folder, scheme, **options))


def served(name: str, value: Floats, scheme: Scheme) -> Floats:
    """What a scheme makes of a stored value."""
    kind = scheme.format_of(name)
    if value.ndim == 1 or kind == "f32":
        return value
    half = value.astype(np.float16).astype(np.float32)
    quantizer = QUANTIZERS.get(kind)
    return dequantize(quantizer(half), value.shape[1]) if quantizer else half


def assert_same(found: dict[str, Floats], expected: dict[str, Floats]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_hugging_face_folder_arrives_as_stored(
    dtype: Literal["F32", "F16", "BF16"], sharded: bool, scheme: Scheme, tmp_path: Path
) -> None:
    stored = write_hf_folder(tmp_path, tiny_llama(), 1, dtype, sharded)
    expected = {name: served(name, value, scheme) for name, value in stored.items()}
    assert_same(loaded(open_folder(tmp_path), scheme), expected)


@pytest.mark.parametrize("manifest", ["tensor-cache.json", "ndarray-cache.json"])
@pytest.mark.parametrize("name", ["q0f32", "q0f16", "q4f16_1"])
@pytest.mark.parametrize("tied", [False, True])
def test_an_mlc_folder_arrives_as_stored(
    name: Literal["q0f32", "q0f16", "q4f16_1"], tied: bool, manifest: str, tmp_path: Path
) -> None:
    arch = tiny_llama(tie_word_embeddings=tied)
    expected = write_mlc_folder(tmp_path, arch, name, 2, manifest)
    folder = open_folder(tmp_path)
    assert_same(loaded(folder, choose_scheme(folder, None)), expected)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
def test_chunks_that_cut_through_stacked_pieces_change_nothing(
    scheme: Scheme, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = tiny_llama(num_attention_heads=4, num_key_value_heads=1, head_dim=8)
    stored = write_hf_folder(tmp_path, arch, 3, "BF16")
    monkeypatch.setattr(packing, "CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(loading, "TASK_CHUNKS", 2)
    expected = {name: served(name, value, scheme) for name, value in stored.items()}
    assert_same(loaded(open_folder(tmp_path), scheme, threads=3), expected)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
def test_arrays_are_those_the_compiled_function_takes(scheme: Scheme, tmp_path: Path) -> None:
    arch = tiny_llama()
    write_hf_folder(tmp_path, arch)
    arrays = load_weights(open_folder(tmp_path), scheme)
    specs = tensor_specs(arch, scheme)
    assert [(a.shape, a.dtype.name) for a in arrays] == [(s.shape, s.dtype) for s in specs]
    assert all(a.flags.c_contiguous and a.ctypes.data % ALIGNMENT == 0 for a in arrays)
    assert sum(a.nbytes for a in arrays) == weights_bytes(arch, scheme)


def test_progress_rises_to_the_whole(tmp_path: Path) -> None:
    arch = tiny_llama()
    write_hf_folder(tmp_path, arch)
    scheme = SCHEMES["q4f16_1"]
    seen: list[tuple[int, int]] = []
    load_weights(open_folder(tmp_path), scheme, lambda done, total: seen.append((done, total)))
    total = weights_bytes(arch, scheme)
    assert seen[-1] == (total, total)
    assert sorted(seen) == seen


def test_the_search_that_is_given_finds_the_scales(tmp_path: Path) -> None:
    write_hf_folder(tmp_path, tiny_llama())
    found: list[int] = []

    def search(grouped: Floats, scales: NDArray[np.float16], words: NDArray[np.uint32]) -> None:
        search_groups(grouped, scales, words)
        found.append(len(scales))

    folder = open_folder(tmp_path)
    arrays = load_weights(folder, SCHEMES["q4f16_1"], search=search)
    expected = load_weights(folder, SCHEMES["q4f16_1"])
    assert all(map(np.array_equal, arrays, expected))
    matrices = [p for p in parameters(folder.architecture) if p.kind != "vector"]
    assert sum(found) == sum(p.rows * (-(-p.cols // 32)) for p in matrices)


def rewrite(folder: Path, change: dict[str, Any], seed: int = 0) -> ModelFolder:
    """An HF folder of `tiny_llama` with tensors changed, added, or (None) left out."""
    arch = tiny_llama()
    write_hf_folder(folder, arch)
    stored = {
        name: encode(value, "F32")
        for parameter, matrix in random_weights(arch, seed).items()
        for name, value in split_parameter(arch, parameter, matrix).items()
    }
    stored = {name: value for name, value in {**stored, **change}.items() if value is not None}
    write_safetensors(folder / "model.safetensors", stored)
    return open_folder(folder)


K = "model.layers.1.self_attn.k_proj.weight"
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({K: None}, f"tensor {K} is missing"),
    "wrong shape": ({K: encode(np.zeros((32, 63), np.float32), "F32")}, f"tensor {K}: has shape"),
    "wrong dtype": ({K: ("I32", np.zeros((32, 64), np.int32))}, f"tensor {K}: has dtype I32"),
    "bias": ({"model.layers.0.self_attn.q_proj.bias": encode(np.ones(64, np.float32), "F32")},
             "tensor model.layers.0.self_attn.q_proj.bias: has no place"),
}  # fmt: skip


def test_a_bias_of_zeros_may_stand_beside_any_matrix(tmp_path: Path) -> None:
    """AutoGPTQ writes one even where the model has none."""
    biases = {
        f"model.layers.{layer}.{module}_proj.bias": encode(np.zeros(size, np.float32), "F16")
        for layer in range(2)
        for module, size in (("self_attn.q", 64), ("self_attn.o", 64), ("mlp.down", 64))
    }
    scheme = SCHEMES["q0f32"]
    with_biases = loaded(rewrite(tmp_path / "with", biases), scheme)
    assert_same(with_biases, loaded(rewrite(tmp_path / "without", {}), scheme))


def test_a_model_saved_without_its_head_has_names_that_begin_later(tmp_path: Path) -> None:
    arch, scheme = tiny_llama(tie_word_embeddings=True), SCHEMES["q0f32"]
    write_hf_folder(tmp_path, arch)
    expected = loaded(open_folder(tmp_path), scheme)
    stored = {
        name.removeprefix("model."): encode(value, "F32")
        for parameter, matrix in random_weights(arch, 0).items()
        for name, value in split_parameter(arch, parameter, matrix).items()
    }
    write_safetensors(tmp_path / "model.safetensors", stored)
    assert_same(loaded(open_folder(tmp_path), scheme), expected)


@pytest.mark.parametrize("wrong", WRONG)
def test_tensors_that_do_not_fit_the_model_are_named(wrong: str, tmp_path: Path) -> None:
    change, words = WRONG[wrong]
    with pytest.raises(BadModel) as raised:
        load_weights(rewrite(tmp_path, change), SCHEMES["q0f32"])
    assert words in raised.value.message


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_name(
    bad: float, scheme: Scheme, tmp_path: Path
) -> None:
    matrix = np.zeros((32, 64), np.float32)
    matrix[17, 3] = bad
    folder = rewrite(tmp_path, {K: ("F32", matrix)})
    with pytest.raises(BadModel, match=f"tensor {K}: holds a value that is not finite"):
        load_weights(folder, scheme)


def test_a_stored_scale_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    write_mlc_folder(tmp_path, tiny_llama())
    folder = open_folder(tmp_path)
    found = tensor_cache.find_tensors(tmp_path, verify=False, threads=1)
    scales = found["model.layers.0.mlp.down_proj.q_scale"]
    with scales.path.open("r+b") as file:
        file.seek(scales.offset)
        file.write(np.float16(np.nan).tobytes())
    with pytest.raises(BadModel, match=r"down_proj\.q_scale: holds a value that is not finite"):
        load_weights(folder, SCHEMES["q4f16_1"], verify=False)
    with pytest.raises(BadModel, match="is damaged"):
        load_weights(folder, SCHEMES["q4f16_1"])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_signalling_nan_is_refused_without_a_warning(
    dtype: Literal["F32", "F16", "BF16"], tmp_path: Path
) -> None:
    bits = {"F32": np.uint32(0x7F800001), "F16": np.uint16(0x7C01), "BF16": np.uint16(0x7F81)}
    matrix = np.full((32, 64), bits[dtype])
    folder = rewrite(tmp_path, {K: (dtype, matrix)})
    for scheme in SCHEMES.values():
        with pytest.raises(BadModel, match="not finite"):
            load_weights(folder, scheme)


def test_a_value_beyond_float16_is_refused_only_where_it_must_fit(tmp_path: Path) -> None:
    folder = rewrite(tmp_path, {K: ("BF16", np.full((32, 64), 0x4780, np.uint16))})
    load_weights(folder, SCHEMES["q0f32"])
    for name in ("q0f16", "q4f16_1"):
        with pytest.raises(BadModel, match=r"beyond 6\.55e"):
            load_weights(folder, SCHEMES[name])


def test_leftover_tables_and_a_head_tied_to_the_embedding_are_ignored(tmp_path: Path) -> None:
    arch = tiny_llama(tie_word_embeddings=True)
    write_hf_folder(tmp_path, arch)
    stored = {
        name: encode(value, "F32")
        for parameter, matrix in random_weights(arch, 0).items()
        for name, value in split_parameter(arch, parameter, matrix).items()
    }
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = encode(np.ones(8, np.float32), "F32")
    write_safetensors(tmp_path / "model.safetensors", stored)
    load_weights(open_folder(tmp_path), SCHEMES["q0f32"])


def test_tiny_models_are_served_in_float32_unless_told_otherwise(tmp_path: Path) -> None:
    write_hf_folder(tmp_path, tiny_llama())
    folder = open_folder(tmp_path)
    assert choose_scheme(folder, None).name == "q0f32"
    assert choose_scheme(folder, "q4f16_1").name == "q4f16_1"
    with pytest.raises(BadConfig, match="q0f32, q0f16, q4f16_1"):
        choose_scheme(folder, "q9")


@pytest.mark.parametrize(("large", "chosen"), [(1000, "q4f16_1"), (10**9, "q8f16_1")])
def test_a_larger_model_is_quantized_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int, chosen: str
) -> None:
    sizes = ((large, "q4f16_1"), (1000, "q8f16_1"), (0, "q0f32"))
    monkeypatch.setattr(loading, "SCHEMES_BY_SIZE", sizes)
    write_hf_folder(tmp_path, tiny_llama())
    folder = open_folder(tmp_path)
    assert choose_scheme(folder, None).name == chosen
    assert choose_scheme(folder, "q0f16").name == "q0f16"


def test_keys_and_values_are_kept_as_asked_for_where_they_can_be(tmp_path: Path) -> None:
    write_hf_folder(tmp_path, tiny_llama())
    folder = open_folder(tmp_path)
    assert choose_scheme(folder, "q4f16_1").kv_dtype == "bfloat16"
    assert choose_scheme(folder, "q4f16_1", "int8").kv_dtype == "int8"
    small = Latent(rank=48, rope_dim=32, nope_dim=16, value_dim=16)
    latent = structs.replace(folder, architecture=tiny_llama(latent=small))
    assert choose_scheme(latent, "q4f16_1", "float32").kv_dtype == "float32"
    with pytest.raises(BadConfig, match="int8 is not supported for llama models"):
        choose_scheme(latent, "q4f16_1", "int8")


def test_a_quantized_folder_is_served_as_it_is(tmp_path: Path) -> None:
    write_mlc_folder(tmp_path, tiny_llama(), "q4f16_1")
    folder = open_folder(tmp_path)
    assert choose_scheme(folder, None).name == "q4f16_1"
    assert choose_scheme(folder, "q4f16_1").name == "q4f16_1"
    with pytest.raises(BadConfig, match="is stored as q4f16_1"):
        choose_scheme(folder, "q0f32")


@pytest.mark.parametrize("name", ["stories260K-hf", "babyllama105-hf"])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
def test_trained_models_load(name: str, scheme: Scheme) -> None:
    folder = open_folder(shared_path(f"data/models/{name}"))
    weights = loaded(folder, scheme)
    assert all(np.isfinite(value).all() and value.any() for value in weights.values())
