"""Limits follow the mode, the model and the memory that is free, and say why."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mlc_llm.compiler import abi
from mlc_llm.errors import BadConfig
from mlc_llm.models.architecture import Architecture
from mlc_llm.models.folder import GenerationDefaults, ModelFolder
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.quantization.scheme import SCHEMES, KvDtype, kv_storage, kv_width, with_kv
from mlc_llm.serve import sizing
from mlc_llm.serve.sizing import Limits, kv_bytes_per_page, resolve_limits

GIB = 1 << 30
LLAMA_8B = Architecture(
    model_type="llama",
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=128256,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    context_window_size=131072,
)
TINY = replace(
    LLAMA_8B,
    hidden_size=64,
    intermediate_size=172,
    num_hidden_layers=5,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=8,
    vocab_size=512,
    context_window_size=512,
)


def a_folder(arch: Architecture, **changes: Any) -> ModelFolder:
    folder = ModelFolder(
        path=Path("m"),
        format="huggingface",
        architecture=arch,
        quantization=None,
        defaults=GenerationDefaults(),
        bos_token_id=1,
        eos_token_ids=(2,),
        chat_template=None,
        conv_template=None,
        tokenizer_config={},
        context_window_size=arch.context_window_size,
    )
    return replace(folder, **changes)


def limits(
    arch: Architecture = LLAMA_8B,
    *,
    mode: Literal["local", "interactive", "server"] = "local",
    free: int = 64 * GIB,
    weights: int = 5 * GIB,
    folder: dict[str, Any] | None = None,
    device: str = "cpu",
    **asked: Any,
) -> Limits:
    return resolve_limits(
        EngineSpec(model="m", mode=mode, **asked),
        a_folder(arch, **(folder or {})),
        SCHEMES["q4f16_1"],
        weights_bytes=weights,
        free_bytes=free,
        total_bytes=128 * GIB,
        device=device,
    )


def test_a_page_holds_what_the_compiled_model_expects() -> None:
    assert sizing.PAGE_SIZE == abi.PAGE_SIZE
    assert sizing.MAX_CHUNK == abi.MAX_ROWS
    assert kv_bytes_per_page(LLAMA_8B, SCHEMES["q0f16"]) == 32 * 2 * 8 * 128 * 16 * 2
    assert kv_bytes_per_page(TINY, SCHEMES["q0f32"]) == 5 * 2 * 4 * 16 * 16 * 4
    in_bytes = with_kv(SCHEMES["q4f16_1"], "int8")
    assert kv_bytes_per_page(LLAMA_8B, in_bytes) == 32 * 2 * 8 * 16 * (128 + 4)


@pytest.mark.parametrize("kv_dtype", get_args(KvDtype))
def test_an_element_of_the_cache_is_as_wide_as_its_array(kv_dtype: KvDtype) -> None:
    assert kv_width(kv_dtype) == np.dtype(kv_storage(kv_dtype)).itemsize


def test_mode_local_takes_four_sequences_and_little_memory() -> None:
    found = limits()
    assert found.max_num_sequence == 4
    assert found.max_total_sequence_length == found.max_single_sequence_length == 8192
    assert found.kv_bytes == GIB


def test_mode_local_gives_each_sequence_of_a_small_model_its_whole_context() -> None:
    found = limits(TINY)
    assert found.max_total_sequence_length == 4 * 512
    assert found.max_single_sequence_length == 512


def test_mode_interactive_takes_one_sequence_of_full_length() -> None:
    found = limits(mode="interactive")
    assert found.max_num_sequence == 1
    assert found.max_total_sequence_length == found.max_single_sequence_length == 131072


def test_mode_server_takes_all_memory_it_may() -> None:
    found = limits(mode="server")
    assert found.max_num_sequence == 128
    assert 0.80 * 64 * GIB < found.kv_bytes + 5 * GIB <= 0.85 * 64 * GIB
    tiny = limits(TINY, mode="server")
    assert tiny.max_total_sequence_length == 128 * 512, "no more than can ever be used"


def test_mode_server_takes_fewer_sequences_rather_than_tiny_ones() -> None:
    found = limits(mode="server", free=8 * GIB)
    assert 1 < found.max_num_sequence < 128
    assert found.max_total_sequence_length >= 256 * found.max_num_sequence


def test_less_memory_than_the_mode_wants_shrinks_the_cache_and_says_so() -> None:
    found = limits(free=7 * GIB)
    assert found.max_total_sequence_length < 8192
    assert found.max_single_sequence_length == found.max_total_sequence_length
    assert any("all that fits" in decision for decision in found.decisions)


def test_too_little_memory_says_what_is_needed_what_is_free_and_what_to_do() -> None:
    with pytest.raises(BadConfig, match=r"5\.\d GiB are needed .* of 4\.0 GiB free") as caught:
        limits(free=4 * GIB)
    assert "raise gpu_memory_utilization" in caught.value.message


def test_what_the_user_sets_is_taken() -> None:
    found = limits(
        max_num_sequence=7,
        max_total_sequence_length=1000,
        max_single_sequence_length=300,
        prefill_chunk_size=33,
    )
    assert found.max_num_sequence == 7
    assert (found.num_pages, found.max_total_sequence_length) == (63, 1008)
    assert found.max_single_sequence_length == 300
    assert found.prefill_chunk_size == 33
    assert sum("as asked for" in decision for decision in found.decisions) == 4


def test_a_cache_the_user_asks_for_must_fit() -> None:
    with pytest.raises(BadConfig, match="set max_total_seq_length to at most") as caught:
        limits(free=8 * GIB, max_total_sequence_length=131072)
    most = int(caught.value.message.split("at most ")[1].split()[0])
    assert limits(free=8 * GIB, max_total_sequence_length=most).max_total_sequence_length == most


def test_a_context_longer_than_the_model_s_is_refused() -> None:
    with pytest.raises(BadConfig, match="more than the 512 positions"):
        limits(TINY, max_single_sequence_length=513)


def test_a_shrunk_context_window_may_be_raised_again_up_to_the_model_s() -> None:
    shrunk = {"context_window_size": 256}
    assert limits(TINY, folder=shrunk).max_single_sequence_length == 256
    asked = limits(TINY, folder=shrunk, max_single_sequence_length=512)
    assert asked.max_single_sequence_length == 512


@pytest.mark.parametrize("folder", [{"sliding_window_size": 1}, {"context_window_size": 1}])
def test_a_model_without_room_for_an_answer_is_refused(folder: dict[str, int]) -> None:
    with pytest.raises(BadConfig, match=r"a sequence may have 1 token .* at least 2"):
        limits(folder=folder)


def test_sequences_end_where_a_sliding_window_would_start_to_slide() -> None:
    found = limits(folder={"sliding_window_size": 4096})
    assert found.max_single_sequence_length == 4096


def test_sequences_of_layers_that_slide_are_as_long_as_the_model_s() -> None:
    folder = {"sliding_window_size": 256}
    slides = replace(TINY, sliding_window=256, sliding_layers=tuple(range(5)))
    assert limits(slides, folder=folder).max_single_sequence_length == 512
    others = replace(slides, sliding_layers=(0, 2, 4))
    assert limits(others, folder=folder).max_single_sequence_length == 256


def test_a_step_has_room_for_every_sequence_and_stays_short_on_cpu() -> None:
    assert limits().prefill_chunk_size == 128
    assert limits(mode="server").prefill_chunk_size == 256
    assert limits(device="cuda").prefill_chunk_size == 2048
    assert limits(device="cuda", folder={"prefill_chunk_size": 512}).prefill_chunk_size == 512
    assert limits(TINY, device="cuda").prefill_chunk_size == 512
    assert limits(max_num_sequence=1500).prefill_chunk_size == 2048


@given(
    mode=st.sampled_from(["local", "interactive", "server"]),
    free=st.integers(0, 100 * GIB),
    share=st.one_of(st.none(), st.floats(0.01, 1)),
    tiny=st.booleans(),
    sequences=st.one_of(st.none(), st.integers(1, 300)),
    total=st.one_of(st.none(), st.integers(1, 200_000)),
)
def test_whatever_is_decided_fits(
    mode: Literal["local", "interactive", "server"],
    free: int,
    share: float | None,
    tiny: bool,
    sequences: int | None,
    total: int | None,
) -> None:
    arch, weights = (TINY, 1 << 20) if tiny else (LLAMA_8B, 5 * GIB)
    try:
        found = limits(
            arch,
            mode=mode,
            free=free,
            weights=weights,
            gpu_memory_utilization=share,
            max_num_sequence=sequences,
            max_total_sequence_length=total,
        )
    except BadConfig:
        return
    step = sizing.step_bytes(
        arch, rows=found.prefill_chunk_size, sequences=found.max_num_sequence, positions=1
    )
    assert found.kv_bytes + weights + step <= free * (share or 0.85)
    assert found.num_pages >= 1
    assert found.max_num_sequence >= 1
    assert 1 <= found.max_single_sequence_length <= found.max_total_sequence_length
    assert found.max_single_sequence_length <= arch.context_window_size
    assert found.max_total_sequence_length == found.num_pages * 16


def test_an_encoder_reads_its_longest_input_in_one_step() -> None:
    encoder = replace(TINY, encoder=True)
    found = limits(encoder, mode="server")
    assert found.max_single_sequence_length == 513
    assert found.prefill_chunk_size >= 513
    with pytest.raises(BadConfig, match="prefill_chunk_size 64 is less than the 513 tokens"):
        limits(encoder, prefill_chunk_size=64)
    assert limits(replace(encoder, context_window_size=8192)).prefill_chunk_size == 2048
