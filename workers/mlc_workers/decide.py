"""What the scheduler and the cache get of the sizes that were decided. Pure; loads no device."""

from __future__ import annotations

from mlc_llm.compiler.abi import MAX_ROWS
from mlc_llm.errors import BadConfig
from mlc_llm.protocol.spec import EngineSpec
from mlc_llm.serve.sizing import Limits as Sizes
from mlc_workers.cache.pages import pages_for
from mlc_workers.scheduler.limits import Limits

READ_BYTES = 64 << 20
"""Memory that logits of prompts may take."""


def scheduler_limits(
    spec: EngineSpec, sizes: Sizes, vocab_size: int, *, whole_prompts: bool = False
) -> Limits:
    """The sizes, as the scheduler knows them. Raises `BadConfig` for a step that is too large."""
    if sizes.prefill_chunk_size > MAX_ROWS:
        raise BadConfig(
            f"prefill_chunk_size {sizes.prefill_chunk_size} is more than the {MAX_ROWS} tokens "
            f"that one step can compute; set it to at most {MAX_ROWS}"
        )
    return Limits(
        num_pages=sizes.num_pages,
        max_num_sequence=sizes.max_num_sequence,
        max_single_sequence_length=sizes.max_single_sequence_length,
        prefill_chunk_size=sizes.prefill_chunk_size,
        prefill_mode=spec.prefill_mode,
        whole_prompts=whole_prompts,
        max_waiting=spec.max_waiting,
        max_read_rows=max(16, min(sizes.prefill_chunk_size, READ_BYTES // (4 * vocab_size))),
    )


def max_idle_pages(spec: EngineSpec, limits: Limits) -> int | None:
    """Pages that finished sequences may keep in the prefix cache; None: all that are free.

    MLC LLM bounds it by a number of sequences, with -1 for no bound; here a sequence counts as many
    pages as the longest one has.
    """
    sequences = spec.prefix_cache_max_num_recycling_seqs
    if sequences is None or sequences < 0:
        return None
    return sequences * pages_for(limits.max_length)
