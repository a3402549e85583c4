"""A folder is read whichever program wrote it; what cannot be served is refused in a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlc_llm.errors import BadModel
from mlc_llm.models.architecture import RopeScaling
from mlc_llm.models.folder import GenerationDefaults, open_folder
from mlc_llm.protocol.generation import GenerationConfig
from mlc_llm.protocol.messages import Ready
from mlc_llm.protocol.requests import CompletionRequest
from mlc_llm.serve.request.validate import generation_config
from mlc_workers.sampling.limits import check_generation
from support.family_configs import CONFIGS
from support.folders import (
    CHAT_TEMPLATE,
    hf_config,
    mlc_config,
    tiny_llama,
    write_hf_folder,
    write_json,
    write_mlc_folder,
)
from support.shared import shared_path


def edit(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file; `...` removes one."""
    values = {**json.loads(path.read_text()), **fields}
    write_json(path, {name: value for name, value in values.items() if value is not ...})


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    write_hf_folder(tmp_path, tiny_llama())
    return tmp_path


@pytest.fixture
def mlc(tmp_path: Path) -> Path:
    write_mlc_folder(tmp_path, tiny_llama())
    return tmp_path


def complaint(folder: Path) -> str:
    with pytest.raises(BadModel) as raised:
        open_folder(folder)
    assert "\n" not in raised.value.message
    return raised.value.message


def test_both_formats_describe_the_same_model(tmp_path: Path) -> None:
    arch = tiny_llama(rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64), tie_word_embeddings=True)
    write_hf_folder(tmp_path / "hf", arch)
    write_mlc_folder(tmp_path / "mlc", arch)
    hf, mlc = open_folder(tmp_path / "hf"), open_folder(tmp_path / "mlc")
    assert hf.architecture == mlc.architecture == arch
    assert (hf.format, hf.quantization) == ("huggingface", None)
    assert (mlc.format, mlc.quantization) == ("mlc", "q4f16_1")
    assert hf.chat_template == mlc.chat_template == CHAT_TEMPLATE


def test_fields_left_out_of_config_json_have_that_formats_defaults(hf: Path) -> None:
    config = hf / "config.json"
    edit(config, num_key_value_heads=..., head_dim=..., rope_theta=..., tie_word_embeddings=...)
    arch = open_folder(hf).architecture
    assert (arch.num_key_value_heads, arch.head_dim) == (4, 16)
    assert (arch.rope_theta, arch.tie_word_embeddings) == (10000.0, False)


def test_newer_rope_parameters_hold_the_base_as_well(hf: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    edit(hf / "config.json", rope_theta=..., rope_scaling=..., rope_parameters=scaling)
    arch = open_folder(hf).architecture
    assert arch.rope_theta == 500000.0
    assert arch.rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8192)


def test_generation_config_overrides_config_and_gives_defaults(hf: Path) -> None:
    edit(
        hf / "generation_config.json",
        eos_token_id=[5, 6, 5],
        bos_token_id=None,
        temperature=0.6,
        top_p=0.9,
        top_k=0,
        max_new_tokens=40,
    )
    folder = open_folder(hf)
    assert folder.eos_token_ids == (5, 6)
    assert folder.bos_token_id == 1
    assert folder.defaults == GenerationDefaults(temperature=0.6, top_p=0.9, max_tokens=40)


def test_optional_files_may_be_absent(hf: Path) -> None:
    (hf / "generation_config.json").unlink()
    (hf / "tokenizer_config.json").unlink()
    folder = open_folder(hf)
    assert folder.eos_token_ids == (2,)
    assert folder.tokenizer_config == {}
    assert folder.chat_template is None


def test_a_chat_template_file_goes_before_the_one_in_the_tokenizer_config(hf: Path) -> None:
    (hf / "chat_template.jinja").write_text("from the file")
    assert open_folder(hf).chat_template == "from the file"


def test_of_several_chat_templates_the_default_is_taken(hf: Path) -> None:
    several = [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]
    edit(hf / "tokenizer_config.json", chat_template=several)
    assert open_folder(hf).chat_template == "yes"


def test_stop_tokens_of_the_conversation_join_the_end_tokens(mlc: Path) -> None:
    edit(mlc / "mlc-chat-config.json", eos_token_id=[2, 7])
    assert open_folder(mlc).eos_token_ids == (2, 7, 0)


def test_ids_that_the_model_cannot_emit_are_dropped(mlc: Path) -> None:
    edit(mlc / "mlc-chat-config.json", bos_token_id=-1, eos_token_id=[-1, 1 << 40, 3])
    folder = open_folder(mlc)
    assert folder.bos_token_id is None
    assert folder.eos_token_ids == (3, 2, 0)


