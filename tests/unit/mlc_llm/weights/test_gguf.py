"""The weights of a GGUF file arrive as those of the folder that it was made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlc_llm.errors import BadModel
from mlc_llm.models.folder import open_folder
from mlc_llm.models.resolve import resolve_model
from mlc_llm.quantization.gguf import DECODERS
from mlc_llm.quantization.group import Quantized, dequantize
from mlc_llm.quantization.scheme import SCHEMES
from mlc_llm.quantization.storage import STORAGES
from mlc_llm.weights import tensor_cache
from mlc_llm.weights.convert import convert
from mlc_llm.weights.load import load_weights
from mlc_llm.weights.pack import unpack_weights
from mlc_llm.weights.source import read_floats, read_rows
from mlc_llm.weights.sources import gguf
from mlc_llm.weights.sources.find import find_tensors
from mlc_llm.weights.sources.gguf_names import huggingface_names
from support import gguf_files
from support.folders import tiny_llama, write_hf_folder

ARCH = tiny_llama(intermediate_size=96)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path / "home"))


def served(path: Path, scheme: str) -> dict[str, np.ndarray]:
    folder = open_folder(resolve_model(str(path)))
    packed = load_weights(folder, SCHEMES[scheme])
    return unpack_weights(folder.architecture, SCHEMES[scheme], packed)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("tied", [False, True])
def test_floats_arrive_as_from_the_folder(
    kind: str, scheme: str, tied: bool, tmp_path: Path
) -> None:
    arch = tiny_llama(intermediate_size=96, tie_word_embeddings=tied)
    write_hf_folder(tmp_path / "hf", arch, 3)
    gguf_files.write_llama(tmp_path / "m.gguf", arch, 3, kind)
    expected, found = served(tmp_path / "hf", scheme), served(tmp_path / "m.gguf", scheme)
    for name, value in expected.items():
        if kind == "F32" or (kind == "F16" and scheme != "q0f32"):
            assert np.array_equal(found[name], value), name
        else:
            assert np.allclose(found[name], value, rtol=2e-2, atol=0.2), name


@pytest.mark.parametrize("scheme", ["q4f16_1", "q4f32_1"])
def test_q4_0_is_served_as_it_lies(scheme: str, tmp_path: Path) -> None:
    gguf_files.write_llama(tmp_path / "m.gguf", ARCH, 3, "Q4_0")
    exact, found = served(tmp_path / "m.gguf", "q0f32"), served(tmp_path / "m.gguf", scheme)
    for name, value in exact.items():
        assert np.array_equal(found[name], value), name


def test_q4_0_is_stored_as_it_lies(tmp_path: Path) -> None:
    gguf_files.write_llama(tmp_path / "m.gguf", ARCH, 3, "Q4_0")
    folder = open_folder(resolve_model(str(tmp_path / "m.gguf")))
    out = tmp_path / "mlc"
    tensors = find_tensors(folder.path)
    convert(folder, tensors, STORAGES["q4f16_1"], out, lambda _done, _total: None, 2)
    found = tensor_cache.find_tensors(out, verify=True, threads=1)
    for name, value in served(tmp_path / "m.gguf", "q0f32").items():
        base = name.removesuffix("weight")
        if value.ndim == 2:
            words, scales = (found[base + leaf] for leaf in ("q_weight", "q_scale"))
            coded = Quantized(*(read_rows(t, 0, t.shape[0]) for t in (words, scales)))
            assert np.array_equal(dequantize(coded, value.shape[1]), value), name


def test_a_scale_that_is_not_finite_is_named(tmp_path: Path) -> None:
    tensors = gguf_files.llama_tensors(ARCH, 0, "Q4_0")
    wrong = tensors["blk.0.attn_v.weight"]
    tensors["blk.0.attn_v.weight"] = wrong._replace(data=b"\0\x7e" + wrong.data[2:])
    values = {**gguf_files.model_values(ARCH), **gguf_files.toy_values()}
    path = gguf_files.write(tmp_path / "m.gguf", values, tensors)
    for scheme in ("q0f32", "q0f16", "q4f16_1"):
        with pytest.raises(BadModel, match=r"m\.gguf: tensor .*0\.self_attn\.v_proj.*not finite"):
            served(path, scheme)


def test_a_missing_and_a_foreign_tensor_are_named(tmp_path: Path) -> None:
    values = {**gguf_files.model_values(ARCH), **gguf_files.toy_values()}
    tensors = gguf_files.llama_tensors(ARCH)
    less = {name: tensor for name, tensor in tensors.items() if name != "blk.1.ffn_up.weight"}
    path = gguf_files.write(tmp_path / "less.gguf", values, less)
    with pytest.raises(BadModel, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        served(path, "q0f32")
    more = {**tensors, "blk.1.ssm_a.weight": tensors["blk.0.ffn_up.weight"]}
    path = gguf_files.write(tmp_path / "more.gguf", values, more)
    with pytest.raises(BadModel, match=r"blk\.1\.ssm_a\.weight: has no place"):
        served(path, "q0f32")


def test_heads_that_do_not_divide_the_rows_are_named(tmp_path: Path) -> None:
    values = {**gguf_files.model_values(ARCH), **gguf_files.toy_values()}
    values["llama.attention.head_count"] = 5
    path = gguf_files.write(tmp_path / "m.gguf", values, gguf_files.llama_tensors(ARCH))
    with pytest.raises(BadModel):
        served(path, "q0f32")


def test_norms_of_gemma_lose_their_one(tmp_path: Path) -> None:
    rows = np.arange(1, 65, dtype=np.float32).reshape(2, 32) / 64
    tensors = {
        "token_embd.weight": gguf_files.encode(rows, "F32"),
        "output_norm.weight": gguf_files.encode(rows[0] + 1, "F32"),
    }
    path = gguf_files.write(tmp_path / "m.gguf", {"general.architecture": "gemma3"}, tensors)
    found = source_rows(path, "model.norm.weight", 32)
    assert np.array_equal(found, rows[0])
    assert np.array_equal(source_rows(path, "model.embed_tokens.weight", 2), rows)


def test_a_vector_of_blocks_is_refused(tmp_path: Path) -> None:
    stored = gguf_files.encode(np.ones(64, np.float32), "Q8_0")
    path = gguf_files.write(
        tmp_path / "m.gguf", {"general.architecture": "qwen3"}, {"output_norm.weight": stored}
    )
    with pytest.raises(BadModel, match=r"tensor output_norm\.weight: is a vector of type Q8_0"):
        gguf.find_tensors([path])


def source_rows(path: Path, name: str, count: int) -> np.ndarray:
    return read_floats(gguf.find_tensors([path])[name], 0, count)


def test_q8_0_is_decoded(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    stored = gguf_files.encode(rows, "Q8_0")
    path = gguf_files.write(
        tmp_path / "m.gguf", {"general.architecture": "qwen3"}, {"token_embd.weight": stored}
    )
    blocks = np.frombuffer(stored.data, np.uint8).reshape(-1, 34)
    found = source_rows(path, "model.embed_tokens.weight", 4)
    assert np.array_equal(found, DECODERS["Q8_0"](blocks).reshape(4, 64))
    assert np.abs(found - rows).max() < 0.02


@pytest.mark.parametrize(
    ("architecture", "name", "expected"),
    [
        ("llama", "blk.12.attn_q.bias", "model.layers.12.self_attn.q_proj.bias"),
        ("llama", "blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("gemma2", "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight"),
        ("phi3", "blk.3.ffn_up.weight", "model.layers.3.mlp.gate_up_proj.weight"),
        ("phi3", "blk.3.attn_qkv.weight", "model.layers.3.self_attn.qkv_proj.weight"),
        ("qwen3", "blk.3.attn_q_norm.weight", "model.layers.3.self_attn.q_norm.weight"),
        ("llama", "v.patch_embd.weight", "v.patch_embd.weight"),
        ("llama", "blk.0.ssm_a.weight", "blk.0.ssm_a.weight"),
        ("mamba", "blk.0.attn_q.weight", "blk.0.attn_q.weight"),
    ],
)
def test_names_are_hugging_faces(architecture: str, name: str, expected: str) -> None:
    assert huggingface_names(architecture, name) == (expected,)
