"""The server as a child gets the same configuration by its command line."""

from __future__ import annotations

import pytest

from mlc_llm.errors import BadConfig
from mlc_llm.serve.config import EngineConfig, merge, parse_overrides
from mlc_llm.serve.popen_server import PopenServer, arguments


def test_a_configuration_survives_the_command_line() -> None:
    config = EngineConfig(
        model="m",
        mode="server",
        model_lib="lib.so",
        max_num_sequence=3,
        max_total_sequence_length=4096,
        max_single_sequence_length=99,
        gpu_memory_utilization=0.5,
        prefill_mode="chunked",
        prefix_cache_max_num_recycling_seqs=-1,
    )
    model, _, mode, _, model_lib, _, overrides = arguments(config)
    read = merge(None, model=model, mode=mode, model_lib=model_lib, **parse_overrides(overrides))
    assert read == config


def test_nothing_set_is_nothing_said() -> None:
    assert arguments(EngineConfig()) == ["--mode", "local"]


def test_what_cannot_be_served_is_refused_before_anything_starts() -> None:
    with pytest.raises(BadConfig, match="tensor_parallel_shards=2 is not supported"):
        PopenServer("m", engine_config=EngineConfig(tensor_parallel_shards=2))


def test_its_addresses_are_known_at_once() -> None:
    server = PopenServer("m", port=1234)
    assert server.base_url == "http://127.0.0.1:1234"
    assert server.openai_v1_base_url == "http://127.0.0.1:1234/v1"
    assert PopenServer("m", host="::1", port=1234).base_url == "http://[::1]:1234"
    server.terminate()