def test_an_mlc_folder_may_shrink_the_window_but_not_widen_it(mlc: Path) -> None:
    config = mlc / "mlc-chat-config.json"
    edit(config, context_window_size=100, prefill_chunk_size=64, sliding_window_size=50)
    folder = open_folder(mlc)
    assert folder.context_window_size == 100
    assert folder.architecture.context_window_size == 256
    assert (folder.prefill_chunk_size, folder.sliding_window_size) == (64, 50)
    edit(config, context_window_size=100000)
    assert open_folder(mlc).context_window_size == 256


def test_mlc_sampling_fields_become_defaults(mlc: Path) -> None:
    edit(mlc / "mlc-chat-config.json", repetition_penalty=1.1, top_p=None)
    expected = GenerationDefaults(temperature=0.5, repetition_penalty=1.1)
    assert open_folder(mlc).defaults == expected


def test_the_oldest_mlc_files_are_read(mlc: Path) -> None:
    """A named template, zeros for "not set", sizes only in model_config."""
    path = mlc / "mlc-chat-config.json"
    model_config = json.loads(path.read_text())["model_config"]
    model_config |= {"head_dim": 0, "num_key_value_heads": 0, "context_window_size": -1}
    model_config |= {"max_position_embeddings": 200, "position_embedding_base": 0}
    edit(
        path,
        model_config=model_config,
        conv_template="llama-2",
        **dict.fromkeys(("vocab_size", "context_window_size", "temperature", "top_p"), ...),
    )
    folder = open_folder(mlc)
    assert folder.conv_template is None
    assert folder.architecture.num_key_value_heads == 4
    assert folder.context_window_size == 200
    assert folder.defaults == GenerationDefaults()


def test_an_mlc_configuration_without_mlc_weights_does_not_hide_a_hugging_face_model(
    hf: Path,
) -> None:
    write_json(hf / "mlc-chat-config.json", mlc_config(tiny_llama(), "q4f16_1"))
    assert open_folder(hf).format == "huggingface"


@pytest.mark.parametrize(("long", "most"), [([2.0] * 8, 256), (None, 64)])
def test_positions_past_those_trained_for_first_are_served_when_asked_for(
    long: list[float] | None, most: int, hf: Path, tmp_path: Path
) -> None:
    scaling = {
        "type": "longrope",
        "short_factor": [1.0] * 8,
        "long_factor": long,
        "original_max_position_embeddings": 64,
    }
    edit(hf / "config.json", rope_scaling=scaling)
    found = open_folder(hf)
    assert (found.context_window_size, found.architecture.context_window_size) == (64, most)
    config = mlc_config(found.architecture, "q0f16")
    model_config = {**config["model_config"], "rope_scaling": scaling}
    write_json(hf / "mlc-chat-config.json", {**config, "model_config": model_config})
    (hf / "config.json").unlink()
    assert open_folder(hf).context_window_size == 64


