"""mlc-chat-config.json of a Hugging Face model: what `gen_config` writes. Opens no file.

`models.mlc` reads what this writes back to the same architecture. The fields are MLC LLM's, in its
order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from mlc_llm.errors import BadConfig
from mlc_llm.models.architecture import Architecture

VERSION = "0.1.0"
PREFILL_CHUNK = 8192
MAX_BATCH = 128

NOT_ARCHITECTURE = frozenset(
    {
        "architectures",
        "torch_dtype",
        "dtype",
        "transformers_version",
        "quantization_config",
        "_name_or_path",
        "auto_map",
        "use_cache",
    }
)
"""Fields of config.json that say nothing about what the model computes as it is stored here."""


class Sizes(Struct, frozen=True, kw_only=True):
    """What the command line may set; None takes the model's."""

    context_window_size: int | None = None
    sliding_window_size: int | None = None
    prefill_chunk_size: int | None = None
    attention_sink_size: int | None = None
    tensor_parallel_shards: int = 1
    pipeline_parallel_stages: int = 1
    disaggregation: bool = False
    max_batch_size: int = MAX_BATCH


def chat_config(
    arch: Architecture, quantization: str, config: Mapping[str, Any], sizes: Sizes
) -> dict[str, Any]:
    """The fields about the model; `config` is config.json. Raises `BadConfig` for a window longer
    than the positions that the model has, those of its own rotary scaling included."""
    most = arch.context_window_size
    window = sizes.context_window_size or most
    if window > most:
        raise BadConfig(
            f"--context-window-size {window} is more than the {most} positions this model was made "
            f"for; set it to at most {most}"
        )
    chunk = sizes.prefill_chunk_size or min(window, PREFILL_CHUNK)
    return {
        "version": VERSION,
        "model_type": arch.model_type,
        "quantization": quantization,
        "model_config": _model_config(arch, config, window, chunk, sizes),
        "vocab_size": arch.vocab_size,
        "context_window_size": window,
        "sliding_window_size": sizes.sliding_window_size or -1,
        "prefill_chunk_size": chunk,
        "attention_sink_size": -1
        if sizes.attention_sink_size is None
        else sizes.attention_sink_size,
        "tensor_parallel_shards": sizes.tensor_parallel_shards,
        "pipeline_parallel_stages": sizes.pipeline_parallel_stages,
    }


def _model_config(
    arch: Architecture, config: Mapping[str, Any], window: int, chunk: int, sizes: Sizes
) -> dict[str, Any]:
    """config.json with MLC's names. The window stays the model's where it decides positions."""
    fields = {key: value for key, value in config.items() if key not in NOT_ARCHITECTURE}
    if "rope_theta" in fields:
        fields["position_embedding_base"] = fields.pop("rope_theta")
    if "max_position_embeddings" in fields:
        positional = arch.rope_scaling is not None or arch.learned_positions
        original = fields.pop("max_position_embeddings")
        fields["context_window_size"] = original if positional else window
    return {
        **fields,
        "prefill_chunk_size": chunk,
        "tensor_parallel_shards": sizes.tensor_parallel_shards,
        "pipeline_parallel_stages": sizes.pipeline_parallel_stages,
        "max_batch_size": sizes.max_batch_size,
        "disaggregation": sizes.disaggregation,
    }
