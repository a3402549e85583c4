"""What becomes of the sizes that were decided."""

from __future__ import annotations

import msgspec
import pytest

from mlc_llm.compiler.abi import MAX_ROWS
from mlc_llm.errors import BadConfig
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.sizing import Limits as Sizes
from mlc_workers.decide import max_idle_pages, scheduler_limits

SPEC = EngineSpec(model="m", prefill_mode="chunked", max_waiting=7)
SIZES = Sizes(
    max_num_sequence=4,
    max_total_sequence_length=1600,
    max_single_sequence_length=512,
    prefill_chunk_size=128,
    num_pages=100,
    kv_bytes=1,
    decisions=(),
)


def test_the_scheduler_gets_what_was_decided() -> None:
    limits = scheduler_limits(SPEC, SIZES, 32000)
    assert (limits.num_pages, limits.max_length, limits.max_num_sequence) == (100, 512, 4)
    assert (limits.prefill_mode, limits.max_waiting) == ("chunked", 7)


def test_a_step_larger_than_the_library_computes_is_refused() -> None:
    sizes = msgspec.structs.replace(SIZES, prefill_chunk_size=MAX_ROWS + 1)
    with pytest.raises(BadConfig, match=f"at most {MAX_ROWS}"):
        scheduler_limits(SPEC, sizes, 32000)


@pytest.mark.parametrize(("sequences", "pages"), [(None, None), (-1, None), (0, 0), (3, 96)])
def test_recycled_sequences_bound_the_prefix_cache(sequences: int, pages: int) -> None:
    spec = msgspec.structs.replace(SPEC, prefix_cache_max_num_recycling_seqs=sequences)
    assert max_idle_pages(spec, scheduler_limits(spec, SIZES, 32000)) == pages


@pytest.mark.parametrize(("vocab_size", "rows"), [(100, 128), (200_000, 83), (10**8, 16)])
def test_logits_of_prompts_take_a_bounded_memory(vocab_size: int, rows: int) -> None:
    assert scheduler_limits(SPEC, SIZES, vocab_size).max_read_rows == rows