def test_the_text_part_of_a_model_with_vision_has_mlcs_names_too(tmp_path: Path) -> None:
    config = CONFIGS["gemma3_vision"]
    write_json(tmp_path / "config.json", {**config, "rope_theta": 1.0})
    (tmp_path / "tokenizer.json").touch()
    expected = open_folder(tmp_path).architecture
    text = {**config["text_config"], "position_embedding_base": 5e5, "head_dim": 0}
    text["context_window_size"] = text.pop("max_position_embeddings") // 2
    text["sliding_window_size"] = text.pop("sliding_window")
    written = mlc_config(tiny_llama(), "q0f16") | {"model_type": "gemma3"}
    written |= {"model_config": {**config, "text_config": text}, "vocab_size": 131}
    (tmp_path / "config.json").unlink()
    write_json(tmp_path / "mlc-chat-config.json", written)
    found = open_folder(tmp_path).architecture
    assert (found.rope_theta, found.context_window_size, found.head_dim) == (5e5, 160, 256)
    same = {"rope_theta": 1e6, "context_window_size": 320, "head_dim": 16}
    assert msgspec.structs.replace(found, **same) == expected


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "family": ({"model_type": "mamba"}, "'mamba' is not supported; use one of bert, deepseek_v2"),
    "no family": ({"model_type": ...}, "model_type"),
    "missing": ({"hidden_size": ...}, "hidden_size"),
    "text for a number": ({"hidden_size": "64"}, "hidden_size"),
    "zero": ({"num_hidden_layers": 0}, "num_hidden_layers"),
    "negative": ({"vocab_size": -5}, "vocab_size"),
    "huge": ({"intermediate_size": 1 << 40}, "intermediate_size"),
    "not an integer": ({"num_attention_heads": 1.5}, "num_attention_heads"),
    "hidden size": ({"hidden_size": 72}, "hidden_size must be a multiple of 32"),
    "heads": ({"num_attention_heads": 3}, "num_attention_heads must be a multiple"),
    "odd head": ({"head_dim": 15}, "head_dim"),
    "query width": ({"head_dim": 4}, "times head_dim must be a multiple of 32"),
    "no whole head": ({"head_dim": ..., "num_attention_heads": 6}, "num_attention_heads"),
    "mlp bias": ({"mlp_bias": True}, "mlp_bias true is not supported; only false is"),
    "activation": ({"hidden_act": "relu2"}, "'relu2' is not supported; use silu"),
    "rope": ({"rope_scaling": {"rope_type": "ntk"}}, "'ntk' is not supported; use one of llama3"),
    "old rope": ({"rope_scaling": {"type": "linear"}}, "linear rope scaling needs factor"),
    "long rope": (
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0],
                          "original_max_position_embeddings": 64}},
        "short_factor must have 8 numbers",
    ),
    "longer rope": (
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [],
                          "original_max_position_embeddings": 64}},
        "long_factor must have 8 numbers",
    ),
    "partial rope": ({"partial_rotary_factor": 0.2}, "gives 3 columns, not an even number"),
    "half a rope": ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
    "tied": ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    "end token": ({"eos_token_id": "</s>"}, "eos_token_id"),
    "an embedding Gemma": (
        {"model_type": "gemma3_text", "use_bidirectional_attention": True},
        "use_bidirectional_attention true is not supported",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_served_is_refused_by_file_and_key(name: str, hf: Path) -> None:
    fields, words = REFUSED[name]
    edit(hf / "config.json", **fields)
    message = complaint(hf)
    assert message.startswith(f"{hf / 'config.json'}: ")
    assert words in message


def test_a_wrong_mlc_field_is_named_as_that_file_names_it(mlc: Path) -> None:
    model_config = {**hf_config(tiny_llama()), "position_embedding_base": "high"}
    edit(mlc / "mlc-chat-config.json", model_config=model_config)
    message = complaint(mlc)
    assert "mlc-chat-config.json" in message
    assert "position_embedding_base" in message


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "neither mlc-chat-config.json nor"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "cut off": (lambda f: (f / "config.json").write_text("{"), "config.json"),
    "not UTF-8": (lambda f: (f / "config.json").write_bytes(b'{"a": "\xff"}'), "config.json"),
    "not an object": (lambda f: (f / "config.json").write_text("[1]"), "config.json"),
    "nested": (lambda f: (f / "config.json").write_text("[" * 10**5), "config.json"),
    "huge": (lambda f: (f / "config.json").write_text(" " * (5 << 20)), "more than"),
    "a folder": (lambda f: (f / "generation_config.json").unlink()
                 or (f / "generation_config.json").mkdir(), "not a regular file"),
    "penalty": (
        lambda f: edit(f / "generation_config.json", repetition_penalty=0.001),
        "repetition_penalty",
    ),
    "sampling": (lambda f: edit(f / "generation_config.json", top_p=7), "top_p"),
    "not a number": (
        lambda f: (f / "generation_config.json").write_text('{"temperature": NaN}'),
        "generation_config.json",
    ),
    "endless": (
        lambda f: edit(f / "generation_config.json", max_new_tokens=10**30), "max_new_tokens"
    ),
    "ends": (
        lambda f: edit(f / "generation_config.json", eos_token_id=list(range(101))),
        "name 101 tokens; at most 100 may end an answer",
    ),
    "template": (lambda f: edit(f / "tokenizer_config.json", chat_template=3), "chat_template"),
    "template file": (lambda f: (f / "chat_template.jinja").write_bytes(b"\xff"), "not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_by_name(name: str, hf: Path) -> None:
    damage, words = BROKEN[name]
    damage(hf)
    message = complaint(hf)
    assert str(hf) in message
    assert words in message


def test_a_conversation_with_too_many_stop_strings_is_refused_by_name(mlc: Path) -> None:
    stops = [str(number) for number in range(101)]
    edit(mlc / "mlc-chat-config.json", conv_template={"stop_str": stops})
    assert "stop_str" in complaint(mlc)


@pytest.mark.parametrize("bound", [min, max])
def test_whatever_a_folder_may_recommend_can_be_sampled(
    bound: Callable[[tuple[float, float]], float], hf: Path
) -> None:
    ranges = {"temperature": (0, 100), "top_p": (0, 1), "min_p": (0, 1),
              "repetition_penalty": (0.01, 100), "top_k": (-7, 10**30),
              "max_new_tokens": (1, (1 << 63) - 1)}  # fmt: skip
    fields = {name: bound(ends) for name, ends in ranges.items()}
    edit(hf / "generation_config.json", **fields, eos_token_id=list(range(100)))
    folder = open_folder(hf)
    request = CompletionRequest(prompt=[1, 2])
    ready = Ready(1, 1, 1000, 1, 4096, 4096, 16, ())
    made = generation_config(request, folder.defaults, ready, stop_token_ids=folder.eos_token_ids)
    assert check_generation(made, 1000) is None
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=GenerationConfig) == made


@pytest.mark.parametrize("name", ["stories260K-hf", "babyllama105-hf"])
def test_trained_models_open(name: str) -> None:
    folder = open_folder(shared_path(f"data/models/{name}"))
    assert folder.eos_token_ids == (2,)
    assert folder.architecture.num_key_value_heads == 4
