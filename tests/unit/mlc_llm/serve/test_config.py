"""Every way to configure an engine ends in the same order to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import asdict

from mlc_llm.errors import BadConfig
from mlc_llm.serve.config import (
    OVERRIDES,
    EngineConfig,
    merge,
    model_name,
    parse_overrides,
    to_spec,
)


def test_a_config_survives_json() -> None:
    config = EngineConfig(mode="server", max_num_sequence=8, additional_models=["a", ("b", "c")])
    assert EngineConfig.from_json(config.asjson()) == config


def test_json_that_is_no_config_is_refused() -> None:
    with pytest.raises(BadConfig, match="not an engine configuration"):
        EngineConfig.from_json('{"max_batch": 3}')


def test_the_older_keywords_are_the_newer_fields() -> None:
    merged = merge(None, max_batch_size=3, spec_draft_length=4, verbose=False, mode=None)
    assert merged == EngineConfig(max_num_sequence=3, spec_draft_length=4, verbose=False)


def test_keyword_and_config_may_agree_but_not_contradict() -> None:
    config = EngineConfig(max_num_sequence=3, mode="server")
    assert merge(config, max_batch_size=3, mode="server") == config
    with pytest.raises(BadConfig, match="max_batch_size=4 contradicts max_num_sequence=3"):
        merge(config, max_batch_size=4)
    with pytest.raises(BadConfig, match="mode='local' contradicts"):
        merge(config, mode="local")


def test_overrides_are_read_by_their_documented_names() -> None:
    text = "max_num_sequence=32; max_total_seq_length=4096;context_window_size=100;"
    assert parse_overrides(text) == {
        "max_num_sequence": 32,
        "max_total_sequence_length": 4096,
        "max_single_sequence_length": 100,
    }
    assert parse_overrides("gpu_memory_utilization=0.5") == {"gpu_memory_utilization": 0.5}
    assert parse_overrides("") == {}


def test_every_override_is_a_field_of_the_config() -> None:
    fields = asdict(EngineConfig())
    assert all(field in fields for field, _ in OVERRIDES.values())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("max_batch=3", "'max_batch' is not known; the known ones are max_num_sequence"),
        ("max_num_sequence", "write max_num_sequence=VALUE"),
        ("max_num_sequence=many", "must be a whole number, not 'many'"),
        ("gpu_memory_utilization=x", "must be a number between 0 and 1"),
        ("prefill_mode=fast", "must be one of hybrid, chunked"),
        ("kv_cache_dtype=fp8", "must be one of auto, float32, float16, bfloat16, int8"),
        ("max_num_sequence=4;max_num_sequence=4", "^override max_num_sequence is given twice"),
        ("max_total_sequence_length=64;max_total_seq_length=80", "is given twice; leave one"),
    ],
)
def test_a_wrong_override_says_what_is_right(text: str, sentence: str) -> None:
    with pytest.raises(BadConfig, match=sentence):
        parse_overrides(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"speculative_mode": "small_draft"},
        {"additional_models": ["draft"]},
        {"tensor_parallel_shards": 2},
        {"pipeline_parallel_stages": 2},
        {"max_history_size": 1},
        {"kv_state_kind": "rnn_state"},
        {"kv_cache_page_size": 32},
        {"attention_sink_size": 4},
        {"opt": "O0"},
    ],
)
def test_what_this_version_cannot_do_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(BadConfig, match="is not supported by this version"):
        to_spec(EngineConfig(**fields), "m")


def test_switching_a_missing_feature_off_is_fine() -> None:
    off = EngineConfig(
        speculative_mode="disable",
        additional_models=[],
        spec_draft_length=4,
        spec_tree_width=2,
        tensor_parallel_shards=1,
        pipeline_parallel_stages=1,
        max_history_size=0,
        kv_state_kind="kv_cache",
        attention_sink_size=0,
        sliding_window_size=-1,
        opt="O2",
    )
    assert to_spec(off, "m") == to_spec(EngineConfig(), "m")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"max_num_sequence": 0},
            r"^max_num_sequence \(max_batch_size\) must be at least 1, not 0$",
        ),
        ({"max_single_sequence_length": 1}, r"\(context_window_size\) must be at least 2, not 1$"),
        ({"sliding_window_size": 1}, "^sliding_window_size must be at least 2, not 1$"),
        ({"max_num_sequence": "4"}, r"\(max_batch_size\) must be a whole number, not '4'$"),
        ({"max_num_sequence": True}, "must be a whole number, not True$"),
        ({"max_num_sequence": 2.5}, "must be a whole number, not 2.5$"),
        ({"gpu_memory_utilization": "1"}, "^gpu_memory_utilization must be a number, not '1'$"),
        ({"mode": "fast"}, "^mode must be one of local, interactive, server, not 'fast'$"),
        ({"prefill_mode": 3}, "^prefill_mode must be one of hybrid, chunked, not 3$"),
        ({"model_lib": 3}, "^model_lib must be text, not 3$"),
        ({"verbose": "yes"}, "^verbose must be True or False, not 'yes'$"),
        ({"additional_models": "draft"}, "^additional_models must be a list of paths"),
        ({"spec_draft_length": -4}, "^spec_draft_length must be at least 0, not -4$"),
        ({"spec_tree_width": 0}, "^spec_tree_width must be at least 1, not 0$"),
        ({"prefill_chunk_size": -5}, "prefill_chunk_size must be at least 1"),
        ({"gpu_memory_utilization": 1.5}, "at most 1, not 1.5"),
        ({"gpu_memory_utilization": float("nan")}, "at most 1, not nan"),
        ({"prefix_cache_max_num_recycling_seqs": -2}, "at least -1"),
    ],
)
def test_values_that_make_no_sense_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadConfig, match=sentence):
        to_spec(EngineConfig(**fields), "m")


def test_what_belongs_to_no_config_has_its_type_checked_too() -> None:
    wrong: Any = 5
    with pytest.raises(BadConfig, match=r"^quantization must be text, not 5$"):
        to_spec(EngineConfig(), "m", quantization=wrong)
    with pytest.raises(BadConfig, match=r"^enable_tracing must be True or False, not 5$"):
        to_spec(EngineConfig(), "m", enable_tracing=wrong)
    for given in ({"mode": "server"}, "server", []):
        wrong = given
        with pytest.raises(BadConfig, match=r"^engine_config must be an EngineConfig, not "):
            merge(wrong, verbose=False)


def test_a_model_is_named_by_text_or_a_path() -> None:
    assert [model_name(given) for given in (None, "m", Path("a/m"))] == [None, "m", "a/m"]
    for wrong in (5, b"m", ["m"]):
        with pytest.raises(BadConfig, match=r"^model must be a path or a name, not "):
            model_name(wrong)


def test_the_order_to_the_engine_carries_what_was_set() -> None:
    config = EngineConfig(
        mode="server",
        max_num_sequence=3,
        max_single_sequence_length=99,
        prefill_mode="chunked",
        kv_cache_dtype="int8",
    )
    spec = to_spec(config, "/m", "cuda:1", quantization="q0f32", enable_tracing=True, threads=2)
    assert (spec.model, spec.device, spec.quantization) == ("/m", "cuda:1", "q0f32")
    assert (spec.mode, spec.max_num_sequence, spec.max_single_sequence_length) == ("server", 3, 99)
    assert spec.kv_cache_dtype == "int8"
    assert (spec.prefill_mode, spec.enable_tracing, spec.threads) == ("chunked", True, 2)
    assert spec.max_total_sequence_length is None


@pytest.mark.parametrize("device", ["tpu", "cpu:1", "auto:2", "cuda:x", "", "cpu\n"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(BadConfig, match="is not known; use auto, cpu, cuda or cuda:N"):
        to_spec(EngineConfig(), "m", device)
